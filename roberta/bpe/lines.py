"""Many lines to BPE ids at once, for corpora: twice as fast as `encode` line by line, with the same ids.

All lines go through the engine as one text, and their ids come back in one array. A line feed between two lines is a
piece of its own, as neither has white space beside it. And where no two spaces meet, GPT-2's pattern comes to one that
need not look ahead, which halves the time (2-core CPU, 2026-11-23). Lines in which they do are encoded on their own.
"""

import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from roberta.bpe.gpt2 import ALPHABET, GPT2BPE

_SINGLE_SPACED = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s"
_TWO_SPACES = re.compile(r"\s\s")
_END_OF_TEXT = "<|endoftext|>"


class LineEncoder:
    """Encode lines with a BPE."""

    def __init__(self, bpe: GPT2BPE) -> None:
        import tiktoken  # slow: 50 ms

        tokens = [*ALPHABET, *(merge.replace(" ", "") for merge in bpe.merges)]  # by rank
        ids = [bpe.encoder[token] for token in tokens]
        ranks = {bpe.token_bytes[index]: rank for rank, index in enumerate(ids)}
        # A special token that is never looked for: tiktoken crawls through the text if there is none at all.
        specials = {_END_OF_TEXT: len(ranks)}
        self._engine = tiktoken.Encoding(
            "roberta-lines", pat_str=_SINGLE_SPACED, mergeable_ranks=ranks, special_tokens=specials
        )
        self._bpe = bpe
        self._ids = np.array(ids, dtype=np.uint32)
        self._line_feed = ranks[b"\n"]

    def __call__(self, lines: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return the BPE ids of all lines, one line after another: (T,), and how many each line has: (N,).

        No line may hold a line feed, a lone surrogate, or white space at either end.
        """
        is_single = np.fromiter(map(_is_single_spaced, lines), dtype=bool, count=len(lines))
        ranks = self._engine.encode_to_numpy(
            "".join([f"{lines[i]}\n" for i in np.flatnonzero(is_single).tolist()]), disallowed_special=()
        )
        others = [self._bpe.encode(lines[i]) for i in np.flatnonzero(~is_single).tolist()]
        sizes = np.empty(len(lines), dtype=np.int64)
        sizes[is_single] = np.diff(np.flatnonzero(ranks == self._line_feed), prepend=-1) - 1
        sizes[~is_single] = [len(ids) for ids in others]
        ids = np.empty(sizes.sum(), dtype=np.uint32)
        of_single = np.repeat(is_single, sizes)
        ids[of_single] = self._ids[ranks[ranks != self._line_feed]]
        ids[~of_single] = np.fromiter(chain.from_iterable(others), dtype=np.uint32)
        return ids, sizes


def _is_single_spaced(line: str) -> bool:
    return line != "" and _TWO_SPACES.search(line) is None
