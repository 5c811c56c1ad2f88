import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from roberta.config import flag
from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.indexed import IndexedDataset
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError
from roberta.pretrained import SHIPPED
from roberta.tasks.masked_lm import MaskedLMTask, MaskedLMTaskConfig

DOCUMENTS = "\n".join(f"This is document {i}.\nIt has a second line.\n" for i in range(20))


def task(data: Path, **options: object) -> MaskedLMTask:
    return MaskedLMTask(
        MaskedLMTaskConfig(data=data, tokens_per_sample=options.pop("tokens_per_sample", 32), **options)
    )


def originals(task: MaskedLMTask, split: str = "train") -> list[list[int]]:
    """Return the samples of a split with nothing masked."""
    samples = task.samples(split)
    batch = samples.batch(np.arange(len(samples)), seed=1, epoch=1)
    tokens = batch.tokens.clone()
    tokens[batch.select] = batch.targets
    return [part.tolist() for part in torch.split(tokens, list(batch.layout.lengths))]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    paths = []
    for number, text in enumerate(("one two three\n", "four\n\nfive six\n")):
        paths.append(tmp_path / f"{number}.txt")
        paths[-1].write_text(text, encoding="utf-8")
    preprocess(PreprocessConfig(trainpref=tuple(paths), destdir=tmp_path / "shards", shards=True))
    return tmp_path / "shards"


def test_samples_are_blocks_after_a_bos(data_bin):
    samples = originals(task(data_bin))
    assert all(sample[0] == 0 and len(sample) <= 32 for sample in samples)
    whole = IndexedDataset(data_bin / "train")
    assert [token for sample in samples for token in sample[1:]] == whole.tokens(0, whole.num_tokens).tolist()


def test_a_batch_counts_its_targets_and_names_its_samples(data_bin):
    batch = task(data_bin).samples("train").batch(np.array([3, 1]), seed=1, epoch=1)
    assert batch.sample_ids == (3, 1)
    assert batch.num_targets == len(batch.targets) == len(batch.select) > 0
    assert batch.tokens.dtype == batch.select.dtype == batch.targets.dtype == torch.int64


def test_every_token_of_every_shard_is_in_one_sample(shards):
    parts = [IndexedDataset(shards / name) for name in ("train", "train1")]
    expected = [[0, *part.tokens(0, part.num_tokens).tolist()] for part in parts]
    assert originals(task(shards)) == expected


def test_several_folders_are_read_as_one(shards, data_bin):
    both = originals(task(Path(f"{shards}{os.pathsep}{data_bin}")))
    assert both == originals(task(shards)) + originals(task(data_bin))


def test_folders_of_different_dictionaries_are_refused(shards, data_bin, tmp_path):
    (tmp_path / "other").mkdir()
    lines = (shards / "dict.txt").read_text().splitlines(keepends=True)
    (tmp_path / "other" / "dict.txt").write_text("".join(reversed(lines)))
    with pytest.raises(DataError, match=r"other: its dictionary is not that of"):
        task(Path(f"{shards}{os.pathsep}{tmp_path / 'other'}"))


def test_a_folder_without_a_dictionary_is_refused(tmp_path, data_bin):
    with pytest.raises(DataError, match=rf"{tmp_path}: no dict\.txt there; make the folder with roberta-preprocess"):
        task(tmp_path)
    with pytest.raises(DataError, match="none: no such file or folder"):
        task(Path(f"{data_bin}{os.pathsep}{tmp_path / 'none'}"))


