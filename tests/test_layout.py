"""SequenceLayout and Batch."""

import dataclasses

import pytest
import torch

from roberta.layout import Batch, SequenceLayout


def test_offsets_positions_and_cells_are_those_of_a_padded_grid():
    layout = SequenceLayout.from_lengths([3, 0, 2])
    assert layout.cu_seqlens.tolist() == [0, 3, 3, 5]
    assert layout.cu_seqlens.dtype == torch.int32
    assert layout.positions.tolist() == [0, 1, 2, 0, 1]
    assert layout.sequence_ids.tolist() == [0, 0, 0, 2, 2]
    assert layout.cells.tolist() == [0, 1, 2, 6, 7]
    assert layout.is_token.tolist() == [[True, True, True], [False, False, False], [True, True, False]]
    assert (layout.num_sequences, layout.num_tokens, layout.max_seqlen, layout.is_uniform) == (3, 5, 3, False)


@pytest.mark.parametrize("lengths", [(3, 1, 2), (2, 2), (1,), (4, 0, 1)])
def test_pack_undoes_pad(lengths):
    layout = SequenceLayout.from_lengths(lengths)
    packed = torch.randn(sum(lengths), 2, 3)
    padded = layout.pad(packed, value=7.0)
    assert padded.shape == (len(lengths), max(lengths), 2, 3)
    assert torch.all(padded[~layout.is_token] == 7.0)
    assert torch.equal(layout.pack(padded), packed)


def test_gradients_flow_through_pad_and_pack():
    layout = SequenceLayout.from_lengths([1, 3])
    packed = torch.randn(4, 2, requires_grad=True)
    layout.pack(layout.pad(packed) * 2).sum().backward()
    assert torch.all(packed.grad == 2)


@pytest.mark.parametrize(
    ("lengths", "runs"),
    [((3, 3, 1, 0, 1, 3), ((2, 3), (1, 1), (1, 1), (1, 3))), ((), ()), ((0, 0), ()), ((2, 2), ((2, 2),))],
)
def test_runs_are_consecutive_sequences_of_one_length(lengths, runs):
    assert SequenceLayout.from_lengths(lengths).runs == runs


def test_first_is_the_first_row_of_each_sequence():
    assert SequenceLayout.from_lengths([2, 5, 1]).first.tolist() == [0, 2, 7]


def test_uniform_sequences_are_padded_without_a_copy():
    packed = torch.randn(6, 2)
    assert SequenceLayout.from_lengths([3, 3]).pad(packed).data_ptr() == packed.data_ptr()


def test_rows_of_a_sample_are_those_selected_from_its_sequences():
    layout, targets = SequenceLayout.from_lengths([3, 0, 4, 2]), torch.zeros(4, dtype=torch.int64)
    batch = Batch(torch.zeros(9, dtype=torch.int64), layout, torch.tensor([1, 2, 6, 8]), targets, 4, (0, 1, 2, 3))
    assert batch.rows_per_sample == (2, 0, 1, 1)
    groups = SequenceLayout.from_lengths([1, 3])
    assert dataclasses.replace(batch, groups=groups).rows_per_sample == (2, 2)
    assert dataclasses.replace(batch, select=None).rows_per_sample == (3, 0, 4, 2)
