"""Several binarised corpora as one: the shards of a split, in one folder or many."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roberta.data.indexed import IndexedDataset, idx_path


class ConcatStream:
    """The token streams of corpora, one after another, with the interface of one.

    `parts`: the corpora; `offsets`: where the stream of each starts, then the number of tokens.
    """

    def __init__(self, parts: Sequence[IndexedDataset]) -> None:
        self.parts = parts
        self.offsets = [0, *accumulate(part.num_tokens for part in parts)]

    @property
    def num_tokens(self) -> int:
        return self.offsets[-1]

    @property
    def sizes(self) -> NDArray[np.integer]:
        """Return the tokens of each sentence of all corpora: (N,)."""
        return np.concatenate([part.sizes for part in self.parts])

    def tokens(self, start: int, end: int) -> NDArray[np.int64]:
        """Return the tokens start <= i < end of the whole stream: (end - start,) int64."""
        number = bisect_right(self.offsets, start) - 1
        if number < len(self.parts) and end <= self.offsets[number + 1]:  # nearly always
            return self.parts[number].tokens(start - self.offsets[number], end - self.offsets[number])
        pieces = [
            part.tokens(max(start - offset, 0), min(end - offset, part.num_tokens))
            for part, offset in zip(self.parts, self.offsets, strict=False)
            if start < offset + part.num_tokens and offset < end
        ]
        return np.concatenate([np.empty(0, dtype=np.int64), *pieces])

    def __len__(self) -> int:
        return sum(map(len, self.parts))


def open_split(folders: Sequence[Path], split: str) -> ConcatStream:
    """Return a split of all folders together; of the training split, all shards (train, train1, ...) of each.

    Raises:
        DataError: a folder has no such split, or a file of it is damaged.
    """
    return ConcatStream([IndexedDataset(folder / name) for folder in folders for name in _names(folder, split)])


def shard_name(split: str, number: int) -> str:
    """Return the name of a shard: number 0 is `train`, number 1 `train1`."""
    return f"{split}{number or ''}"


def _names(folder: Path, split: str) -> list[str]:
    """Return the shards of a split; one, if they are not those of the training split."""
    names = [split]
    while split == "train" and idx_path(folder / shard_name(split, len(names))).exists():
        names.append(shard_name(split, len(names)))
    return names