def test_raw_text_is_trained_on_as_its_binarised_form(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBERTA_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "a.txt"
    text.write_text(DOCUMENTS, encoding="utf-8")
    preprocess(PreprocessConfig(trainpref=(text,), valid_fraction=0.1, destdir=tmp_path / "data-bin"))
    expected = task(tmp_path / "data-bin")
    for data in (text, tmp_path):
        ours = task(data, valid_fraction=0.1)
        assert originals(ours) == originals(expected)
        assert originals(ours, "valid") == originals(expected, "valid")
        assert ours.tokenizer.dictionary == expected.tokenizer.dictionary


def test_raw_text_takes_its_vocabulary_and_validation_text(tmp_path, monkeypatch, shards):
    monkeypatch.setenv("ROBERTA_CACHE", str(tmp_path / "cache"))
    lines = (shards / "dict.txt").read_text().splitlines(keepends=True)
    (shards / "dict.txt").write_text("".join(reversed(lines)))
    ours = task(tmp_path / "0.txt", vocab=shards, valid_data=tmp_path / "1.txt")
    assert ours.tokenizer.dictionary.symbols[4] == lines[-1].split()[0]
    assert [ours.tokenizer.decode(sample) for sample in originals(ours)] == ["one two three"]
    assert [ours.tokenizer.decode(sample) for sample in originals(ours, "valid")] == ["fourfive six"]


def test_raw_text_is_binarised_by_the_tokenizer_of_the_model_that_there_is(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBERTA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text(DOCUMENTS, encoding="utf-8")
    tokenizer = Tokenizer.load(SHIPPED["roberta.mini"])
    ours = MaskedLMTask(MaskedLMTaskConfig(data=tmp_path / "a.txt", valid_fraction=0.1), tokenizer)
    assert ours.tokenizer.dictionary == tokenizer.dictionary
    assert MaskedLMTask(ours.config, tokenizer).folders == ours.folders


@pytest.mark.parametrize("option", ["vocab", "valid_data", "valid_fraction"])
def test_options_of_raw_text_are_refused_for_binarised_folders(data_bin, option):
    with pytest.raises(ConfigError, match=rf"{flag(option)} is for raw text, and {data_bin} is not: leave it out"):
        task(data_bin, **{option: 0.5 if option == "valid_fraction" else data_bin})


def test_a_split_is_that_of_the_folders_that_have_it(data_bin, tmp_path, caplog):
    caplog.set_level("INFO")
    other = tmp_path / "other"
    other.mkdir()
    for path in data_bin.iterdir():
        if not path.name.startswith("valid"):
            shutil.copy(path, other)
    both, alone = task(Path(f"{other}{os.pathsep}{data_bin}")), task(data_bin)
    assert originals(both, "valid") == originals(alone, "valid")
    assert f"{other} has no split valid, and is left out there" in caplog.text
    assert len(both.samples("train")) == 2 * len(alone.samples("train"))
    with pytest.raises(DataError, match="other: no split valid there; make one by roberta-preprocess"):
        task(other).samples("valid")
    shutil.copy(data_bin / "valid.bin", other)  # whose index was lost
    with pytest.raises(DataError, match=r"valid\.idx: can't be read"):
        both.samples("valid")


def test_words_are_chosen_whole_if_asked_for(data_bin):
    ours = task(data_bin, mask_whole_words=True)
    samples = ours.samples("train")
    batch = samples.batch(np.arange(len(samples)), seed=1, epoch=1)
    starts_word = ours.tokenizer.starts_word
    chosen = set(batch.select.tolist())
    tokens = batch.tokens.clone()
    tokens[batch.select] = batch.targets
    inner = [row for row in range(1, len(tokens)) if not starts_word[tokens[row]]]
    assert len(inner) > 100
    assert all((row in chosen) == (row - 1 in chosen) for row in inner)


def test_an_empty_split_is_refused(tmp_path, data_bin):
    for name in ("dict.txt", "train.bin", "train.idx"):
        (tmp_path / name).write_bytes((data_bin / name).read_bytes())
    (tmp_path / "train.idx").write_bytes((data_bin / "train.idx").read_bytes()[:18] + bytes(8))
    (tmp_path / "train.bin").write_bytes(b"")
    with pytest.raises(DataError, match="no samples in the split train"):
        task(tmp_path).samples("train")


def test_samples_too_short_for_a_token_are_refused(data_bin):
    with pytest.raises(ConfigError, match="--tokens-per-sample is 1"):
        task(data_bin, tokens_per_sample=1)


@pytest.fixture(scope="module")
def languages(tmp_path_factory) -> Path:
    """Return two folders of 24 and of 3 sentences, the first in two shards."""
    folder = tmp_path_factory.mktemp("languages")
    for name, counts in (("large", (16, 8)), ("small", (3,))):
        paths = []
        for shard, count in enumerate(counts):
            paths.append(folder / f"{name}{shard}.txt")
            paths[-1].write_text("".join(f"{name} {shard} {i} and a few words more\n" for i in range(count)), "utf-8")
        splits = {"trainpref": tuple(paths), "validpref": (paths[-1],)}
        preprocess(PreprocessConfig(**splits, destdir=folder / name, shards=True))
    return Path(f"{folder / 'large'}{os.pathsep}{folder / 'small'}")


def epoch_of(samples, epoch: int) -> list[list[int]]:
    """Return the samples of an epoch in their order, with nothing masked."""
    batch = samples.batch(samples.order(seed=1, epoch=epoch), seed=1, epoch=epoch)
    tokens = batch.tokens.clone()
    tokens[batch.select] = batch.targets
    return [part.tolist() for part in torch.split(tokens, list(batch.layout.lengths))]


def test_languages_are_resampled(languages):
    plain = task(languages, sample_break_mode="eos").samples("train")
    even = task(languages, sample_break_mode="eos", multilang_sampling_alpha=0.0).samples("train")
    whole = [tuple(sample) for sample in epoch_of(plain, 1)]
    large, small = set(originals_of(plain)[:24]), set(originals_of(plain)[24:])
    assert sorted(whole) == sorted(large | small)
    for epoch in (1, 2):
        samples = [tuple(sample) for sample in epoch_of(even, epoch)]
        assert len(samples) == 28
        assert sum(sample in large for sample in samples) == len(large.intersection(samples)) == 14
        assert {samples.count(sample) for sample in small} == {4, 5}
    assert epoch_of(even, 1) != epoch_of(even, 2)
    assert epoch_of(even, 1) == epoch_of(even, 1)


def originals_of(samples) -> list[tuple[int, ...]]:
    batch = samples.batch(np.arange(len(samples)), seed=1, epoch=1)
    batch.tokens[batch.select] = batch.targets
    return [tuple(part.tolist()) for part in torch.split(batch.tokens, list(batch.layout.lengths))]


def test_a_sample_that_is_seen_again_is_masked_anew(languages):
    samples = task(languages, sample_break_mode="eos", multilang_sampling_alpha=0.0, mask_prob=0.5).samples("train")
    assert samples.resampling is not None
    same = np.flatnonzero(samples.resampling.originals() == 24)
    assert len(same) == 5
    masks = {tuple(samples.batch(same[[i]], seed=1, epoch=1).select.tolist()) for i in range(5)}
    assert len(masks) > 1


def test_alpha_1_is_the_plain_order_and_validation_is_never_resampled(languages):
    plain, one = (task(languages, multilang_sampling_alpha=alpha) for alpha in (None, 1.0))
    assert epoch_of(plain.samples("train"), 3) == epoch_of(one.samples("train"), 3)
    even = task(languages, multilang_sampling_alpha=0.0, sample_break_mode="eos")
    assert len(even.samples("valid")) == 11
    assert even.samples("valid").resampling is None


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_an_alpha_that_is_no_exponent_is_refused(languages, alpha):
    with pytest.raises(ConfigError, match=r"--multilang-sampling-alpha is .*at least 0"):
        task(languages, multilang_sampling_alpha=alpha)


def test_an_alpha_for_one_folder_is_refused(data_bin):
    with pytest.raises(ConfigError, match="weighs the folders of languages.*is one folder"):
        task(data_bin, multilang_sampling_alpha=0.5)


def test_validation_is_masked_by_the_defaults_however_training_is(data_bin):
    usual = task(data_bin).samples("valid")
    other = task(data_bin, mask_prob=0.4, mask_whole_words=True, random_token_prob=0.0).samples("valid")
    ids = np.arange(len(usual))
    ours, theirs = (samples.batch(ids, seed=0, epoch=0) for samples in (usual, other))
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.select, theirs.select)
    assert ours.num_targets / ours.layout.num_tokens == pytest.approx(0.15, abs=0.02)
