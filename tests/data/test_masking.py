import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roberta.data.dictionary import Dictionary
from roberta.data.masking import Masked, Masker, MaskingConfig
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError
from tests.builders import fairseq_batch

MASK, VOCAB, SPECIALS = 999, 1000, 4
SIGMAS = 5  # one false alarm in 1.7 million for a true mean; the draws are fixed by the seed anyway


def masked(
    lengths: list[int],
    sample_ids: list[int] | None = None,
    *,
    seed: int = 1,
    epoch: int = 1,
    starts_word: np.ndarray | None = None,
    counts: np.ndarray | None = None,
    **options: Any,
) -> Masked:
    """Mask samples whose tokens are functions of sample and position."""
    ids = np.arange(len(lengths)) if sample_ids is None else np.array(sample_ids, dtype=np.int64)
    mask = Masker(MaskingConfig(**options), MASK, VOCAB, SPECIALS, starts_word, counts)
    return mask(tokens_of(lengths, ids), np.array(lengths, dtype=np.int64), ids, seed=seed, epoch=epoch)


def tokens_of(lengths: list[int], sample_ids: np.ndarray) -> np.ndarray:
    rows = [(i * 31 + np.arange(n)) % (VOCAB - 5) + SPECIALS for i, n in zip(sample_ids, lengths, strict=True)]
    return np.concatenate([np.empty(0, dtype=np.int64), *rows])


def counts_per_sample(result: Masked, lengths: list[int]) -> np.ndarray:
    return np.histogram(result.select, bins=np.concatenate(([0], np.cumsum(lengths))) - 0.5)[0]


def assert_share(count: int, total: int, expected: float) -> None:
    assert abs(count / total - expected) < SIGMAS * math.sqrt(expected * (1 - expected) / total)


def test_the_number_of_targets_is_rounded_down_or_up():
    lengths = list(range(1, 513))
    counts = counts_per_sample(masked(lengths), lengths)
    exact = 0.15 * np.array(lengths)
    assert np.all((counts == np.floor(exact)) | (counts == np.ceil(exact)))


def test_the_number_of_targets_has_an_exact_mean():
    counts = counts_per_sample(masked([10] * 20000), [10] * 20000)
    assert set(counts.tolist()) == {1, 2}
    assert_share(int((counts == 2).sum()), 20000, 0.5)


def test_targets_are_the_original_tokens_in_ascending_rows():
    result = masked([100, 50, 7])
    original = tokens_of([100, 50, 7], np.arange(3))
    assert np.all(np.diff(result.select) > 0)
    assert np.array_equal(result.targets, original[result.select])


def test_rows_that_are_not_chosen_keep_their_tokens():
    result = masked([100, 50, 7])
    original = tokens_of([100, 50, 7], np.arange(3))
    untouched = np.setdiff1d(np.arange(157), result.select)
    assert np.array_equal(result.tokens[untouched], original[untouched])


def test_the_given_tokens_are_not_changed():
    tokens = np.full(50, 7)
    mask = Masker(MaskingConfig(), MASK, VOCAB, SPECIALS)
    mask(tokens, np.array([50]), np.array([0]), seed=1, epoch=1)
    assert np.all(tokens == 7)


def test_every_position_is_chosen_equally_often():
    result = masked([20] * 20000)
    counts = np.bincount(result.select % 20, minlength=20)
    for count in counts:
        assert_share(int(count), 20000, 0.15)


def test_pairs_of_positions_are_chosen_as_without_replacement():
    result = masked([4] * 60000, mask_prob=0.5)
    pairs, counts = np.unique(result.select.reshape(-1, 2) % 4, axis=0, return_counts=True)
    assert len(pairs) == 6
    for count in counts:
        assert_share(int(count), 60000, 1 / 6)


