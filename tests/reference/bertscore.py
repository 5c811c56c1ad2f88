"""BERTScore as slow, readable loops over float64 lists: the oracle of the real one."""

import math
from collections.abc import Sequence

Row = Sequence[float]


def cosine(a: Row, b: Row) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def idf(documents: Sequence[Sequence[int]], token: int) -> float:
    holding = sum(token in document for document in documents)
    return math.log((len(documents) + 1) / (holding + 1))


def greedy(rows: Sequence[Row], others: Sequence[Row], weights: Sequence[float]) -> float:
    """Return the weighted mean over rows, first and last aside, of the best cosine with any of the others."""
    total = 0.0
    for row, weight in zip(rows[1:-1], weights[1:-1], strict=True):
        total += weight * max(cosine(row, other) for other in others)
    return total / sum(weights[1:-1])


def score(
    hypothesis: Sequence[Row],
    reference: Sequence[Row],
    hypothesis_weights: Sequence[float],
    reference_weights: Sequence[float],
) -> tuple[float, float, float]:
    """Return precision, recall and F1 of one pair of texts, given their features."""
    precision = greedy(hypothesis, reference, hypothesis_weights)
    recall = greedy(reference, hypothesis, reference_weights)
    return precision, recall, 2 * precision * recall / (precision + recall)
