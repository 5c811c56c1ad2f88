"""Which file of a folder holds a split, where data sets name their files as they like."""

import re
from pathlib import Path

from roberta.data.text import COMPRESSED
from roberta.errors import DataError

KEEP_ONE = "keep one of them"  # what to do about several files, if no option tells them apart

_WORDS = {"train": ("train",), "valid": ("valid", "dev", "val", "validation"), "test": ("test",)}


def find_split_file(folder: Path, split: str, kinds: tuple[str, ...], *, advice: str = KEEP_ONE) -> Path:
    """Return the file of a split: for .jsonl `train.jsonl`, `dev_rand_split.jsonl.xz`, `ARC-Easy-Test.jsonl` and so on.

    One of the words in its name is the split (dev, val and validation stand for valid), and one of the kinds, packed or
    not, ends the name. A file that is named by that word alone comes first. advice: what to do where there are several.

    Raises:
        DataError: there is none, or more than one.
    """
    found, names = _found(folder, split, kinds)
    if len(found) == 1:
        return folder / found[0]
    if found:
        raise DataError(
            f"{folder}: not one file of the {split} split: {' and '.join(found)} could each be it; {advice}"
        )
    there = (", ".join(names) or "nothing") if folder.is_dir() else "no such folder"
    raise DataError(
        f"{folder}: no file of the {split} split; expected one named {' or '.join(_WORDS.get(split, (split,)))} with "
        f"{' or '.join(kinds)}, packed ({', '.join(COMPRESSED)}) or not; found: {there}"
    )


def find_split_folder(folder: Path, split: str) -> Path:
    """Return the folder of a split: the one of its name, or else of another word of `find_split_file` that is there.

    Raises:
        DataError: there are several such others.
    """
    there = [word for word in _WORDS.get(split, (split,)) if (folder / word).is_dir()]
    if split in there or not there:
        return folder / split
    if len(there) > 1:
        raise DataError(f"{folder}: {' and '.join(there)} could each be the {split} split; {KEEP_ONE}")
    return folder / there[0]


def has_split_file(folder: Path, split: str, kinds: tuple[str, ...]) -> bool:
    """Tell whether there is a file of a split, or several, which `find_split_file` refuses."""
    return bool(_found(folder, split, kinds)[0])


def _found(folder: Path, split: str, kinds: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the files that can be a split, and all files of the folder."""
    words = tuple(word.lower() for word in _WORDS.get(split, (split,)))
    ending = re.compile(rf"({'|'.join(map(re.escape, kinds))})({'|'.join(map(re.escape, COMPRESSED))})?$")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    stems = {name: ending.sub("", name).lower() for name in names if ending.search(name)}
    exact = [name for name, stem in stems.items() if stem in words]
    if exact:
        return exact, names
    found = [name for name, stem in stems.items() if set(words).intersection(re.split("[^a-z]+", stem))]
    for name in found:
        splits = [other for other in _WORDS if set(_WORDS[other]).intersection(re.split("[^a-z]+", stems[name]))]
        if len(splits) > 1:
            raise DataError(
                f"{folder / name}: its name says {' and '.join(splits)}; rename it, so that it says one split"
            )
    return found, names
