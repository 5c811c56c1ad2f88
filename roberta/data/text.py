"""Raw text as lines, read the same way everywhere.

A line ends at a line feed and nowhere else: U+2028, U+0085, form feeds and the like are data. Files ending in .gz or
.xz are unpacked while reading. This is not a parser of tables; those are in `readers`.
"""

import gzip
import lzma
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from roberta.errors import DataError


def text_size(path: Path) -> int | None:
    """Return the size of a text file in bytes, or None where only reading can tell (compressed files, pipes).

    Raises:
        DataError: the file is missing, is a folder, or is empty.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the path of a text file") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path}: is a folder; name the text files in it")
    if not stat.S_ISREG(status.st_mode):
        return None
    if status.st_size == 0:
        raise DataError(f"{path}: the file is empty; expected lines of UTF-8 text")
    return None if path.suffix in (".gz", ".xz") else status.st_size


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file without their line ends; memory does not grow with the file.

    A carriage return before the line feed and a byte order mark at the start of the file are dropped.

    Raises:
        DataError: as `text_size`, or the file can't be read, is not UTF-8 or is a damaged archive; the message names
            file and line.
    """
    text_size(path)
    number, offset = 0, 0
    try:
        with _open(path) as stream:
            for number, raw in enumerate(stream, start=1):
                yield _decode(raw, path, number, offset)
                offset += len(raw)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{path}:{number + 1}: can't be read: {error}; check that the file is whole and readable"
        ) from error


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(path))
    return path.open("rb")


def _decode(raw: bytes, path: Path, number: int, offset: int) -> str:
    """Return one line as text; `offset` is where it starts in the (unpacked) file, in bytes."""
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number}: byte offset {offset + error.start}: 0x{raw[error.start]:02x} is not valid UTF-8 "
            f"({error.reason}); convert the file, for instance with `iconv -f LATIN1 -t UTF-8`"
        ) from error
    line = line.removesuffix("\n").removesuffix("\r")
    return line.removeprefix("\ufeff") if number == 1 else line
