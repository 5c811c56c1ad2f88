"""Decoding of span logits against a loop over all spans, and the files that go with it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from roberta.answers import Answer, Answers, WindowOutputs, find_answers, trimmed, write_answers
from roberta.errors import StorageError

TEXT = "aa bb cc dd ee ff gg hh"
SPANS = np.array([(max(0, 3 * number - 1), 3 * number + 2) for number in range(8)])  # each with the space before it


def window(
    first: int, starts: list[float], ends: list[float], null: float = -5.0, **answerable: float
) -> WindowOutputs:
    return WindowOutputs(first, np.array(starts), np.array(ends), null, **answerable)


def every_span(windows: list[WindowOutputs], max_answer_tokens: int) -> list[tuple[float, int, int]]:
    return [
        (float(part.starts[i] + part.ends[j]), part.first + i, part.first + j)
        for part in windows
        for i in range(len(part.starts))
        for j in range(i, min(i + max_answer_tokens, len(part.starts)))
        if part.starts[i] > -math.inf
    ]


@pytest.mark.parametrize("seed", range(40))
def test_the_best_spans_are_those_of_a_loop_over_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_tokens, max_answer_tokens, n_best = int(rng.integers(1, 40)), int(rng.integers(1, 9)), int(rng.integers(1, 12))
    scale = (1.0, 30.0)[seed % 2]
    windows = []
    for first in range(0, num_tokens, 7):
        length = min(11, num_tokens - first)
        starts, ends = scale * rng.standard_normal((2, length))
        starts[rng.random(length) < 0.3] = -np.inf
        windows.append(WindowOutputs(first, starts, ends, float(rng.standard_normal())))
    text = "".join(f"<{number}>" for number in range(num_tokens))
    ends_ = np.cumsum([len(f"<{number}>") for number in range(num_tokens)])
    spans = np.stack((np.append(0, ends_[:-1]), ends_), axis=1)
    found = find_answers(text, spans, windows, max_answer_tokens=max_answer_tokens, n_best=n_best)
    expected = sorted(every_span(windows, max_answer_tokens), key=lambda span: -span[0])
    distinct = list(dict.fromkeys(text[spans[i, 0] : spans[j, 1]] for _, i, j in expected))
    assert [answer.text for answer in found.best] == distinct[:n_best]
    total = sum(math.exp(score) for score, _, _ in expected)
    for answer in found.best:
        assert text[answer.start : answer.end] == answer.text
        assert answer.probability == pytest.approx(
            math.exp(answer.start_logit + answer.end_logit) / total, rel=1e-9, abs=1e-300
        )
    best = expected[0][0] if expected else -math.inf
    margin = best - min(part.null for part in windows)
    assert found.no_answer_probability == pytest.approx(1 / (1 + math.exp(min(margin, 700.0))))


def test_a_span_ends_where_it_starts_or_later_and_is_not_too_long() -> None:
    starts, ends = [0.0] * 8, [0.0] * 8
    starts[2], starts[5], ends[2], ends[7], ends[6] = 1.0, 9.0, 20.0, 9.0, 1.0
    found = find_answers(TEXT, SPANS, [window(0, starts, ends)], max_answer_tokens=2, n_best=3)
    assert found.best[0].text == "cc"
    assert found.best[0] == Answer("cc", 6, 8, found.best[0].probability, 1.0, 20.0)
    assert "ff gg hh" not in {answer.text for answer in found.best}


def test_an_answer_begins_in_the_window_that_owns_its_first_token() -> None:
    first = window(0, [0, 0, 1, -math.inf], [0, 0, 0, 9])
    second = window(2, [-math.inf, 5, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0])
    found = find_answers(TEXT, SPANS, [first, second], max_answer_tokens=3, n_best=2)
    assert [(answer.text, answer.start, answer.end) for answer in found.best] == [("cc dd", 6, 11), ("bb cc dd", 3, 11)]


def test_answers_of_the_same_text_are_given_once() -> None:
    found = find_answers(
        "x x y", np.array([(0, 1), (1, 3), (3, 5)]), [window(0, [3, 2, 0], [0, 0, 0])], max_answer_tokens=1, n_best=5
    )
    assert [(answer.text, answer.start) for answer in found.best] == [("x", 0), ("y", 4)]


def test_white_space_is_no_answer() -> None:
    found = find_answers("a \n", np.array([(0, 1), (1, 3)]), [window(0, [0, 9], [0, 9])], max_answer_tokens=2, n_best=5)
    assert [answer.text for answer in found.best] == ["a"]
    assert trimmed("a \n", 1, 3) == (3, 3)


def test_no_answer_is_as_likely_as_the_surest_window_says() -> None:
    given = [window(0, [0], [0], answerable=-1.0), window(1, [0], [0], answerable=2.0)]
    found = find_answers(TEXT, SPANS, given, max_answer_tokens=1, n_best=1)
    assert found.no_answer_probability == pytest.approx(1 / (1 + math.exp(2.0)))
    without = [window(0, [0], [1], null=3.0), window(1, [0], [0], null=-1.0)]
    found = find_answers(TEXT, SPANS, without, max_answer_tokens=1, n_best=1)
    assert found.no_answer_probability == pytest.approx(1 / (1 + math.exp(1.0 - -1.0)))


@pytest.mark.parametrize("starts", [[], [-math.inf, -math.inf]])
def test_a_passage_without_places_for_an_answer_has_none(starts: list[float]) -> None:
    found = find_answers(TEXT, SPANS, [window(0, starts, [0.0] * len(starts))], max_answer_tokens=5, n_best=2)
    assert found == Answers((), 1.0)
    assert found.text() == ""


def test_logits_that_no_float_can_raise_e_to_still_give_probabilities() -> None:
    found = find_answers(TEXT, SPANS, [window(0, [0, 2000.0], [1500.0, 0])], max_answer_tokens=2, n_best=2)
    assert found.best[0].probability == pytest.approx(1.0)
    assert found.best[0].text == "bb"
    found = find_answers(TEXT, SPANS, [window(0, [0, 2000.0], [9000.0, 0])], max_answer_tokens=1, n_best=2)
    assert [answer.text for answer in found.best] == ["aa", "bb"]


def test_no_answer_is_ranked_by_its_probability_unless_it_is_above_the_threshold() -> None:
    answers = Answers((Answer("a", 0, 1, 0.6), Answer("b", 1, 2, 0.3)), 0.4)
    for threshold, order in ((0.3, ["", "a", "b"]), (0.5, ["a", "", "b"]), (None, ["a", "b"])):
        assert [answer.text for answer in answers.ranked(threshold)] == order
    assert [answer.probability for answer in answers.ranked(0.5)] == pytest.approx([0.36, 0.4, 0.18])
    assert Answers((), 1.0).ranked(None) == [Answer("", None, None, 1.0)]


def test_the_files_hold_what_the_official_scorer_reads(tmp_path: Path) -> None:
    answers = {
        "q1": Answers((Answer("ü 😀", 0, 3, 0.5, 1.0, 2.0),), 0.25),
        "q2": Answers((Answer("no", 4, 6, 0.75),), 0.5),
        "q3": Answers((), 1.0),
        "q4": Answers((Answer("half \ud83d", 0, 6, 0.5),), 0.0),
    }
    folder = tmp_path / "new"
    write_answers(folder, answers, may_have_none=False)
    read = {
        name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in ("predictions", "nbest", "na_prob")
    }
    assert read["predictions"] == {"q1": "ü 😀", "q2": "no", "q3": "", "q4": "half \ud83d"}
    assert read["na_prob"] == {"q1": 0.25, "q2": 0.5, "q3": 1.0, "q4": 0.0}
    assert read["nbest"]["q1"] == [{"text": "ü 😀", "probability": 0.5, "start_logit": 1.0, "end_logit": 2.0}]
    assert read["nbest"]["q3"] == []
    assert sorted(path.name for path in folder.iterdir()) == ["na_prob.json", "nbest.json", "predictions.json"]


def test_no_answer_is_one_of_the_n_best_where_there_may_be_none(tmp_path: Path) -> None:
    best = (Answer("a", 0, 1, 0.5, 1.0, 2.0), Answer("b", 1, 2, 0.25, 0.5, 0.0))
    write_answers(
        tmp_path, {"q1": Answers(best, 0.3), "q2": Answers(best, 0.75), "q3": Answers((), 1.0)}, may_have_none=True
    )
    nbest = json.loads((tmp_path / "nbest.json").read_text("utf-8"))
    assert nbest["q1"] == [
        {"text": "a", "probability": pytest.approx(0.35), "start_logit": 1.0, "end_logit": 2.0},
        {"text": "", "probability": 0.3, "start_logit": None, "end_logit": None},
        {"text": "b", "probability": pytest.approx(0.175), "start_logit": 0.5, "end_logit": 0.0},
    ]
    assert [entry["text"] for entry in nbest["q2"]] == ["", "a", "b"]
    assert [entry["text"] for entry in nbest["q3"]] == [""]
    predictions = json.loads((tmp_path / "predictions.json").read_text("utf-8"))
    assert predictions == {"q1": "a", "q2": "a", "q3": ""}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file: can't be made: .*; choose another folder"):
        write_answers(tmp_path / "file", {}, may_have_none=False)
