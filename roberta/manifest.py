"""What files of a folder must be like: MANIFEST.json has the bytes and the sha256 of each.

Of checkpoints and of binarised corpora; neither formats in themselves notice a flipped bit.
"""

import hashlib
import json
import mmap
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from roberta.errors import RobertaError
from roberta.files import read_json, write_text

MANIFEST = "MANIFEST.json"

_VERSION = 1
_PIECE = 2**26  # bytes
_REMEDY = "restore the folder from a copy"


def write(folder: Path, names: Iterable[str]) -> None:
    """Write down the sizes and sums of these files, as they now are on the disk.

    What the manifest says of other files that are still there stays.

    Raises:
        StorageError: the manifest can't be written.
    """
    new = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names}
    files = {name: entry for name, entry in _entries(folder).items() if (folder / name).is_file()} | new
    write_text(folder / MANIFEST, json.dumps({"version": _VERSION, "files": files}, indent=2) + "\n")


def names(folder: Path) -> set[str]:
    """Return the names of the files that a manifest lists; none if there is no manifest that can be read."""
    return set(_entries(folder))


def checked_sums(folder: Path, error: type[RobertaError]) -> dict[Path, str]:
    """Return the sha256 that each file of a manifest must have; the files are checked to be there in their sizes.

    Raises:
        error: the manifest is missing or makes no sense, or a file is missing or of another size.
    """
    files = _read(folder / MANIFEST, error).get("files")
    if not isinstance(files, dict):
        raise error(f"{folder / MANIFEST}: lists no files; {_REMEDY}")
    for name, entry in files.items():
        path = folder / name
        if not isinstance(entry, dict) or not entry.keys() >= {"bytes", "sha256"}:
            raise error(f"{folder / MANIFEST}: no bytes or sha256 of {name}; {_REMEDY}")
        if Path(name).name != name or not path.is_file():
            raise error(f"{path}: listed in {MANIFEST} but missing; {_REMEDY}")
        if path.stat().st_size != entry["bytes"]:
            raise error(f"{path}: {path.stat().st_size} bytes, {MANIFEST} says {entry['bytes']}; the file is cut")
    return {folder / name: entry["sha256"] for name, entry in files.items()}


def check_content(path: Path, expected: str, error: type[RobertaError], *, mapped: bool = False) -> None:
    """Compare the contents of a file with its sum.

    mapped: do so where they are mapped, in large pieces, so that a thread waits for the interpreter a few times and
    not thousands. For files that are mapped anyway: one that is cut meanwhile ends the process.

    Raises:
        error: they differ.
    """
    if (_mapped_sha256(path) if mapped else sha256(path)) != expected:
        raise error(f"{path}: sha256 differs from {MANIFEST}; the file was changed or damaged")


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mapped_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    if not path.stat().st_size:  # which can't be mapped
        return digest.hexdigest()
    mapped = partial(mmap.mmap, length=0, access=mmap.ACCESS_READ)
    with path.open("rb") as file, mapped(file.fileno()) as content, memoryview(content) as view:
        for start in range(0, len(view), _PIECE):
            with view[start : start + _PIECE] as piece:
                digest.update(piece)
    return digest.hexdigest()


def _entries(folder: Path) -> dict[str, Any]:
    """Return what an earlier manifest says; nothing if there is none that can be read."""
    try:
        files = _read(folder / MANIFEST, RobertaError).get("files")
    except RobertaError:
        return {}
    return files if isinstance(files, dict) else {}


def _read(path: Path, error: type[RobertaError]) -> dict[str, Any]:
    return read_json(path, error, missing="the writing of the folder was cut off, or it never had one")
