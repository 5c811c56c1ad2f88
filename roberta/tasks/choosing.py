"""What the tasks that choose an answer share: questions, the files that hold them, and what is asked of them.

Shapes: Q questions.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roberta.data.examples import REJECTED, ChoiceExample, PronounExample
from roberta.data.readers.split_files import KEEP_ONE, find_split_file
from roberta.errors import DataError
from roberta.layout import NO_TARGET
from roberta.tasks.task import TEST, Samples

_ADVICE = {
    "train": "name one with --train-file",
    "valid": "name one with --valid-file, or give roberta-eval the file itself",
}

Question = ChoiceExample | PronounExample


class Questions(Samples):
    """Questions, each with a sequence for every answer to choose from; those of a question are one sample.

    lengths: for each question the tokens of each of its sequences.
    """

    metric = "accuracy"
    maximise = True

    def __init__(self, examples: Sequence[Question], lengths: Sequence[Sequence[int]]) -> None:
        self.examples = examples
        self.lengths = lengths
        self.sizes = np.array(list(map(sum, lengths)), dtype=np.int64)
        self.answers = np.array(
            [NO_TARGET if example.answer in (None, REJECTED) else example.answer for example in examples]
        )
        self.chance = float(np.mean([1 / len(row) for row in lengths]))

    @property
    def max_seqlen(self) -> int:
        """The tokens of the longest sequence."""
        return max(map(max, self.lengths))

    def are_told(self) -> NDArray[np.bool_]:
        """Return which questions have an answer to score: (Q,).

        Raises:
            DataError: none has.
        """
        told = np.array([example.answer is not None for example in self.examples])
        if not told.any():
            raise DataError(f"{self.examples[0].source}: neither this question nor another one has an answer to score")
        return told


def find_question_file(
    folder: Path, split: str, *, kinds: tuple[str, ...], train_file: Path | None, valid_file: Path | None
) -> Path:
    """Return the file of a split: the one that an option names, or else the one whose name tells.

    Raises:
        DataError: there is none whose name tells, or more than one.
    """
    named = {"train": train_file, "valid": valid_file}.get(split)
    if named is not None:
        return folder / named
    return find_split_file(folder, split, kinds, advice=_ADVICE.get(split, KEEP_ONE))


def check_answers(examples: Sequence[Question], split: str) -> None:
    """Refuse questions without an answer in another split than test.

    Raises:
        DataError: one has none; the message names it.
    """
    untold = next((example for example in examples if example.answer is None), None)
    if untold is not None and split != TEST:
        raise DataError(f"{untold.source}: no answer, and the {split} split needs them; leave the question out")


def numbered(texts: Sequence[str]) -> list[str]:
    """Return texts to choose from with their numbers, which tell equal ones apart.

    >>> numbered(["cats", "dogs"])
    ['1. cats', '2. dogs']
    """
    return [f"{number}. {text}" for number, text in enumerate(texts, start=1)]
