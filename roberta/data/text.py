"""Raw text as pieces and lines, read the same way everywhere.

A line ends at a line feed and nowhere else: U+2028, U+0085, form feeds and the like are data. Files ending in .gz, .xz
or .zst are unpacked while reading; `-` is the standard input. This is not a parser of tables; those are in `readers`.
"""

import gzip
import importlib
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, cast

from roberta.errors import ConfigError, DataError

STANDARD_INPUT = Path("-")
COMPRESSED = (".gz", ".xz", ".zst")
PIECE_BYTES = 1 << 20

_ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


@dataclass(frozen=True)
class Piece:
    """Some whole lines of a text file, not decoded yet."""

    path: Path
    number: int  # of its first line, from 1
    offset: int  # where it starts in the (unpacked) file, in bytes
    raw: bytes

    def lines(self) -> list[str]:
        """Return the lines without their line ends; a byte order mark at the start of the file is dropped.

        Raises:
            DataError: the bytes are not UTF-8; the message names file and line.
        """
        try:
            text = self.raw.decode("utf-8")
        except UnicodeDecodeError as error:
            number = self.number + self.raw.count(b"\n", 0, error.start)
            is_utf16 = self.offset + error.start == 0 and self.raw[:2] in (b"\xff\xfe", b"\xfe\xff")
            raise DataError(
                f"{self.path}:{number}: byte offset {self.offset + error.start}: 0x{self.raw[error.start]:02x} is not "
                f"valid UTF-8 ({error.reason}); convert the file, for instance with "
                f"`iconv -f {'UTF-16' if is_utf16 else 'LATIN1'} -t UTF-8`"
            ) from error
        if self.number == 1:
            text = text.removeprefix("\ufeff")
        return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def text_size(path: Path) -> int | None:
    """Return the size of a text file in bytes, or None where only reading can tell (compressed files, pipes).

    Raises:
        ConfigError: the package that unpacks the file is not installed.
        DataError: the file is missing, is a folder, or is empty.
    """
    if path == STANDARD_INPUT:
        return None
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the path of a text file") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path}: is a folder; name the text files in it")
    if path.suffix == ".zst":
        _zstd(path)
    if not stat.S_ISREG(status.st_mode):
        return None
    if status.st_size == 0:
        raise DataError(f"{path}: the file is empty; expected lines of UTF-8 text")
    return None if path.suffix in COMPRESSED else status.st_size


def identity(path: Path) -> list[str | int]:
    """Return what tells whether a text file has changed: its full path, its size and when it was last written.

    Raises:
        ConfigError, DataError: as `text_size`.
    """
    text_size(path)
    status = path.stat()
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def read_pieces(path: Path, size: int = PIECE_BYTES) -> Iterator[Piece]:
    """Yield a file in pieces of whole lines, of about `size` bytes; memory grows with the longest line alone.

    Raises:
        ConfigError: as `text_size`.
        DataError: as `text_size`, or the file can't be read or is a damaged archive.
    """
    text_size(path)
    number, offset = 1, 0
    parts: list[bytes] = []  # of a piece whose last line has no end yet
    try:
        with _open(path) as stream:
            while block := stream.read(size):
                whole, line_feed, rest = block.rpartition(b"\n")
                if not line_feed:
                    parts.append(block)
                    continue
                raw = b"".join([*parts, whole, line_feed])
                yield Piece(path, number, offset, raw)
                number, offset = number + raw.count(b"\n"), offset + len(raw)
                parts = [rest]
            if raw := b"".join(parts):
                yield Piece(path, number, offset, raw)
    except _read_errors(path) as error:
        raise DataError(
            f"{path}:{number}: can't be read: {error}; check that the file is whole and readable"
        ) from error


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file without their line ends; memory does not grow with the file.

    A carriage return before the line feed and a byte order mark at the start of the file are dropped.

    Raises:
        ConfigError: as `text_size`.
        DataError: as `read_pieces`, or the file is not UTF-8; the message names file and line.
    """
    for piece in read_pieces(path):
        yield from piece.lines()


def _open(path: Path) -> IO[bytes]:
    if path == STANDARD_INPUT:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    if path.suffix == ".xz":
        return cast(IO[bytes], lzma.open(path))
    if path.suffix == ".zst":
        return cast(IO[bytes], _zstd(path).open(path))
    return path.open("rb")


def _zstd(path: Path) -> ModuleType:
    """Return the module that unpacks .zst; unlike the package zstandard, it notices where a file is cut short."""
    try:
        return importlib.import_module(_ZSTD)
    except ImportError as error:
        raise ConfigError(f"{path}: reading .zst files needs a package; pip install {_ZSTD}") from error


def _read_errors(path: Path) -> tuple[type[Exception], ...]:
    """Return what a damaged file raises while it is read."""
    errors = (OSError, EOFError, zlib.error, lzma.LZMAError)
    return (*errors, _zstd(path).ZstdError) if path.suffix == ".zst" else errors
