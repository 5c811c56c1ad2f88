"""roberta-eval on labelled texts: figures that agree with single predictions, and what is said of what does not fit."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch

from roberta.checkpoint import native
from roberta.data.indexed import IndexedWriter
from roberta.data.readers.glue import GLUE, MNLI_LABELS, read_glue
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, VocabError
from roberta.hub import RobertaHubInterface
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig, RegressionHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta_cli import evaluate

HEADS = {
    "mnli": ClassificationHeadConfig(num_classes=3, labels=MNLI_LABELS),
    "nameless": ClassificationHeadConfig(num_classes=2),
    "stars": RegressionHeadConfig(maximum=5.0),
    "topics": ClassificationHeadConfig(num_classes=3, labels=("art", "sport", "war")),
    "tags": ClassificationHeadConfig(num_classes=3, labels=("art", "sport", "war"), multi_label=True),
}
WORDS = "the cat sat on a mat and saw seven dogs who ran far away from it last night".split()


@pytest.fixture(scope="module")
def roberta() -> RobertaHubInterface:
    """Return a model of 32 positions with heads of several kinds, whose outputs differ from text to text."""
    torch.manual_seed(0)
    config = RobertaConfig(encoder_layers=2, embed_dim=16, ffn_embed_dim=32, attention_heads=2, max_positions=32)
    model = RobertaModel(config)
    model.register_head("lm", MaskedLMHeadConfig())
    for name, head in HEADS.items():
        model.register_head(name, head)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return RobertaHubInterface(model.eval(), Tokenizer.load())


@pytest.fixture(scope="module")
def model(roberta, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    native.save(folder, roberta.model, roberta.tokenizer)
    return folder


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    return [(" ".join(rng.choice(WORDS, rng.integers(1, 9))), " ".join(rng.choice(WORDS, 3))) for _ in range(40)]


@pytest.fixture
def measure(model, capsys):
    """Return a function that runs roberta-eval and returns its JSON."""

    def run(*arguments: object) -> dict:
        assert evaluate.main([*map(str, arguments), "--model", str(model), "--device", "cpu"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refuse(model, capsys):
    """Return a function that runs roberta-eval and returns its one line of error."""

    def run(*arguments: object) -> str:
        assert evaluate.main([*map(str, arguments), "--model", str(model), "--device", "cpu"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        return error

    return run


def table(path: Path, header: str, rows: list[tuple]) -> Path:
    path.write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]), encoding="utf-8")
    return path


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_other_precisions_say_nearly_the_same(precision, measure, roberta, pairs, tmp_path):
    rows = [(*pair, roberta.predict("mnli", pair).label) for pair in pairs]
    assert len({label for _, _, label in rows}) > 1
    path = table(tmp_path / "pairs.tsv", "one\ttwo\tlabel", rows)
    options = ("--text-columns", "one", "two", "--head", "mnli", "--device", "cpu")
    exact, rounded = (measure("table", path, *options, "--precision", name) for name in ("fp32", precision))
    assert exact["correct"] == len(pairs)
    assert len(pairs) - 2 <= rounded["correct"] <= len(pairs)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_model_in_half_precision_is_evaluated_in_the_precision_asked_for(precision, roberta, tmp_path):
    copy.deepcopy(roberta).half().save_pretrained(tmp_path / "half")
    config = evaluate.EvalConfig(model=str(tmp_path / "half"), precision=precision, device="cpu")
    hub = evaluate._model(config)
    assert {parameter.dtype for parameter in hub.parameters()} == {
        torch.bfloat16 if precision == "bf16" else torch.float32
    }
    assert hub.model.is_int8 == (precision == "int8")


def test_fp16_is_not_for_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--precision fp16 is for GPUs, and this is a CPU; give fp32, bf16 or int8"):
        evaluate._model(evaluate.EvalConfig(model="roberta.mini", precision="fp16"))


def test_numpy_has_no_half_precision():
    with pytest.raises(ConfigError, match="--cpu-engine numpy multiplies in fp32; leave out it, or --precision bf16"):
        evaluate.EvalConfig(precision="bf16", cpu_engine="numpy")


def test_int8_is_not_for_a_gpu():
    with pytest.raises(ConfigError, match="--precision int8 is for CPUs; leave it out, or give --device cpu"):
        evaluate.EvalConfig(device="cuda", precision="int8")


def test_cpu_engines_give_the_same_figures(measure, roberta, pairs, tmp_path, caplog):
    rows = [(*pair, roberta.predict("mnli", pair).label) for pair in pairs]
    path = table(tmp_path / "pairs.tsv", "one\ttwo\tlabel", rows)
    options = ("--text-columns", "one", "two", "--head", "mnli", "--device", "cpu")
    for engine in ("torch", "numpy", "onednn", "auto"):
        assert measure("table", path, *options, "--cpu-engine", engine)["correct"] == len(pairs)
        hub = evaluate._model(evaluate.EvalConfig(model="roberta.mini", device="cpu", cpu_engine=engine))
        assert hub.model.cpu_engine in (("torch", "numpy", "onednn") if engine == "auto" else (engine,))
    assert caplog.text.count("matrices by") == 1


def test_int8_has_an_engine_of_its_own():
    with pytest.raises(ConfigError, match="--cpu-engine numpy doesn't multiply in int8; leave out it, or --precision"):
        evaluate.EvalConfig(precision="int8", cpu_engine="numpy")


def gold(pairs: list[tuple[str, str]], labels: tuple[str, ...]) -> list[str]:
    return [labels[index % len(labels)] for index in range(len(pairs))]


def test_mnli_is_scored_as_single_predictions_are(measure, roberta, pairs, tmp_path):
    genres = ["slate" if index < 25 else "travel" for index in range(len(pairs))]
    right = gold(pairs, MNLI_LABELS)
    rows = [(genre, *pair, label) for genre, pair, label in zip(genres, pairs, right, strict=True)]
    path = table(tmp_path / "dev_matched.tsv", "genre\tsentence1\tsentence2\tgold_label", rows)
    found = [roberta.predict("mnli", pair).label for pair in pairs]
    is_right = np.array(found) == np.array(right)
    assert len(set(found)) > 1
    result = measure("mnli", path, "--head", "mnli", "--max-tokens", 60)
    assert result["accuracy"] == result["correct"] / 40 == is_right.mean()
    low, high = result["accuracy_95"]
    assert 0 < low < result["accuracy"] < high < 1
    assert result["groups"] == {
        "slate": {"accuracy": is_right[:25].mean(), "num_examples": 25},
        "travel": {"accuracy": is_right[25:].mean(), "num_examples": 15},
    }
    assert result["labels"] == list(MNLI_LABELS)
    assert result["confusion"] == sklearn.metrics.confusion_matrix(right, found, labels=MNLI_LABELS).tolist()
    assert (result["num_examples"], result["num_truncated"], result["head"]) == (40, 0, "mnli")
    assert result["tokens_per_s"] > result["examples_per_s"] > 0
    assert measure("mnli", tmp_path, "--head", "mnli")["correct"] == result["correct"]


@pytest.mark.parametrize(("name", "metric"), [("mrpc", "f1"), ("cola", "matthews"), ("rte", "accuracy")])
def test_a_head_without_names_has_those_of_the_set(measure, roberta, pairs, tmp_path, name, metric):
    row = GLUE[name]
    codes = gold(pairs, row.codes or row.labels)
    if name == "cola":
        lines = [("x", code, "", pair[0]) for pair, code in zip(pairs, codes, strict=True)]
        table(tmp_path / "dev.tsv", "\t".join(map(str, lines[0])), lines[1:])
    else:
        lines = [(code, *pair) for pair, code in zip(pairs, codes, strict=True)]
        table(tmp_path / "dev.tsv", "\t".join((row.label, *row.texts)), lines)
    examples = read_glue(tmp_path, name, "valid")
    targets = [row.labels.index(example.label) for example in examples]
    found = [roberta.predict("nameless", example.texts).label for example in examples]
    scores = {
        "f1": sklearn.metrics.f1_score(targets, found),
        "matthews": sklearn.metrics.matthews_corrcoef(targets, found),
        "accuracy": sklearn.metrics.accuracy_score(targets, found),
    }
    result = measure(name, tmp_path, "--head", "nameless")
    assert result[metric] == pytest.approx(scores[metric], abs=1e-12)
    assert result["accuracy"] == scores["accuracy"]
    assert result["labels"] == list(row.labels)
    swapped = measure(name, tmp_path, "--head", "nameless", "--labels", *reversed(row.labels))
    assert swapped["accuracy"] == pytest.approx(1 - scores["accuracy"])


def test_stsb_is_scored_on_its_scale(measure, roberta, pairs, tmp_path):
    scores = np.linspace(0, 5, len(pairs)).round(2)
    rows = [("main-news", *pair, score) for pair, score in zip(pairs, scores, strict=True)]
    table(tmp_path / "dev.tsv", "genre\tsentence1\tsentence2\tscore", rows)
    found = np.array([roberta.predict("stars", pair).value for pair in pairs])
    result = measure("stsb", tmp_path, "--head", "stars")
    assert result["pearson"] == pytest.approx(np.corrcoef(found, scores)[0, 1], abs=1e-6)
    assert result["mean_squared_error"] == pytest.approx(np.mean((found - scores) ** 2), rel=1e-5)
    assert result["groups"]["main-news"] == {"pearson": result["pearson"], "num_examples": 40}


def test_your_own_tables_and_folders_are_scored(measure, roberta, pairs, tmp_path):
    labels = gold(pairs, ("art", "sport"))
    found = [roberta.predict("topics", pair[0]).label for pair in pairs]
    correct = sum(map(str.__eq__, found, labels))
    csv = "".join(f'"{pair[0]}",{label}\n' for pair, label in zip(pairs, labels, strict=True))
    (tmp_path / "test.csv").write_text(f"review,topic\n{csv}")
    columns = ("--text-columns", "review", "--label-column", "topic", "--head", "topics")
    assert measure("table", tmp_path / "test.csv", *columns)["correct"] == correct
    assert measure("table", tmp_path, "--split", "test", *columns)["macro_f1"] == pytest.approx(
        sklearn.metrics.f1_score(labels, found, average="macro")
    )
    for index, (pair, label) in enumerate(zip(pairs, labels, strict=True)):
        (tmp_path / "valid" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "valid" / label / f"{index}.txt").write_text(pair[0])
    assert measure("folders", tmp_path, "--head", "topics")["correct"] == correct


def test_the_case_of_labels_does_not_matter_where_it_tells_nothing_apart(measure, roberta, pairs, tmp_path):
    found = []
    for label in ("Sport", "sport"):
        table(tmp_path / "dev.tsv", "text\tlabel", [(pairs[0][0], label), (pairs[1][0], "war")])
        found.append(measure("table", tmp_path, "--head", "topics")["confusion"])
    assert found[0] == found[1]


def test_several_labels_need_a_head_for_several(refuse, pairs, tmp_path):
    table(tmp_path / "dev.tsv", "text\tlabel", [(pairs[0][0], "art,sport")])
    said = refuse("table", tmp_path, "--kind", "multi_label", "--head", "topics")
    assert "head 'topics' was trained to choose one class, and the data has several at once" in said


def test_several_labels_are_those_that_are_likelier_than_not(measure, roberta, pairs, tmp_path):
    names = HEADS["topics"].labels
    rng = np.random.default_rng(1)
    targets = rng.random((len(pairs), 3)) < 0.4
    rows = [
        {"text": pair[0], "label": [name for name, flag in zip(names, flags, strict=True) if flag]}
        for pair, flags in zip(pairs, targets.tolist(), strict=True)
    ]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    logits = [roberta.predict("tags", roberta.encode(pair[0]), return_logits=True)[0] for pair in pairs]
    found = (torch.stack(logits).sigmoid() > 0.5).numpy()
    result = measure("table", tmp_path, "--kind", "multi_label", "--head", "tags")
    assert result["micro_f1"] == pytest.approx(sklearn.metrics.f1_score(targets, found, average="micro"))
    assert result["exact_match"] == sklearn.metrics.accuracy_score(targets, found)


def test_long_texts_are_cut_counted_and_reported(measure, roberta, tmp_path, caplog):
    rows = [("a", "b", 0), ("a " * 100, "b", 1), ("a", "b " * 50, 1)]
    path = table(tmp_path / "dev.tsv", "sentence1\tsentence2\tlabel", rows)
    result = measure("wnli", tmp_path, "--head", "nameless")
    assert result["num_truncated"] == 2
    assert f"2 of 3 examples are longer than 32 tokens, and are cut; the first one is {path}:3" in caplog.text
    found = [roberta.predict("nameless", row[:2], truncate=True).label for row in rows]
    assert result["correct"] == sum(label == row[2] for label, row in zip(found, rows, strict=True))
    assert measure("wnli", tmp_path, "--head", "nameless", "--tokens-per-sample", 5)["num_truncated"] == 3
    assert measure("wnli", tmp_path, "--head", "nameless", "--tokens-per-sample", 6)["num_truncated"] == 2


@pytest.mark.parametrize(("task", "num_truncated"), [("sentence_prediction", 3), ("sentence_ranking", 2)])
def test_texts_are_cut_as_in_the_training_of_the_model(roberta, tmp_path, capsys, task, num_truncated):
    options = {"task": {"type": task, "tokens_per_sample": 5}}
    native.save(tmp_path / "run", roberta.model, roberta.tokenizer, native.TrainingState(options, {}, {}))
    rows = [("a", "b", 0), ("a " * 100, "b", 1), ("a", "b " * 50, 1)]
    path = table(tmp_path / "dev.tsv", "sentence1\tsentence2\tlabel", rows)
    arguments = ["wnli", str(path), "--head", "nameless", "--model", str(tmp_path / "run"), "--device", "cpu"]
    assert evaluate.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["num_truncated"] == num_truncated
    assert evaluate.main([*arguments, "--tokens-per-sample", "6"]) == 0
    assert json.loads(capsys.readouterr().out)["num_truncated"] == 2


def test_what_does_not_fit_is_refused(refuse, tmp_path):
    table(tmp_path / "dev.tsv", "sentence1\tsentence2\tlabel", [("a", "b", "entailment"), ("a", "b", "not_entailment")])
    table(tmp_path / "test.tsv", "sentence1\tsentence2", [("a", "b")])
    assert "the model has 5 heads that judge texts: mnli, nameless, stars, topics, tags" in refuse("rte", tmp_path)
    assert "dev.tsv:3: label 'not_entailment' is unknown to head 'mnli'; allowed: contradiction" in refuse(
        "rte", tmp_path, "--head", "mnli"
    )
    assert "head 'stars' is of kind regression" in refuse("rte", tmp_path, "--head", "stars")
    assert "head 'lm' is of kind masked_lm; the data has classes" in refuse("rte", tmp_path, "--head", "lm")
    assert "--max-tokens is -5" in refuse("rte", tmp_path, "--max-tokens", -5)
    assert "has 2 outputs, but the labels are 3: a, b, c" in refuse(
        "rte", tmp_path, "--head", "nameless", "--labels", "a", "b", "c"
    )
    assert "has 2 outputs, but the labels are 0: none; name" in refuse(
        "table", tmp_path, "--head", "nameless", "--text-columns", "sentence1"
    )
    assert "test.tsv:2: no label; give a split that has labels" in refuse(
        "rte", tmp_path, "--head", "nameless", "--split", "test"
    )
    table(tmp_path / "score.tsv", "text\tlabel", [("a", "0.5")])
    assert "head 'mnli' gives no single number" in refuse(
        "table", tmp_path / "score.tsv", "--kind", "regression", "--head", "mnli"
    )
    assert "no head 'mnly'" in refuse("rte", tmp_path, "--head", "mnly")
    assert "argument TASK: invalid choice: 'rtf'" in refuse("rtf", tmp_path)


def test_more_tokens_than_the_model_takes_are_refused(refuse, tmp_path):
    table(tmp_path / "dev.tsv", "sentence1\tsentence2\tlabel", [("a", "b", 0)])
    said = refuse("wnli", tmp_path, "--head", "nameless", "--tokens-per-sample", 33)
    assert said == "error: --tokens-per-sample 33; the model takes 32 at most"


def test_options_that_say_nothing_are_refused(refuse, tmp_path):
    message = "--head has no effect on masked_lm, whose head is that of masked LM: leave it out"
    assert message in refuse("masked_lm", tmp_path, "--head", "lm")
    path = table(tmp_path / "test.tsv", "sentence\tlabel", [("a", "1")])
    assert f"--split chooses a file of a folder, and {path} is a file: leave it out" in refuse(
        "sst2", path, "--split", "test"
    )


def test_a_model_with_one_head_needs_no_name_and_one_without_is_refused(roberta, tmp_path, capsys):
    table(tmp_path / "dev.tsv", "sentence\tlabel", [("a", "1"), ("b", "0")])
    bare = RobertaModel(roberta.model.config)
    bare.register_head("lm", MaskedLMHeadConfig())
    native.save(tmp_path / "bare", bare, roberta.tokenizer)
    assert evaluate.main(["sst2", str(tmp_path), "--model", str(tmp_path / "bare"), "--device", "cpu"]) == 2
    assert "the model has no head that judges texts; fine-tune it first" in capsys.readouterr().err
    bare.register_head("mine", ClassificationHeadConfig(num_classes=2))
    native.save(tmp_path / "one", bare, roberta.tokenizer)
    assert evaluate.main(["sst2", str(tmp_path), "--model", str(tmp_path / "one"), "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["head"] == "mine"


def test_the_heads_own_labels_go_before_those_of_the_set(roberta, tmp_path, capsys):
    path = table(tmp_path / "dev.tsv", "genre\tsentence1\tsentence2\tgold_label", [("x", "a", "b", "contradiction")])
    accuracies = []
    for labels in ((), MNLI_LABELS, MNLI_LABELS[::-1]):
        model = RobertaModel(roberta.model.config)
        model.register_head("mnli", ClassificationHeadConfig(num_classes=3, labels=labels))
        model.heads["mnli"].out_proj.bias.data += torch.tensor([99.0, 0.0, 0.0])  # always the first
        native.save(tmp_path / "model", model, roberta.tokenizer)
        assert evaluate.main(["mnli", str(path), "--model", str(tmp_path / "model"), "--device", "cpu"]) == 0
        accuracies.append(json.loads(capsys.readouterr().out)["accuracy"])
    assert accuracies == [1.0, 1.0, 0.0]


def test_the_published_snippet_runs_on_the_genuine_files(shared, capsys):
    path = shared / "data/glue_data/MNLI/dev_matched.tsv"
    assert evaluate.main(["mnli", str(path), "--model", str(shared / "golden/ckpt2019"), "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["num_examples"], sum(map(sum, result["confusion"]))) == (1000, 1000)
    assert 0.2 < result["accuracy"] < 0.5  # random weights
    assert {group: row["num_examples"] for group, row in result["groups"].items()} == {
        "fiction": 201,
        "government": 183,
        "slate": 210,
        "telephone": 190,
        "travel": 216,
    }


@pytest.mark.parametrize("named", [True, False])
def test_a_binarized_folder_is_scored_as_its_texts(measure, model, roberta, pairs, tmp_path, capsys, named):
    """Classes by name, or numbers."""
    rows = [(*pair, MNLI_LABELS[number % 3] if named else number % 5) for number, pair in enumerate(pairs)]
    path = table(tmp_path / "dev.tsv", "a\tb\tlabel", rows)
    for column in range(2):
        (tmp_path / f"input{column}").mkdir()
        with IndexedWriter(tmp_path / f"input{column}" / "valid", 60_000) as writer:
            for row in rows:
                writer.add([*roberta.tokenizer.encode(row[column]), 2])
    roberta.tokenizer.dictionary.save(tmp_path / "input0" / "dict.txt")
    (tmp_path / "label").mkdir()
    if named:
        (tmp_path / "label" / "dict.txt").write_text("".join(f"{label} 1\n" for label in MNLI_LABELS))
        with IndexedWriter(tmp_path / "label" / "valid", 100) as writer:
            for row in rows:
                writer.add([4 + MNLI_LABELS.index(row[2]), 2])
    else:
        (tmp_path / "label" / "valid.label").write_text("".join(f"{row[2]}\n" for row in rows))
    head, kind = ("mnli", "classification") if named else ("stars", "regression")
    found = measure("binarized", tmp_path, "--head", head)
    expected = measure("table", path, "--text-columns", "a", "b", "--kind", kind, "--head", head)
    timed = ("task", "seconds", "examples_per_s", "tokens_per_s")
    assert {k: v for k, v in found.items() if k not in timed} == {k: v for k, v in expected.items() if k not in timed}
    (tmp_path / "input0" / "dict.txt").write_text("a 1\nb 1\n")
    assert evaluate.main(["binarized", str(tmp_path), "--head", head, "--model", str(model)]) == VocabError.exit_code
    assert "its dictionary is not the model's" in capsys.readouterr().err
