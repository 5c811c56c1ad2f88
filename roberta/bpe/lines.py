"""Many lines to BPE ids at once, for corpora: several times as fast as `encode` line by line, with the same ids.

Words come back again and again, so each is encoded once and remembered, and a line is put together from its words. That
is exact: where no two spaces meet, every piece of GPT-2's pattern is within a word and the space before it, and none
looks further back or ahead. Of the words not seen yet, all go through the engine as one text.

Lines of which that does not hold, or with a word too long to be worth remembering, go through the engine as they are.

Shapes: N lines, W words, T tokens.
"""

import re
from collections.abc import Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from roberta.bpe.gpt2 import ALPHABET, GPT2BPE

# Where no two spaces meet, GPT-2's pattern comes to this one, which need not look ahead: twice as fast.
_SINGLE_SPACED = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s"
_TWO_SPACES = re.compile(r"\s\s")
_END_OF_TEXT = "<|endoftext|>"

# A word is remembered with the space before it, or the line feed where it is the first of a line and may be empty.
_WORD = re.compile(r"\n\S{0,40}| \S{1,40}")
_MOST_WORDS = 2**19  # remembered before all are forgotten: some 100 MB
_SPACE, _LINE_FEED = b" \n"

_KEY_BYTES = 16  # of words that are found without Python: their bytes are two numbers
_LOW = np.array([(1 << 8 * min(size, 8)) - 1 for size in range(_KEY_BYTES + 1)], dtype=np.uint64)
_HIGH = np.array([(1 << 8 * max(size - 8, 0)) - 1 for size in range(_KEY_BYTES + 1)], dtype=np.uint64)
_NO_KEY = np.uint64(2**64 - 1)  # UTF-8 has no byte 0xff
_SLOT_BITS = 19
_SLOT_SHIFT = np.uint64(64 - _SLOT_BITS)
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9], dtype=np.uint64)


