from pathlib import Path

import numpy as np
import pytest

from roberta.data.indexed import IndexedWriter
from roberta.data.stream import ConcatStream, open_split, shard_name
from roberta.errors import DataError


def write(folder: Path, name: str, sentences: list[list[int]]) -> None:
    with IndexedWriter(folder / name, 100) as writer:
        for sentence in sentences:
            writer.add(sentence)


@pytest.fixture
def stream(tmp_path: Path) -> ConcatStream:
    write(tmp_path, "train", [[1, 2], [3]])
    write(tmp_path, "train1", [])
    write(tmp_path, "train2", [[4, 5, 6], [7]])
    return open_split([tmp_path], "train")


def test_shards_are_one_stream_in_their_order(stream):
    assert stream.tokens(0, stream.num_tokens).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert stream.sizes.tolist() == [2, 1, 3, 1]
    assert len(stream) == 4


def test_any_range_can_be_read(stream):
    for start in range(8):
        for end in range(start, 8):
            tokens = stream.tokens(start, end)
            assert tokens.tolist() == list(range(start + 1, end + 1))
            assert tokens.dtype == np.int64


def test_folders_follow_each_other(tmp_path):
    for name, token in (("a", 1), ("b", 2)):
        write(tmp_path / name, "train", [[token]])
        write(tmp_path / name, "train1", [[token + 10]])
    stream = open_split([tmp_path / "b", tmp_path / "a"], "train")
    assert stream.tokens(0, 4).tolist() == [2, 12, 1, 11]


def test_only_the_training_split_has_shards(tmp_path):
    write(tmp_path, "valid", [[1]])
    write(tmp_path, "valid1", [[2]])
    assert open_split([tmp_path], "valid").num_tokens == 1
    assert open_split([tmp_path], "valid1").tokens(0, 1).tolist() == [2]


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(DataError, match=r"test\.idx: can't be read"):
        open_split([tmp_path], "test")


def test_shards_count_from_the_bare_name():
    assert [shard_name("train", number) for number in range(3)] == ["train", "train1", "train2"]