def test_chosen_tokens_are_masked_random_or_kept_in_their_shares():
    result = masked([512] * 500)
    seen = result.tokens[result.select]
    total = len(seen)
    assert_share(int((seen == MASK).sum()), total, 0.8 + 0.1 / (VOCAB - SPECIALS))
    assert_share(int((seen == result.targets).sum()), total, 0.1 + 0.1 / (VOCAB - SPECIALS))


def test_random_tokens_are_uniform_over_the_vocabulary_without_specials():
    result = masked([500] * 400, mask_prob=1.0, random_token_prob=1.0, leave_unmasked_prob=0.0)
    counts = np.bincount(result.tokens, minlength=VOCAB)
    assert counts[:SPECIALS].tolist() == [0] * SPECIALS
    expected = 200000 / (VOCAB - SPECIALS)
    chi_square = ((counts[SPECIALS:] - expected) ** 2 / expected).sum()
    degrees = VOCAB - SPECIALS - 1
    assert abs(chi_square - degrees) < SIGMAS * math.sqrt(2 * degrees)


@pytest.mark.parametrize(
    ("options", "replaced"),
    [
        ({"leave_unmasked_prob": 1.0, "random_token_prob": 0.0}, 0),
        ({"leave_unmasked_prob": 0.0, "random_token_prob": 0.0}, 1),
    ],
)
def test_one_share_can_be_everything(options, replaced):
    result = masked([200], mask_prob=1.0, **options)
    assert np.all((result.tokens == MASK) == replaced)
    assert len(result.select) == 200


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(7, 60)), min_size=1, max_size=12, unique_by=lambda s: s[0])
)
def test_a_sample_is_masked_the_same_in_every_batch(samples):
    ids, lengths = [s[0] for s in samples], [s[1] for s in samples]
    together = masked(lengths, ids)
    starts = np.cumsum(lengths) - lengths
    for start, length, sample in zip(starts, lengths, ids, strict=True):
        alone = masked([length], [sample])
        assert np.array_equal(alone.tokens, together.tokens[start : start + length])
        here = together.select[(together.select >= start) & (together.select < start + length)] - start
        assert np.array_equal(alone.select, here)


def test_epochs_and_seeds_have_independent_masks():
    first = masked([512] * 100)
    for other in (masked([512] * 100, epoch=2), masked([512] * 100, seed=2)):
        common = len(np.intersect1d(first.select, other.select))
        assert_share(common, len(first.select), 0.15)


