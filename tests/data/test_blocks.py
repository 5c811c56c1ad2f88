import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roberta.data import blocks as module
from roberta.data.blocks import blocks
from tests.reference.blocks import slow_blocks

MODES = ["none", "complete", "complete_doc", "eos"]


def made(sizes: list[int], mode: str, block_size: int) -> list[tuple[int, int]]:
    return [(start, end) for start, end in blocks(np.array(sizes, dtype=np.int32), mode, block_size).tolist()]


@pytest.mark.parametrize("mode", MODES)
@given(sizes=st.lists(st.integers(0, 12), max_size=40), block_size=st.integers(1, 15))
def test_blocks_equal_those_of_the_slow_loop(mode, sizes, block_size):
    assert made(sizes, mode, block_size) == slow_blocks(sizes, mode, block_size)


@pytest.mark.parametrize("mode", MODES)
@given(sizes=st.lists(st.integers(1, 12), max_size=60), block_size=st.integers(1, 4), chunk=st.integers(1, 20))
def test_blocks_do_not_depend_on_how_many_sentences_are_cut_at_once(mode, sizes, block_size, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        assert made(sizes, mode, block_size) == slow_blocks(sizes, mode, block_size)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", [(0, 6), (6, 12), (12, 15)]),
        ("complete", [(0, 6), (6, 9), (9, 15)]),
        ("complete_doc", [(0, 5), (6, 9), (9, 15)]),
        ("eos", [(0, 3), (3, 5), (5, 6), (6, 9), (9, 15)]),
    ],
)
def test_a_small_stream_is_cut_as_documented(mode, expected):
    assert made([3, 2, 1, 3, 6], mode, 6) == expected


@pytest.mark.parametrize("mode", ["none", "complete", "eos"])
@given(sizes=st.lists(st.integers(1, 12), max_size=40), block_size=st.integers(1, 15))
def test_every_token_is_in_exactly_one_block(mode, sizes, block_size):
    covered = [token for start, end in made(sizes, mode, block_size) for token in range(start, end)]
    assert covered == list(range(sum(sizes)))


@given(sizes=st.lists(st.integers(1, 12), max_size=40), block_size=st.integers(1, 15))
def test_complete_doc_leaves_out_nothing_but_empty_sentences(sizes, block_size):
    covered = {token for start, end in made(sizes, "complete_doc", block_size) for token in range(start, end)}
    ends = np.cumsum(sizes)
    assert covered == set(range(sum(sizes))) - {
        int(end) - 1 for end, size in zip(ends, sizes, strict=True) if size == 1
    }


@pytest.mark.parametrize("mode", MODES)
def test_a_sentence_longer_than_a_block_is_cut_into_full_blocks_and_a_rest(mode):
    assert made([10], mode, 4) == [(0, 4), (4, 8), (8, 10)]


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_stream_has_no_blocks(mode):
    assert blocks(np.empty(0, dtype=np.int32), mode, 4).shape == (0, 2)


@pytest.mark.parametrize("mode", ["none", "complete"])
def test_golden_blocks_are_reproduced(shared: Path, mode: str):
    sentences = json.loads((shared / "golden/mlm/data-bin_contents.json").read_text())["train"]
    stream = [token for sentence in sentences for token in sentence]
    golden = torch.load(shared / f"golden/batches/mlm_{mode}.pt", weights_only=True)["blocks"]
    expected = []
    for block in golden:
        tokens = block.tolist()[1:]  # without <s>
        expected += [tokens[i : i + 127] for i in range(0, len(tokens), 127)]  # fairseq keeps over-long ones whole
    assert [stream[start:end] for start, end in made([len(s) for s in sentences], mode, 127)] == expected


@pytest.mark.parametrize(("mode", "count"), [("none", 314), ("complete", 354), ("complete_doc", 371), ("eos", 1521)])
def test_golden_numbers_of_blocks_are_reproduced_when_nothing_is_cut(shared: Path, mode: str, count: int):
    sentences = json.loads((shared / "golden/mlm/data-bin_contents.json").read_text())["train"]
    ranges = made([len(s) for s in sentences], mode, 127)
    extra = sum(-(-len(s) // 127) - 1 for s in sentences) if mode != "none" else 0
    assert len(ranges) - extra == count
