"""Figures of predictions against gold answers, as the benchmarks define them. Plain numpy over whole data sets.

Classes are numbers from 0. Every function takes all predictions of a set at once, so nothing is averaged over batches;
a set has at least one example. Where a figure is undefined it is 0, as scikit-learn has it: the F1 of a class that is
neither predicted nor right anywhere, and a correlation where one side is constant (scipy says NaN there, which no
checkpoint selection could compare).

Shapes: N examples, K classes.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from roberta.errors import DataError

Classes = NDArray[np.integer]  # (N,) class numbers
Numbers = NDArray[np.floating]  # (N,)
Flags = NDArray[np.bool_]  # (N, K): which classes an example has

_Z_95 = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations
_STANDARD_ERRORS = 2.0  # above chance, so that it is no accident
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(predictions: Classes, targets: Classes) -> float:
    """Return the fraction of examples whose class is right.

    >>> accuracy(np.array([0, 1, 1]), np.array([0, 1, 0]))
    0.6666666666666666
    """
    _check(predictions, targets)
    return float(np.mean(predictions == targets))


def f1(predictions: Classes, targets: Classes, *, positive: int = 1) -> float:
    """Return the harmonic mean of precision and recall of one class, as GLUE scores MRPC and QQP."""
    _check(predictions, targets)
    is_predicted, is_target = predictions == positive, targets == positive
    return _f1(int((is_predicted & is_target).sum()), int(is_predicted.sum()), int(is_target.sum()))


def macro_f1(predictions: Classes, targets: Classes) -> float:
    """Return the mean F1 of the classes that are predicted or right somewhere, as SuperGLUE scores CB."""
    classes = np.union1d(predictions, targets).tolist()
    return float(np.mean([f1(predictions, targets, positive=positive) for positive in classes]))


def matthews(predictions: Classes, targets: Classes) -> float:
    """Return Matthews' correlation, for more than two classes in Gorodkin's form; as GLUE scores CoLA and AX."""
    matrix = confusion_matrix(predictions, targets).astype(np.float64)
    total = matrix.sum()
    of_target, of_prediction = matrix.sum(axis=1), matrix.sum(axis=0)
    covariance = np.trace(matrix) * total - of_target @ of_prediction
    spread = (total**2 - of_target @ of_target) * (total**2 - of_prediction @ of_prediction)
    return float(covariance / sqrt(spread)) if spread > 0 else 0.0


def pearson(predictions: Numbers, targets: Numbers) -> float:
    """Return the linear correlation of numbers, from -1 to 1; 0 where one side is constant."""
    _check(predictions, targets)
    x, y = predictions.astype(np.float64), targets.astype(np.float64)
    if x.min() == x.max() or y.min() == y.max():  # the deviations from a rounded mean need not be 0
        return 0.0
    x, y = _direction(x), _direction(y)
    return float(np.clip(x @ y, -1.0, 1.0))


def spearman(predictions: Numbers, targets: Numbers) -> float:
    """Return the correlation of the ranks of numbers, equal numbers sharing their average rank; else as `pearson`."""
    return pearson(ranks(predictions), ranks(targets))


def ranks(values: Numbers) -> NDArray[np.float64]:
    """Return the rank of each value, from 1: (N,); equal values share the average of theirs.

    >>> ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist()
    [3.5, 1.0, 3.5, 2.0]
    """
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def confusion_matrix(predictions: Classes, targets: Classes, num_classes: int | None = None) -> NDArray[np.int64]:
    """Return how often each class (row) is taken for each class (column): (K, K).

    K is the largest class number plus 1 if not given.
    """
    _check(predictions, targets)
    size = int(max(predictions.max(), targets.max())) + 1 if num_classes is None else num_classes
    cells = targets.astype(np.int64) * size + predictions
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def micro_f1(predictions: Flags, targets: Flags) -> float:
    """Return the F1 of all decisions of several labels together."""
    _check(predictions, targets)
    return _f1(int((predictions & targets).sum()), int(predictions.sum()), int(targets.sum()))


def exact_match(predictions: Flags, targets: Flags) -> float:
    """Return the fraction of examples all of whose labels are right, none missing and none too many."""
    _check(predictions, targets)
    return float(np.mean((predictions == targets).all(axis=1)))


def wilson_interval(correct: int, total: int, z: float = _Z_95) -> tuple[float, float]:
    """Return the interval that holds the true accuracy, by default with 95 % confidence (Wilson 1927).

    >>> [round(end, 4) for end in wilson_interval(9, 10)]
    [0.5958, 0.9821]
    """
    assert 0 <= correct <= total > 0, f"{correct} correct of {total}"
    fraction = correct / total
    centre = fraction + z * z / (2 * total)
    reach = z * sqrt(fraction * (1 - fraction) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def is_at_chance(accuracy: float, chance: float, total: int) -> bool:
    """Return whether an accuracy over `total` examples is no better than guessing by more than may be an accident.

    >>> is_at_chance(0.7, 0.5, 10), is_at_chance(0.7, 0.5, 100)
    (True, False)
    """
    return accuracy <= chance + _STANDARD_ERRORS * sqrt(chance * (1.0 - chance) / total)


METRICS: dict[str, Callable[..., float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "micro_f1": micro_f1,
    "exact_match": exact_match,
}

METRICS_OF_KIND = {  # of labels; the first one selects checkpoints
    "classification": ("accuracy", "macro_f1", "matthews"),
    "multi_label": ("micro_f1", "exact_match"),
    "regression": ("pearson", "spearman"),
}


def _f1(both: int, predicted: int, right: int) -> float:
    return 2 * both / (predicted + right) if predicted + right else 0.0


def _direction(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the deviations from the mean, scaled to length 1; first to size 1, so that no square overflows."""
    deviations = values - values.mean()
    deviations /= np.abs(deviations).max()
    return deviations / np.linalg.norm(deviations)