def test_samples_have_independent_masks():
    result = masked([512, 512])
    first, second = (result.select[(result.select // 512) == i] % 512 for i in range(2))
    assert len(np.intersect1d(first, second)) < len(first) / 2


def test_the_same_key_gives_the_same_masks():
    first, again = masked([100, 50]), masked([100, 50])
    assert np.array_equal(first.tokens, again.tokens)
    assert np.array_equal(first.select, again.select)


def test_masks_stay_what_they_were_in_earlier_versions():
    assert masked([30]).select.tolist() == [2, 5, 12, 17, 27]


def test_a_batch_without_any_target_gets_one():
    for sample in range(20):
        result = masked([0, 1, 1], [sample, sample + 100, sample + 200], mask_prob=1e-9)
        assert result.select.tolist() == [0]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_a_batch_without_tokens_has_no_target(lengths):
    result = masked(lengths)
    assert result.tokens.shape == result.select.shape == result.targets.shape == (0,)
    assert result.tokens.dtype == result.select.dtype == result.targets.dtype == np.int64


def test_empty_samples_between_others_change_nothing():
    with_empty, without = masked([0, 40, 0, 0, 50, 0], [9, 1, 8, 7, 2, 6]), masked([40, 50], [1, 2])
    assert np.array_equal(with_empty.tokens, without.tokens)
    assert np.array_equal(with_empty.select, without.select)


WORDS = [
    {"mask_whole_words": True},
    {"mask_multiple_length": 3},
    {"mask_multiple_length": 3, "mask_stdev": 0.5},
    {"mask_whole_words": True, "mask_multiple_length": 2, "mask_stdev": 0.3},
]
STARTS_WORD = np.arange(VOCAB) % 3 == 0  # in these samples, words of three tokens but for the first and the last


def units_of(lengths: list[int], sample_ids: list[int]) -> list[list[range]]:
    """Return the words of each sample as ranges of rows, found one token at a time."""
    samples = []
    begins = STARTS_WORD[tokens_of(lengths, np.array(sample_ids))]
    for start, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        words: list[range] = []
        for row in range(start, start + length):
            if row == start or begins[row]:
                words.append(range(row, row + 1))
            else:
                words[-1] = range(words[-1].start, row + 1)
        samples.append(words)
    return samples


def masked_words(lengths: list[int], sample_ids: list[int] | None = None, **options: Any) -> Masked:
    starts_word = STARTS_WORD if options.get("mask_whole_words") else None
    return masked(lengths, sample_ids, starts_word=starts_word, **options)


def test_whole_words_are_chosen_whole():
    result = masked_words([100] * 50, mask_whole_words=True)
    chosen = set(result.select.tolist())
    for words in units_of([100] * 50, list(range(50))):
        taken = [len(chosen.intersection(word)) for word in words]
        assert all(count in (0, len(word)) for count, word in zip(taken, words, strict=True))
        exact = 0.15 * len(words)
        assert sum(count > 0 for count in taken) in (math.floor(exact), math.ceil(exact))


def test_a_word_becomes_one_thing():
    result = masked_words([300] * 200, mask_whole_words=True, leave_unmasked_prob=0.6, random_token_prob=0.0)
    is_mask = np.isin(np.arange(60000), result.select[result.tokens[result.select] == MASK])
    is_chosen = np.isin(np.arange(60000), result.select)
    words = [word for sample in units_of([300] * 200, list(range(200))) for word in sample if is_chosen[word.start]]
    shares = np.array([is_mask[list(word)].mean() for word in words])
    assert set(shares.tolist()) == {0.0, 1.0}
    assert_share(int(shares.sum()), len(words), 0.4)


def test_random_tokens_differ_within_a_word():
    options = {"leave_unmasked_prob": 0.0, "random_token_prob": 1.0, "mask_prob": 1.0}
    result = masked_words([300], mask_whole_words=True, **options)
    assert len(set(result.tokens[:3].tolist())) == 3


def test_spans_have_their_length_and_may_overlap():
    result = masked([1000] * 100, mask_multiple_length=4)
    chosen = np.isin(np.arange(100_000), result.select).reshape(100, 1000)
    for row in chosen:
        edges = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(int), [0]))))
        runs = edges[1::2] - edges[::2]
        assert (runs[:-1] >= 4).all()  # the last one may be cut off by the end of the sample
    no_start = 1 - 0.15 / 4  # at each of the four places from which a span would hold a position
    assert abs(chosen.mean() - (1 - no_start**4)) < 0.002


def test_the_lengths_of_spans_are_normally_distributed():
    result = masked([400] * 20_000, mask_prob=0.02, mask_multiple_length=8, mask_stdev=2.0)
    chosen = np.isin(np.arange(400 * 20_000), result.select).reshape(-1, 400)
    alone = chosen[(chosen.sum(axis=1) > 0) & (np.abs(np.diff(chosen, axis=1)).sum(axis=1) == 2)]
    lengths = alone[~alone[:, -1] & ~alone[:, 0]].sum(axis=1)
    assert len(lengths) > 5000
    assert abs(lengths.mean() - 8) < SIGMAS * 2 / math.sqrt(len(lengths))
    assert abs(lengths.std() - math.sqrt(4 + 1 / 12)) < 0.1  # rounding adds a twelfth


