"""SQuAD's figures by the letter of their definition: plain loops, one threshold after another, over the JSON itself."""

import string
from typing import Any


def normalized(text: str) -> str:
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    words, word = [], ""
    for character in kept + " ":
        if character.isalnum() or character == "_":
            word += character
            continue
        words.append(" " if word in ("a", "an", "the") else word)
        words.append(character)
        word = ""
    return " ".join("".join(words).split())


def overlap(gold: str, predicted: str) -> float:
    """Return the F1 of two bags of words; -1 where it is not defined, as both are empty."""
    a, b = normalized(gold).split(), normalized(predicted).split()
    if not a and not b:
        return -1.0
    left, common = list(a), 0
    for word in b:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision = 1.0 * common / len(b)
    recall = 1.0 * common / len(a)
    return (2 * precision * recall) / (precision + recall)


def questions(dataset: dict[str, Any]) -> list[tuple[str, list[str]]]:
    return [
        (question["id"], [answer["text"] for answer in question["answers"]])
        for article in dataset["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def scores_v1(dataset: dict[str, Any], predictions: dict[str, str]) -> dict[str, float]:
    exact = f1 = total = 0.0
    for name, golds in questions(dataset):
        total += 1
        if name in predictions:
            exact += max(normalized(gold) == normalized(predictions[name]) for gold in golds)
            f1 += max(max(0.0, overlap(gold, predictions[name])) for gold in golds)
    return {"exact": 100.0 * exact / total, "f1": 100.0 * f1 / total, "total": total}


def pair_v2(golds: list[str], predicted: str) -> tuple[float, float]:
    worded = [gold for gold in golds if normalized(gold) != ""]
    if not worded:
        worded = [""]
    exact = max(float(normalized(gold) == normalized(predicted)) for gold in worded)
    return exact, max(abs(overlap(gold, predicted)) for gold in worded)


def scores_v2(
    dataset: dict[str, Any], predictions: dict[str, str], na_probs: dict[str, float] | None, threshold: float = 1.0
) -> dict[str, float]:
    """Return all figures; every question must have a prediction."""
    golds = dict(questions(dataset))
    raw = {name: pair_v2(golds[name], predictions[name]) for name in golds}
    used = dict(raw)
    for name in golds if na_probs else ():
        if na_probs[name] > threshold:
            used[name] = (0.0, 0.0) if golds[name] else (1.0, 1.0)
    figures: dict[str, float] = {}
    parts = {"": list(golds), "HasAns_": [n for n in golds if golds[n]], "NoAns_": [n for n in golds if not golds[n]]}
    for prefix, names in parts.items():
        if names:
            figures[prefix + "exact"] = 100.0 * sum(used[name][0] for name in names) / len(names)
            figures[prefix + "f1"] = 100.0 * sum(used[name][1] for name in names) / len(names)
            figures[prefix + "total"] = len(names)
    if na_probs is None:
        return figures
    order = sorted((name for name in na_probs), key=lambda name: na_probs[name])
    for column, label in ((0, "exact"), (1, "f1")):
        score = best = float(len(parts["NoAns_"]))
        where = 0.0
        for name in order:
            if golds[name]:
                score += raw[name][column]
            elif predictions[name] != "":
                score -= 1.0
            if score > best:
                best, where = score, na_probs[name]
        figures[f"best_{label}"] = 100.0 * best / len(golds)
        figures[f"best_{label}_thresh"] = where
    relevant = len(parts["HasAns_"])
    for label in ("exact", "f1", "oracle") if relevant else ():
        found = area = last_recall = 0.0
        for position, name in enumerate(order):
            if golds[name]:
                found += 1.0 if label == "oracle" else raw[name][label == "f1"]
            if position + 1 == len(order) or na_probs[order[position + 1]] != na_probs[name]:
                area += found / (position + 1) * (found / relevant - last_recall)
                last_recall = found / relevant
        figures[f"pr_{label}_ap"] = 100.0 * area
    return figures
