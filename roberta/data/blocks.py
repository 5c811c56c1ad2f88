"""Cut a stream of sentences into blocks, the samples of masked-LM pretraining (arXiv:1907.11692 section 4.2).

A block is a half-open range [start, end) of the token stream, so a data set of blocks is an (N, 2) array and no token
is copied. A document ends at an empty sentence: one that holds nothing but its end-of-sentence token.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roberta.data.batching import chain, first_beyond

BreakMode = Literal["none", "complete", "complete_doc", "eos"]

_EMPTY_SENTENCE = 1  # tokens
_CHUNK = 1 << 22  # sentences that are cut at once


def blocks(sizes: NDArray[np.integer], mode: BreakMode, block_size: int) -> NDArray[np.int64]:
    """Return the blocks of at most `block_size` tokens that sentences of `sizes` make: (N, 2) int64.

    - none: equal slices of the stream, whatever they cut; the last one may be short.
    - complete: as many whole sentences as fit (FULL-SENTENCES).
    - complete_doc: the same within one document (DOC-SENTENCES); the empty sentences between documents are left out.
    - eos: one sentence each.

    A sentence longer than a block becomes blocks of its own, all full but the last; `sizes > block_size` tells which.
    """
    if mode == "none":
        return _split(np.array([[0, sizes.sum(dtype=np.int64)]]), block_size)
    parts = [_split(ranges, block_size) for ranges in _sentence_ranges(sizes, mode, block_size)]
    return np.concatenate([np.empty((0, 2), dtype=np.int64), *parts])


def _sentence_ranges(sizes: NDArray[np.integer], mode: BreakMode, block_size: int) -> Iterator[NDArray[np.int64]]:
    """Yield ranges of whole sentences, (n, 2) at a time; memory is bounded by a chunk of sentences."""
    first, position = 0, 0  # the sentence where a group starts, and its first token
    while first < len(sizes):
        chunk = sizes[first : first + max(_CHUNK, 2 * block_size)]
        groups = _groups(chunk, mode, block_size)
        is_last = first + len(chunk) == len(sizes)
        if not is_last and len(groups) > 2:
            groups = groups[:-1]  # the last group may go on in the next chunk
        bounds = position + np.concatenate(([0], np.cumsum(chunk, dtype=np.int64)))[groups]
        ranges = np.stack((bounds[:-1], bounds[1:]), axis=1)  # (n, 2)
        yield ranges[ranges[:, 1] - ranges[:, 0] > _EMPTY_SENTENCE] if mode == "complete_doc" else ranges
        first, position = first + int(groups[-1]), int(bounds[-1])


def _groups(sizes: NDArray[np.integer], mode: BreakMode, block_size: int) -> NDArray[np.int64]:
    """Return the sentence where each group starts, then the number of sentences."""
    if mode == "eos":
        return np.arange(len(sizes) + 1)
    following = first_beyond(sizes, block_size)
    return chain(following if mode == "complete" else _within_documents(sizes, following))


def _within_documents(sizes: NDArray[np.integer], following: NDArray[np.int64]) -> NDArray[np.int64]:
    """Stop every group before the next empty sentence; an empty sentence is a group of its own."""
    indices = np.arange(len(sizes))
    empty = np.flatnonzero(sizes <= _EMPTY_SENTENCE)
    next_empty = np.append(empty, len(sizes))[np.searchsorted(empty, indices)]
    return np.maximum(np.minimum(following, next_empty), indices + 1)


def _split(ranges: NDArray[np.int64], block_size: int) -> NDArray[np.int64]:
    """Cut ranges longer than a block into full blocks and a rest; drop empty ranges."""
    lengths = ranges[:, 1] - ranges[:, 0]
    pieces = -(-lengths // block_size)
    rank = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(ranges[:, 0], pieces) + rank * block_size
    ends = np.minimum(starts + block_size, np.repeat(ranges[:, 1], pieces))
    return np.stack((starts, ends), axis=1)
