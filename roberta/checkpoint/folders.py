"""Folders that are there whole or not at all, and the JSON and tensors in them.

A folder is made under a temporary name beside its final one, synced, and renamed.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from roberta import files, manifest
from roberta.errors import CheckpointError, StorageError
from roberta.files import check_name

CARD = "README.md"
TEMPORARY_PREFIX = ".tmp-"

_REPLACED = "-replaced"


@contextmanager
def replacing(folder: Path, marker: str, *, num_bytes: int = 0) -> Iterator[Path]:
    """Give an empty folder to write to, which then takes the place of `folder`.

    What was there is deleted: an empty folder, or a checkpoint, which a file named `marker` in it shows, and in which
    nothing is that it didn't consist of; its model card stays. `num_bytes` is what will be written at least; without so
    much free space nothing is.

    Raises:
        StorageError: the folder can't be written, or something else is there; what was there stays.
    """
    check_name(folder)
    folder = folder.resolve()  # a link stays, and what it points to is replaced
    temporary = _temporary(folder)
    replaced = temporary.with_name(temporary.name + _REPLACED)
    try:
        _check_ours(folder, marker)
        temporary.mkdir(parents=True)
        _check_space(temporary, folder, num_bytes)
        yield temporary
        _check_nothing_is_lost(folder, temporary)
        for path in (*temporary.rglob("*"), temporary):
            _sync(path)
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"can't write checkpoint {folder}: {error}; free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete a folder in one step: it has another name before its first file goes, and is never a half one."""
    doomed = folder.rename(_temporary(folder))
    shutil.rmtree(doomed, ignore_errors=True)  # what stays is swept the next time


def sweep(parent: Path) -> None:
    """Delete what writing and deleting that were broken off left in a folder.

    What had been moved away, without anything in its place yet, comes back.
    """
    for leftover in parent.glob(TEMPORARY_PREFIX + "*"):
        name = leftover.name.removeprefix(TEMPORARY_PREFIX).removesuffix(_REPLACED).rpartition("-")[0]
        if leftover.name.endswith(_REPLACED) and not (parent / name).exists():
            leftover.rename(parent / name)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Tensors may be views of each other's memory, but must not overlap."""
    path.touch()
    mode = path.stat().st_mode
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})  # transformers asks for the metadata
    path.chmod(mode)  # safetensors 0.8 leaves the file readable for its owner alone


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as an indented JSON file."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: the file is missing, can't be read, or holds something else.
    """
    return files.read_json(path, CheckpointError, missing="the folder is no checkpoint, or its writing was cut off")


def _temporary(folder: Path) -> Path:
    return folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}-{uuid.uuid4().hex}")


def _check_space(place: Path, folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(place).free
    if free < num_bytes:
        raise StorageError(
            f"can't write checkpoint {folder}: it takes {num_bytes} bytes, and {free} are free; free some space or "
            "choose another folder"
        )


def _check_ours(folder: Path, marker: str) -> None:
    is_ours = folder.is_dir() and ((folder / marker).is_file() or not any(folder.iterdir()))
    if folder.exists() and not is_ours:
        raise StorageError(
            f"{folder} holds other things than a checkpoint; they would be lost: choose another folder"
            if folder.is_dir()
            else f"{folder} is a file; it would be lost: choose another name for the folder"
        )


def _check_nothing_is_lost(folder: Path, new: Path) -> None:
    """Refuse to replace a folder in which something is that neither its manifest lists nor the new one brings.

    The card, and hidden files such as a file manager leaves, go along.
    """
    if not folder.exists():
        return
    carried = {path.name for path in folder.iterdir() if path.is_file() and path.name.startswith(".")} | {CARD}
    known = {path.name for path in new.iterdir()} | manifest.names(folder) | {manifest.MANIFEST} | carried
    if others := sorted({path.name for path in folder.iterdir()} - known):
        raise StorageError(
            f"{folder} holds {', '.join(others[:3])}, which is no part of the checkpoint in it and would be lost; move "
            "that away, or choose another folder"
        )
    for name in sorted(carried):
        if (folder / name).is_file() and not (new / name).exists():
            shutil.copy2(folder / name, new / name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
