"""fairseq's binarised folders of labelled sequences: tokens that are made already.

FOLDER/input0/SPLIT.{bin,idx} holds the first text of each example, FOLDER/input1 the second one if there is one.
Classes are words of FOLDER/label/dict.txt, in FOLDER/label/SPLIT.{bin,idx}; numbers are the lines of
FOLDER/label/SPLIT.label. fairseq numbers the classes by how often they occur in its training data, so a head that it
trained has its outputs in the order of that dict.txt.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roberta.data.dictionary import FILE_NAME, MASK, SPECIALS, Dictionary, is_made_up
from roberta.data.examples import EncodedExample, Label
from roberta.data.indexed import IndexedDataset, idx_path
from roberta.data.readers.table import Row, number_of
from roberta.data.text import read_lines
from roberta.errors import DataError

_INPUT, _LABEL = "input", "label"


def binarized_labels(folder: Path) -> tuple[str, ...]:
    """Return the names of the classes in the order of a head that was trained on the folder; none for numbers.

    They are the symbols of `label/dict.txt`, in its order, without the made-up words at its end.

    Raises:
        VocabError: the dictionary of the labels can't be read.
    """
    path = folder / _LABEL / FILE_NAME
    if not path.is_file():
        return ()
    symbols = Dictionary.load(path).symbols[len(SPECIALS) :]
    return tuple(symbol for symbol in symbols if symbol != MASK and not is_made_up(symbol))


def binarized_dictionary(folder: Path) -> Dictionary:
    """Return the dictionary that the tokens of the texts are from.

    Raises:
        VocabError: there is none, or it can't be read.
    """
    return Dictionary.load(folder / f"{_INPUT}0" / FILE_NAME)


def read_binarized(folder: Path, split: str, *, needs_labels: bool = True) -> list[EncodedExample]:
    """Return the examples of a split: the tokens of each text without special tokens, and the label or the number.

    The source is the place of the example in the folder, from 1; the id is its number, from 0. Without `needs_labels`
    the split may have no labels, which then are None.

    Raises:
        DataError: a file is missing or damaged, files do not fit each other, a label is unknown, or the folder holds
            questions with options.
        VocabError: the dictionary of the labels can't be read.
    """
    inputs = _inputs(folder, split)
    if len(inputs) > 2 and not binarized_labels(folder):
        raise DataError(
            f"{folder}: {len(inputs)} inputs and numbers for labels, as made for sentence_ranking, where each but the "
            "first is an option; give the raw questions to roberta-finetune race, commonsense_qa or choices"
        )
    labels = _labels(folder, split) if needs_labels or _has_labels(folder, split) else [None] * len(inputs[0])
    for name, count in [*((data.prefix, len(data)) for data in inputs[1:]), (folder / _LABEL / split, len(labels))]:
        if count != len(inputs[0]):
            raise DataError(
                f"{name}: {count} examples, but {inputs[0].prefix} has {len(inputs[0])}; "
                "binarise all parts of the same lines, and keep empty ones"
            )
    if not labels:
        raise DataError(f"{inputs[0].prefix}: no examples; expected at least one")
    return [
        EncodedExample(
            tuple(_without_end(data[number]) for data in inputs), label, f"{inputs[0].prefix}:{number + 1}", str(number)
        )
        for number, label in enumerate(labels)
    ]


def _inputs(folder: Path, split: str) -> list[IndexedDataset]:
    inputs: list[IndexedDataset] = []
    while not inputs or idx_path(folder / f"{_INPUT}{len(inputs)}" / split).is_file():
        inputs.append(IndexedDataset(folder / f"{_INPUT}{len(inputs)}" / split))
    return inputs


def _has_labels(folder: Path, split: str) -> bool:
    return any((folder / _LABEL / f"{split}.{kind}").is_file() for kind in ("idx", "label"))


def _labels(folder: Path, split: str) -> list[Label]:
    """Return the label of each example: a name, or a number where there is no dictionary of labels."""
    names = binarized_labels(folder)
    prefix = folder / _LABEL / split
    if not names:
        path = prefix.with_name(f"{split}.label")
        lines = enumerate(read_lines(path))
        return [number_of(Row({_LABEL: line}, number, f"{path}:{number + 1}"), _LABEL) for number, line in lines]
    data = IndexedDataset(prefix)
    labels: list[Label] = []
    for number in range(len(data)):
        classes = _without_end(data[number]) - len(SPECIALS)
        if len(classes) != 1 or not 0 <= classes[0] < len(names):
            raise DataError(
                f"{prefix}:{number + 1}: label {classes.tolist()}; expected one number from 0 to {len(names) - 1}, "
                f"for {', '.join(names)}"
            )
        labels.append(names[classes[0]])
    return labels


def _without_end(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the tokens without the `</s>` that ends every line."""
    return tokens[:-1] if len(tokens) and tokens[-1] == Dictionary.eos else tokens
