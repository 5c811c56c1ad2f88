"""What files of a folder must be like: MANIFEST.json has the bytes and the sha256 of each.

Of checkpoints and of binarised corpora; neither formats in themselves notice a flipped bit. Of a large file each piece
has a sum too, as a sum is computed on one core, and those of pieces on all of them.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable
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
    """The sha256 of a file, and those of its pieces of so many bytes: none of a small file, or in an older manifest."""

    whole: str
    pieces: tuple[str, ...] = ()
    piece_bytes: int = _PIECE


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
        sums[path] = Sums(entry["sha256"], *_pieces(entry, f"{folder / MANIFEST}: {name}", error))
    return sums


def check_content(path: Path, expected: Sums, error: type[RobertaError]) -> None:
    """Compare the contents of a file with its sum.

    Raises:
        error: they differ.
    """
    if sha256(path) != expected.whole:
        raise _damage(path, error)


def mapped_checks(path: Path, expected: Sums, error: type[RobertaError]) -> list[Callable[[], None]]:
    """Return functions that together compare the contents of a file with its sums, each on a core of its own.

    There is one for each piece, or one in all if pieces have no sums; they raise `error`. What they read is mapped, for
    files that are mapped anyway: one that is cut meanwhile ends the process.
    """
    size = expected.piece_bytes
    parts = [(number * size, size, wanted) for number, wanted in enumerate(expected.pieces)]
    return [partial(_check_part, path, *part, error) for part in parts or [(0, path.stat().st_size, expected.whole)]]


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_part(path: Path, start: int, size: int, expected: str, error: type[RobertaError]) -> None:
    """Compare the sum of a part of a file, the last of which may be smaller."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = min(size, file.seek(0, os.SEEK_END) - start)
        if length > 0:  # nothing can't be mapped
            mapped = mmap.mmap(file.fileno(), length, offset=start, access=mmap.ACCESS_READ)
            with mapped, memoryview(mapped) as view:
                for at in range(0, length, _PIECE):  # so that a thread waits for the interpreter a few times
                    with view[at : at + _PIECE] as piece:
                        digest.update(piece)
    if digest.hexdigest() != expected:
        raise _damage(path, error)


def _damage(path: Path, error: type[RobertaError]) -> RobertaError:
    return error(f"{path}: sha256 differs from {MANIFEST}; the file was changed or damaged")


def _entry(path: Path) -> dict[str, Any]:
    """Return what a manifest says of a file."""
    whole, pieces, size = hashlib.sha256(), [], 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            whole.update(piece)
            pieces.append(hashlib.sha256(piece).hexdigest())
            size += len(piece)
    entry = {"bytes": size, "sha256": whole.hexdigest()}
    return entry | ({"pieces": {"bytes": _PIECE, "sha256": pieces}} if len(pieces) > 1 else {})


def _pieces(entry: dict[str, Any], place: str, error: type[RobertaError]) -> tuple[tuple[str, ...], int]:
    """Return the sums of the pieces in the entry of a file, and the bytes of each."""
    if "pieces" not in entry:
        return (), _PIECE
    match entry["pieces"]:
        case {"bytes": int(size), "sha256": [*sums]} if size > 0 and size % mmap.ALLOCATIONGRANULARITY == 0:
            if len(sums) == -(-entry["bytes"] // size) and all(isinstance(sum_, str) for sum_ in sums):
                return tuple(sums), size
    raise error(f"{place}: sums of pieces that it hasn't; {_REMEDY}")


def _entries(folder: Path) -> dict[str, Any]:
    """Return what an earlier manifest says; nothing if there is none that can be read."""
    try:
        files = _read(folder / MANIFEST, RobertaError).get("files")
    except RobertaError:
        return {}
    return files if isinstance(files, dict) else {}


def _read(path: Path, error: type[RobertaError]) -> dict[str, Any]:
    return read_json(path, error, missing="the writing of the folder was cut off, or it never had one")
