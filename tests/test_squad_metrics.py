"""SQuAD's figures against literals, a twin in plain loops, and real answers."""

import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest

from roberta.errors import DataError
from roberta.metrics import normalize_answer, squad1_scores, squad2_scores
from tests.reference import squad as twin

WORDS = ["the", "a", "An", "cat", "Cat's", "théâtre", "x.y", "1,000", "—", "!", "ſ", "THE", "a-b", "天", "  "]


def dataset(golds: dict[str, list[str]]) -> dict[str, Any]:
    """Return questions and their gold answers in SQuAD's form."""
    asked = [{"id": name, "answers": [{"text": text} for text in texts]} for name, texts in golds.items()]
    return {"data": [{"paragraphs": [{"qas": asked}]}]}


def real(shared: Path, name: str) -> dict[str, Any]:
    return json.loads(lzma.decompress((shared / "data/squad" / name).read_bytes()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("The", ""),
        ("an  apple a day", "apple day"),
        ("U.S.A.", "usa"),
        ("theatre another atheist", "theatre another atheist"),
        ("the-cat", "thecat"),  # punctuation goes first
        ("“The” cat", "“ ” cat"),  # only ASCII punctuation goes, and an article needs no spaces around it
        ("l'a\u00a0b\n c", "la b c"),
        ("ÉCOLE a\u0301", "école \u0301"),  # a combining accent is no letter, so the article before it goes
        ("İstanbul", "i̇stanbul"),
    ],
)
def test_answers_are_compared_by_their_words(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected == twin.normalized(text)


@pytest.mark.parametrize(
    ("golds", "prediction", "exact", "f1"),
    [
        (["Denver Broncos"], "the Denver Broncos!", 100.0, 100.0),
        (["Denver Broncos"], "Denver", 0.0, 200 / 3),
        (["Denver", "Denver Broncos"], "denver  broncos", 100.0, 100.0),
        (["a b b c d"], "b b e", 0.0, 100 * 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),  # "a" is an article
        (["1066"], "", 0.0, 0.0),
        (["the"], "", 100.0, 0.0),  # the official scorer of 1.1 gives no overlap to two texts without words
    ],
)
def test_scores_of_one_question_are_those_computed_by_hand(
    golds: list[str], prediction: str, exact: float, f1: float
) -> None:
    assert squad1_scores({"q": golds}, {"q": prediction}) == {
        "exact": exact,
        "f1": pytest.approx(f1, abs=1e-12),
        "total": 1,
        "missing": 0,
        "unknown": 0,
    }


@pytest.mark.parametrize(
    ("golds", "prediction", "score"),
    [([], "", 100.0), ([], "the", 100.0), ([], "cat", 0.0), (["the"], "", 100.0), (["the", "cat"], "", 0.0)],
)
def test_no_answer_is_right_where_no_gold_answer_has_words(golds: list[str], prediction: str, score: float) -> None:
    figures = squad2_scores({"q": golds}, {"q": prediction})
    assert (figures["exact"], figures["f1"]) == (score, score)
    assert {"HasAns_exact", "NoAns_exact"}.intersection(figures) == {"HasAns_exact" if golds else "NoAns_exact"}


def random_set(seed: int, *, answerable: float) -> tuple[dict[str, list[str]], dict[str, str], dict[str, float]]:
    rng = random.Random(seed)

    def text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(0, 4)))

    names = [f"q{number}" for number in range(rng.randint(1, 60))]
    golds = {name: [text() for _ in range(rng.randint(1, 3))] if rng.random() < answerable else [] for name in names}
    predictions = {name: rng.choice(golds[name]) if golds[name] and rng.random() < 0.5 else text() for name in names}
    shuffled = rng.sample(names, len(names))  # ties are broken by the order of the file of probabilities
    return golds, predictions, {name: rng.choice([rng.random(), 0.0, 0.25, 0.5, 1.0]) for name in shuffled}


@pytest.mark.parametrize("seed", range(30))
def test_figures_are_those_of_plain_loops_to_the_last_digit(seed: int) -> None:
    golds, predictions, na_probs = random_set(seed, answerable=(0.0, 0.5, 1.0)[seed % 3])
    counts = {"missing": 0, "unknown": 0}
    expected = twin.scores_v2(dataset(golds), predictions, na_probs, 0.4)
    assert squad2_scores(golds, predictions, na_probs, na_threshold=0.4) == expected | counts
    assert squad2_scores(golds, predictions) == twin.scores_v2(dataset(golds), predictions, None) | counts
    if seed % 3 == 2:
        assert squad1_scores(golds, predictions) == twin.scores_v1(dataset(golds), predictions) | counts


