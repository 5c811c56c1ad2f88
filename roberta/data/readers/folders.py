"""Texts sorted into folders, SPLIT/LABEL/NAME.txt, as in aclImdb: one file is one text."""

from collections.abc import Sequence
from pathlib import Path

from roberta.data.examples import TextExample, check_texts
from roberta.data.readers.split_files import find_split_folder
from roberta.data.text import read_lines
from roberta.errors import DataError, choices

UNLABELLED = ("unsup",)  # aclImdb's reviews without a label

_KIND = ".txt"


def read_folders(folder: Path, split: str, labels: Sequence[str] = ()) -> list[TextExample]:
    """Return the text of each file of a split, labelled by its folder; its id is the file's name without `.txt`.

    The folder of `valid` may also be named dev, val or validation.

    labels: the folders to read; if not given, all but those that are known to be no classes, such as `unsup`.

    Raises:
        DataError: the split or the folder of a label is not there or holds no texts, or a file is empty or can't be
            read.
    """
    parent = find_split_folder(folder, split)
    if not parent.is_dir():
        raise DataError(f"{parent}: no such folder, expected {split}/LABEL/NAME{_KIND}; {choices(split, _in(folder))}")
    there = _in(parent)
    wanted = labels or [name for name in there if name not in UNLABELLED]
    if not wanted:
        raise DataError(f"{parent}: no folders of labels in it; expected LABEL/NAME{_KIND}")
    examples = []
    for label in wanted:
        if label not in there:
            raise DataError(f"{parent}: no folder of the label {label!r}; {choices(label, there)}")
        files = sorted(path for path in (parent / label).iterdir() if path.suffix == _KIND)
        if not files:
            raise DataError(f"{parent / label}: no {_KIND} files; expected one for each text")
        examples += [TextExample((_read(path),), label, f"{path}:1", path.stem) for path in files]
    check_texts(examples, parent)
    return examples


def _in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, in order; none if it is not there."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _read(path: Path) -> str:
    return "\n".join(read_lines(path)).strip()
