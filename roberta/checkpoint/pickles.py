"""Reading pickles of tensors that other people wrote, without running anything in them.

A file may name only the classes in `_SAFE_GLOBALS`, none of which does anything. What it holds is for the caller to
check.
"""

import argparse
import io
import mmap
import pickle
import pickletools
import struct
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.serialization import add_safe_globals, get_safe_globals, safe_globals

from roberta.errors import CheckpointError

# What a file may name. Meters stand in the training checkpoints of 2018 to 2020; they become objects without methods.
_METERS = [(type(name, (), {}), f"fairseq.meters.{name}") for name in ("AverageMeter", "TimeMeter", "StopwatchMeter")]
_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_SAFE_GLOBALS = frozenset(
    {
        "argparse.Namespace",
        "collections.OrderedDict",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        *(name for _, name in _METERS),
        *(f"torch.{kind}Storage" for kind in _STORAGES),
    }
)
_NAMING_OPCODES = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_LEGACY_PICKLES = 5  # magic number, protocol, system, contents, storage keys; the raw storages follow
_MAX_TUPLES = 50_000  # four per tensor is usual; hashing 300,000 within each other overflows the C stack
_MAX_PICKLE_BYTES = 4 * 2**20  # a training checkpoint of a large model takes less than one

# All that torch.load and the scan were seen to raise on damaged files; it has no error class of its own.
_LOAD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)
# torch keeps one table of allowed globals per process.
_LOCK = threading.Lock()


def load(path: Path, kind: str) -> Any:
    """Return what `torch.save` wrote to a file, tensors on the CPU; `kind` says in errors what it was to be.

    The tensors of a file in zip format are mapped, not read: leave the file unchanged as long as they are in use.

    Raises:
        CheckpointError: the file is missing, damaged or refused.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # as torch.load decides
            file.seek(0)
            _scan_zip(file, path) if is_zip else _scan_legacy(file, path)
        with _inert_globals():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except _LOAD_ERRORS as error:
        # torch's text on a damaged pickle is long, and advises to load it unsafely.
        damage = "its pickle is damaged" if isinstance(error, pickle.UnpicklingError) else str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: can't be read as a {kind}: {damage or type(error).__name__}; get a whole copy of it"
        ) from error


@contextmanager
def _inert_globals() -> Iterator[None]:
    with _LOCK:
        theirs = get_safe_globals()
        try:
            with safe_globals([argparse.Namespace, *_METERS]):
                yield
        finally:
            add_safe_globals(theirs)  # leaving safe_globals also forgot Namespace if the user had allowed it


def _scan_zip(file: BinaryIO, path: Path) -> None:
    """Check a zip container before torch maps it: whole, not compressed, and its pickle harmless."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or len(names) < len(members) or sum(member.file_size for member in members) > size:
            raise CheckpointError(
                f"{path}: refused: its container is compressed or overlaps itself, as torch.save never makes it"
            )
        pickles = [member for member in members if member.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{path}: refused: it has {len(pickles)} parts data.pkl, or one over {_MAX_PICKLE_BYTES} bytes"
            )
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")
        _scan_pickle(io.BytesIO(archive.read(pickles[0])), path)


def _scan_legacy(file: BinaryIO, path: Path) -> None:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for _ in range(_LEGACY_PICKLES):
            _scan_pickle(view, path)


def _scan_pickle(stream: Any, path: Path) -> None:
    """Walk over the instructions of one pickle, without following any, and refuse what could name other code.

    torch's own check comes after this one. It allows more (an allocation of any size among it, and whatever the
    process has registered), and can't name what it refuses in a legacy file before having run a part of it.
    """
    start = stream.tell()
    words: list[str] = []
    tuples = 0
    for opcode, argument, position in pickletools.genops(stream):
        tuples += opcode.name.startswith("TUPLE")
        if tuples > _MAX_TUPLES or (position is not None and position - start > _MAX_PICKLE_BYTES):
            raise CheckpointError(
                f"{path}: refused: its pickle is over {_MAX_PICKLE_BYTES} bytes or has over {_MAX_TUPLES} tuples"
            )
        if opcode.name == "GLOBAL" and str(argument).replace(" ", ".", 1) in _SAFE_GLOBALS:
            continue
        if isinstance(argument, str):
            words = [*words[-1:], argument]
        if opcode.name in _NAMING_OPCODES:
            name = ".".join(words) if opcode.name == "STACK_GLOBAL" else str(argument).replace(" ", ".", 1)
            raise CheckpointError(
                f"{path}: refused global {name[:200]}, which could run code; "
                f"if you trust the file, save its tensors and plain options alone, where it was made"
            )