@pytest.mark.parametrize("options", WORDS)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(45, 60)), min_size=1, max_size=8, unique_by=lambda s: s[0])
)
def test_words_and_spans_are_the_same_in_every_batch(options, samples):
    """In 45 tokens there are 15 words, and so a target at least: a sample without one depends on its batch."""
    ids, lengths = [s[0] for s in samples], [s[1] for s in samples]
    together = masked_words(lengths, ids, **options)
    starts = np.cumsum(lengths) - lengths
    for start, length, sample in zip(starts, lengths, ids, strict=True):
        alone = masked_words([length], [sample], **options)
        assert np.array_equal(alone.tokens, together.tokens[start : start + length])


@pytest.mark.parametrize("options", [*WORDS, {"mask_multiple_length": 2, "mask_stdev": 2.0}])
@pytest.mark.parametrize("lengths", [[], [0], [0, 1, 0], [1], [2, 0, 3, 0]])
def test_short_samples_have_at_least_one_target_and_none_beyond(options, lengths):
    for sample in range(30):
        result = masked_words(lengths, [sample + i for i in range(len(lengths))], **options)
        assert len(result.tokens) == sum(lengths)
        assert len(result.select) > 0 or sum(lengths) == 0
        assert np.all(np.diff(result.select) > 0)


@pytest.mark.parametrize("options", WORDS)
def test_shares_of_words_and_spans_are_as_asked_for(options):
    result = masked_words([3000] * 100, **options)
    seen = result.tokens[result.select]
    assert abs(np.mean(seen == MASK) - 0.8) < 0.02
    assert abs(np.mean((seen != MASK) & (seen != result.targets)) - 0.1) < 0.02


def test_random_tokens_can_follow_the_counts():
    counts = np.zeros(VOCAB, dtype=np.int64)
    counts[[1, 10, 20, 30]] = [500, 100, 200, 700]  # 1 is special
    options = {"mask_prob": 1.0, "random_token_prob": 1.0, "leave_unmasked_prob": 0.0}
    drawn = np.bincount(masked([500] * 40, counts=counts, **options).tokens, minlength=VOCAB)
    assert set(np.flatnonzero(drawn).tolist()) == {10, 20, 30}
    for token in (10, 20, 30):
        assert_share(int(drawn[token]), 20_000, counts[token] / 1000)


def test_a_schedule_gives_the_share_of_each_epoch():
    options = {"mask_prob": 0.15, "mask_prob_by_epoch": (0.4, 0.3)}
    shares = [len(masked([1000] * 20, epoch=epoch, **options).select) / 20_000 for epoch in (1, 2, 3, 9, 0)]
    assert shares == pytest.approx([0.4, 0.3, 0.15, 0.15, 0.15])  # epoch 0 is that of validation


def tokenizer_with(counts: int) -> Tokenizer:
    bpe = Tokenizer.load().bpe
    return Tokenizer(bpe, Dictionary(bpe.symbols, [counts] * len(bpe.symbols)))


def test_a_masker_takes_what_it_needs_from_the_tokenizer():
    tokenizer = tokenizer_with(7)
    mask = Masker.of(MaskingConfig(mask_whole_words=True, freq_weighted_replacement=True), tokenizer)
    assert (mask.mask_id, mask.vocab_size, mask.num_special) == (50261, 50262, 4)
    assert np.array_equal(mask.starts_word, tokenizer.starts_word)
    assert mask.counts.tolist() == tokenizer.dictionary.counts
    plain = Masker.of(MaskingConfig(), tokenizer)
    assert plain.starts_word is plain.counts is None


