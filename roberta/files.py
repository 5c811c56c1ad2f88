"""Files that are written whole or not at all, and JSON, of records, checkpoints and manifests."""

import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from roberta.errors import RobertaError, StorageError

_MAX_JSON_BYTES = 2**26  # the state of a run takes some kB, a tokenizer of other libraries some MB


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; at the end of the block its file is synced, and takes the place of `path`.

    A link stays, and the file that it leads to is replaced. What is no file, such as a pipe, is written to as it is.

    Raises:
        StorageError: the file can't be written, also within the block; what was there before stays.
    """
    part = None
    try:
        if is_stream(path):
            yield path
            return
        target = Path(os.path.realpath(path))
        part = target.with_name(f".{target.name}.part")  # always the same: what a kill leaves is written over
        yield part
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        raise StorageError(f"{path}: can't be written: {error}; free some space or choose another folder") from error
    finally:
        if part is not None:
            with suppress(OSError):  # it may be what could not be made
                part.unlink(missing_ok=True)


def temporary(path: Path) -> Path:
    """Return a name beside a file or folder that nobody else takes, for what is to replace it when it is whole."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")


def is_stream(path: Path) -> bool:
    """Return whether a path is no file to be replaced: a pipe, a device, a folder, or what a process has open."""
    return os.path.abspath(path).startswith(("/dev/", "/proc/")) or (os.path.exists(path) and not os.path.isfile(path))


def check_name(path: Path) -> None:
    """Refuse a path that the libraries which write weights can't take.

    Raises:
        StorageError: it is not UTF-8.
    """
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"{str(path)!r}: the name is not UTF-8; choose another one") from error


def make_folder(folder: Path, option: str = "") -> None:
    """Make a folder, and those above it, where they are not there. option: the one that it was given by.

    Raises:
        StorageError: it can't be made, or there is a file of that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{option} {folder}: can't be made: {error}; choose another folder".lstrip()) from error


def write_text(path: Path, text: str, *, escape: bool = False) -> None:
    """Write a text file under a temporary name, sync it, and rename it.

    escape: write half a surrogate pair, which UTF-8 may not have, as `\\ud83d`; for what people have in their data.

    Raises:
        StorageError: the file can't be written; what was there before stays.
        UnicodeEncodeError: the text has half a surrogate pair, which is not to be escaped; likewise.
    """
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace" if escape else None, newline="\n")


def as_json(value: Any, **options: Any) -> str:
    """Return plain values as JSON, with the options of `json.dumps`; a number that is not finite becomes null.

    >>> as_json({"loss": float("nan"), "ends": [0.5, float("inf")]})
    '{"loss": null, "ends": [0.5, null]}'
    """
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, error: type[RobertaError], *, missing: str) -> dict[str, Any]:
    """Return the object in a JSON file; `missing` says what it means if there is no such file.

    Raises:
        error: the file is missing, can't be read, or holds something else.
    """
    remedy = "restore it from a copy"
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise error(f"{path}: more than {_MAX_JSON_BYTES} bytes, as no such file has; {remedy}")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(f"{path}: missing; {missing}; {remedy}") from cause
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"{path}: can't be read: {cause}; {remedy}") from cause
    if not isinstance(values, dict):
        raise error(f"{path}: expected an object, found {type(values).__name__}; {remedy}")
    return values
