"""Binarised corpora in fairseq's memory-mapped format, read and written.

PREFIX.bin holds the tokens of all sentences, one after another, little-endian and without a header. PREFIX.idx holds a
header, the size of every sentence in tokens (N int32) and where each starts in PREFIX.bin in bytes (N int64). A data
set is opened without reading its tokens; the pages come in as they are used.
"""

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from roberta.errors import DataError, StorageError

_MAGIC = b"MMIDIDX\x00\x00"
_LEGACY_MAGIC = b"TNTIDX"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQ")  # magic, version, code of the token type, number of sentences
_TOKEN_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
_MAX_UINT16_VOCABULARY = 65500  # fairseq's limit; from here on it writes 32 bits
_REMEDY = "binarise the text again with roberta-preprocess"


def bin_path(prefix: Path) -> Path:
    """Return the path of the tokens."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """Return the path of the index."""
    return prefix.with_name(prefix.name + ".idx")


class IndexedDataset:
    """A binarised corpus: a stream of tokens, and the sizes of the N sentences that it consists of.

    `sizes`: (N,) int32, in tokens, the end-of-sentence token included.

    Raises:
        DataError: a file is missing, or is not what the index says.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        dtype, self.sizes, self._offsets = _read_index(idx_path(prefix))
        self._stream = _map_tokens(bin_path(prefix), dtype, self.num_tokens)

    @property
    def num_tokens(self) -> int:
        return int(self._offsets[-1])

    def tokens(self, start: int, end: int) -> NDArray[np.int64]:
        """Return the tokens start <= i < end of the whole stream: (end - start,) int64."""
        return self._stream[start:end].astype(np.int64)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        index = range(len(self))[index]
        return self.tokens(int(self._offsets[index]), int(self._offsets[index + 1]))

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
        self._code = 8 if vocab_size < _MAX_UINT16_VOCABULARY else 9
        self._dtype = np.dtype(_TOKEN_TYPES[self._code])
        self._sizes = array("i")

    def __enter__(self) -> "IndexedWriter":
        with _storage_errors(self.prefix):
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            self._file = _temporary(bin_path(self.prefix)).open("wb")
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
            self._file.write(tokens.astype(self._dtype).tobytes())
        self._sizes.frombytes(sizes.astype(np.int32).tobytes())
        self.num_tokens += len(tokens)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with _storage_errors(self.prefix):
                if error is None:
                    self._commit()
                else:
                    self._file.close()
        finally:
            for path in (bin_path(self.prefix), idx_path(self.prefix)):
                _temporary(path).unlink(missing_ok=True)

    def _commit(self) -> None:
        with self._file:
            _synchronise(self._file)
        sizes = np.frombuffer(self._sizes, dtype=np.int32)
        with _temporary(idx_path(self.prefix)).open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, _VERSION, self._code, len(sizes)))
            file.write(sizes.astype("<i4").tobytes())
            file.write((_starts(sizes)[:-1] * self._dtype.itemsize).astype("<i8").tobytes())
            _synchronise(file)
        for path in (bin_path(self.prefix), idx_path(self.prefix)):
            os.replace(_temporary(path), path)


def _read_index(path: Path) -> tuple[np.dtype, NDArray[np.int32], NDArray[np.int64]]:
    """Return (token type, sizes (N,), offsets (N + 1,) in tokens) of a checked index."""
    try:
        with path.open("rb") as file:
            dtype, count = _read_header(path, file.read(_HEADER.size))
            expected = _HEADER.size + 12 * count
            if path.stat().st_size != expected:
                raise DataError(
                    f"{path}: {path.stat().st_size} bytes; expected {expected} for {count} sentences; {_REMEDY}"
                )
            sizes = np.fromfile(file, dtype="<i4", count=count)
            starts = np.fromfile(file, dtype="<i8", count=count)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}; give the path of a corpus without .idx") from error
    if count and sizes.min() < 0:
        raise DataError(f"{path}: a sentence of {sizes.min()} tokens; expected sizes from 0; {_REMEDY}")
    offsets = _starts(sizes)
    if not np.array_equal(offsets[:-1] * dtype.itemsize, starts):
        raise DataError(
            f"{path}: sentences don't start where the sizes say; expected one right after another; {_REMEDY}"
        )
    return dtype, sizes, offsets


def _read_header(path: Path, header: bytes) -> tuple[np.dtype, int]:
    """Return (token type, number of sentences)."""
    if header.startswith(_LEGACY_MAGIC):
        raise DataError(f"{path}: fairseq's older format (TNTIDX); expected MMIDIDX; {_REMEDY}")
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise DataError(f"{path}: begins with {header[:9]!r}; expected {_MAGIC!r} and a header; {_REMEDY}")
    _, version, code, count = _HEADER.unpack(header)
    if version != _VERSION:
        raise DataError(f"{path}: format version {version}; expected {_VERSION}; {_REMEDY}")
    if code not in _TOKEN_TYPES:
        raise DataError(f"{path}: token type {code}; expected an integer type, one of {list(_TOKEN_TYPES)}; {_REMEDY}")
    return np.dtype(_TOKEN_TYPES[code]), count


def _map_tokens(path: Path, dtype: np.dtype, num_tokens: int) -> NDArray[np.integer]:
    """Return the tokens (num_tokens,) of a file, mapped read-only once its size is known to be right."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}; it belongs beside its .idx; {_REMEDY}") from error
    expected = num_tokens * dtype.itemsize
    if size != expected:
        raise DataError(f"{path}: {size} bytes; expected {expected} for the {num_tokens} tokens of its .idx; {_REMEDY}")
    if num_tokens == 0:
        return np.empty(0, dtype=dtype)
    try:
        return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}; check its permissions") from error


def _starts(sizes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return where each sentence starts in the stream, then the number of tokens: (N + 1,) int64."""
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:], dtype=np.int64)
    return offsets


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