def test_counts_that_are_all_zero_are_refused_with_a_remedy():
    with pytest.raises(ConfigError, match=r"--freq-weighted-replacement .* all of them are 0; put a dict\.txt"):
        Masker.of(MaskingConfig(freq_weighted_replacement=True), tokenizer_with(0))


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"mask_prob": 0.0}, "--mask-prob"),
        ({"mask_prob": 1.5}, "--mask-prob"),
        ({"leave_unmasked_prob": -0.1}, "--leave-unmasked-prob"),
        ({"random_token_prob": float("nan")}, "--random-token-prob"),
        ({"mask_multiple_length": 10**20}, "--mask-multiple-length"),
        ({"random_token_prob": 0.6, "leave_unmasked_prob": 0.5}, "sum to more than 1"),
        ({"mask_prob_by_epoch": (0.3, 0.0)}, "--mask-prob-by-epoch 0.0"),
        ({"mask_multiple_length": 0}, "--mask-multiple-length 0; expected 1 to"),
        ({"mask_multiple_length": 3, "mask_stdev": -1.0}, "--mask-stdev -1.0"),
        ({"mask_stdev": 1.0}, "give their mean as --mask-multiple-length"),
    ],
)
def test_impossible_shares_are_refused(options, flag):
    with pytest.raises(ConfigError, match=flag):
        MaskingConfig(**options)


GOLDEN = {
    "none": {},
    "complete": {},
    "wwm": {"mask_whole_words": True},
    "span": {"mask_multiple_length": 3, "mask_stdev": 1.0},
    "freq": {
        "freq_weighted_replacement": True,
        "mask_prob": 0.3,
        "leave_unmasked_prob": 0.0,
        "random_token_prob": 0.5,
    },
}


@pytest.mark.parametrize("run", GOLDEN)
@pytest.mark.parametrize("epoch", [1, 2])
def test_shares_agree_with_fairseq_on_the_golden_blocks(shared: Path, run: str, epoch: int):
    golden = json.loads((shared / "golden/batches/masking_stats.json").read_text())[run][epoch - 1]
    name = "none" if run == "none" else "complete"
    blocks = torch.load(shared / f"golden/batches/mlm_{name}.pt", weights_only=True)["blocks"]
    blocks = [block.numpy() for block in blocks if len(block) <= 128]  # fairseq skips the longer ones
    lengths = np.array([len(block) for block in blocks])
    tokens = np.concatenate(blocks)
    assert len(tokens) == golden["tokens"]
    mask = Masker.of(MaskingConfig(**GOLDEN[run]), Tokenizer.load(shared / "golden/mlm/data-bin"))
    result = mask(tokens, lengths, np.arange(len(lengths)), seed=7, epoch=epoch)
    total = len(result.select)
    words = {"wwm": 2.0, "span": 3.0}.get(run, 1.0)  # tokens that share a draw, about
    spread = 2 * words**2 * 0.25 * len(lengths) if words == 1 else 2 * words * 0.13 * len(tokens)
    assert abs(total - golden["masked"]) < SIGMAS * math.sqrt(spread)
    seen = result.tokens[result.select]

    def assert_agrees(count: int, share: float) -> None:
        assert abs(count / total - share) < SIGMAS * math.sqrt(words * 2 * share * (1 - share) / total)

    assert_agrees(int((seen == 50264).sum()), golden["mask_frac"])
    assert_agrees(int((seen == result.targets).sum()), golden["unmasked_frac"])
    assert_agrees(int(((seen != 50264) & (seen != result.targets)).sum()), golden["random_frac"])
    assert_agrees(int(np.isin(result.targets, [0, 2]).sum()), golden["masked_special_bos_eos"] / golden["masked"])


def test_fairseq_chose_our_words_in_the_golden_batches(shared: Path):
    starts_word = Tokenizer.load().starts_word
    epochs = torch.load(shared / "golden/batches/mlm_complete_wholeword.pt", weights_only=True)["epochs"]
    for sample in epochs[1]:
        batch = fairseq_batch({"net_input": sample, "target": sample["target"]})
        tokens = batch.tokens.numpy().copy()
        tokens[batch.select.numpy()] = batch.targets.numpy()
        is_chosen = np.isin(np.arange(len(tokens)), batch.select.numpy())
        inner = ~starts_word[tokens]
        inner[batch.layout.first.numpy()] = False
        assert np.array_equal(is_chosen[inner], is_chosen[np.flatnonzero(inner) - 1])
