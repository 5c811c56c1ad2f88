"""From the outputs of a span head to answers: the likeliest spans of a passage, over all windows that it was read in.

Numbers and characters only: which rows belong to the passage, and which characters its tokens touch, is told.

Shapes: L tokens of a passage in a window, A longest answer in tokens, N tokens of the passage.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import exp, log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roberta.files import make_folder, write_text

PREDICTIONS, NBEST, NA_PROBS = "predictions.json", "nbest.json", "na_prob.json"


@dataclass(frozen=True)
class WindowOutputs:
    """What a span head says of one window of a passage."""

    first: int  # the token of the passage that row 0 stands for
    starts: NDArray[np.floating]  # (L,) logits of beginning the answer; -inf where another window sees more around it
    ends: NDArray[np.floating]  # (L,) logits of ending it
    null: float  # the logits of `<s>` as both
    answerable: float | None = None  # the logit of the answer being there, from a head that knows it


@dataclass(frozen=True)
class Answer:
    """A piece of a passage, white space around it left out, or no answer: the empty text, which lies nowhere."""

    text: str
    start: int | None  # characters of the passage
    end: int | None
    probability: float
    start_logit: float = 0.0
    end_logit: float = 0.0


@dataclass(frozen=True)
class Answers:
    """The likeliest answers to a question, best first, each of another text, and how likely there is none.

    The probabilities are those among all spans of the passage that may be answers, if there is an answer.
    """

    best: tuple[Answer, ...]
    no_answer_probability: float

    def text(self, threshold: float = 1.0) -> str:
        """Return the best answer, or the empty text where no answer is likelier than `threshold`."""
        return "" if self.no_answer_probability > threshold or not self.best else self.best[0].text

    def ranked(self, threshold: float | None) -> list[Answer]:
        """Return the answers, and no answer as one of them, best first: it is the best where it is above `threshold`.

        The probabilities are then those of all of them together. Without a threshold there is always an answer, unless
        there is no place for one.
        """
        if not self.best or threshold is None:
            return list(self.best) or [Answer("", None, None, 1.0)]
        probability = self.no_answer_probability
        none = Answer("", None, None, probability)
        first, *rest = [replace(answer, probability=answer.probability * (1 - probability)) for answer in self.best]
        if probability > threshold:
            return [none, first, *rest]
        return [first, *sorted((none, *rest), key=lambda answer: -answer.probability)]


def find_answers(
    context: str,
    character_spans: NDArray[np.integer],
    windows: Iterable[WindowOutputs],
    *,
    max_answer_tokens: int,
    n_best: int,
) -> Answers:
    """Return the likeliest answers in a passage.

    character_spans: (N, 2) the characters that each token touches. A span begins in the window that sees most around
    its first token, has at most `max_answer_tokens`, and scores the sum of its two logits. That there is no answer has
    the least probability that a window gives: of its classifier, or without one of `<s>` against the best span.
    """
    parts = list(windows)
    best = _best(context, character_spans, parts, max_answer_tokens, n_best)
    if parts[0].answerable is None:
        margin = (best[0].start_logit + best[0].end_logit if best else -np.inf) - min(part.null for part in parts)
    else:
        margin = max(part.answerable for part in parts if part.answerable is not None)
    return Answers(tuple(best), _logistic(-margin))


def write_answers(folder: Path, answers: Mapping[str, Answers], *, may_have_none: bool) -> None:
    """Write `predictions.json`, `nbest.json` and `na_prob.json`, each by the id of the question, in SQuAD's forms.

    The prediction is the best answer, however likely it is that there is none: scorers apply a threshold to `na_prob`
    themselves, and their figures over all thresholds need the answers above it too. With `may_have_none`, as in 2.0, no
    answer is one of those in `nbest`, as the empty text, by its probability.

    Raises:
        StorageError: a file can't be written.
    """
    nbest = {
        name: [
            {
                "text": answer.text,
                "probability": answer.probability,
                "start_logit": None if answer.start is None else answer.start_logit,
                "end_logit": None if answer.start is None else answer.end_logit,
            }
            for answer in _by_probability(found, may_have_none)
        ]
        for name, found in answers.items()
    }
    files = {
        PREDICTIONS: {name: found.text() for name, found in answers.items()},
        NBEST: nbest,
        NA_PROBS: {name: found.no_answer_probability for name, found in answers.items()},
    }
    make_folder(folder)
    for file_name, values in files.items():
        write_text(folder / file_name, json.dumps(values, indent=1) + "\n")


def _by_probability(found: Answers, may_have_none: bool) -> list[Answer]:
    if not may_have_none:
        return list(found.best)
    return sorted(found.ranked(1.0), key=lambda answer: -answer.probability)


def _best(
    context: str,
    character_spans: NDArray[np.integer],
    windows: Sequence[WindowOutputs],
    max_answer_tokens: int,
    n_best: int,
) -> list[Answer]:
    """Return the `n_best` likeliest answers of different texts, or as many as there are."""
    num_spans = 2 * n_best  # of each window: some texts occur several times
    while True:
        totals, found = zip(*(_spans(window, max_answer_tokens, num_spans) for window in windows), strict=True)
        spans = np.concatenate(found)
        by_score = spans[np.argsort(-spans[:, 0], kind="stable")]
        texts = _distinct(context, character_spans, by_score, float(np.logaddexp.reduce(totals)))
        best = list(islice(texts, n_best))
        if len(best) == n_best or all(len(some) < num_spans for some in found):
            return best
        num_spans *= 4


def _spans(window: WindowOutputs, max_answer_tokens: int, num_spans: int) -> tuple[float, NDArray[np.float64]]:
    """Return the log of the summed exponentials of all spans' scores, and the best spans.

    A span is (score, first and last token of the passage, logit of the first, logit of the last): (num_spans, 5).
    """
    starts, ends = window.starts.astype(np.float64), window.ends.astype(np.float64)
    reach = min(max_answer_tokens, len(starts))
    if not reach or starts.max() == -np.inf:
        return -np.inf, np.empty((0, 5))
    following = np.lib.stride_tricks.sliding_window_view(np.append(ends, [-np.inf] * (reach - 1)), reach)  # (L, A)
    best_of_row = starts + following.max(axis=1)
    rows = np.sort(_largest(best_of_row, num_spans))  # they hold the best spans
    scores = (starts[rows, None] + following[rows]).ravel()
    cells = np.sort(_largest(scores, num_spans))
    cells = cells[scores[cells] > -np.inf]
    firsts, extents = rows[cells // reach], cells % reach
    lasts = firsts + extents
    tokens = window.first + firsts, window.first + lasts
    spans = np.stack((scores[cells], *tokens, starts[firsts], ends[lasts]), axis=1)
    return _log_total(starts, following, highest=float(best_of_row.max())), spans


def _largest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the indices of the `count` largest of (N,) values, in any order."""
    return np.arange(len(values)) if count >= len(values) else np.argpartition(values, -count)[-count:]


