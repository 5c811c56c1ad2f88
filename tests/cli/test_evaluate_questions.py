"""roberta-eval on questions and pronouns: figures that agree with the hub's answers one by one."""

import json
import logging

import numpy as np
import pytest
import torch

from roberta.checkpoint import native
from roberta.data.tokenizer import Tokenizer
from roberta.hub import RobertaHubInterface
from roberta.metrics import wilson_interval
from roberta.models.heads import ChoiceHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta_cli import evaluate

WORDS = "the cat sat on a mat and saw seven dogs who ran far away from it last night".split()


@pytest.fixture(scope="module")
def roberta():
    torch.manual_seed(3)
    config = RobertaConfig(encoder_layers=2, embed_dim=16, ffn_embed_dim=32, attention_heads=2, max_positions=48)
    model = RobertaModel(config)
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("choice", ChoiceHeadConfig())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return RobertaHubInterface(model.eval(), Tokenizer.load())


@pytest.fixture(scope="module")
def model(roberta, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    native.save(folder, roberta.model, roberta.tokenizer)
    return folder


@pytest.fixture
def measure(model, capsys):
    """Return a function that runs roberta-eval and returns its exit code, its JSON and its messages."""

    def run(*arguments):
        code = evaluate.main([*map(str, arguments), "--model", str(model), "--device", "cpu"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def phrase(rng, most):
    return " ".join(rng.choice(WORDS, rng.integers(1, most)))


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def questions(number):
    rng = np.random.default_rng(number)
    return [
        {
            "text": phrase(rng, 60),
            "ask": phrase(rng, 5),
            "of": [phrase(rng, 4) for _ in range(2 + k % 3)],
            "right": k % 2,
        }
        for k in range(number)
    ]


def test_choices_agree_with_those_of_the_hub(roberta, measure, tmp_path):
    rows = questions(12)
    write(tmp_path / "dev.jsonl", rows)
    columns = ("--context-field", "text", "--question-field", "ask", "--option-fields", "of", "--answer-field", "right")
    code, result, _ = measure("choices", tmp_path, *columns)
    right = [roberta.choose(row["text"], row["ask"], row["of"], truncate=True).index == row["right"] for row in rows]
    assert code == 0
    assert 0 < sum(right) < len(right)
    assert result["accuracy"] == pytest.approx(np.mean(right))
    assert result["accuracy_95"] == pytest.approx(wilson_interval(sum(right), len(right)))
    assert (result["head"], result["num_examples"]) == ("choice", 12)
    write(tmp_path / "dev.jsonl", rows[:1])
    write(tmp_path / "mine.jsonl", rows)
    assert measure("choices", tmp_path / "mine.jsonl", *columns)[1]["accuracy"] == result["accuracy"]


def test_questions_are_cut_as_in_the_training_of_the_model(roberta, measure, tmp_path, capsys):
    rows = [
        {"text": "the cat " * 20, "ask": "sat on", "of": ["a mat " * n, "dogs " * (n + 1)], "right": 0}
        for n in range(1, 9)
    ]
    write(tmp_path / "dev.jsonl", rows)
    columns = ("--context-field", "text", "--question-field", "ask", "--option-fields", "of", "--answer-field", "right")
    task = {"type": "sentence_ranking", "tokens_per_sample": 20, "max_option_length": 5}
    native.save(tmp_path / "run", roberta.model, roberta.tokenizer, native.TrainingState({"task": task}, {}, {}))
    lengths = ("--tokens-per-sample", 20, "--max-option-length", 5)
    _, expected, _ = measure("choices", tmp_path, *columns, *lengths)
    assert evaluate.main(["choices", str(tmp_path), *columns, "--model", str(tmp_path / "run"), "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    _, whole, _ = measure("choices", tmp_path, *columns)
    assert result["loss"] == expected["loss"] != whole["loss"]
    _, shorter, _ = measure("choices", tmp_path, *columns, *lengths[:2])
    assert shorter["loss"] != expected["loss"]


def test_race_is_scored_by_level(roberta, measure, tmp_path):
    rng = np.random.default_rng(1)
    right = {}
    for level in ("middle", "high"):
        folder = tmp_path / "dev" / level
        folder.mkdir(parents=True)
        passage = {
            "article": phrase(rng, 90),
            "questions": [phrase(rng, 5) for _ in range(6)],
            "options": [[phrase(rng, 4) for _ in range(4)] for _ in range(6)],
            "answers": list("ABCDAB"),
        }
        (folder / "1.txt").write_text(json.dumps(passage), encoding="utf-8")
        found = roberta.choose(passage["article"], passage["questions"], passage["options"], truncate=True)
        right[level] = [choice.index == "ABCD".index(a) for choice, a in zip(found, passage["answers"], strict=True)]
    result = measure("race", tmp_path)[1]
    assert result["accuracy_middle"] == pytest.approx(np.mean(right["middle"]))
    assert result["accuracy_high"] == pytest.approx(np.mean(right["high"]))
    assert result["accuracy"] == pytest.approx(np.mean([*right["middle"], *right["high"]]))


def test_pronouns_are_scored_without_fine_tuning(roberta, measure, tmp_path):
    rng = np.random.default_rng(2)
    rows = [
        {"sentence": f"{phrase(rng, 9)} _ {phrase(rng, 9)}", "option1": phrase(rng, 3), "option2": phrase(rng, 5)}
        for _ in range(12)
    ]
    for position, row in enumerate(rows):
        row["answer"] = str(1 + position % 2)
    write(tmp_path / "dev.jsonl", rows)
    code, result, _ = measure("winogrande", tmp_path / "dev.jsonl")
    answers = [
        roberta.disambiguate_pronoun(row["sentence"].replace("_", "[it]"), [row["option1"], row["option2"]])
        for row in rows
    ]
    right = [answer == row[f"option{row['answer']}"] for answer, row in zip(answers, rows, strict=True)]
    assert code == 0
    assert 0 < sum(right) < len(right)
    assert result["accuracy"] == pytest.approx(np.mean(right))
    assert (result["head"], result["num_examples"]) == ("lm", 12)


def test_what_is_cut_is_counted_and_said(measure, tmp_path, caplog):
    rows = [
        {"question": "one", "options": ["a", "b"], "answer": 0},
        {"question": "one " * 99, "options": ["a", "b"], "answer": 0},
        {"question": "one", "options": ["a", "b " * 99], "answer": 0},
    ]
    write(tmp_path / "dev.jsonl", rows)
    with caplog.at_level(logging.INFO):
        result = measure("choices", tmp_path)[1]
    assert (result["num_truncated"], result["num_options_truncated"]) == (2, 1)
    assert "valid: 3 questions; 2 with a context cut to fit 48 tokens, 1 with options cut to 44 tokens" in caplog.text
    pronouns = [
        {"sentence": f"{'so ' * count}_ ran.", "option1": "Ann", "option2": "Eve", "answer": "1"} for count in (3, 99)
    ]
    write(tmp_path / "pronouns.jsonl", pronouns)
    result = measure("winogrande", tmp_path / "pronouns.jsonl")[1]
    assert (result["num_truncated"], result["num_single_candidates"]) == (1, 0)


def test_what_is_read_is_logged_to_stderr(measure, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    write(tmp_path / "dev.jsonl", [{"question": "one", "options": ["a", "b"], "answer": 0}])
    code, result, messages = measure("choices", tmp_path)
    assert (code, result["num_truncated"]) == (0, 0)
    assert "valid: 1 questions; 0 with a context cut to fit 48 tokens" in messages


def test_a_split_of_race_may_be_given(measure, tmp_path):
    counts = {"dev": 2, "test": 3, "mine": 1}
    for split, count in counts.items():
        folder = tmp_path / split / "high"
        folder.mkdir(parents=True)
        passage = {
            "article": "x",
            "questions": ["q"] * count,
            "options": [["a", "b"]] * count,
            "answers": ["A"] * count,
        }
        (folder / "1.txt").write_text(json.dumps(passage), encoding="utf-8")
        assert measure("race", tmp_path / split)[1]["num_examples"] == count
    assert measure("race", tmp_path)[1]["num_examples"] == 2
    assert measure("race", tmp_path, "--split", "test")[1]["num_examples"] == 3
    code, _, message = measure("race", tmp_path / "dev", "--split", "test")
    assert code == 2
    assert f"--split chooses a folder of RACE, and {tmp_path / 'dev'} is one of them: leave it out" in message
    code, _, message = measure("race", tmp_path / "dev/high/1.txt")
    assert code == 2
    assert "1.txt: not a folder; give that of RACE, or one of its splits such as RACE/test" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("choices", "x", "--text-columns", "a"), "--text-columns is an option of table, not of choices: leave it out"),
        (("race", "x", "--question-field", "q"), "--question-field is an option of choices, not of race"),
        (("winogrande", "x", "--wsc-candidates", "spans"), "--wsc-candidates is an option of wsc, not of winogrande"),
        (("masked_lm", "x", "--labels", "a"), "--labels is an option of labelled texts, not of masked_lm"),
        (("rte", "x", "--doc-stride", "3"), "--doc-stride is an option of squad, not of rte"),
    ],
)
def test_options_of_other_tasks_are_refused(measure, arguments, message):
    code, _, found = measure(*arguments)
    assert code == 2
    assert message in found


def test_wsc_is_scored_with_the_spans_of_other_questions(measure, tmp_path):
    target = {"span1_index": 0, "span2_text": "He", "span2_index": 6}
    rows = [
        {"text": "Mark told Pete that he left. He lied.", "target": {**target, "span1_text": name}, "label": label}
        for name, label in (("Mark", True), ("Pete", False))
    ]
    write(tmp_path / "val.jsonl", rows)
    code, result, _ = measure("wsc", tmp_path, "--wsc-candidates", "spans")
    assert code == 0
    assert result["accuracy"] in (0.0, 1.0)  # the questions are each other's opposites
    assert result["num_examples"] == 2
    write(tmp_path / "val.jsonl", rows[1:])
    result = measure("wsc", tmp_path, "--wsc-candidates", "spans")[1]
    assert (result["num_single_candidates"], result["accuracy"]) == (1, 0.0)  # the query is taken, and it is wrong


@pytest.mark.parametrize(("task", "head"), [("choices", "lm"), ("winogrande", "choice")])
def test_a_head_for_other_things_is_refused(measure, tmp_path, task, head):
    row = {"question": "a", "options": ["b", "c"], "answer": 0}
    row |= {"sentence": "A _ b.", "option1": "x", "option2": "y"} if task == "winogrande" else {}
    row |= {"answer": "1"} if task == "winogrande" else {}
    write(tmp_path / "dev.jsonl", [row])
    code, _, message = measure(task, tmp_path, "--head", head)
    assert code == 2
    assert "heads" in message
    assert message.startswith("error: ")


def test_a_missing_head_and_missing_answers_are_named(measure, tmp_path):
    write(tmp_path / "test.jsonl", [{"question": "a", "options": ["b", "c"]}])
    code, _, message = measure("choices", tmp_path, "--split", "test")
    assert code == 2
    assert "has an answer to score" in message
    code, _, message = measure("choices", tmp_path, "--split", "test", "--head", "ranking")
    assert code == 2
    assert "no head 'ranking'" in message
