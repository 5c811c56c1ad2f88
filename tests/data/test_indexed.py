import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roberta.data import indexed as module
from roberta.data.indexed import IndexedDataset, IndexedWriter, token_type
from roberta.errors import DataError, StorageError

SENTENCES = [[5, 6, 2], [2], [7, 2]]


def write(prefix: Path, sentences: list[list[int]], vocab_size: int = 100) -> IndexedDataset:
    with IndexedWriter(prefix, vocab_size) as writer:
        for sentence in sentences:
            writer.add(sentence)
    return IndexedDataset(prefix)


def contents(dataset: IndexedDataset) -> list[list[int]]:
    return [dataset[i].tolist() for i in range(len(dataset))]


@pytest.mark.parametrize("vocab_size", [65499, 65500])
@given(sentences=st.lists(st.lists(st.integers(0, 65498), max_size=5), max_size=10))
def test_what_is_written_is_read(tmp_path_factory, vocab_size, sentences):
    assert contents(write(tmp_path_factory.mktemp("data") / "train", sentences, vocab_size)) == sentences


@pytest.mark.parametrize(("vocab_size", "width"), [(65499, 2), (65500, 4)])
def test_files_have_the_documented_bytes(tmp_path, vocab_size, width):
    write(tmp_path / "train", SENTENCES, vocab_size)
    code, letter = {2: (8, "H"), 4: (9, "I")}[width]
    assert (tmp_path / "train.bin").read_bytes() == struct.pack(f"<6{letter}", 5, 6, 2, 2, 7, 2)
    starts = [0, 3 * width, 4 * width]
    expected = b"MMIDIDX\0\0" + struct.pack("<QBQ3i3q", 1, code, 3, 3, 1, 2, *starts)
    assert (tmp_path / "train.idx").read_bytes() == expected


def test_many_sentences_at_once_equal_one_at_a_time(tmp_path):
    write(tmp_path / "single", SENTENCES)
    with IndexedWriter(tmp_path / "many", 100) as writer:
        writer.add_many(np.array([5, 6, 2, 2, 7, 2]), np.array([3, 1, 2]))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"many{suffix}").read_bytes() == (tmp_path / f"single{suffix}").read_bytes()


def test_tokens_are_slices_of_the_whole_stream(tmp_path):
    dataset = write(tmp_path / "train", SENTENCES)
    assert dataset.num_tokens == 6
    assert dataset.sizes.tolist() == [3, 1, 2]
    assert dataset.tokens(2, 5).tolist() == [2, 2, 7]
    assert dataset.tokens(2, 5).dtype == np.int64


def test_indices_count_from_the_end_and_stop_there(tmp_path):
    dataset = write(tmp_path / "train", SENTENCES)
    assert dataset[-1].tolist() == [7, 2]
    with pytest.raises(IndexError):
        dataset[3]


def test_a_corpus_without_tokens_can_be_read(tmp_path):
    assert contents(write(tmp_path / "train", [])) == []
    assert contents(write(tmp_path / "train", [[]])) == [[]]


def test_a_pickled_corpus_is_a_path(tmp_path):
    dataset = write(tmp_path / "train", [[1] * 5000])
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 1000
    assert contents(pickle.loads(pickled)) == contents(dataset)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 8, 9, 10])
def test_every_integer_type_can_be_read(tmp_path, code):
    dtype = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}[code]
    (tmp_path / "train.bin").write_bytes(np.array([5, 100, 2]).astype(dtype).tobytes())
    (tmp_path / "train.idx").write_bytes(b"MMIDIDX\0\0" + struct.pack("<QBQiq", 1, code, 1, 3, 0))
    assert contents(IndexedDataset(tmp_path / "train")) == [[5, 100, 2]]


def index(version: int = 1, code: int = 8, sizes: tuple[int, ...] = (3, 1), starts: tuple[int, ...] = (0, 6)) -> bytes:
    header = b"MMIDIDX\0\0" + struct.pack("<QBQ", version, code, len(sizes))
    return header + struct.pack(f"<{len(sizes)}i{len(starts)}q", *sizes, *starts)


def legacy_index(code: int = 4, sizes: tuple[int, ...] = (3, 1), starts: tuple[int, ...] = (0, 3, 4)) -> bytes:
    header = b"TNTIDX\0\0" + struct.pack("<5Q", 1, code, 4, len(sizes), len(sizes))
    return header + struct.pack(f"<{2 * len(starts) + len(sizes)}q", *range(len(starts)), *starts, *sizes)


