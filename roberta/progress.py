"""Progress for people (a tqdm bar on stderr) and for machines (one JSON object a line)."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm


def progress_bar(
    *, desc: str, unit: str, total: float | None = None, initial: float = 0, scale: bool = False, enabled: bool = True
) -> Any:
    """Return a tqdm bar on stderr; it stays silent where stderr is not a terminal."""
    return tqdm(
        desc=desc,
        unit=unit,
        total=total,
        initial=initial,
        unit_scale=scale,
        file=sys.stderr,
        disable=None if enabled else True,
        dynamic_ncols=True,
    )


class JsonLog:
    """A file of one JSON object a line, appended and flushed line by line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def __enter__(self) -> "JsonLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


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
