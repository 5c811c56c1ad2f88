"""Pieces of raw text to arrays of tokens, on all cores; the result is the same for any number of processes.

A line becomes its tokens and an end-of-sentence token; an empty line is an end-of-sentence token alone. White space
around a line is dropped, as fairseq does.

Shapes: N lines, T tokens.
"""

import importlib
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roberta.bpe import GPT2BPE
from roberta.bpe.lines import LineEncoder
from roberta.data.indexed import token_type
from roberta.data.text import Piece
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError

_FEW = 16  # pieces; for fewer, starting processes takes longer than it saves
_AHEAD = 2  # pieces per process that are read before their turn


@dataclass(frozen=True)
class EncodedPiece:
    """The tokens of some whole lines."""

    starts_file: bool
    tokens: NDArray[np.unsignedinteger]  # (T,)
    sizes: NDArray[np.int64]  # (N,) tokens of each line, its end-of-sentence token included
    line_bytes: NDArray[np.int64]  # (N,) bytes of each line in the file, its line end included

    def take(self, rows: NDArray[np.bool_]) -> "EncodedPiece":
        """Return some of the lines; rows: (N,)."""
        tokens = self.tokens[np.repeat(rows, self.sizes)]
        return EncodedPiece(self.starts_file, tokens, self.sizes[rows], self.line_bytes[rows])


class PieceEncoder:
    """Encode pieces with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        dictionary = tokenizer.dictionary
        self._tokenizer = tokenizer
        self._dtype = token_type(len(dictionary))
        self._token_of = np.array(list(map(dictionary.index, tokenizer.bpe.symbols)), dtype=self._dtype)
        finds_symbols = dictionary.mask < len(dictionary) - 1  # those after <mask>, in texts as they stand there
        self._line_encoder: LineEncoder | None = None
        if isinstance(tokenizer.bpe, GPT2BPE) and not finds_symbols:
            self._line_encoder = LineEncoder(tokenizer.bpe)

    def __call__(self, piece: Piece) -> EncodedPiece:
        """Return the tokens of a piece.

        Raises:
            DataError: it is not UTF-8.
        """
        text, sizes = self._encode([line.strip() for line in piece.lines()])
        sizes = sizes + 1
        ends = np.cumsum(sizes)
        tokens = np.full(ends[-1], self._tokenizer.dictionary.eos, dtype=self._dtype)
        is_text = np.ones(len(tokens), dtype=bool)
        is_text[ends - 1] = False
        tokens[is_text] = text
        return EncodedPiece(piece.number == 1, tokens, sizes, _line_bytes(piece.raw))

    def _encode(self, lines: Sequence[str]) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Return the tokens of all lines, one line after another, and how many each line has."""
        if self._line_encoder is not None:
            ids, sizes = self._line_encoder(lines)
            return self._token_of[ids], sizes
        encoded = self._tokenizer.encode_batch(lines)
        sizes = np.array([len(tokens) for tokens in encoded], dtype=np.int64)
        return np.fromiter(chain.from_iterable(encoded), dtype=self._dtype), sizes


class Workers:
    """Processes that encode pieces, as many as `count`, or as there are cores; little text is encoded in this one.

    They load `tokenizer` again from `vocab`, its folder, or None for the package's. Memory is bounded by a few pieces
    per process. A script that uses them needs `if __name__ == "__main__":` around what it does.
    """

    def __init__(self, count: int | None, tokenizer: Tokenizer, vocab: Path | None) -> None:
        self.count = count or num_cores()
        self._tokenizer = tokenizer
        self._vocab = vocab
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def encode(self, pieces: Iterable[Piece]) -> Iterator[EncodedPiece]:
        """Yield the tokens of each piece, in order.

        Raises:
            ConfigError: a process was lost.
            DataError: a piece is not UTF-8.
        """
        remaining = iter(pieces)
        first = list(islice(remaining, _FEW))
        pieces = chain(first, remaining)
        if self.count == 1 or len(first) < _FEW:
            yield from map(PieceEncoder(self._tokenizer), pieces)
            return
        try:
            yield from self._encode_apart(pieces)
        except BrokenProcessPool as error:
            raise ConfigError(
                f"one of --workers {self.count} processes was lost, perhaps for want of memory; give fewer, or 1"
            ) from error

    def _encode_apart(self, pieces: Iterable[Piece]) -> Iterator[EncodedPiece]:
        executor = self._executor = self._executor or ProcessPoolExecutor(
            self.count,
            mp_context=get_context("spawn"),  # the same on every platform, and safe beside threads
            initializer=_begin,
            initargs=tuple(type(part).__module__ for part in (self._tokenizer.bpe, self._tokenizer.bpe.config)),
        )
        under_way: deque[Future[EncodedPiece]] = deque()
        for piece in pieces:
            under_way.append(executor.submit(_encode, self._vocab, piece))
            if len(under_way) > _AHEAD * self.count:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _begin(*modules: str) -> None:
    """Prepare a worker process: Ctrl-C is for its parent, and a BPE of a user's own is registered by its modules."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in modules:
        importlib.import_module(module)


@cache
def _encoder(vocab: Path | None) -> PieceEncoder:
    """Return the encoder of a worker process, loaded at its first piece."""
    return PieceEncoder(Tokenizer.load(vocab))


def _encode(vocab: Path | None, piece: Piece) -> EncodedPiece:
    return _encoder(vocab)(piece)


def _line_bytes(raw: bytes) -> NDArray[np.int64]:
    """Return the size of each line of a piece, its line end included; the last one may have none."""
    ends = np.flatnonzero(np.frombuffer(raw, dtype=np.uint8) == ord("\n")) + 1
    if not raw.endswith(b"\n"):
        ends = np.append(ends, len(raw))
    return np.diff(ends, prepend=0)
