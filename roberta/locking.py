"""One writer to a folder: a second process that wants to write there is told who does. Readers need no lock.

The lock is the kernel's, on a file in the folder, and ends with the process however that ends. On file systems without
such locks what the file says counts, with a moment between reading and writing it in which two could pass: a process of
this host that has died, or nobody, leaves the folder free; one of another host can't be asked.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from roberta.errors import StorageError

FILE_NAME = ".lock"

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder, which must be there, while the block runs.

    Raises:
        StorageError: another process writes there, or the folder can't be written.
    """
    path = folder / FILE_NAME
    try:
        descriptor = _take(path)
    except OSError as error:
        raise StorageError(f"{folder}: can't be written: {error.strerror}; choose another folder") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for this file finds it gone, and takes the next
        os.close(descriptor)


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Let the processes of this machine do the block one after another, by a lock on a file that is gone afterwards.

    Raises:
        StorageError: the file can't be made.
    """
    try:
        file = path.open("a")
    except OSError as error:
        raise StorageError(f"{path}: can't be written: {error.strerror}; choose another folder") from error
    with file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _take(path: Path) -> int:
    """Return the descriptor of the lock file, which is held as long as it is open."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _hold(descriptor, path)
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _hold(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _refusal(path, _holder(descriptor)) from error
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        holder = _holder(descriptor)
        if holder and not _has_ended(holder):
            raise _refusal(path, holder) from error


def _refusal(path: Path, holder: dict[str, Any]) -> StorageError:
    return StorageError(
        f"{path.parent}: in use by process {holder.get('pid', 'unknown')} on {holder.get('host', 'unknown host')} "
        f"since {holder.get('since', 'unknown')} ({holder.get('command', 'unknown')}); wait for it, stop it, or choose "
        f"another folder; if it is gone for certain, delete {path}"
    )


def _holder(descriptor: int) -> dict[str, Any]:
    """Return what the holder wrote into the file; nothing if it has not yet, or its host went down while it did."""
    try:
        holder = json.loads(os.pread(descriptor, 2**16, 0))
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _has_ended(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname() or type(holder.get("pid")) is not int:
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the file is still the one of that name; its last holder may just have deleted it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _this_process() -> dict[str, Any]:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{since} UTC", "command": " ".join(sys.argv)}
