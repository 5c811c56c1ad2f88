"""roberta-eval squad: figures of files and of a model, the files it writes, and what is said of bad ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from roberta.answers import PREDICTIONS
from roberta.checkpoint import native
from roberta.data.readers.squad import read_squad
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError
from roberta.hub import RobertaHubInterface
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig, SpanHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta_cli import evaluate, finetune

CONTEXT = "Ada Lovelace was born in London in 1815. " + "She wrote notes on the engine. " * 8 + "Babbage built it."
ANSWERS = {"where": ["London", "in London"], "who": ["Babbage"], "when": ["1815", "in 1815"]}
LENGTHS = ("--doc-stride", "8", "--max-question-length", "12", "--max-answer-length", "3")


def dev_set(folder: Path, *, v2: bool) -> Path:
    asked: list[dict[str, Any]] = [
        {"id": name, "question": f"{name}?", "answers": [{"text": t, "answer_start": CONTEXT.index(t)} for t in texts]}
        for name, texts in ANSWERS.items()
    ]
    if v2:
        asked.append({"id": "none", "question": "Who died?", "answers": []})
        for question in asked:
            question["is_impossible"] = question["id"] == "none"
    path = folder / f"dev-v{2 if v2 else 1}.json"
    path.write_text(json.dumps({"data": [{"title": "", "paragraphs": [{"context": CONTEXT, "qas": asked}]}]}))
    return path


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, values: Any) -> Path:
        path = tmp_path / name
        path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def roberta() -> RobertaHubInterface:
    torch.manual_seed(1)
    model = RobertaModel(
        RobertaConfig(encoder_layers=1, embed_dim=16, ffn_embed_dim=32, attention_heads=2, max_positions=32)
    )
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("span", SpanHeadConfig(answerable=True))
    torch.nn.init.normal_(model.heads["span"].out_proj.weight)
    return RobertaHubInterface(model.eval(), Tokenizer.load())


@pytest.fixture(scope="module")
def model(roberta, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    native.save(folder, roberta.model, roberta.tokenizer)
    return folder


def measure(capsys, *arguments: object) -> dict[str, Any]:
    assert evaluate.main(["squad", *map(str, arguments), "--device", "cpu"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def refusal(capsys, *arguments: object) -> str:
    assert evaluate.main(["squad", *map(str, arguments), "--device", "cpu"]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_predictions_are_scored_as_the_official_scorer_of_1_1_does(tmp_path, write, capsys):
    predictions = write("p.json", {"where": "the LONDON", "who": "Charles Babbage", "other": "x"})
    figures = measure(capsys, dev_set(tmp_path, v2=False), "--predictions", predictions)
    assert figures == {
        "task": "squad",
        "model": None,
        "exact": 100 / 3,
        "f1": pytest.approx(100 * (1 + 2 / 3) / 3, abs=1e-12),
        "total": 3,
        "missing": 1,
        "unknown": 1,
    }


def test_predictions_are_scored_as_the_official_scorer_of_2_0_does(tmp_path, write, capsys):
    data = dev_set(tmp_path, v2=True)
    predictions = write("p.json", {"where": "London", "who": "Babbage", "when": "", "none": "Ada"})
    figures = measure(capsys, data, "--predictions", predictions)
    assert (figures["exact"], figures["HasAns_exact"], figures["NoAns_exact"]) == (50.0, 200 / 3, 0.0)
    assert "best_f1" not in figures
    probabilities = write("na.json", {"where": 0.1, "who": 0.3, "when": 1, "none": 0.5})
    figures = measure(capsys, data, "--predictions", predictions, "--na-prob", probabilities)
    assert (figures["exact"], figures["best_exact"], figures["best_exact_thresh"]) == (50.0, 75.0, 0.3)
    assert figures["pr_oracle_ap"] == pytest.approx(100 * (1 / 3 + 1 / 3 + 3 / 4 / 3))
    figures = measure(capsys, data, "--predictions", predictions, "--na-prob", probabilities, "--na-prob-thresh", "0.3")
    assert figures["exact"] == 75.0


@pytest.mark.parametrize("v2", [False, True])
def test_a_model_answers_and_its_files_score_what_it_says(tmp_path, model, capsys, v2):
    data, folder = dev_set(tmp_path, v2=v2), tmp_path / "answers"
    figures = measure(capsys, data, "--model", model, *LENGTHS, "--save-answers", folder)
    assert (figures["head"], figures["total"], figures["missing"]) == ("span", 4 if v2 else 3, 0)
    assert figures["num_windows"] > 3 * 3
    assert figures["tokens_per_s"] > 0
    files = ["--predictions", folder / "predictions.json"]
    if v2:
        files += ["--na-prob", folder / "na_prob.json", "--na-prob-thresh", figures["best_f1_thresh"]]
    again = measure(capsys, data, *files)
    same = {name for name in again if name not in ("task", "model")}
    assert {name: again[name] for name in same} == {name: figures[name] for name in same}
    nbest = json.loads((folder / "nbest.json").read_text("utf-8"))
    assert {len(answers) for answers in nbest.values()} == {21 if v2 else 20}
    assert all(answer["text"] in CONTEXT for answers in nbest.values() for answer in answers)
    no_answer = json.loads((folder / "na_prob.json").read_text("utf-8"))
    for name, answers in nbest.items():
        assert [a["probability"] for a in answers] == sorted((a["probability"] for a in answers), reverse=True)
        assert [a["probability"] for a in answers if not a["text"]] == ([no_answer[name]] if v2 else [])


def test_files_of_2_0_score_the_same_where_right_answers_are_unlikely(tmp_path, model, capsys):
    names = [f"q{number}" for number in range(6)]
    asked: list[dict[str, Any]] = [
        {"id": name, "question": f"{name} who was {name * number}?", "answers": [], "is_impossible": True}
        for number, name in enumerate(names)
    ]
    data, folder = tmp_path / "dev.json", tmp_path / "answers"
    contents = {"data": [{"title": "", "paragraphs": [{"context": CONTEXT, "qas": asked}]}]}
    data.write_text(json.dumps(contents))
    arguments = (data, "--model", model, "--save-answers", folder)
    measure(capsys, *arguments)
    predictions = json.loads((folder / "predictions.json").read_text("utf-8"))
    no_answer = json.loads((folder / "na_prob.json").read_text("utf-8"))
    ranked = sorted(names, key=no_answer.__getitem__)
    assert len(set(no_answer.values())) == 6
    for question in asked:  # the surest answer and the least sure one are right, the others are to be none
        text = predictions[question["id"]]
        assert text
        if question["id"] in (ranked[0], ranked[-1]):
            question.update(is_impossible=False, answers=[{"text": text, "answer_start": CONTEXT.index(text)}])
    data.write_text(json.dumps(contents))
    figures = measure(capsys, *arguments)
    assert figures["exact"] == figures["best_exact"] == pytest.approx(100 * 5 / 6)
    assert figures["best_f1_thresh"] == no_answer[ranked[0]]
    assert figures["pr_exact_ap"] == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 6))
    files = ("--predictions", folder / "predictions.json", "--na-prob", folder / "na_prob.json")
    again = measure(capsys, data, *files, "--na-prob-thresh", figures["best_f1_thresh"])
    assert len(again) > 15
    assert {**again, "model": str(model)} == {name: figures[name] for name in again}


def test_the_model_answers_as_through_the_hub(tmp_path, roberta, model, capsys):
    data, folder = dev_set(tmp_path, v2=False), tmp_path / "answers"
    measure(
        capsys, data, "--model", model, "--save-answers", folder, "--doc-stride", "8", "--max-question-length", "16"
    )
    predictions = json.loads((folder / PREDICTIONS).read_text("utf-8"))
    for question in read_squad(data):
        expected = roberta.answer(question.question, question.context, stride=8, threshold=1.0)
        assert predictions[question.id] == expected.text


@pytest.mark.parametrize(("name", "v2", "metric"), [("squad", False, "f1"), ("squad2", True, "best_f1")])
def test_fine_tuning_ends_with_a_model_and_files_that_score_what_it_says(tmp_path, model, capsys, name, v2, metric):
    data, run = dev_set(tmp_path, v2=v2), tmp_path / "run"
    lengths = ("--tokens-per-sample", "32", *LENGTHS)
    options = ("--max-epoch", "2", "--batch-size", "8", "--lr", "1e-3", "--device", "cpu")
    arguments = (name, data, "--dev", data, "--init", model, "--save-dir", run, *lengths, *options)
    assert finetune.main([*map(str, arguments)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metric"] == metric
    valid = report["splits"]["valid"]
    figures = measure(capsys, data, "--model", run / "best", *lengths)
    assert figures[metric] == pytest.approx(valid[metric])
    files = ["--predictions", run / "predictions/predictions.json", "--na-prob", run / "predictions/na_prob.json"]
    again = measure(capsys, data, *([*files, "--na-prob-thresh", valid["best_f1_thresh"]] if v2 else files[:2]))
    assert {name: value for name, value in again.items() if name not in ("task", "model")} == {
        name: valid[name] for name in again if name not in ("task", "model")
    }


def test_a_run_reads_as_it_was_trained_unless_told_otherwise(tmp_path, model, capsys):
    data, run = dev_set(tmp_path, v2=False), tmp_path / "run"
    lengths = ("--tokens-per-sample", "28", *LENGTHS)
    options = ("--max-epoch", "1", "--batch-size", "8", "--lr", "1e-3", "--device", "cpu")
    arguments = ("squad", data, "--dev", data, "--init", model, "--save-dir", run, *lengths, *options)
    assert finetune.main([*map(str, arguments)]) == 0
    capsys.readouterr()
    expected = {"tokens_per_sample": 28, "doc_stride": 8, "max_question_length": 12, "max_answer_length": 3}
    named = measure(capsys, data, "--model", run, *lengths)
    for path in (run, run / "best"):
        figures = measure(capsys, data, "--model", path)
        assert {name: figures[name] for name in expected} == expected
        assert (figures["f1"], figures["num_windows"]) == (named["f1"], named["num_windows"])
    assert finetune.main([*map(str, arguments), "--save-dir", str(tmp_path / "two"), "--seeds", "1", "2"]) == 0
    capsys.readouterr()
    assert measure(capsys, data, "--model", tmp_path / "two")["tokens_per_sample"] == 28
    figures = measure(capsys, data, "--model", run, "--doc-stride", "5", "--tokens-per-sample", "30")
    assert {name: figures[name] for name in expected} == {**expected, "doc_stride": 5, "tokens_per_sample": 30}


def test_a_model_that_no_run_made_reads_what_fits(tmp_path, model, capsys):
    figures = measure(capsys, dev_set(tmp_path, v2=False), "--model", model)
    found = [figures[name] for name in ("tokens_per_sample", "doc_stride", "max_question_length", "max_answer_length")]
    assert found == [32, 8, 16, 30]


def test_windows_of_training_fit_a_short_model_as_those_of_reading_do(tmp_path, model):
    arguments = ["squad", str(tmp_path), "--init", str(model), "--save-dir", str(tmp_path / "run")]
    task = finetune.parse(arguments)[1].task
    assert (task.tokens_per_sample, task.doc_stride, task.max_question_length) == (32, 8, 16)
    for chosen, expected in (
        (["--doc-stride", "19", "--max-question-length", "9"], (32, 19, 9)),
        (["--doc-stride", "10"], (32, 10, 16)),
        (["--max-question-length", "9"], (32, 8, 9)),
        (["--tokens-per-sample", "30", "--doc-stride", "3", "--max-question-length", "4"], (30, 3, 4)),
    ):
        task = finetune.parse([*arguments, *chosen])[1].task
        assert (task.tokens_per_sample, task.doc_stride, task.max_question_length) == expected
    with pytest.raises(ConfigError, match="--tokens-per-sample is 33; the model takes at most 32"):
        finetune.parse([*arguments, "--tokens-per-sample", "33", "--doc-stride", "3", "--max-question-length", "4"])


def test_cut_questions_are_counted(tmp_path, model, capsys, caplog):
    data = dev_set(tmp_path, v2=False)
    assert measure(capsys, data, "--model", model)["num_questions_truncated"] == 0
    with caplog.at_level("INFO"):
        assert measure(capsys, data, "--model", model, "--max-question-length", "1")["num_questions_truncated"] == 3
    assert "3 questions cut to 1 tokens" in caplog.text


@pytest.mark.parametrize(
    ("v2", "answerable", "found", "message"),
    [
        (False, False, "never", None),
        (False, True, "never", "the head is for SQuAD 2.0, the data of 1.1"),
        (True, False, "<s>", "the head is for SQuAD 1.1, the data of 2.0"),
        (True, True, "classifier", None),
    ],
)
def test_it_is_said_how_no_answer_is_told(tmp_path, roberta, capsys, caplog, v2, answerable, found, message):
    torch.manual_seed(2)
    other = RobertaModel(roberta.model.config)
    other.register_head("span", SpanHeadConfig(answerable=answerable))
    native.save(tmp_path / "other", other, roberta.tokenizer)
    data, folder = dev_set(tmp_path, v2=v2), tmp_path / "answers"
    assert measure(capsys, data, "--model", tmp_path / "other", "--save-answers", folder)["no_answer"] == found
    assert [record.getMessage()[:42] for record in caplog.records if record.levelname == "WARNING"] == (
        [message] if message else []
    )
    assert all(json.loads((folder / "predictions.json").read_text("utf-8")).values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --model"),
        (
            ["--predictions", "P", "--model", "x"],
            "--model and --predictions: the one gives answers, the other has them",
        ),
        (["--na-prob", "N"], "--na-prob goes with --predictions"),
        (["--predictions", "P", "--save-answers", "x"], "--save-answers writes those of a model"),
        (["--predictions", "P", "--na-prob-thresh", "0.5"], "--na-prob-thresh is one of --na-prob; give both"),
        (["--predictions", "P", "--doc-stride", "9"], "--doc-stride says how a model reads, and --predictions has"),
        (["--predictions", "P", "--head", "x"], "--head says how a model reads, and --predictions has been read"),
        (["--predictions", "P", "--precision", "int8"], "--precision says how a model reads, and --predictions has"),
        (["--predictions", "P", "--split", "test"], "--split has no effect on squad, whose data is one file: leave it"),
        (["--predictions", "P", "--wsc-candidates", "spans"], "--wsc-candidates is an option of wsc, not of squad"),
        (["--text-columns", "a"], "--text-columns is an option of table, not of squad: leave it out"),
        (["--predictions", "TWICE"], "TWICE: 'where' stands there twice; leave one of them"),
        (["--predictions", "P", "--na-prob", "N"], "--na-prob is for SQuAD 2.0; in this file, of 1.1, every question"),
        (["--predictions", "N"], "N: 'where' is 0.5; expected the text of an answer"),
        (["--predictions", "LIST"], "LIST: expected an object with the text of an answer for each id, found list"),
        (["--predictions", "CUT"], "CUT: not JSON: "),
        (["--predictions", "NONE"], "none of the 3 questions has a prediction; are they predictions for another file?"),
        (["--predictions", "MISSING"], "MISSING: No such file"),
    ],
)
def test_what_can_not_be_scored_is_refused(tmp_path, write, capsys, monkeypatch, arguments, message):
    data = dev_set(tmp_path, v2=False)
    monkeypatch.chdir(tmp_path)
    for name, values in {"P": {"where": "x"}, "N": {"where": 0.5}, "LIST": ["x"], "CUT": '{"a', "NONE": {}}.items():
        write(name, values)
    write("TWICE", '{"where": "x", "where": "y"}')
    assert message in refusal(capsys, data, *arguments)


def test_probabilities_of_2_0_are_checked(tmp_path, write, capsys):
    data, predictions = dev_set(tmp_path, v2=True), write("P", {"where": "x", "who": "y"})
    for values, message in (
        ({"where": 0.1}, "1 predictions without a no-answer probability, 'who' among them"),
        ({"where": "0.1"}, "'where' is '0.1'; expected a number"),
        ({"where": True}, "'where' is True; expected a number"),
        ('{"where": NaN}', "'where' is nan; expected a finite number"),
    ):
        assert message in refusal(capsys, data, "--predictions", predictions, "--na-prob", write("N", values))


def test_models_that_do_not_fit_are_refused(tmp_path, roberta, model, capsys):
    data = dev_set(tmp_path, v2=False)
    assert "--tokens-per-sample, --max-question-length, --doc-stride: sequences of 32 tokens" in refusal(
        capsys, data, "--model", model, "--doc-stride", "13"
    )
    assert "--tokens-per-sample 64; the model takes 32 at most" in refusal(
        capsys, data, "--model", model, *LENGTHS, "--tokens-per-sample", "64"
    )
    other = RobertaModel(roberta.model.config)
    other.register_head("topic", ClassificationHeadConfig(num_classes=2))
    native.save(tmp_path / "other", other, roberta.tokenizer)
    assert "head 'topic' finds no spans; train one with roberta-finetune squad" in refusal(
        capsys, data, "--model", tmp_path / "other", *LENGTHS
    )
    other.register_head("span", SpanHeadConfig())  # which is then the one that is meant
    native.save(tmp_path / "both", other, roberta.tokenizer)
    assert evaluate.main(["squad", str(data), "--model", str(tmp_path / "both"), "--device", "cpu", *LENGTHS]) == 0
