"""Where each sequence lies in a packed run of tokens.

Inside the library no tensor is padded: the real tokens of all sequences stand one after another in one dimension, and
a SequenceLayout travels beside them. Padded are token ids at the hub's border, the inputs of an attention kernel that
asks for it, and the outputs of a head where a softmax goes over those of one sequence or question.

Shapes: B sequences, T packed tokens, S padded length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

NO_TARGET = -1  # the target of a question whose right option is not known: losses pass over it


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device; a GPU fetches it from pinned memory, while the host goes on."""
    is_to_gpu = torch.device(device).type == "cuda"
    if is_to_gpu and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=is_to_gpu)  # what comes to the host is complete when it is read


@dataclass(frozen=True)
class SequenceLayout:
    """The lengths of B packed sequences, on the host and on the device.

    `lengths` are Python integers, so no branch on them ever waits for a device. A length of 0 is allowed: such a
    sequence has no tokens.
    """

    lengths: tuple[int, ...]
    cu_seqlens: Tensor  # (B + 1,) int32: the offset of each sequence, then T

    @classmethod
    def from_lengths(cls, lengths: Sequence[int] | np.ndarray, device: torch.device | str = "cpu") -> "SequenceLayout":
        """Return the layout of sequences with these lengths in tokens, in this order."""
        counts = np.asarray(lengths, dtype=np.int64)
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        return cls(tuple(counts.tolist()), moved(torch.from_numpy(offsets), device))

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)

    @cached_property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @cached_property
    def max_seqlen(self) -> int:
        return max(self.lengths, default=0)

    @property
    def is_uniform(self) -> bool:
        """All sequences have the same length, so (T, ...) can be viewed as (B, S, ...)."""
        return self.num_tokens == self.num_sequences * self.max_seqlen

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The runs of consecutive sequences of one length, empty ones left out: (how many, their length) each."""
        groups = ((length, sum(1 for _ in members)) for length, members in groupby(self.lengths))
        return tuple((count, length) for length, count in groups if length)

    @property
    def first(self) -> Tensor:
        """Return the index of each sequence's first token: (B,) int64. Every sequence must have one."""
        return self.cu_seqlens[:-1].long()

    @cached_property
    def sequence_ids(self) -> Tensor:
        """Return the sequence that each token belongs to: (T,) int64."""
        counts = self.cu_seqlens.diff()
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts, output_size=self.num_tokens)

    @cached_property
    def positions(self) -> Tensor:
        """Return the offset of each token in its sequence, from 0: (T,) int64."""
        starts = self.cu_seqlens[:-1].repeat_interleave(self.cu_seqlens.diff(), output_size=self.num_tokens)
        return torch.arange(self.num_tokens, device=starts.device) - starts

    @cached_property
    def is_token(self) -> Tensor:
        """Return which cells of the padded (B, S) grid hold a token: bool."""
        columns = torch.arange(self.max_seqlen, device=self.cu_seqlens.device)
        return columns < self.cu_seqlens.diff().unsqueeze(1)  # (B, S)

    @cached_property
    def cells(self) -> Tensor:
        """Return the cell of each token in the flattened padded (B * S) grid: (T,) int64."""
        return self.sequence_ids * self.max_seqlen + self.positions

    def pad(self, packed: Tensor, value: float = 0) -> Tensor:
        """Return (T, ...) spread over a right-padded (B, S, ...), empty cells filled with `value`."""
        shape = packed.shape[1:]
        if self.is_uniform:
            return packed.view(self.num_sequences, self.max_seqlen, *shape)
        grid = packed.new_full((self.num_sequences * self.max_seqlen, *shape), value)
        return grid.index_copy(0, self.cells, packed).view(self.num_sequences, self.max_seqlen, *shape)  # (B, S, ...)

    def pack(self, padded: Tensor) -> Tensor:
        """Return the tokens of a right-padded (B, S, ...) as (T, ...); the inverse of `pad`."""
        flat = padded.reshape(self.num_sequences * self.max_seqlen, *padded.shape[2:])
        return flat if self.is_uniform else flat.index_select(0, self.cells)  # (T, ...)

    def to(self, device: torch.device | str) -> "SequenceLayout":
        """Return the same layout with its tensors on `device`."""
        return SequenceLayout(self.lengths, moved(self.cu_seqlens, device))


@dataclass(frozen=True)
class Batch:
    """What a criterion needs of some samples: packed tokens, and the rows that have a target."""

    tokens: Tensor  # (T,) int64
    layout: SequenceLayout
    select: Tensor | None  # (M,) int64: the rows of the features that a head sees; None for all
    targets: Tensor  # (M,) int64 classes or (M,) float values, or as the head's criterion says
    num_targets: int  # the denominator of this batch in the mean loss
    sample_ids: tuple[int, ...]  # which samples of the data set, for messages
    groups: SequenceLayout | None = None  # how many sequences each sample has, where that is not one each
    output_rows: tuple[int, ...] | None = None  # of each sample, where a criterion's outputs aren't those of the head

    @property
    def rows_per_sample(self) -> tuple[int, ...]:
        """How many rows of outputs each sample has; where some are selected, the device is waited for."""
        if self.output_rows is not None:
            return self.output_rows
        rows = self.layout.lengths  # of each sequence
        if self.select is not None:
            ends = np.cumsum(rows)
            sequences = np.searchsorted(ends, self.select.cpu().numpy(), side="right")  # (M,)
            rows = tuple(np.bincount(sequences, minlength=len(ends)).tolist())
        if self.groups is None:
            return rows
        bounds = np.cumsum((0, *self.groups.lengths))
        return tuple(sum(rows[start:end]) for start, end in pairwise(bounds.tolist()))

    def to(self, device: torch.device | str) -> "Batch":
        """Return the same batch with its tensors on `device`."""
        return Batch(
            moved(self.tokens, device),
            self.layout.to(device),
            None if self.select is None else moved(self.select, device),
            moved(self.targets, device),
            self.num_targets,
            self.sample_ids,
            None if self.groups is None else self.groups.to(device),
            self.output_rows,
        )
