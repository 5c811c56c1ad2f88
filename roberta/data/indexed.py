"""Binarised corpora in fairseq's memory-mapped format, read and written.

PREFIX.bin holds the tokens of all sentences, one after another, little-endian and without a header. PREFIX.idx holds a
header, the size of every sentence in tokens (N int32) and where each starts in PREFIX.bin in bytes (N int64). Both are
mapped, and neither reading nor writing takes memory that grows with the corpus.

fairseq's older format (TNTIDX; its data sets "lazy" and "cached") is read too: sizes and starts are int64, starts count
tokens, and every token is stored plus 1.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from roberta.errors import DataError, StorageError

_MAGIC = b"MMIDIDX\x00\x00"
_LEGACY_MAGIC = b"TNTIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQ")  # magic, version, code of the token type, number of sentences
_LEGACY_HEADER = struct.Struct("<8s5Q")  # magic, version, code, bytes of a token, number of sentences, and of sizes
_TOKEN_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
_MAX_UINT16_VOCABULARY = 65500  # fairseq's limit; from here on it writes 32 bits
_CHUNK = 1 << 20  # sentences of an index that are in memory at once
_REMEDY = "binarise the text again with roberta-preprocess"


def token_type(vocab_size: int) -> np.dtype:
    """Return the type in which the tokens of a vocabulary are written."""
    return np.dtype(_TOKEN_TYPES[_token_code(vocab_size)])


def bin_path(prefix: Path) -> Path:
    """Return the path of the tokens."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """Return the path of the index."""
    return prefix.with_name(prefix.name + ".idx")


class IndexedDataset:
    """A binarised corpus: a stream of tokens, and the sizes of the N sentences that it consists of.

    `sizes`: (N,) integers, in tokens, the end-of-sentence token included.

    Raises:
        DataError: a file is missing, or is not what the index says.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self._index = _read_index(idx_path(prefix))
        self.sizes = self._index.sizes
        self.num_tokens = _check_index(idx_path(prefix), self._index)
        self._stream = _map_tokens(bin_path(prefix), self._index.dtype, self.num_tokens)

    def tokens(self, start: int, end: int) -> NDArray[np.int64]:
        """Return the tokens start <= i < end of the whole stream: (end - start,) int64."""
        return self._stream[start:end].astype(np.int64) - self._index.shift

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        index = range(len(self))[index]
        start = int(self._index.starts[index]) // self._index.unit
        return self.tokens(start, start + int(self.sizes[index]))

    def __reduce__(self) -> tuple[type["IndexedDataset"], tuple[Path]]:
        """Pickle as the prefix alone: another process maps the files itself."""
        return IndexedDataset, (self.prefix,)


class IndexedWriter:
    """Write a corpus sentence by sentence; both files appear under their names on a clean exit, or not at all.

    Raises:
        StorageError: the folder or a file can't be written.
    """

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        self.prefix = prefix
        self.num_tokens = 0
        self._vocab_size = vocab_size
        self._code = _token_code(vocab_size)
        self._dtype = token_type(vocab_size)
        self._count = 0

    def __enter__(self) -> "IndexedWriter":
        with _storage_errors(self.prefix):
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            self._bin = _temporary(bin_path(self.prefix)).open("wb")
            self._idx = _temporary(idx_path(self.prefix)).open("w+b")
            self._idx.write(bytes(_HEADER.size))  # the number of sentences is not known yet
        return self

    def add(self, tokens: Sequence[int] | NDArray[np.integer]) -> None:
        """Append one sentence, its end-of-sentence token included."""
        self.add_many(np.asarray(tokens, dtype=np.int64), np.array([len(tokens)]))

    def add_many(self, tokens: NDArray[np.integer], sizes: NDArray[np.integer]) -> None:
        """Append sentences: tokens (sum of sizes,), one sentence after another, and their sizes.

        Raises:
            DataError: a token is not in the vocabulary.
        """
        assert len(tokens) == sizes.sum(), f"{len(tokens)} tokens, but the sizes sum to {sizes.sum()}"
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self._vocab_size:
            raise DataError(
                f"{self.prefix}: tokens from {tokens.min()} to {tokens.max()}; expected 0 to {self._vocab_size - 1}; "
                "use the dictionary that made them"
            )
        with _storage_errors(self.prefix):
            self._bin.write(np.ascontiguousarray(tokens, dtype=self._dtype).data)
            self._idx.write(np.ascontiguousarray(sizes, dtype="<i4").data)
        self._count += len(sizes)
        self.num_tokens += len(tokens)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with _storage_errors(self.prefix), self._bin, self._idx:
                if error is None:
                    self._complete()
            if error is None:
                with _storage_errors(self.prefix):
                    idx_path(self.prefix).unlink(missing_ok=True)  # no .idx beside another corpus's .bin, ever
                    for path in (bin_path(self.prefix), idx_path(self.prefix)):
                        os.replace(_temporary(path), path)
        finally:
            for path in (bin_path(self.prefix), idx_path(self.prefix)):
                _temporary(path).unlink(missing_ok=True)

    def _complete(self) -> None:
        """Append where each sentence starts, and fill in the header."""
        position = 0
        for first in range(0, self._count, _CHUNK):
            self._idx.seek(_HEADER.size + 4 * first)
            sizes = np.frombuffer(self._idx.read(4 * min(_CHUNK, self._count - first)), dtype="<i4")
            ends = position + np.cumsum(sizes, dtype=np.int64)
            self._idx.seek(0, os.SEEK_END)
            self._idx.write(((ends - sizes) * self._dtype.itemsize).astype("<i8").data)
            position = int(ends[-1])
        self._idx.seek(0)
        self._idx.write(_HEADER.pack(_MAGIC, _VERSION, self._code, self._count))
        for file in (self._bin, self._idx):
            _synchronise(file)


