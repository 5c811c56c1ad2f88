"""Text files that are written whole or not at all."""

import os
from pathlib import Path

from roberta.errors import StorageError


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name, sync it, and rename it.

    Raises:
        StorageError: the file can't be written; what was there before stays.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"{path}: can't be written: {error}; free some space or choose another folder") from error