def _check(predictions: NDArray, targets: NDArray) -> None:
    assert predictions.shape == targets.shape, f"predictions {predictions.shape} for targets {targets.shape}"
    assert len(targets), "no examples"


def normalize_answer(text: str) -> str:
    """Return an answer as SQuAD compares it: in lower case, without ASCII punctuation and articles, single-spaced.

    >>> normalize_answer("The  Quick, brown-fox.")
    'quick brownfox'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def squad1_scores(golds: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> dict[str, float]:
    """Return `exact` and `f1` in percent as the official scorer of SQuAD 1.1 counts them (arXiv:1606.05250).

    golds: the texts of the answers of each question by its id, at least one. A question without a prediction scores 0
    and counts in `missing`; predictions of ids that are not in `golds` count in `unknown`.

    Raises:
        DataError: no question has a prediction.
    """
    counts = _squad_counts(golds, predictions)
    scores = {
        question: _best_scores(golds[question], predictions[question], no_words=0.0)
        if question in predictions
        else (0.0, 0.0)
        for question in golds
    }
    return {**_squad_means(scores, golds, in_order=True), **counts}


def squad2_scores(
    golds: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    na_probs: Mapping[str, float] | None = None,
    *,
    na_threshold: float = 1.0,
) -> dict[str, float]:
    """Return the figures of the official scorer of SQuAD 2.0 (arXiv:1806.03822), scores in percent.

    golds: the texts of the answers of each question by its id, none if it can't be answered; the empty prediction says
    so too. na_probs: the probability that it can't; a question above `na_threshold` counts as predicted unanswerable.

    `exact`, `f1` and `total`, then the same with `HasAns_` and `NoAns_`, where there are such questions; with
    `na_probs` the best scores that a threshold can reach, the thresholds, and the average precisions `pr_exact_ap`,
    `pr_f1_ap` and `pr_oracle_ap` of answering the surest questions first. A question without a prediction scores 0
    whatever the threshold, and counts in `missing`; predictions of ids not in `golds` count in `unknown`.

    Raises:
        DataError: no question has a prediction, or a predicted one has no probability.
    """
    counts = _squad_counts(golds, predictions)
    raw = {
        question: _best_scores(_answers(golds[question]), predictions[question], no_words=1.0)
        for question in golds
        if question in predictions
    }
    scores = dict.fromkeys(golds, (0.0, 0.0)) | raw
    if na_probs is not None:
        if lacking := [question for question in raw if question not in na_probs]:
            raise DataError(f"{len(lacking)} predictions without a no-answer probability, {lacking[0]!r} among them")
        for question in raw:
            if na_probs[question] > na_threshold:
                is_right = float(not golds[question])
                scores[question] = (is_right, is_right)
    figures = _squad_means(scores, golds)
    for prefix, has_answer in (("HasAns", True), ("NoAns", False)):
        if some := [question for question in golds if bool(golds[question]) == has_answer]:
            figures |= {f"{prefix}_{name}": value for name, value in _squad_means(scores, some).items()}
    if na_probs is not None:
        figures |= _threshold_figures(golds, predictions, na_probs, raw)
    return {**figures, **counts}


def _threshold_figures(
    golds: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    na_probs: Mapping[str, float],
    raw: Mapping[str, tuple[float, float]],
) -> dict[str, float]:
    """Return the best scores over all thresholds, and the average precisions."""
    surest_first = sorted((question for question in na_probs if question in raw), key=na_probs.__getitem__)
    probs = np.array([na_probs[question] for question in surest_first])
    is_answerable = np.array([bool(golds[question]) for question in surest_first])
    is_answered = np.array([bool(predictions[question]) for question in surest_first])
    scores = {
        name: np.array([raw[question][column] for question in surest_first])
        for column, name in enumerate(("exact", "f1"))
    }
    figures = {}
    for name, values in scores.items():
        gains = np.where(is_answerable, values, -1.0 * is_answered)  # of answering, against predicting no answer
        totals = np.cumsum([np.sum(~is_answerable), *gains])
        best = int(totals.argmax())
        figures[f"best_{name}"] = 100.0 * float(totals[best]) / len(golds)
        figures[f"best_{name}_thresh"] = float(probs[best - 1]) if best else 0.0
    num_answerable = sum(map(bool, golds.values()))
    if num_answerable:
        for name, values in {**scores, "oracle": np.ones(len(probs))}.items():
            figures[f"pr_{name}_ap"] = 100.0 * _average_precision(values * is_answerable, probs, num_answerable)
    return figures


def _average_precision(hits: Numbers, probs: Numbers, num_relevant: int) -> float:
    """Return the area under precision over recall, with a step wherever a threshold can part the sorted `probs`."""
    is_step = np.append(probs[1:] != probs[:-1], True)
    found = np.cumsum(hits)[is_step]
    precision, recall = found / (np.flatnonzero(is_step) + 1.0), found / num_relevant
    return float(np.cumsum(precision * np.diff(recall, prepend=0.0))[-1])


def _answers(golds: Sequence[str]) -> list[str]:
    """Return the gold answers that SQuAD 2.0 compares with: those with words, else the empty one."""
    return [gold for gold in golds if normalize_answer(gold)] or [""]


def _best_scores(golds: Sequence[str], prediction: str, *, no_words: float) -> tuple[float, float]:
    """Return exact match and F1 against the gold answer that fits best; `no_words` is the F1 of two empty texts."""
    predicted = normalize_answer(prediction)
    texts = [normalize_answer(gold) for gold in golds]
    return float(predicted in texts), max(_word_f1(text.split(), predicted.split(), no_words) for text in texts)


def _word_f1(gold: list[str], predicted: list[str], no_words: float) -> float:
    if not gold and not predicted:
        return no_words
    num_same = sum((Counter(gold) & Counter(predicted)).values())
    if num_same == 0:
        return 0.0
    precision, recall = num_same / len(predicted), num_same / len(gold)
    return 2 * precision * recall / (precision + recall)


def _squad_counts(golds: Mapping[str, object], predictions: Mapping[str, str]) -> dict[str, float]:
    missing = len(golds) - sum(question in predictions for question in golds)
    if missing == len(golds):
        raise DataError(f"none of the {missing} questions has a prediction; are they predictions for another file?")
    return {"missing": missing, "unknown": len(predictions) - (len(golds) - missing)}


def _squad_means(
    scores: Mapping[str, tuple[float, float]], ids: Iterable[str], *, in_order: bool = False
) -> dict[str, float]:
    """Return the means in percent; `in_order` adds one by one, where `sum` of Python 3.12 rounds less."""
    exact, overlap = zip(*(scores[question] for question in ids), strict=True)
    total = float(np.cumsum(overlap)[-1]) if in_order else sum(overlap)
    return {"exact": 100.0 * sum(exact) / len(exact), "f1": 100.0 * total / len(exact), "total": len(exact)}
