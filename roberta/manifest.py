"""What files of a folder must be like: MANIFEST.json has the bytes and the sha256 of each.

Of checkpoints and of binarised corpora; neither formats in themselves notice a flipped bit. Of a large file each piece
has a sum too, as a sum is computed on one core, and those of pieces on all of them.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from roberta.errors import RobertaError
from roberta.files import read_json, write_text

MANIFEST = "MANIFEST.json"

_VERSION = 1
_PIECE = 2**25  # bytes
_REMEDY = "restore the folder from a copy"


@dataclass(frozen=True)
class Sums:
    """The sha256 of a file, and those of its pieces of 32 MiB; of none where it is no larger, or the manifest older."""

    whole: str
    pieces: tuple[str, ...] = ()


def write(folder: Path, names: Iterable[str]) -> None:
    """Write down the sizes and sums of these files, as they now are on the disk.

    What the manifest says of other files that are still there stays.

    Raises:
        StorageError: the manifest can't be written.
    """
    new = {name: _entry(folder / name) for name in names}
    files = {name: entry for name, entry in _entries(folder).items() if (folder / name).is_file()} | new
    write_text(folder / MANIFEST, json.dumps({"version": _VERSION, "files": files}, indent=2) + "\n")


def names(folder: Path) -> set[str]:
    """Return the names of the files that a manifest lists; none if there is no manifest that can be read."""
    return set(_entries(folder))


def checked_sums(folder: Path, error: type[RobertaError]) -> dict[Path, Sums]:
    """Return the sums that each file of a manifest must have; the files are checked to be there in their sizes.

    Raises:
        error: the manifest is missing or makes no sense, or a file is missing or of another size.
    """
    files = _read(folder / MANIFEST, error).get("files")
    if not isinstance(files, dict):
        raise error(f"{folder / MANIFEST}: lists no files; {_REMEDY}")
    sums = {}
    for name, entry in files.items():
        path = folder / name
        if not isinstance(entry, dict) or not entry.keys() >= {"bytes", "sha256"}:
            raise error(f"{folder / MANIFEST}: no bytes or sha256 of {name}; {_REMEDY}")
        if Path(name).name != name or not path.is_file():
            raise error(f"{path}: listed in {MANIFEST} but missing; {_REMEDY}")
        if path.stat().st_size != entry["bytes"]:
            raise error(f"{path}: {path.stat().st_size} bytes, {MANIFEST} says {entry['bytes']}; the file is cut")
        pieces, number = entry.get("pieces", []), -(-entry["bytes"] // _PIECE)
        if not isinstance(pieces, list) or len(pieces) not in (0, number):
            raise error(f"{folder / MANIFEST}: sums of other pieces than the {number} of {name}; {_REMEDY}")
        sums[path] = Sums(entry["sha256"], tuple(pieces))
    return sums


def check_content(path: Path, expected: Sums, error: type[RobertaError], *, mapped: bool = False) -> None:
    """Compare the contents of a file with its sum.

    mapped: do so where they are mapped, piece by piece, on all cores if the pieces have sums of their own. For files
    that are mapped anyway: one that is cut meanwhile ends the process.

    Raises:
        error: they differ.
    """
    if mapped and expected.pieces:
        is_right = _sums_of_pieces(path) == expected.pieces
    else:
        is_right = (_mapped_sha256(path) if mapped else sha256(path)) == expected.whole
    if not is_right:
        raise error(f"{path}: sha256 differs from {MANIFEST}; the file was changed or damaged")


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mapped_sha256(path: Path) -> str:
    """Return the sum of a file a piece at a time: a thread waits for the interpreter a few times, not thousands."""
    digest = hashlib.sha256()
    with _mapped(path) as view:
        for start in range(0, len(view), _PIECE):
            with view[start : start + _PIECE] as piece:
                digest.update(piece)
    return digest.hexdigest()


def _sums_of_pieces(path: Path) -> tuple[str, ...]:
    with _mapped(path) as view, ThreadPoolExecutor(os.cpu_count()) as pool:

        def sum_from(start: int) -> str:
            with view[start : start + _PIECE] as piece:
                return hashlib.sha256(piece).hexdigest()

        return tuple(pool.map(sum_from, range(0, len(view), _PIECE)))


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    if not path.stat().st_size:  # which can't be mapped
        yield memoryview(b"")
        return
    mapped = partial(mmap.mmap, length=0, access=mmap.ACCESS_READ)
    with path.open("rb") as file, mapped(file.fileno()) as content, memoryview(content) as view:
        yield view


def _entry(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    entry: dict[str, Any] = {"bytes": size, "sha256": sha256(path)}
    return entry | ({"pieces": _sums_of_pieces(path)} if size > _PIECE else {})


def _entries(folder: Path) -> dict[str, Any]:
    """Return what an earlier manifest says; nothing if there is none that can be read."""
    try:
        files = _read(folder / MANIFEST, RobertaError).get("files")
    except RobertaError:
        return {}
    return files if isinstance(files, dict) else {}


def _read(path: Path, error: type[RobertaError]) -> dict[str, Any]:
    return read_json(path, error, missing="the writing of the folder was cut off, or it never had one")
