"""Examples as readers give them: texts and what is said of them, before any token."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roberta.errors import DataError

Label = str | float | tuple[str, ...] | None  # a class, a number, several classes at once, or not told

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextExample:
    """Some texts, mostly one or two, and their label; where they stand (`file:line`).

    `id` is the name that a submission gives the example, `group` what a report counts apart, such as MNLI's genres.
    """

    texts: tuple[str, ...]
    label: Label
    source: str
    id: str = ""
    group: str = ""


@dataclass(frozen=True)
class EncodedExample:
    """As TextExample, of texts that are tokens already: one int64 array for each, without special tokens."""

    pieces: tuple[NDArray[np.int64], ...]
    label: Label
    source: str
    id: str = ""


def check_texts(examples: Sequence[TextExample], place: object) -> None:
    """Refuse examples without any text; count those of which one text is empty, which are kept, in the log.

    Raises:
        DataError: there are no examples, or all texts of one are empty; `place` is the file or folder they are from.
    """
    if not examples:
        raise DataError(f"{place}: no examples; expected at least one; get the data again")
    partly_empty = []
    for example in examples:
        if not all(example.texts):
            if not any(example.texts):
                raise DataError(f"{example.source}: the text is empty; fill it in, or remove the example")
            partly_empty.append(example)
    if partly_empty:
        logger.warning(
            "%s: %d of %d examples have an empty text beside another one, and are kept; the first one is %s",
            place,
            len(partly_empty),
            len(examples),
            partly_empty[0].source,
        )


@dataclass(frozen=True)
class WordsExample:
    """A sentence of words, none of them empty, each with a label, or None if they are not told; where each stands."""

    words: tuple[str, ...]
    labels: tuple[str, ...] | None
    sources: tuple[str, ...]  # `file:line`


@dataclass(frozen=True)
class ChoiceExample:
    """A question, maybe about a context, and the options to choose from; the answer is an index, None if not told."""

    context: str
    question: str
    options: tuple[str, ...]
    answer: int | None
    source: str
    id: str = ""
    group: str = ""  # such as RACE's middle and high, to be scored apart


REJECTED = -1


@dataclass(frozen=True)
class PronounExample:
    """A text around a pronoun or a blank, and the phrases that it may stand for.

    `answer` is the index of the phrase it stands for, or None if not told. Where it is only asked whether the pronoun
    stands for one phrase, that is the first candidate, and `answer` is REJECTED if it does not.
    """

    before: str
    pronoun: str
    after: str
    candidates: tuple[str, ...]
    answer: int | None
    source: str
    id: str = ""
