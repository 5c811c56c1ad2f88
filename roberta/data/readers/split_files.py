"""Which file of a folder holds a split, where data sets name their files as they like."""

import re
from pathlib import Path

from roberta.data.text import COMPRESSED
from roberta.errors import DataError

_WORDS = {"valid": ("valid", "dev", "val", "validation")}


def find_split_file(folder: Path, split: str, kind: str) -> Path:
    """Return the file of a split: for .jsonl `train.jsonl`, `dev_rand_split.jsonl.xz`, `ARC-Easy-Test.jsonl` and so on.

    One of the words in its name is the split (dev, val and validation stand for valid), and its kind, packed or not,
    ends the name. A file that is named by that word alone comes first.

    Raises:
        DataError: there is none, or more than one.
    """
    found, names = _found(folder, split, kind)
    if len(found) == 1:
        return folder / found[0]
    there = f"{' and '.join(found)} could each be it" if found else f"found: {', '.join(names) or 'nothing'}"
    wanted = f"{' or '.join(_WORDS.get(split, (split,)))}{kind}"
    raise DataError(f"{folder}: not one file of the {split} split; expected {wanted}; {there}")


def has_split_file(folder: Path, split: str, kind: str) -> bool:
    """Tell whether `find_split_file` finds a file."""
    return len(_found(folder, split, kind)[0]) == 1


def _found(folder: Path, split: str, kind: str) -> tuple[list[str], list[str]]:
    """Return the files that can be a split, and all files of the folder."""
    words = _WORDS.get(split, (split,))
    ending = re.compile(rf"{re.escape(kind)}({'|'.join(map(re.escape, COMPRESSED))})?$")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    stems = {name: ending.sub("", name).lower() for name in names if ending.search(name)}
    exact = [name for name, stem in stems.items() if stem in words]
    return exact or [name for name, stem in stems.items() if set(words).intersection(re.split("[^a-z]+", stem))], names