class LineEncoder:
    """Encode lines with a BPE."""

    def __init__(self, bpe: GPT2BPE) -> None:
        self._whole_lines = WholeLineEncoder(bpe)
        self._forget()

    def __call__(self, lines: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return the BPE ids of all lines, one line after another: (T,), and how many each line has: (N,).

        No line may hold a line feed, a lone surrogate, or white space at either end.
        """
        raw = "".join([f"\n{line}" for line in lines]).encode()
        if not lines or b"\0" in raw:  # a key ends where its zeros begin
            return self._whole_lines(lines)
        words, starts = self._numbers(raw)  # (W,), (N,)
        is_odd = np.logical_or.reduceat(self._is_odd[words], starts)  # (N,)
        sizes = np.add.reduceat(self._sizes[words], starts)
        if not is_odd.any():
            return self._put_together(words), sizes
        odd_ids, odd_sizes = self._whole_lines([lines[i] for i in np.flatnonzero(is_odd).tolist()])
        of_odd_line = np.repeat(is_odd, np.diff(starts, append=len(words)))
        sizes[is_odd] = odd_sizes
        return _merged(self._put_together(words[~of_odd_line]), odd_ids, np.repeat(is_odd, sizes)), sizes

    def _forget(self) -> None:
        self._words = _Numbers()
        self._is_odd = np.empty(0, dtype=bool)  # of each word
        self._sizes = np.empty(0, dtype=np.int64)
        self._offsets = np.empty(0, dtype=np.int64)  # of its first token in `_ids`
        self._ids = np.empty(0, dtype=np.uint32)
        # The word last seen of those with one hash: its key, and its number.
        self._slot_low = np.full(2**_SLOT_BITS, _NO_KEY, dtype=np.uint64)
        self._slot_high = np.full(2**_SLOT_BITS, _NO_KEY, dtype=np.uint64)
        self._slot_words = np.zeros(2**_SLOT_BITS, dtype=np.int64)

    def _numbers(self, raw: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of the words of some lines: (W,), and which word begins each line: (N,).

        raw: the lines in UTF-8, a line feed before each. Words not seen yet are learned.
        """
        if len(self._words) > _MOST_WORDS:
            self._forget()
        text = np.frombuffer(raw, dtype=np.uint8)
        starts = np.flatnonzero((text == _SPACE) | (text == _LINE_FEED))  # (W,)
        sizes = np.diff(starts, append=len(raw))
        is_short = sizes <= _KEY_BYTES
        low, high = _keys(raw, starts, sizes)
        slots = (low * _MULTIPLIERS[0] + high * _MULTIPLIERS[1]) >> _SLOT_SHIFT
        words = self._slot_words[slots]
        is_known = (self._slot_low[slots] == low) & (self._slot_high[slots] == high) & is_short
        if not is_known.all():
            unknown = np.flatnonzero(~is_known)
            ends = starts + sizes
            words[unknown] = self._look_up(
                [raw[start:end] for start, end in zip(starts[unknown].tolist(), ends[unknown].tolist(), strict=True)]
            )
            unknown = unknown[is_short[unknown]]
            slots = slots[unknown]
            self._slot_low[slots], self._slot_high[slots] = low[unknown], high[unknown]
            self._slot_words[slots] = words[unknown]
        return words, np.flatnonzero(text[starts] == _LINE_FEED)

    def _look_up(self, words: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the numbers of words; those not seen yet are learned."""
        num_known = len(self._words)
        numbers = np.fromiter(map(self._words.__getitem__, words), dtype=np.int64, count=len(words))
        num_new = len(self._words) - num_known
        self._learn([word.decode() for word in islice(reversed(self._words), num_new)][::-1])
        return numbers

    def _learn(self, words: Sequence[str]) -> None:
        is_odd = np.array([_WORD.fullmatch(word) is None for word in words], dtype=bool)
        known = [word.removeprefix("\n") for word, odd in zip(words, is_odd.tolist(), strict=True) if not odd]
        ids, known_sizes = self._whole_lines.encode_text("".join([f"{word}\n" for word in known]))
        sizes = np.zeros(len(words), dtype=np.int64)
        sizes[~is_odd] = known_sizes
        self._offsets = np.append(self._offsets, len(self._ids) + np.cumsum(sizes) - sizes)
        self._ids = np.append(self._ids, ids)
        self._sizes = np.append(self._sizes, sizes)
        self._is_odd = np.append(self._is_odd, is_odd)

    def _put_together(self, words: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return the BPE ids of words: (T,)."""
        sizes = self._sizes[words]
        ends = np.cumsum(sizes)
        shifts = np.repeat(self._offsets[words] - (ends - sizes), sizes)  # (T,) from a place in the text to one in _ids
        return self._ids[shifts + np.arange(len(shifts))]


class WholeLineEncoder:
    """Encode lines with a BPE, all as one text; nothing is remembered.

    A line feed between two lines is a piece of its own, as neither has white space beside it. Lines in which two
    spaces meet are encoded one by one.
    """

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
        """Return what `LineEncoder` does."""
        is_single = np.fromiter(map(_is_single_spaced, lines), dtype=bool, count=len(lines))
        text = "".join([f"{lines[i]}\n" for i in np.flatnonzero(is_single).tolist()])
        single_ids, single_sizes = self.encode_text(text)
        others = [self._bpe.encode(lines[i]) for i in np.flatnonzero(~is_single).tolist()]
        sizes = np.empty(len(lines), dtype=np.int64)
        sizes[is_single] = single_sizes
        sizes[~is_single] = [len(ids) for ids in others]
        other_ids = np.fromiter(chain.from_iterable(others), dtype=np.uint32)
        return _merged(single_ids, other_ids, np.repeat(~is_single, sizes)), sizes

    def encode_text(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return the BPE ids of the lines of a text that ends with a line feed, and how many each has.

        Within a line no two spaces may meet; it may begin with one, and be empty.
        """
        ranks = self._engine.encode_to_numpy(text, disallowed_special=())
        is_line_feed = ranks == self._line_feed
        return self._ids[ranks[~is_line_feed]], np.diff(np.flatnonzero(is_line_feed), prepend=-1) - 1


class _Numbers(dict[bytes, int]):
    """Numbers of words, in the order in which they are first asked for."""

    def __missing__(self, word: bytes) -> int:
        number = self[word] = len(self)
        return number


def _keys(
    raw: bytes, starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the first bytes of each word as two numbers, with zeros after its end: (W,) each."""
    padded = raw + bytes(_KEY_BYTES)
    clipped = np.minimum(sizes, _KEY_BYTES)
    low, high = (
        np.ndarray(len(raw), dtype="<u8", buffer=padded, offset=offset, strides=(1,))[starts] for offset in (0, 8)
    )
    return low & _LOW[clipped], high & _HIGH[clipped]


def _merged(one: NDArray[np.uint32], other: NDArray[np.uint32], of_other: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return the ids of both, each in its order; of_other: (T,) where those of `other` stand."""
    ids = np.empty(len(of_other), dtype=np.uint32)
    ids[~of_other] = one
    ids[of_other] = other
    return ids


def _is_single_spaced(line: str) -> bool:
    return line != "" and _TWO_SPACES.search(line) is None
