"""GLUE (arXiv:1804.07461) in its download layout, and the sets of SuperGLUE (arXiv:1905.00537) that are alike.

GLUE's files are tab-separated without quoting, SuperGLUE's have one JSON object a line. A set is a row of GLUE: what
its columns, files and labels are called, and how it is scored. Where the files have numbers for the classes, they get
names here, and `codes` has the numbers, which the official site wants back.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from roberta.data.examples import Label, TextExample, check_texts
from roberta.data.readers.table import PACKINGS, Row, name_of, number_of, read_rows, text_of
from roberta.errors import ConfigError, DataError, choices

MNLI_LABELS = ("contradiction", "neutral", "entailment")  # in the order of roberta.large.mnli's outputs
TWO_WAY_LABELS = ("not_entailment", "entailment")

_TSV = {"train": ("train.tsv",), "valid": ("dev.tsv",), "test": ("test.tsv",)}
_JSONL = {"train": ("train.jsonl",), "valid": ("val.jsonl",), "test": ("test.jsonl",)}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GlueSet:
    """What a set of GLUE looks like, and how it is scored."""

    title: str  # as GLUE and its folders spell it
    texts: tuple[str, ...]  # columns of the texts
    label: str = "label"  # column of the label
    labels: tuple[str, ...] | None = None  # names of the classes in the order of a head's outputs; None for regression
    codes: tuple[str, ...] = ()  # what files and submissions call the classes, where not by their names
    scale: tuple[float, float] | None = None  # of the numbers of a regression
    metrics: tuple[str, ...] = ("accuracy",)  # keys of roberta.metrics.METRICS; the first one selects checkpoints
    files: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _TSV)  # names a split may have, best first
    submissions: Mapping[str, str]  # split -> name of the file that the official site takes
    id: str = "index"  # column of the id; a file may lack it
    group: str = ""  # column of what is reported apart
    header: tuple[str, ...] = ()  # columns of the labelled files where they have no header line
    no_gold: str = ""  # stands for a label that the annotators did not agree on; such rows are left out
    skips_uneven: bool = False  # labelled rows with a wrong number of columns are known, and left out

    @property
    def selects(self) -> str:
        """The metric that selects checkpoints."""
        return self.metrics[0]

    @cached_property
    def spellings(self) -> dict[str, str]:
        """What files and submissions call the classes -> their names."""
        return dict(zip(self.codes or self.labels or (), self.labels or (), strict=True))


GLUE: dict[str, GlueSet] = {
    "cola": GlueSet(
        title="CoLA",
        texts=("sentence",),
        labels=("unacceptable", "acceptable"),
        codes=("0", "1"),
        metrics=("matthews", "accuracy"),
        submissions={"test": "CoLA.tsv"},
        header=("source", "label", "original_label", "sentence"),
    ),
    "sst2": GlueSet(
        title="SST-2",
        texts=("sentence",),
        labels=("negative", "positive"),
        codes=("0", "1"),
        files={**_TSV, "train": ("train.tsv", "train.20k.tsv")},
        submissions={"test": "SST-2.tsv"},
    ),
    "mrpc": GlueSet(
        title="MRPC",
        texts=("#1 String", "#2 String"),
        label="Quality",
        labels=("not_equivalent", "equivalent"),
        codes=("0", "1"),
        metrics=("accuracy", "f1"),
        files={  # the raw file for training holds the rows of GLUE's dev.tsv too
            **_TSV,
            "train": ("train.tsv", "msr_paraphrase_train.txt"),
            "test": ("test.tsv", "msr_paraphrase_test.txt"),
        },
        submissions={"test": "MRPC.tsv"},
    ),
    "stsb": GlueSet(
        title="STS-B",
        texts=("sentence1", "sentence2"),
        label="score",
        scale=(0.0, 5.0),
        metrics=("pearson", "spearman"),
        submissions={"test": "STS-B.tsv"},
        group="genre",
    ),
    "qqp": GlueSet(
        title="QQP",
        texts=("question1", "question2"),
        label="is_duplicate",
        labels=("not_duplicate", "duplicate"),
        codes=("0", "1"),
        metrics=("accuracy", "f1"),
        submissions={"test": "QQP.tsv"},
        id="id",
        skips_uneven=True,
    ),
    "mnli": GlueSet(
        title="MNLI",
        texts=("sentence1", "sentence2"),
        label="gold_label",
        labels=MNLI_LABELS,
        files={
            "train": ("train.tsv",),
            "valid": ("dev_matched.tsv",),
            "valid1": ("dev_mismatched.tsv",),
            "test": ("test_matched.tsv",),
            "test1": ("test_mismatched.tsv",),
        },
        submissions={"test": "MNLI-m.tsv", "test1": "MNLI-mm.tsv"},
        group="genre",
        no_gold="-",
    ),
    "qnli": GlueSet(
        title="QNLI",
        texts=("question", "sentence"),
        labels=TWO_WAY_LABELS,
        submissions={"test": "QNLI.tsv"},
    ),
    "rte": GlueSet(
        title="RTE", texts=("sentence1", "sentence2"), labels=TWO_WAY_LABELS, submissions={"test": "RTE.tsv"}
    ),
    "wnli": GlueSet(
        title="WNLI",
        texts=("sentence1", "sentence2"),
        labels=TWO_WAY_LABELS,
        codes=("0", "1"),
        submissions={"test": "WNLI.tsv"},
    ),
    "ax": GlueSet(
        title="AX",
        texts=("sentence1", "sentence2"),
        labels=MNLI_LABELS,
        metrics=("matthews", "accuracy"),
        files={"test": ("diagnostic.tsv",)},
        submissions={"test": "AX.tsv"},
    ),
    "boolq": GlueSet(
        title="BoolQ",
        texts=("question", "passage"),
        labels=("false", "true"),
        files=_JSONL,
        submissions={"test": "BoolQ.jsonl"},
        id="idx",
    ),
    "cb": GlueSet(
        title="CB",
        texts=("premise", "hypothesis"),
        labels=MNLI_LABELS,
        metrics=("accuracy", "macro_f1"),
        files=_JSONL,
        submissions={"test": "CB.jsonl"},
        id="idx",
    ),
    "wic": GlueSet(
        title="WiC",
        texts=("word", "sentence1", "sentence2"),  # the word is a text of its own, before the two
        labels=("false", "true"),
        files=_JSONL,
        submissions={"test": "WiC.jsonl"},
        id="idx",
    ),
}


def glue_set(name: str) -> GlueSet:
    """Return a row of GLUE.

    Raises:
        ConfigError: there is no such set.
    """
    if name not in GLUE:
        raise ConfigError(f"no set {name!r}; {choices(name, GLUE)}")
    return GLUE[name]


def glue_splits(folder: Path, name: str) -> tuple[str, ...]:
    """Return the splits of a set whose files are in its folder."""
    return tuple(split for split, names in glue_set(name).files.items() if _found(folder, names))


def glue_file(folder: Path, name: str, split: str) -> Path:
    """Return the file of a split, packed or not, in the folder of a set.

    Raises:
        ConfigError: there is no such set, or it has no such split.
        DataError: the folder has no such file.
    """
    the_set = glue_set(name)
    if split not in the_set.files:
        raise ConfigError(f"{the_set.title} has no split {split!r}; {choices(split, the_set.files)}")
    names = the_set.files[split]
    path = _found(folder, names)
    if path is not None:
        if not path.name.startswith(names[0]):
            logger.warning("%s is read, for there is no %s", path, names[0])
        return path
    raise DataError(
        f"{folder}: no {' or '.join(names)} there, packed ({', '.join(PACKINGS[1:])}) or not; "
        f"give the folder of {the_set.title}'s download{_nearby(folder, the_set.title)}"
    )


def read_glue(path: Path, name: str, split: str) -> list[TextExample]:
    """Return the examples of a split of a set; `path` is the folder of the set, or the file itself.

    Files of `test` splits need no labels; where one has none, the label is None. Rows whose gold label is `-` (MNLI)
    are left out, as are QQP's labelled rows of a wrong number of columns; a line in the log counts them. Where the file
    has no column of ids, the id is the number of the row, from 0.

    Raises:
        ConfigError: there is no such set, or it has no such split.
        DataError: the file can't be read, a column is missing, or a row is not what the set says; the message names
            the line.
    """
    the_set = glue_set(name)
    file = path if path.is_file() else glue_file(path, name, split)
    needs_labels = not split.startswith("test")
    examples = []
    without_gold = []
    for row in _rows(file, the_set, needs_labels):
        if the_set.no_gold and row.cells.get(the_set.label) == the_set.no_gold:
            without_gold.append(row.source)
            continue
        texts = tuple(text_of(row, column) for column in the_set.texts)
        name_in_set = name_of(row, the_set.id) if the_set.id in row.cells else str(row.number)
        group = row.cells.get(the_set.group, "")
        examples.append(TextExample(texts, _label(row, the_set), row.source, name_in_set, group))
    if without_gold:
        logger.warning(
            "%s: %d rows have no gold label (%s), and are left out; the first one is %s",
            file,
            len(without_gold),
            the_set.no_gold,
            without_gold[0],
        )
    check_texts(examples, file)
    return examples


def _rows(file: Path, the_set: GlueSet, needs_labels: bool) -> Iterator[Row]:
    needed = (*the_set.texts, *([the_set.label] if needs_labels else []))
    return read_rows(
        file,
        needed=needed,
        columns=the_set.header if needs_labels else (),
        kind=".jsonl" if the_set.files is _JSONL else ".tsv",
        skip_uneven=the_set.skips_uneven and needs_labels,  # a submission needs every row
    )


def _label(row: Row, the_set: GlueSet) -> Label:
    """Return the name of the class, or the number; None where there is no column for it."""
    if the_set.label not in row.cells:
        return None
    if the_set.scale is not None:
        number, (low, high) = number_of(row, the_set.label), the_set.scale
        if not low <= number <= high:
            raise DataError(f"{row.source}: {the_set.label} is {number}; expected {low} to {high}")
        return number
    spelling = name_of(row, the_set.label)
    if spelling not in the_set.spellings:
        raise DataError(f"{row.source}: {the_set.label} is {spelling!r}; {choices(spelling, the_set.spellings)}")
    return the_set.spellings[spelling]


def _found(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first of the files that is there, packed or not."""
    paths = (folder / f"{name}{packing}" for name in names for packing in PACKINGS)
    return next((path for path in paths if path.is_file()), None)


def _nearby(folder: Path, title: str) -> str:
    return f"; did you mean {folder / title}?" if (folder / title).is_dir() else ""
