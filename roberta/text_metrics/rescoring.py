"""The best of several hypotheses, by the score they come with and how likely each is to the model (arXiv:1910.14659).

N-best lists are lines of `number ||| text ||| ... ||| score`, as decoders of machine translation and speech write them:
the number is that of the source line, from 0, and what is between text and score is left aside.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roberta.data.text import read_lines
from roberta.errors import DataError
from roberta.hub.border import Engine, inference
from roberta.hub.scoring import check_lm_head, pseudo_likelihoods

_SEPARATOR = "|||"
_DIGITS = 18  # of the number of a list
_LAYOUT = "number ||| text ||| score"


@dataclass(frozen=True)
class Candidate:
    """A text of an n-best list, and what the system that wrote it says of it: the higher the better."""

    text: str
    score: float


def read_nbest(path: Path) -> list[list[Candidate]]:
    """Return the candidates of each source line.

    Raises:
        DataError: a line has another layout, a score is no number, or the numbers do not go 0, 1, 2 and so on; the
            message names file and line.
    """
    lists: list[list[Candidate]] = []
    for line_number, line in enumerate(read_lines(path), start=1):
        place = f"{path}:{line_number}"
        fields = [field.strip() for field in line.split(_SEPARATOR)]
        if len(fields) < 3 or not fields[0].isdecimal() or len(fields[0]) > _DIGITS:
            raise DataError(f"{place}: {line[:80]!r}; expected {_LAYOUT}")
        number = int(fields[0])
        if number not in (len(lists) - 1, len(lists)):
            raise DataError(f"{place}: list {number} after list {len(lists) - 1}; expected that or {len(lists)}")
        if number == len(lists):
            lists.append([])
        lists[-1].append(Candidate(fields[1], _number(fields[-1], place)))
    return lists


def rescore(
    engine: Engine, lists: Sequence[Sequence[Candidate]], weights: Sequence[float], *, within_word: bool = True
) -> list[list[str]]:
    """Return, for each weight, the text of each list with the greatest score + weight * pseudo-log-likelihood.

    Weight 0 takes the system's own best; of equal ones the first is taken. An empty text has no tokens to be unlikely:
    with another weight it is taken only where a list has no other.

    Raises:
        ConfigError: the model has no masked-LM head.
        DataError: a text is longer than the model takes.
    """
    check_lm_head(engine.model)
    distinct = list(dict.fromkeys(candidate.text for candidates in lists for candidate in candidates))
    with inference(engine.model):
        found = pseudo_likelihoods(engine, distinct, within_word=within_word)
    likelihoods = {likelihood.text: likelihood.score for likelihood in found}

    def best(candidates: Sequence[Candidate], weight: float) -> str:
        comparable = [candidate for candidate in candidates if candidate.text or not weight] or candidates
        return max(comparable, key=lambda candidate: candidate.score + weight * likelihoods[candidate.text]).text

    return [[best(candidates, weight) for candidates in lists] for weight in weights]


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{place}: the score is {text!r}, no number; expected {_LAYOUT}") from error
    if not math.isfinite(value):
        raise DataError(f"{place}: the score is {text}; it must be finite")
    return value
