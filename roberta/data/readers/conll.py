"""Words with a label each: the files of CoNLL's shared tasks, and others of their form, packed (.gz, .xz, .zst) or not.

A line has a word and what is said of it, in columns that tabs part, or spaces where a line has no tab; all lines have
as many. An empty line stands between sentences; a line that begins with -DOCSTART- is left out. In a .conllu, of
Universal Dependencies, so are comments, words that several others make up (`3-4`) and words that are not there (`5.1`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roberta.config import option
from roberta.data.examples import WordsExample
from roberta.data.readers.split_files import KEEP_ONE, find_split_file, has_split_file
from roberta.data.text import COMPRESSED, read_lines
from roberta.errors import ConfigError, DataError

KINDS = (".txt", ".conll", ".conllu", ".iob", ".iob2", ".bio", ".bio2", ".iobes", ".bioes", ".tsv")

_NUMBERED = ".conllu"
_BLANKS = re.compile("[ \t]+")
_DOCUMENT = "-DOCSTART-"
_ENDINGS = {"train": ".train", "valid": ".testa", "test": ".testb"}  # of eng.train, esp.testa and so on


@dataclass(frozen=True)
class ConllFormat:
    """Which columns hold the words and their labels."""

    word_column: int = option(1, help="column of the word, from 1; -1 is the last one")
    label_column: int = option(-1, help="column of its label, likewise")
    comment: str | None = option(None, help="what lines begin with that are to be left out, such as '# '; '' for none")

    def __post_init__(self) -> None:
        for name, value in (("--word-column", self.word_column), ("--label-column", self.label_column)):
            if value == 0:
                raise ConfigError(f"{name} is 0; columns count from 1, and from -1, the last one, to the left")
        if self.word_column == self.label_column:
            raise ConfigError(f"--word-column and --label-column are both {self.word_column}; name two columns")


def read_conll(path: Path, format: ConllFormat, *, needs_labels: bool = True) -> list[WordsExample]:
    """Return the sentences of a file; without `needs_labels` the column of the labels may be absent.

    Raises:
        ConfigError: the columns are those of another form than the file's name says.
        DataError: the file can't be read or has no words, a line has too few or too many columns, or a word or a label
            is empty; the message names the line.
    """
    if _kind(path) == _NUMBERED and format.word_column == 1:
        raise ConfigError(
            f"{path}: the first column of a .conllu numbers the words; give --word-column 2, and --label-column 4 for "
            "parts of speech (UPOS)"
        )
    sentences: list[WordsExample] = []
    words: list[tuple[str, str | None, str]] = []
    for row in [*_rows(path, format, needs_labels), None]:
        if row is not None:
            words.append(row)
        elif words:
            texts, labels, sources = zip(*words, strict=True)
            sentences.append(WordsExample(texts, None if labels[0] is None else labels, sources))
            words = []
    if not sentences:
        raise DataError(f"{path}: no sentences; expected a word and its label on each line")
    return sentences


def find_conll(folder: Path, split: str, *, advice: str = KEEP_ONE) -> Path:
    """Return the file of a split: `train.txt`, `dev.conll`, `en_ewt-ud-test.conllu`, `eng.testa` and so on.

    advice: what to do where there are several.

    Raises:
        DataError: there is none, or more than one.
    """
    named = _published(folder, split)
    if len(named) > 1:
        found = " and ".join(path.name for path in named)
        raise DataError(f"{folder}: {found} could each be the {split} split; {advice}")
    if named:
        return named[0]
    is_numbered = has_split_file(folder, split, (_NUMBERED,))  # beside which its releases have the bare text, in .txt
    return find_split_file(folder, split, (_NUMBERED,) if is_numbered else KINDS, advice=advice)


def has_conll(folder: Path, split: str) -> bool:
    """Tell whether there is a file of a split, or several, which `find_conll` refuses."""
    return bool(_published(folder, split)) or has_split_file(folder, split, KINDS)


def _published(folder: Path, split: str) -> list[Path]:
    """Return the files with the ending that CoNLL-2002 and 2003 gave a split."""
    endings = [_ENDINGS[split] + packing for packing in ("", *COMPRESSED)] if split in _ENDINGS else []
    return sorted(path for ending in endings for path in folder.glob(f"*{ending}"))


def _kind(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix


def _rows(path: Path, format: ConllFormat, needs_labels: bool) -> Iterator[tuple[str, str | None, str] | None]:
    """Yield word, label and place of each line, and None between sentences."""
    is_numbered = _kind(path) == _NUMBERED
    width = word = label = 0
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith(_DOCUMENT):
            yield None
            continue
        if format.comment and line.startswith(format.comment):
            continue
        cells = line.split("\t") if "\t" in line else _BLANKS.split(line.strip(" "))
        if is_numbered and (line.startswith("#") or not cells[0].isdecimal()):
            continue
        source = f"{path}:{number}"
        if not width:
            if line.startswith("#") and format.comment is None:
                raise DataError(f"{source}: a comment? then give --comment '# '; if it is a word, --comment ''")
            width = len(cells)
            word, label = (_place(column, width) for column in (format.word_column, format.label_column))
            _check_columns(source, width, word, label, format, needs_labels)
        if len(cells) != width:
            hint = "; if it is a comment, give --comment" if line.startswith("#") else "; mend the line"
            raise DataError(f"{source}: {len(cells)} columns; expected {width}, as in the first line{hint}")
        is_told = label < width and label != word
        found = cells[word].strip(" "), cells[label].strip(" ") if is_told else None
        if "" in found:
            raise DataError(f"{source}: a word or a label is empty; mend the line, or remove it")
        yield *found, source


def _place(column: int, width: int) -> int:
    """Return a column's place from 0; one that is not there is `width`."""
    place = column - 1 if column > 0 else width + column
    return place if 0 <= place < width else width


def _check_columns(source: str, width: int, word: int, label: int, format: ConllFormat, needs_labels: bool) -> None:
    """Refuse a file that has no column of words, or of labels where these are needed."""
    if word == width or (needs_labels and label in (width, word)):
        raise DataError(
            f"{source}: {width} columns; expected the word in column {format.word_column} and its label in column "
            f"{format.label_column} (-1 is the last); name others with --word-column and --label-column"
        )
