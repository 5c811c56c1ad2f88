"""GLUE in its download layout (arXiv:1804.07461): tab-separated, a header line, no quoting, so `"` is text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roberta.data.text import read_lines
from roberta.errors import DataError, choices

MNLI_LABELS = ("contradiction", "neutral", "entailment")  # in the order of roberta.large.mnli's outputs

_MNLI_PREMISE, _MNLI_HYPOTHESIS, _MNLI_LABEL = 8, 9, -1
_MNLI_LAST_COLUMN = "gold_label"


@dataclass(frozen=True)
class ClassificationExample:
    """One or two texts, the name of their class, and where they stand (`file:line`)."""

    texts: tuple[str, ...]
    label: str
    source: str


def read_mnli(path: Path) -> list[ClassificationExample]:
    """Return the premise, hypothesis and gold label of each row of an MNLI file such as `dev_matched.tsv`.

    Raises:
        DataError: the file can't be read, is no MNLI file, or a row has too few columns or an unknown label;
            the message names the line.
    """
    rows = _rows(path)
    header = next(rows, ())
    if len(header) <= _MNLI_HYPOTHESIS or header[_MNLI_LABEL] != _MNLI_LAST_COLUMN:
        raise DataError(
            f"{path}:1: {len(header)} columns, the last one {header[-1:]}; expected more than {_MNLI_HYPOTHESIS}, "
            f"the last one {_MNLI_LAST_COLUMN}, as in MNLI's dev_matched.tsv"
        )
    examples = []
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(f"{path}:{number}: {len(row)} columns, the header has {len(header)}; get the file again")
        if row[_MNLI_LABEL] not in MNLI_LABELS:
            raise DataError(f"{path}:{number}: label {row[_MNLI_LABEL]!r}; {choices(row[_MNLI_LABEL], MNLI_LABELS)}")
        texts = (row[_MNLI_PREMISE], row[_MNLI_HYPOTHESIS])
        examples.append(ClassificationExample(texts, row[_MNLI_LABEL], f"{path}:{number}"))
    if not examples:
        raise DataError(f"{path}: a header and no rows; get the file again")
    return examples


def _rows(path: Path) -> Iterator[tuple[str, ...]]:
    for line in read_lines(path):
        yield tuple(line.split("\t"))
