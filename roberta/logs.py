"""The figures of a run for machines: one JSON object a line, and TensorBoard's event files where asked for."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from roberta.errors import ConfigError

LOG = "log.jsonl"  # in the folder of a run


class Logs:
    """Where a run writes its records: a JSON line each, flushed, and with a folder for it TensorBoard too.

    A record is a flat dict of numbers with `num_updates` among them.

    Raises:
        ConfigError: TensorBoard is asked for, and its package is not installed.
    """

    def __init__(self, path: Path, tensorboard_logdir: Path | None = None) -> None:
        self._board = None if tensorboard_logdir is None else _tensorboard(tensorboard_logdir)
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Append one record of a kind such as `train` or `valid`."""
        self._file.write(json.dumps({kind: record}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in record.items():
                self._board.add_scalar(f"{kind}/{name}", value, record["num_updates"])

    def __enter__(self) -> "Logs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(f"--tensorboard-logdir needs a package: {error}; run: pip install tensorboard") from error
    return SummaryWriter(str(folder))


def forget_after(path: Path, num_updates: int) -> None:
    """Drop the records of a log that lie after an update, for a run that goes on from there."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _update_of(line) <= num_updates]
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _update_of(line: str) -> int:
    (record,) = json.loads(line).values()
    return int(record["num_updates"])