@pytest.mark.parametrize(
    ("idx", "message"),
    [
        (b"", "begins with b''; expected"),
        (b"something else entirely, long enough", "begins with b'something'; expected"),
        (b"TNTIDX\0\0" + bytes(20), "28 bytes; expected 48 for the header alone"),
        (b"TNTIDX\0\0" + bytes(40), "format version 0; expected 1"),
        (legacy_index()[:-8], "104 bytes; expected 112 for 2 sentences"),
        (legacy_index(code=7), "token type 7; expected an integer type"),
        (legacy_index(starts=(0, 2, 4)), "sentences don't start where the sizes say"),
        (index(version=2), "format version 2; expected 1"),
        (index(code=7), "token type 7; expected an integer type"),
        (index()[:-1], "49 bytes; expected 50 for 2 sentences"),
        (index() + b"\0", "51 bytes; expected 50 for 2 sentences"),
        (index()[:18] + b"\xff" * 8 + index()[26:], "50 bytes; expected"),
        (index(sizes=(5, -1), starts=(0, 10)), "a sentence of -1 tokens"),
        (index(starts=(0, 8)), "sentences don't start where the sizes say"),
        (index(sizes=(3, 2)), r"train\.bin: 8 bytes; expected 10 for the 5 tokens"),
    ],
)
def test_a_wrong_file_is_named_with_what_was_found_and_expected(tmp_path, idx, message):
    (tmp_path / "train.bin").write_bytes(bytes(8))
    (tmp_path / "train.idx").write_bytes(idx)
    with pytest.raises(DataError, match=rf"{message}.*roberta-preprocess"):
        IndexedDataset(tmp_path / "train")


def test_the_older_format_is_read_with_its_shift_undone(tmp_path):
    (tmp_path / "train.idx").write_bytes(legacy_index())
    (tmp_path / "train.bin").write_bytes(struct.pack("<4i", 6, 7, 3, 3))
    dataset = IndexedDataset(tmp_path / "train")
    assert contents(dataset) == [[5, 6, 2], [2]]
    assert (dataset.num_tokens, dataset.sizes.tolist()) == (4, [3, 1])
    assert dataset.tokens(1, 4).tolist() == [6, 2, 2]


def test_images_and_the_like_of_the_older_format_are_refused(tmp_path):
    header = b"TNTIDX\0\0" + struct.pack("<5Q", 1, 4, 4, 2, 4)
    (tmp_path / "train.idx").write_bytes(header)
    with pytest.raises(DataError, match="2 items of 4 dimensions in all; expected sentences"):
        IndexedDataset(tmp_path / "train")


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_the_size_of_the_chunks_changes_nothing(tmp_path, monkeypatch, chunk):
    sentences = [[i] * (i % 4) for i in range(7)]
    write(tmp_path / "whole", sentences)
    monkeypatch.setattr(module, "_CHUNK", chunk)
    assert contents(write(tmp_path / "chunks", sentences)) == sentences
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"chunks{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    raw = bytearray((tmp_path / "chunks.idx").read_bytes())
    raw[-8] ^= 2
    (tmp_path / "chunks.idx").write_bytes(raw)
    with pytest.raises(DataError, match="don't start where"):
        IndexedDataset(tmp_path / "chunks")


@pytest.mark.parametrize(("vocab_size", "name"), [(65499, "uint16"), (65500, "uint32")])
def test_the_type_of_tokens_depends_on_the_vocabulary(vocab_size, name):
    assert token_type(vocab_size) == np.dtype(name)


@pytest.mark.parametrize("missing", ["train.bin", "train.idx"])
def test_a_missing_file_is_named(tmp_path, missing):
    write(tmp_path / "train", SENTENCES)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"{missing}: can't be read: No such file"):
        IndexedDataset(tmp_path / "train")


def test_an_error_while_writing_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError), IndexedWriter(tmp_path / "train", 100) as writer:
        writer.add_many(np.array([1, 2, -1]), np.array([3]))
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_leaves_the_earlier_corpus(tmp_path):
    write(tmp_path / "train", SENTENCES)
    with pytest.raises(DataError, match="tokens from 1 to 100; expected 0 to 99"):
        write(tmp_path / "train", [[1, 100]])
    assert contents(IndexedDataset(tmp_path / "train")) == SENTENCES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.bin", "train.idx"]


def test_a_failed_rename_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match="train: can't be written: No space left on device"):
        write(tmp_path / "train", SENTENCES)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "data-bin").write_text("")
    with pytest.raises(StorageError, match="--destdir"):
        write(tmp_path / "data-bin" / "train", SENTENCES)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_golden_corpora_are_read_and_written_byte_for_byte(shared: Path, tmp_path: Path, split: str):
    folder = shared / "golden/mlm"
    dataset = IndexedDataset(folder / "data-bin" / split)
    assert contents(dataset) == json.loads((folder / "data-bin_contents.json").read_text())[split]
    with IndexedWriter(tmp_path / split, 50265) as writer:
        for i in range(len(dataset)):
            writer.add(dataset[i])
    for suffix in (".bin", ".idx"):
        assert (tmp_path / (split + suffix)).read_bytes() == (folder / "data-bin" / (split + suffix)).read_bytes()


def test_a_golden_corpus_of_the_older_format_has_the_golden_sentences(shared: Path):
    folder = shared / "golden/mlm"
    expected = json.loads((folder / "data-bin_contents.json").read_text())["valid"]
    assert contents(IndexedDataset(folder / "data-bin-legacy-lazy" / "valid")) == expected
