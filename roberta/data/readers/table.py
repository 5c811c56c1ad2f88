"""Tables of labelled texts: .tsv, .csv and .jsonl with named columns, packed (.gz, .xz, .zst) or not.

A .tsv has one row a line and no quoting, so `"` is text. A .csv follows RFC 4180: a cell in quotes may hold commas,
doubled quotes and line ends. A .jsonl has one object a line. Columns are found by name, in the first line or in
`columns` of the format, never by place.
"""

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from roberta.config import option
from roberta.data.examples import Label, TextExample, check_texts
from roberta.data.readers.json_lines import read_json_lines
from roberta.data.text import COMPRESSED, read_lines
from roberta.errors import ConfigError, DataError, choices

KINDS = (".tsv", ".csv", ".jsonl")
PACKINGS = ("", *COMPRESSED)

_CELL_CHARACTERS = 2**31 - 1  # of a .csv, at most: what a C long holds anywhere; csv's own 2^17 is less than a book

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableFormat:
    """Which columns of a table hold what."""

    text_columns: tuple[str, ...] = option(("text",), help="columns of the texts; those of a pair in their order")
    label_column: str = option("label", help="column of the label")
    id_column: str | None = option(None, help="column of the name of an example; its number from 0 if not given")
    kind: Literal["classification", "multi_label", "regression"] = option(
        "classification", help="what a label is: one class, several classes, or a number"
    )
    label_separator: str = option(",", help="multi_label: what parts the classes of a cell")
    columns: tuple[str, ...] | None = option(
        None, help="names of all columns of .tsv and .csv files without a header line"
    )

    def __post_init__(self) -> None:
        if not self.text_columns:
            raise ConfigError("--text-columns is empty; name the column of the text, or two columns of a pair")
        if not self.label_separator:
            raise ConfigError("--label-separator is empty; give what parts the classes of a cell, such as ','")
        for name in (*self.text_columns, *([self.id_column] if self.id_column is not None else [])):
            if self.columns and name not in self.columns:
                raise ConfigError(f"--columns has no {name!r}; {choices(name, self.columns)}")


@dataclass(frozen=True)
class Row:
    """The cells of a row by column, its number from 0, and where it begins (`file:line`)."""

    cells: Mapping[str, Any]
    number: int
    source: str


def read_table(path: Path, format: TableFormat, *, needs_labels: bool = True) -> list[TextExample]:
    """Return the examples of a file; without `needs_labels` a label may be absent, and then is None.

    Raises:
        ConfigError: the name of the file does not tell its kind.
        DataError: the file can't be read, a column is missing, a row has too few or too many cells, or a cell is not
            what its column should hold; the message names the line.
    """
    needed = (*format.text_columns, *([format.id_column] if format.id_column is not None else []))
    if needs_labels:
        needed = (*needed, format.label_column)
    examples = []
    for row in read_rows(path, needed=needed, columns=format.columns or ()):
        texts = tuple(text_of(row, column) for column in format.text_columns)
        name = str(row.number) if format.id_column is None else name_of(row, format.id_column)
        examples.append(TextExample(texts, _label(row, format, needs_labels), row.source, name))
    check_texts(examples, path)
    return examples


def kind_of(path: Path) -> str:
    """Return .tsv, .csv or .jsonl, as the name of a file says; what is packed is named inside, as in `a.tsv.gz`.

    Raises:
        ConfigError: it is none of them.
    """
    kind = path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix
    if kind not in KINDS:
        raise ConfigError(f"{path}: can't tell what kind of table this is; expected a name in {', '.join(KINDS)}")
    return kind


