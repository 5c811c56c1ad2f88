import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roberta.data.masking import Masked, MaskingConfig, mask
from roberta.errors import ConfigError

MASK, VOCAB, SPECIALS = 999, 1000, 4
SIGMAS = 5  # one false alarm in 1.7 million for a true mean; the draws are fixed by the seed anyway


def masked(
    lengths: list[int], sample_ids: list[int] | None = None, *, seed: int = 1, epoch: int = 1, **options: float
) -> Masked:
    """Mask samples whose tokens are functions of sample and position."""
    ids = np.arange(len(lengths)) if sample_ids is None else np.array(sample_ids, dtype=np.int64)
    return mask(
        tokens_of(lengths, ids),
        np.array(lengths, dtype=np.int64),
        ids,
        MaskingConfig(**options),
        seed=seed,
        epoch=epoch,
        mask_id=MASK,
        vocab_size=VOCAB,
        num_special=SPECIALS,
    )


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
    mask(
        tokens,
        np.array([50]),
        np.array([0]),
        MaskingConfig(),
        seed=1,
        epoch=1,
        mask_id=MASK,
        vocab_size=9,
        num_special=4,
    )
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


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"mask_prob": 0.0}, "--mask-prob"),
        ({"mask_prob": 1.5}, "--mask-prob"),
        ({"leave_unmasked_prob": -0.1}, "--leave-unmasked-prob"),
        ({"random_token_prob": 0.6, "leave_unmasked_prob": 0.5}, "sum to more than 1"),
    ],
)
def test_impossible_shares_are_refused(options, flag):
    with pytest.raises(ConfigError, match=flag):
        MaskingConfig(**options)


@pytest.mark.parametrize("mode", ["none", "complete"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_shares_agree_with_fairseq_on_the_golden_blocks(shared: Path, mode: str, epoch: int):
    golden = json.loads((shared / "golden/batches/masking_stats.json").read_text())[mode][epoch - 1]
    blocks = torch.load(shared / f"golden/batches/mlm_{mode}.pt", weights_only=True)["blocks"]
    blocks = [block.numpy() for block in blocks if len(block) <= 128]  # fairseq skips the longer ones
    lengths = np.array([len(block) for block in blocks])
    tokens = np.concatenate(blocks)
    assert len(tokens) == golden["tokens"]
    result = mask(
        tokens,
        lengths,
        np.arange(len(lengths)),
        MaskingConfig(),
        seed=7,
        epoch=epoch,
        mask_id=50264,
        vocab_size=50265,
        num_special=4,
    )
    total = len(result.select)
    assert abs(total - golden["masked"]) < SIGMAS * math.sqrt(2 * 0.25 * len(lengths))
    seen = result.tokens[result.select]

    def assert_agrees(count: int, share: float) -> None:
        assert abs(count / total - share) < SIGMAS * math.sqrt(2 * share * (1 - share) / total)

    assert_agrees(int((seen == 50264).sum()), golden["mask_frac"])
    assert_agrees(int((seen == result.targets).sum()), golden["unmasked_frac"])
    assert_agrees(int(((seen != 50264) & (seen != result.targets)).sum()), golden["random_frac"])
    assert_agrees(int(np.isin(result.targets, [0, 2]).sum()), golden["masked_special_bos_eos"] / golden["masked"])
