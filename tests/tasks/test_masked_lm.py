import os
from pathlib import Path

import numpy as np
import pytest
import torch

from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.indexed import IndexedDataset
from roberta.errors import ConfigError, DataError
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
    with pytest.raises(DataError, match=r"none: no dict\.txt there"):
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


@pytest.mark.parametrize("option", ["vocab", "valid_data"])
def test_options_of_raw_text_are_refused_for_binarised_folders(data_bin, option):
    with pytest.raises(ConfigError, match="--vocab and --valid-data are for raw text"):
        task(data_bin, **{option: data_bin})


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