def _log_total(starts: NDArray[np.float64], following: NDArray[np.float64], *, highest: float) -> float:
    """Return log of the sum over rows of exp(start) times the sum of exp(end) over those that follow."""
    top = float(starts.max()), float(following.max())
    weights = np.exp(following[:, 0] - top[1])
    padded = np.append(weights, np.zeros(following.shape[1] - 1))
    sums = np.lib.stride_tricks.sliding_window_view(padded, following.shape[1]).sum(axis=1)
    total = float(np.exp(starts - top[0]) @ sums)
    return max(highest, sum(top) + log(total)) if total > 0 else highest  # no float reaches so far down


def _distinct(
    context: str, character_spans: NDArray[np.integer], spans: NDArray[np.float64], total: float
) -> Iterator[Answer]:
    """Yield the answers of the best spans, each text once, none that is white space alone."""
    seen = {""}
    for score, first, last, start_logit, end_logit in spans.tolist():
        start, end = trimmed(context, int(character_spans[int(first), 0]), int(character_spans[int(last), 1]))
        text = context[start:end]
        if text not in seen:
            seen.add(text)
            yield Answer(text, start, end, exp(score - total), start_logit, end_logit)


def trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    """Return a range of characters without the white space at its ends.

    >>> trimmed("in 1815 .", 2, 8)
    (3, 7)
    """
    inner = context[start:end].lstrip()
    return end - len(inner), end - len(inner) + len(inner.rstrip())


def _logistic(value: float) -> float:
    return 1 / (1 + exp(-value)) if value >= 0 else exp(value) / (1 + exp(value))
