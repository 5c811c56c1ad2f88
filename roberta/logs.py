"""The figures of a run for machines: one JSON object a line, and TensorBoard's event files where asked for."""

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from roberta.errors import ConfigError, StorageError
from roberta.files import as_json, write_text

LOG = "log.jsonl"  # in the folder of a run

logger = logging.getLogger(__name__)


class Logs:
    """Where a run writes its records: a JSON line each, at once, and with a folder for it TensorBoard too.

    A record is a flat dict of numbers with `num_updates` among them; a number that is not finite is null in JSON.
    Training is worth more than its log: records that the disk does not take are kept, and written when it does; the
    first time is a warning.

    path: of the log; what it holds stays.
    tensorboard_logdir: folder of the event files.
    num_updates: the update that the run goes on from; TensorBoard drops what it has of later ones. None drops nothing.

    Raises:
        ConfigError: TensorBoard is asked for, and its package is not installed.
        StorageError: the log can't be opened.
    """

    def __init__(self, path: Path, tensorboard_logdir: Path | None = None, num_updates: int | None = None) -> None:
        self._path = path
        self._board = None if tensorboard_logdir is None else _tensorboard(tensorboard_logdir, num_updates)
        self._kept: list[bytes] = []  # lines that are not in the file yet
        self._has_warned = False  # of them
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise StorageError(
                f"{path}: can't be written: {error}; free some space or choose another folder"
            ) from error
        self._end = os.fstat(self._file.fileno()).st_size  # of the last whole line

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Append one record of a kind such as `train` or `valid`."""
        self._kept.append(as_json({kind: record}).encode() + b"\n")
        self._write_kept()
        if self._board is None:
            return
        try:
            for name, value in record.items():
                self._board.add_scalar(f"{kind}/{name}", value, record["num_updates"])
        except OSError as error:
            logger.warning("TensorBoard's files can't be written: %s; its records end here", error)
            self._board = None

    def __enter__(self) -> "Logs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write_kept()
        if self._kept:
            logger.warning("%s: %d records are lost", self._path, len(self._kept))
        self._file.close()
        if self._board is not None:
            try:
                self._board.close()
            except OSError as lost:
                logger.warning("TensorBoard's files can't be written: %s; its last records are lost", lost)

    def _write_kept(self) -> None:
        """Append the lines that wait; all of them are in the file afterwards, or none."""
        if not self._kept:  # the file may be another process's to write
            return
        lines = b"".join(self._kept)
        try:
            self._cut_back()
            _write_all(self._file.fileno(), lines)
        except OSError as error:
            if not self._has_warned:
                logger.warning(
                    "%s: can't be written: %s; training goes on, the records wait for room", self._path, error
                )
            self._has_warned = True
            with contextlib.suppress(OSError):  # then before the next lines
                self._cut_back()
        else:
            self._end += len(lines)
            self._kept.clear()
            self._has_warned = False

    def _cut_back(self) -> None:
        """Take away the half line that a full disk leaves."""
        if os.fstat(self._file.fileno()).st_size > self._end:
            self._file.truncate(self._end)


def _write_all(descriptor: int, content: bytes) -> None:
    """Write all of it, or raise OSError: a disk that is nearly full takes a part first."""
    while content:
        content = content[os.write(descriptor, content) :]


def _tensorboard(folder: Path, num_updates: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(f"--tensorboard-logdir needs a package: {error}; run: pip install tensorboard") from error
    try:
        return SummaryWriter(str(folder), purge_step=None if num_updates is None else num_updates + 1)
    except OSError as error:
        raise StorageError(f"--tensorboard-logdir {folder}: {error}; choose another folder") from error


def forget_after(path: Path, num_updates: int) -> None:
    """Drop the records of a log that lie after an update, for a run that goes on from there.

    Lines that are none, which a crash of the machine can leave, go too.

    Raises:
        StorageError: the log can't be written anew; what was there stays.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    records = ((line, parsed(line)) for line in lines if line.endswith(b"\n"))
    kept = [line for line, found in records if found is not None and found[1]["num_updates"] <= num_updates]
    if kept != lines:
        write_text(path, b"".join(kept).decode())


def parsed(line: str | bytes) -> tuple[str, dict[str, Any]] | None:
    """Return the kind and the record of a line of a log, with a whole `num_updates`; None of one that is none.

    >>> parsed('{"train": {"num_updates": 100, "loss": 7.1}}')
    ('train', {'num_updates': 100, 'loss': 7.1})
    >>> parsed('{"train": {"num_upd')
    """
    try:
        ((kind, record),) = json.loads(line).items()
        return (kind, record) if type(record["num_updates"]) is int else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
