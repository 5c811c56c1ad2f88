"""The splits of a corpus while they are written: lines counted, documents told apart, some of them held out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from roberta.data.encoding import EncodedPiece
from roberta.data.indexed import IndexedWriter
from roberta.errors import DataError


@dataclass(frozen=True)
class Counts:
    """How much a split holds."""

    lines: int
    documents: int
    tokens: int
    text_bytes: int


class SplitWriter:
    """Write a split to PREFIX.bin and PREFIX.idx, whole on a clean exit, or not at all, and count what it holds."""

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        self._writer = IndexedWriter(prefix, vocab_size)
        self._lines = self._documents = self._text_bytes = 0
        self._in_document = False

    def __enter__(self) -> "SplitWriter":
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    @property
    def counts(self) -> Counts:
        return Counts(self._lines, self._documents, self._writer.num_tokens, self._text_bytes)

    def add(self, piece: EncodedPiece) -> int:
        """Append lines and return their size in bytes."""
        if len(piece.sizes) == 0:
            return 0
        self._writer.add_many(piece.tokens, piece.sizes)
        starts, self._in_document = _document_starts(piece.sizes, self._in_document)
        size = int(piece.line_bytes.sum())
        self._documents += int(starts.sum())
        self._lines += len(piece.sizes)
        self._text_bytes += size
        return size


def write_all(
    split: SplitWriter, encoded: Iterable[EncodedPiece], inputs: Sequence[Path], progress: Callable[[int], object]
) -> None:
    """Write pieces to a split; a file ends a document. `progress` is called with the bytes of each piece.

    Raises:
        DataError: the pieces hold no text; the message names the `inputs` that they came from.
    """
    for piece, _ in _with_documents(encoded):
        progress(split.add(piece))
    if split.counts.documents == 0:
        raise DataError(f"{', '.join(map(str, inputs))}: no text, only empty lines; expected lines of UTF-8 text")


def share_out(
    train: SplitWriter,
    valid: SplitWriter,
    encoded: Iterable[EncodedPiece],
    valid_fraction: float,
    progress: Callable[[int], object],
) -> None:
    """Write every 1 / valid_fraction-th document to `valid`, the others to `train`; else as `write_all`.

    Raises:
        DataError: one of them would stay empty.
    """
    for piece, documents in _with_documents(encoded):
        is_held_out = np.floor((documents + 1) * valid_fraction) > np.floor(documents * valid_fraction)
        progress(train.add(piece.take(~is_held_out)) + valid.add(piece.take(is_held_out)))
    if not (train.counts.documents and valid.counts.documents):
        raise DataError(
            f"{train.counts.documents + valid.counts.documents} documents can't give a validation split of "
            f"--valid-fraction {valid_fraction}; part documents by empty lines, raise it, or give a text for validation"
        )


def _with_documents(encoded: Iterable[EncodedPiece]) -> Iterator[tuple[EncodedPiece, NDArray[np.int64]]]:
    """Yield each piece with the document of each of its lines; empty lines belong to the one before.

    Where a file other than the last one ends without an empty line, one is put there.
    """
    document, in_document = -1, False
    for piece in encoded:
        if piece.starts_file and in_document:
            yield _empty_line(piece), np.array([document])
            in_document = False
        starts, in_document = _document_starts(piece.sizes, in_document)
        documents = document + np.cumsum(starts)
        yield piece, np.maximum(documents, 0)
        document = int(documents[-1])


def _document_starts(sizes: NDArray[np.int64], in_document: bool) -> tuple[NDArray[np.bool_], bool]:
    """Return which lines begin a document, and whether the last one is in one."""
    is_text = sizes > 1
    follows_text = np.append(in_document, is_text[:-1])
    return is_text & ~follows_text, bool(is_text[-1])


def _empty_line(before: EncodedPiece) -> EncodedPiece:
    """Return an empty line, which is not in the file, to put before a piece."""
    end = before.tokens[[before.sizes[0] - 1]]
    return EncodedPiece(False, end, np.array([1]), np.array([0]))