@dataclass(frozen=True)
class _Index:
    """What a .idx says of its N sentences."""

    dtype: np.dtype
    sizes: NDArray[np.integer]  # (N,) tokens
    starts: NDArray[np.int64]  # (N,) in `unit`s
    unit: int  # starts count this many to a token
    shift: int  # what was added to every token


def _read_index(path: Path) -> _Index:
    """Map an index; its contents are not checked."""
    try:
        with path.open("rb") as file:
            header = file.read(_LEGACY_HEADER.size)
        size = path.stat().st_size
        if header.startswith(_LEGACY_MAGIC):
            return _read_legacy_index(path, header, size)
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            raise DataError(f"{path}: begins with {header[:9]!r}; expected {_MAGIC!r} and a header; {_REMEDY}")
        _, version, code, count = _HEADER.unpack_from(header)
        dtype = _check_header(path, version, code)
        _check_size(path, size, _HEADER.size + 12 * count, count)
        sizes = _map(path, "<i4", _HEADER.size, count)
        starts = _map(path, "<i8", _HEADER.size + 4 * count, count)
        return _Index(dtype, sizes, starts, unit=dtype.itemsize, shift=0)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}; give the path of a corpus without .idx") from error


def _read_legacy_index(path: Path, header: bytes, size: int) -> _Index:
    if len(header) < _LEGACY_HEADER.size:
        raise DataError(f"{path}: {size} bytes; expected {_LEGACY_HEADER.size} for the header alone; {_REMEDY}")
    _, version, code, _, count, num_sizes = _LEGACY_HEADER.unpack(header)
    dtype = _check_header(path, version, code)
    if num_sizes != count:
        raise DataError(
            f"{path}: {count} items of {num_sizes} dimensions in all; expected sentences, of one each; {_REMEDY}"
        )
    _check_size(path, size, _LEGACY_HEADER.size + 8 * (3 * count + 2), count)
    starts_at = _LEGACY_HEADER.size + 8 * (count + 1)  # after where the dimensions of each item are
    starts = _map(path, "<i8", starts_at, count)
    sizes = _map(path, "<i8", starts_at + 8 * (count + 1), count)
    return _Index(dtype, sizes, starts, unit=1, shift=1)


def _check_header(path: Path, version: int, code: int) -> np.dtype:
    """Return the token type."""
    if version != _VERSION:
        raise DataError(f"{path}: format version {version}; expected {_VERSION}; {_REMEDY}")
    if code not in _TOKEN_TYPES:
        raise DataError(f"{path}: token type {code}; expected an integer type, one of {list(_TOKEN_TYPES)}; {_REMEDY}")
    return np.dtype(_TOKEN_TYPES[code])


def _check_size(path: Path, size: int, expected: int, count: int) -> None:
    if size != expected:
        raise DataError(f"{path}: {size} bytes; expected {expected} for {count} sentences; {_REMEDY}")


def _check_index(path: Path, index: _Index) -> int:
    """Return the number of tokens of an index, checked to put one sentence right after another."""
    position = 0
    for first in range(0, len(index.sizes), _CHUNK):
        sizes = index.sizes[first : first + _CHUNK]
        if sizes.min() < 0:
            raise DataError(f"{path}: a sentence of {sizes.min()} tokens; expected sizes from 0; {_REMEDY}")
        ends = position + np.cumsum(sizes, dtype=np.int64)
        if not np.array_equal((ends - sizes) * index.unit, index.starts[first : first + _CHUNK]):
            raise DataError(
                f"{path}: sentences don't start where the sizes say; expected one right after another; {_REMEDY}"
            )
        position = int(ends[-1])
    return position


def _map(path: Path, dtype: str, offset: int, count: int) -> NDArray:
    """Return `count` numbers of a file, mapped read-only."""
    if count == 0:
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,)))


def _map_tokens(path: Path, dtype: np.dtype, num_tokens: int) -> NDArray[np.integer]:
    """Return the tokens (num_tokens,) of a file, mapped read-only once its size is known to be right."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}; it belongs beside its .idx; {_REMEDY}") from error
    expected = num_tokens * dtype.itemsize
    if size != expected:
        raise DataError(f"{path}: {size} bytes; expected {expected} for the {num_tokens} tokens of its .idx; {_REMEDY}")
    try:
        return _map(path, dtype.str, 0, num_tokens)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}; check its permissions") from error


def _token_code(vocab_size: int) -> int:
    return 8 if vocab_size < _MAX_UINT16_VOCABULARY else 9


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _synchronise(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _storage_errors(prefix: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{prefix}: can't be written: {error.strerror}; free space or choose another folder with --destdir"
        ) from error