def test_gold_answers_of_the_real_dev_sets_score_everything(shared: Path) -> None:
    golds = dict(twin.questions(real(shared, "dev-v1.1.json.xz")))
    figures = squad1_scores(golds, {name: texts[-1] for name, texts in golds.items()})
    f1 = 100 * 10_569 / 10_570  # one answer is an article alone, and 1.1 gives no overlap for that
    assert figures == {"exact": 100.0, "f1": pytest.approx(f1, abs=1e-9), "total": 10_570, "missing": 0, "unknown": 0}
    golds = dict(twin.questions(real(shared, "dev-v2.0.reconstructed.json.xz")))
    figures = squad2_scores(golds, {name: (texts or [""])[0] for name, texts in golds.items()})
    assert (figures["exact"], figures["f1"], figures["total"]) == (100.0, 100.0, 11_873)
    assert figures["NoAns_exact"] == 100.0
    assert figures["HasAns_total"] == 11_873 - figures["NoAns_total"]


def test_figures_of_cut_answers_on_the_real_dev_sets_are_those_of_plain_loops(shared: Path) -> None:
    for name in ("dev-v1.1.json.xz", "dev-v2.0.reconstructed.json.xz"):
        data = real(shared, name)
        golds = dict(twin.questions(data)[::4])  # the twin is slow
        data = dataset(golds)
        predictions = {name: " ".join((texts or ["one two"])[0].split()[:2]) for name, texts in golds.items()}
        rng = random.Random(1)
        na_probs = {name: round(rng.random(), 2) for name in golds}
        ours, expected = squad2_scores(golds, predictions, na_probs), twin.scores_v2(data, predictions, na_probs)
        assert ours == expected | {"missing": 0, "unknown": 0}
        if "v1" in name:
            assert squad1_scores(golds, predictions).items() >= twin.scores_v1(data, predictions).items()
            assert 40 < ours["exact"] < ours["f1"] < 100


def test_the_best_threshold_answers_what_gains_and_leaves_the_rest() -> None:
    golds = {"sure": ["x"], "unsure": ["x"], "none": [], "late": ["y"]}
    predictions = {"sure": "x", "unsure": "x", "none": "guess", "late": "wrong"}
    na_probs = {"sure": 0.1, "unsure": 0.4, "none": 0.6, "late": 0.9}
    figures = squad2_scores(golds, predictions, na_probs)
    assert (figures["exact"], figures["best_exact"], figures["best_exact_thresh"]) == (50.0, 75.0, 0.4)
    at_best = squad2_scores(golds, predictions, na_probs, na_threshold=figures["best_exact_thresh"])
    assert at_best["exact"] == figures["best_exact"]
    assert figures["pr_exact_ap"] == pytest.approx(100 * (1 / 3 + 1 / 3))
    assert figures["pr_oracle_ap"] == pytest.approx(100 * (1 / 3 + 1 / 3 + 3 / 4 / 3))


def test_answering_nothing_is_best_where_no_answer_is_right() -> None:
    figures = squad2_scores({"a": [], "b": ["x"]}, {"a": "y", "b": "z"}, {"a": 0.5, "b": 0.6})
    assert (figures["best_f1"], figures["best_f1_thresh"]) == (50.0, 0.0)


def test_missing_predictions_are_wrong_at_any_threshold_and_counted() -> None:
    golds: dict[str, list[str]] = {"a": ["x"], "b": ["x"], "c": []}
    figures = squad1_scores({"a": ["x"], "b": ["x"]}, {"a": "x", "other": "y"})
    assert figures == {"exact": 50.0, "f1": 50.0, "total": 2, "missing": 1, "unknown": 1}
    figures = squad2_scores(golds, {"a": "x"}, {"a": 0.9}, na_threshold=0.5)
    assert (figures["exact"], figures["missing"], figures["NoAns_exact"]) == (0.0, 2, 0.0)
    assert figures["best_exact"] == 100 / 3


def test_predictions_for_other_questions_are_refused() -> None:
    with pytest.raises(DataError, match="none of the 1 questions has a prediction; are they predictions for another"):
        squad1_scores({"a": ["x"]}, {"b": "x"})
    with pytest.raises(DataError, match="1 predictions without a no-answer probability, 'b' among them"):
        squad2_scores({"a": ["x"], "b": []}, {"a": "x", "b": ""}, {"a": 0.5})