def read_rows(
    path: Path,
    *,
    needed: Sequence[str],
    columns: Sequence[str] = (),
    kind: str | None = None,
    skip_uneven: bool = False,
) -> Iterator[Row]:
    """Yield the rows of a table; every row has the `needed` columns.

    columns: names of all columns where the file has no header line. kind: one of KINDS, if not what the name says.
    skip_uneven: leave out rows with too few or too many cells, and count them in the log.

    Raises:
        ConfigError, DataError: as `read_table`.
    """
    kind = kind or kind_of(path)
    if kind == ".jsonl":
        if columns:
            raise ConfigError(
                f"{path}: --columns name what a file without a header has; a .jsonl names its own columns"
            )
        yield from _objects(path, needed)
        return
    lines = _tab_separated(path) if kind == ".tsv" else _comma_separated(path)
    header = tuple(columns) or tuple(next(lines, (0, []))[1])
    _check_header(path, header, needed)
    uneven = []
    for number, (line, cells) in enumerate(lines):
        source = f"{path}:{line}"
        if number == 0 and columns and tuple(cells) == header:
            raise DataError(f"{source}: the file has a header, with the names of --columns: leave them out")
        if len(cells) == len(header):
            yield Row(dict(zip(header, cells, strict=True)), number, source)
        elif skip_uneven:
            uneven.append(source)
        else:
            raise DataError(
                f"{source}: {len(cells)} columns; expected {len(header)}: {', '.join(header)}; mend the row"
            )
    if uneven:
        logger.warning(
            "%s: %d rows have too few or too many columns, and are left out; the first one is %s",
            path,
            len(uneven),
            uneven[0],
        )


def text_of(row: Row, column: str) -> str:
    """Return the text in a cell, without the white space around it: SST-2 has some in its train and dev files alone.

    Raises:
        DataError: it is something else than a string.
    """
    value = row.cells[column]
    if not isinstance(value, str):
        raise DataError(f"{row.source}: {column} is {json.dumps(value):.60}; expected a string")
    return value.strip()


def name_of(row: Row, column: str) -> str:
    """Return the name in a cell, of an example or a class: a string, or a number or truth value of JSON as it is spelt.

    Raises:
        DataError: it is empty or something else.
    """
    value = row.cells[column]
    if isinstance(value, int) or (isinstance(value, float) and isfinite(value)):  # a bool is an int
        return json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{row.source}: {column} is {json.dumps(value):.60}; expected a name that is not empty")
    return value.strip()


def number_of(row: Row, column: str) -> float:
    """Return the number in a cell.

    Raises:
        DataError: it is something else, infinite or not a number.
    """
    value = row.cells[column]
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (OverflowError, TypeError, ValueError):
        number = float("nan")
    if not isfinite(number):
        raise DataError(f"{row.source}: {column} is {json.dumps(value):.60}; expected a finite number, such as 2.5")
    return number


def _label(row: Row, format: TableFormat, needs_labels: bool) -> Label:
    column = format.label_column
    value = row.cells.get(column)
    is_blank = isinstance(value, str) and not value.strip() and format.kind != "multi_label"
    if not needs_labels and (value is None or is_blank):
        return None
    if format.kind == "regression":
        return number_of(row, column)
    if format.kind == "classification":
        return name_of(row, column)
    value = row.cells[column]
    parts = value.split(format.label_separator) if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise DataError(
            f"{row.source}: {column} is {json.dumps(value):.60}; "
            f"expected a list of classes, or a string of them parted by {format.label_separator!r}"
        )
    if isinstance(value, str) and not value.strip():
        return ()
    return tuple(dict.fromkeys(name_of(Row({column: part}, row.number, row.source), column) for part in parts))


def _tab_separated(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each row."""
    for number, line in enumerate(read_lines(path), start=1):
        yield number, line.split("\t")


def _comma_separated(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the cells of each row."""
    # the limit is the process's and holds while a row is read: raised here and never lowered, or readers in two threads
    # would take it from each other
    csv.field_size_limit(max(csv.field_size_limit(), _CELL_CHARACTERS))
    reader = csv.reader((line + "\n" for line in read_lines(path)), strict=True)
    first = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}:{first}: not a row of comma-separated cells: {error}; put a cell that holds a quote or a "
                'comma in quotes and double the quotes in it, as in "a ""word"", or two"; or make it a .jsonl'
            ) from error
        yield first, cells
        first = reader.line_num + 1


def _objects(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    for number, (fields, source) in enumerate(read_json_lines(path)):
        _check_columns(source, tuple(fields), needed)
        yield Row(fields, number, source)


def _check_header(path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}:1: column {twice!r} stands there twice; give each column a name of its own")
    _check_columns(f"{path}:1", header, needed)


def _check_columns(source: str, columns: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        raise DataError(f"{source}: no column {', '.join(map(repr, missing))}; {choices(missing[0], columns)}")
