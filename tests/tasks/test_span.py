"""Finding answers: windows with targets, official figures, and the files that are asked for."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roberta.data.readers.squad import Question
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError
from roberta.models.heads import SpanHeadConfig
from roberta.question_answering import read_na_probs, read_predictions, score_predictions
from roberta.registry import CRITERIONS, TASKS
from roberta.tasks.span import QuestionWindows, SpanTask, SpanTaskConfig, gold_texts

CONTEXT = "Ada Lovelace was born in London in 1815. " + "She wrote notes on the engine. " * 8 + "Babbage built it."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


def squad(*, v2: bool = False, **changes: Any) -> dict[str, Any]:
    asked: list[dict[str, Any]] = [
        {"id": "where", "question": "Where was Ada born?", "answers": [answer("London"), answer("in London")]},
        {"id": "who", "question": "Who built it?", "answers": [answer("Babbage")]},
    ]
    if v2:
        for question in asked:
            question["is_impossible"] = False
        asked.append({"id": "none", "question": "Who died?", "answers": [], "is_impossible": True})
    asked[1].update(changes)
    return {
        "version": "v2.0" if v2 else "1.1",
        "data": [{"title": "Ada", "paragraphs": [{"context": CONTEXT, "qas": asked}]}],
    }


def answer(text: str) -> dict[str, Any]:
    return {"text": text, "answer_start": CONTEXT.index(text)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train-v1.1.json").write_text(json.dumps(squad()), encoding="utf-8")
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(squad()), encoding="utf-8")
    return tmp_path


def config(data: Path, **options: Any) -> SpanTaskConfig:
    return SpanTaskConfig(
        **{"data": data, "tokens_per_sample": 40, "max_question_length": 12, "doc_stride": 12} | options
    )


def pointing(samples: QuestionWindows, *, columns: int = 2) -> list[np.ndarray]:
    """Return outputs that point at the targets."""
    outputs = []
    for size, (first, last, _) in zip(samples.sizes.tolist(), samples.targets.tolist(), strict=True):
        rows = np.zeros((size, columns), dtype=np.float32)
        rows[first, 0] += 9.0
        rows[last, 1] += 9.0
        if columns == 3:
            rows[0, 2] = 4.0 if first else -4.0
        outputs.append(rows)
    return outputs


def test_windows_of_a_question_have_its_answer_or_none(folder: Path, tokenizer: Tokenizer) -> None:
    task = SpanTask(config(folder), tokenizer)
    samples = task.samples("train")
    assert len(samples) > 4
    batch = samples.batch(np.arange(len(samples)), seed=1, epoch=1)
    assert batch.num_targets == len(samples)
    assert batch.select is None
    assert batch.layout.lengths == tuple(samples.sizes.tolist())
    found = []
    for tokens, (first, last, begin) in zip(
        batch.tokens.split(batch.layout.lengths), batch.targets.tolist(), strict=True
    ):
        ids = tokens.tolist()
        assert ids[0] == 0
        assert ids[begin - 2 : begin] == [2, 2]
        assert ids[-1] == 2
        found.append(tokenizer.decode(ids[first : last + 1]) if first else "")
    assert found[: len(found) // 2] == [" London", *[""] * (len(found) // 2 - 1)]
    assert found[len(found) // 2 :][-1] == " Babbage"
    some = samples.batch(np.array([3, 0]), seed=1, epoch=1)
    assert some.tokens.tolist() == [*samples.windows.tokens(3).tolist(), *samples.windows.tokens(0).tolist()]
    assert some.targets.tolist() == samples.targets[[3, 0]].tolist()


def test_outputs_that_point_at_the_answers_score_everything(folder: Path, tokenizer: Tokenizer) -> None:
    samples = SpanTask(config(folder), tokenizer).samples("valid")
    assert (samples.metric, samples.maximise) == ("f1", True)
    figures = samples.score(pointing(samples))
    assert figures == {"exact": 100.0, "f1": 100.0, "total": 2, "missing": 0, "unknown": 0}
    wrong = [rows[::-1].copy() for rows in pointing(samples)]
    assert samples.score(wrong)["exact"] == 0.0


def test_answers_of_2_0_are_given_up_to_the_best_threshold(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(squad(v2=True)), encoding="utf-8")
    task = SpanTask(config(path, dev=path, version="2.0"), tokenizer)
    assert task.head_config(None) == SpanHeadConfig(answerable=True)
    samples = task.samples("valid")
    assert (samples.metric, samples.maximise) == ("best_f1", True)
    outputs = pointing(samples, columns=3)
    figures = samples.score(outputs)
    assert (figures["exact"], figures["f1"], figures["best_f1"], figures["NoAns_exact"]) == (100.0,) * 4
    assert 0.01 < figures["best_f1_thresh"] < 0.02  # 1 / (1 + e^4)
    for rows in outputs:
        rows[0, 2] = 4.0
    assert samples.score(outputs)["exact"] == pytest.approx(200 / 3)


def test_a_window_without_the_answer_does_not_make_a_question_unanswerable(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(squad(v2=True)), encoding="utf-8")
    samples = SpanTask(config(path, dev=path, version="2.0"), tokenizer).samples("valid")
    answers = samples.answers(pointing(samples, columns=3), n_best=5)
    assert {name: round(found.no_answer_probability) for name, found in answers.items()} == {
        "where": 0,
        "who": 0,
        "none": 1,
    }


def test_predictions_say_what_is_found_and_how_likely_the_right_answer_is(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(squad(v2=True)), encoding="utf-8")
    samples = SpanTask(config(path, dev=path, version="2.0"), tokenizer).samples("valid")
    outputs = pointing(samples, columns=3)
    where, who, none = samples.predictions(outputs)
    assert (where.id, where.answer, where.prediction) == ("where", "London", "London")
    assert where.text == f"Where was Ada born? {CONTEXT}"
    assert where.source == f"{path}: data[0].paragraphs[0].qas[0]"
    assert where.probabilities is not None
    assert next(iter(where.probabilities)) == "London"
    assert where.error == pytest.approx(-math.log(where.probabilities["London"]))
    assert who.prediction == "Babbage"
    assert (none.answer, none.prediction) == ("", "")
    assert none.error == pytest.approx(-math.log(1 / (1 + math.exp(-4.0))))
    wrong = samples.predictions([rows[::-1].copy() for rows in outputs])[0]
    assert wrong.error is not None
    assert wrong.error > 3


def test_predictions_are_written_as_the_official_scorers_read_them(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "dev.json"
    for v2, version in ((False, "1.1"), (True, "2.0")):
        path.write_text(json.dumps(squad(v2=v2)), encoding="utf-8")
        samples = SpanTask(config(path, dev=path, version=version), tokenizer).samples("valid")
        samples.write_predictions(tmp_path, pointing(samples, columns=3 if v2 else 2))
        predictions = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
        assert predictions == {"where": "London", "who": "Babbage"} | ({"none": "Ad"} if v2 else {})
        assert json.loads((tmp_path / "na_prob.json").read_text(encoding="utf-8")).keys() == predictions.keys()


def test_files_of_2_0_score_what_is_reported_where_a_right_answer_is_above_the_threshold(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(squad(v2=True)), encoding="utf-8")
    samples = SpanTask(config(path, dev=path, version="2.0"), tokenizer).samples("valid")
    outputs = pointing(samples, columns=3)
    for window, question in enumerate(samples.windows.question_ids.tolist()):
        outputs[window][0, 2] = (4.0, -6.0, -4.0)[question]  # the right answer of "who" is less likely than none
    figures = samples.score(outputs)
    assert figures["exact"] == pytest.approx(200 / 3)
    assert figures["pr_exact_ap"] == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 3))
    samples.write_predictions(tmp_path, outputs)
    predictions, no_answer = read_predictions(tmp_path / "predictions.json"), read_na_probs(tmp_path / "na_prob.json")
    again = score_predictions(samples.questions, predictions, no_answer, na_threshold=figures["best_f1_thresh"])
    assert again == figures
    assert samples.predictions(outputs)[1].prediction == ""


def test_answers_are_decoded_once_for_one_set_of_outputs(
    folder: Path, tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = SpanTask(config(folder), tokenizer).samples("valid")
    decode, calls = samples.windows.answers, []
    monkeypatch.setattr(
        samples.windows, "answers", lambda *args, **options: calls.append(options) or decode(*args, **options)
    )
    outputs = pointing(samples)
    first = samples.score(outputs)
    calls.clear()
    predictions = samples.predictions(outputs)
    samples.write_predictions(tmp_path, outputs)
    assert samples.score(outputs) == first
    assert len(calls) == 1
    assert len(predictions[0].probabilities or {}) == 5
    others = [rows[::-1].copy() for rows in outputs]
    assert samples.predictions(others) != predictions
    assert samples.score(others) != first
    assert len(calls) == 2


def test_a_question_without_told_answer_is_predicted_all_the_same(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(squad(answers=[])), encoding="utf-8")
    samples = SpanTask(config(path, dev=path), tokenizer).samples("valid")
    prediction = samples.predictions(pointing(samples))[1]
    assert (prediction.answer, prediction.error) == (None, None)
    assert prediction.prediction in CONTEXT


def test_training_leaves_out_answers_out_of_place_and_scoring_keeps_them(
    tmp_path: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(squad(answers=[{"text": "Babbage", "answer_start": 3}])), encoding="utf-8")
    task = SpanTask(config(path, dev=path), tokenizer)
    with caplog.at_level(logging.INFO):
        assert [question.id for question in task.samples("train").questions] == ["where"]
    assert "1 answers do not stand where they are said to start; with them, 1 of 2" in caplog.text
    assert "train: 1 questions in 5 windows, 4 of them without the answer; 0 questions cut to 12 tokens" in caplog.text
    caplog.clear()
    valid = task.samples("valid")
    assert "1 answers do not stand where they are said to start; their texts are compared all the same" in caplog.text
    assert [question.id for question in valid.questions] == ["where", "who"]
    assert not valid.targets[valid.windows.question_ids == 1, :2].any()


def test_files_are_found_in_a_folder_or_as_they_are_given(folder: Path, tokenizer: Tokenizer) -> None:
    train, dev = folder / "train-v1.1.json", folder / "dev-v1.1.json"
    assert len(SpanTask(config(train, dev=dev), tokenizer).samples("valid").questions) == 2
    with pytest.raises(ConfigError, match="--dev is missing: the development file"):
        SpanTask(config(train), tokenizer).samples("valid")
    with pytest.raises(ConfigError, match=r"--dev .*: --data .* is a folder, which holds both files"):
        SpanTask(config(folder, dev=dev), tokenizer).samples("valid")
    (folder / "train-v2.0.json").write_text("")
    assert len(SpanTask(config(folder), tokenizer).samples("train").questions) == 2
    (folder / "train-part-v1.1.json.gz").write_text("")
    assert len(SpanTask(config(folder), tokenizer).samples("train").questions) == 2  # whose name is that word alone
    train.rename(folder / "train-big-v1.1.json")
    message = "train-big-v1.1.json and train-part-v1.1.json.gz could each be it; give the training file"
    with pytest.raises(DataError, match=message):
        SpanTask(config(folder), tokenizer).samples("train")
    with pytest.raises(DataError, match="no file of the test split; expected one named test with .json, packed"):
        SpanTask(config(folder), tokenizer).samples("test")


def test_files_that_name_no_version_are_found_in_a_folder(folder: Path, tokenizer: Tokenizer) -> None:
    for split, name in (("train", "train.json"), ("dev", "my-validation.json")):
        (folder / f"{split}-v1.1.json").rename(folder / name)
    task = SpanTask(config(folder), tokenizer)
    assert [len(task.samples(split).questions) for split in ("train", "valid")] == [2, 2]


def test_the_other_version_is_refused(folder: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"train-v1.1.json: this is SQuAD 1.1, but 2.0 is asked for"):
        SpanTask(config(folder, version="2.0"), tokenizer).samples("train")


def test_what_can_not_be_learnt_or_scored_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "set.json"
    data = squad(answers=[{"text": "Babbage", "answer_start": 3}])
    data["data"][0]["paragraphs"][0]["qas"].pop(0)
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DataError, match=r"set.json: no question has an answer that stands where it is said to start"):
        SpanTask(config(path), tokenizer).samples("train")
    data["data"][0]["paragraphs"][0]["qas"][0]["answers"] = []
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DataError, match=r"set.json: no question has an answer told; training needs answers"):
        SpanTask(config(path), tokenizer).samples("train")
    untold = Question("a", "", "x", "?", (), None, "test.json: data[0]")
    with pytest.raises(DataError, match=r"test.json: data\[0\]: no answer; without gold answers nothing can be scored"):
        gold_texts([untold], "1.1")
    assert gold_texts([untold], "2.0") == {"a": []}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_answer_length": 0}, "--max-answer-length is 0"),
        ({"doc_stride": 25}, "--tokens-per-sample, --max-question-length, --doc-stride: sequences of 40 tokens"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(Path("x"), **options)


def test_task_and_criterion_are_registered() -> None:
    assert TASKS.config_class("span") is SpanTaskConfig
    assert "span" in list(CRITERIONS)
