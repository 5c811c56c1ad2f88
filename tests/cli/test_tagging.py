"""Labelling words from raw files to scores, and data sets of a user's own: roberta-finetune, then roberta-eval."""

import json
import sys
from pathlib import Path

import pytest
import torch

import roberta
from roberta.checkpoint import native
from roberta.finetuning import DATASETS
from roberta.models.heads import TaggingHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta_cli import convert, evaluate, finetune, train
from tests.builders import make_byte_tokenizer

TRAIN = "Ann B-PER\nLee I-PER\nran O\n. O\n\nat O\nRome B-LOC\n. O\n\nBo B-PER\nsat O\n"
LEARN = (
    "--lr",
    "2e-2",
    "--max-update",
    "50",
    "--batch-size",
    "3",
    "--head-dropout",
    "0",
    "--tokens-per-sample",
    "12",
    "--validate-interval-updates",
    "25",
)

# A task without predictions and without a length, whose figure is its loss: how long is a line?
MODULE = """
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from roberta.config import option
from roberta.finetuning import DATASETS, DataSet
from roberta.layout import Batch, SequenceLayout
from roberta.models.heads import RegressionHeadConfig
from roberta.registry import CRITERIONS, TASKS
from roberta.tasks.task import Samples, Task


@dataclass(frozen=True)
class Options:
    data: Path = option(help="folder")
    scale: float = option(1.0, help="of the targets")
    kind: int = option(1, help="an option whose name another task has, too")


@dataclass(frozen=True)
class LossOptions:
    exponent: int = option(2, help="of the difference")


class Lines(Samples):
    def __init__(self, path, tokenizer, scale):
        self.rows = [tokenizer.encode_sequence(line) for line in path.read_text().splitlines()]
        self.sizes, self.scale = np.array(list(map(len, self.rows))), scale

    def batch(self, sample_ids, *, seed, epoch):
        layout = SequenceLayout.from_lengths(self.sizes[sample_ids])
        tokens = torch.tensor([token for index in sample_ids.tolist() for token in self.rows[index]])
        targets = self.scale * torch.from_numpy(self.sizes[sample_ids]).float()
        return Batch(tokens, layout, layout.first, targets, len(sample_ids), tuple(sample_ids.tolist()))


@TASKS.register("lengths", Options)
class LengthTask(Task):
    head = "length"

    def __init__(self, config, tokenizer=None):
        self.config, self.tokenizer = config, tokenizer

    def head_config(self, model_config):
        return RegressionHeadConfig()

    def samples(self, split):
        path = self.config.data
        return Lines(path if path.is_file() else path / (split + ".txt"), self.tokenizer, self.config.scale)


@CRITERIONS.register("power", LossOptions)
class Power:
    def __init__(self, config, head):
        self.config, self.head = config, head

    def __call__(self, model, batch):
        outputs = model(batch.tokens, batch.layout, self.head, batch.select)
        loss = ((outputs[:, 0] - batch.targets).abs() ** self.config.exponent).sum()
        return loss, {"loss": loss.detach()}

    def metrics(self, sums, num_targets):
        return {"loss": sums["loss"] / num_targets}


DATASETS["lengths"] = DataSet("lengths", "power")
"""


@pytest.fixture(autouse=True, scope="module")
def no_curves():
    """Leave the curves out of the reports; drawing them would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roberta.finetuning.find_spec", lambda name: None)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return the folder of a small random model of bytes."""
    torch.manual_seed(0)
    shape = {"vocab_size": 262, "max_positions": 24, "encoder_layers": 1, "embed_dim": 32, "ffn_embed_dim": 32}
    made = RobertaModel(RobertaConfig(**shape, attention_heads=2, dropout=0.0, attention_dropout=0.0))
    folder = tmp_path_factory.mktemp("model") / "model"
    native.save(folder, made, make_byte_tokenizer())
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Return a folder whose validation is its training; the test split has no labels."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("train.txt", "dev.txt"):
        (folder / name).write_text(TRAIN)
    (folder / "test.txt").write_text("Ann\nran\n")
    return folder


@pytest.fixture(scope="module")
def tagged(model, data, tmp_path_factory) -> Path:
    """Return a run that has learnt the labels by heart."""
    run = tmp_path_factory.mktemp("runs") / "tagging"
    options = ("--init", str(model), "--save-dir", str(run), "--device", "cpu", *LEARN)
    assert finetune.main(["tagging", str(data), *options]) == 0
    return run


def result_of(main, capsys, *arguments: object) -> dict:
    assert main([*map(str, arguments), "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(main, capsys, *arguments: object) -> str:
    assert main(list(map(str, arguments))) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_labels_are_learnt_by_heart_and_reported_with_each_type(tagged, data):
    report = json.loads((tagged / "report.json").read_text())
    assert report["metric"] == "f1"
    valid = {"examples": 9, "precision": 1.0, "recall": 1.0, "f1": 1.0, "accuracy": 1.0, "num_sentences": 3}
    assert report["splits"]["valid"] == {**valid, "num_sentences_parted": 1}
    assert report["splits"]["test"] == {"examples": 2, "num_sentences": 1, "num_sentences_parted": 0}
    assert list(report["groups"]) == ["valid"]
    assert report["groups"]["valid"]["PER"]["num_entities"] == 2
    text = (tagged / "report.md").read_text()
    assert "| split | group | precision | recall | f1 | entities | predicted |" in text
    assert "| valid | LOC | 1.0000 | 1.0000 | 1.0000 | 1 | 1 |" in text
    gold = [line.split() for line in TRAIN.splitlines()]
    lines = (tagged / "predictions" / "valid.conll").read_text().splitlines()
    assert [line.split() for line in lines] == [[*row, *row[1:]] for row in gold] + [[]]
    rows = [json.loads(line) for line in (tagged / "predictions" / "test.jsonl").read_text().splitlines()]
    assert [(row["text"], row["answer"]) for row in rows] == [("[Ann] ran", None), ("Ann [ran]", None)]
    written = "".join(f"{word} {row['prediction']}\n" for word, row in zip(("Ann", "ran"), rows, strict=True))
    assert (tagged / "predictions" / "test.conll").read_text() == f"{written}\n"


def test_the_card_and_the_hub_know_the_labels(tagged):
    card = (tagged / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert 'model.tag_words("tagging", ["A", "text", "."])' in card
    assert "`tagging` (tagging: B-LOC, B-PER, I-PER, O)" in card
    assert "- type: recall" in card
    hub = roberta.from_pretrained(tagged)
    assert [tagged.label for tagged in hub.tag_words("tagging", "Ann Lee ran .".split())] == "B-PER I-PER O O".split()
    (entity,) = hub.entities("tagging", "at Rome.")
    assert (entity.type, entity.text) == ("LOC", "Rome")


def test_an_export_has_the_labels_by_name(tagged, tmp_path):
    assert convert.main([str(tagged), str(tmp_path / "hf"), "--to", "hf"]) == 0
    exported = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert exported["id2label"] == {"0": "B-LOC", "1": "B-PER", "2": "I-PER", "3": "O"}
    assert exported["architectures"] == ["RobertaForTokenClassification"]


@pytest.mark.parametrize("place", ["dev.txt", ""])
def test_an_evaluation_has_the_figures_of_training(tagged, data, place, capsys):
    found = result_of(evaluate.main, capsys, "tagging", data / place, "--model", tagged)
    assert (found["task"], found["head"], found["f1"], found["num_targets"]) == ("tagging", "tagging", 1.0, 9)
    assert found["num_sentences_parted"] == 1  # as in training
    assert found["groups"]["LOC"]["f1"] == 1.0
    longer = result_of(evaluate.main, capsys, "tagging", data / place, "--model", tagged, "--tokens-per-sample", 24)
    assert longer["num_sentences_parted"] == 0


def test_an_evaluation_takes_labels_in_other_columns(tagged, data, tmp_path, capsys):
    rows = [line.split() for line in TRAIN.splitlines()]
    (tmp_path / "new.tsv").write_text("".join("\t".join(["1", *row, "x"]) + "\n" if row else "\n" for row in rows))
    options = ("--word-column", 2, "--label-column", 3)
    found = result_of(evaluate.main, capsys, "tagging", tmp_path / "new.tsv", "--model", tagged, *options)
    assert found["accuracy"] == 1.0
    (tmp_path / "new.tsv").write_text("Ann\tB-NEW\n")
    message = refusal(evaluate.main, capsys, "tagging", tmp_path / "new.tsv", "--model", tagged)
    assert "new.tsv:1: label 'B-NEW' is not one of those to learn; allowed: B-LOC, B-PER, I-PER, O" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tagging", "DATA", "--split", "test"), "test.txt:1: no label; without labels nothing can be scored"),
        (("tagging", "DATA/dev.txt", "--split", "test"), "--split chooses a file of a folder, and"),
        (("tagging", "DATA", "--tokens-per-sample", "25"), "--tokens-per-sample 25; the model takes 24 at most"),
        (("tagging", "DATA", "--wsc-candidates", "spans"), "unknown argument '--wsc-candidates'"),
        (("--split", "valid", "tagging", "DATA"), "before the options"),
        (("tags", "DATA"), "invalid choice: 'tags'"),
        (
            ("tagging", "DATA", "--labels", "O", "B-PER"),
            "head 'tagging' has names for its outputs: B-LOC, B-PER, I-PER, O; leave out --labels",
        ),
    ],
)
def test_what_can_not_be_measured_is_refused(tagged, data, arguments, message, capsys):
    given = [argument.replace("DATA", str(data)) for argument in arguments]
    assert message in refusal(evaluate.main, capsys, *given, "--model", tagged, "--device", "cpu")


def test_the_help_of_an_evaluation_has_the_options_of_the_task(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["tagging", "--help"])
    shown = capsys.readouterr().out
    assert "--label-column INT" in shown
    assert "--text-columns STR" not in shown


def test_a_dry_run_counts_the_head(data, capsys):
    options = ("--task", "tagging", "--criterion", "tagging", "--preset", "roberta.base", "--dry-run")
    shape = ("--encoder-layers", 1, "--embed-dim", 32, "--ffn-embed-dim", 32, "--attention-heads", 2)
    length = ("--max-positions", 64, "--tokens-per-sample", 64, "--max-update", 4, "--batch-size", 2)
    found = result_of(train.main, capsys, data, *options, *shape, *length, "--save-dir", data / "none")
    assert found["parameters"]["head"] > 0
    assert not (data / "none").exists()


def test_labels_of_a_head_without_names_are_to_be_named(tagged, data, tmp_path, capsys):
    hub = roberta.from_pretrained(tagged)
    nameless = RobertaModel(hub.model.config)
    nameless.load_state_dict(hub.model.state_dict(), strict=False)
    nameless.register_head("tagging", TaggingHeadConfig(num_classes=4))
    nameless.load_state_dict(hub.model.state_dict())
    native.save(tmp_path / "nameless", nameless, hub.tokenizer)
    message = refusal(evaluate.main, capsys, "tagging", data, "--model", tmp_path / "nameless")
    assert "head 'tagging' has no names for its labels; name them in their order with --labels" in message
    names = ("--labels", "B-LOC", "B-PER", "I-PER", "O")
    assert result_of(evaluate.main, capsys, "tagging", data, *names, "--model", tmp_path / "nameless")["f1"] == 1.0


# Data sets of a user's own


@pytest.fixture
def lengths(tmp_path, monkeypatch):
    """Return a folder with lines, and the name of a module with their task; all of it is forgotten afterwards."""
    from roberta.registry import CRITERIONS, TASKS

    for split, text in (("train", "a\nbb\nccc\n"), ("valid", "dd\neeee\n")):
        (tmp_path / f"{split}.txt").write_text(text)
    (tmp_path / "module_of_lengths.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    for table in (TASKS, CRITERIONS):
        list(table)
        monkeypatch.setattr(table, "_components", dict(table._components))
        monkeypatch.setattr(table, "_configs", dict(table._configs))
    yield tmp_path
    DATASETS.pop("lengths", None)
    sys.modules.pop("module_of_lengths", None)


def test_a_task_of_ones_own_needs_neither_a_length_nor_predictions(lengths, model, capsys, caplog):
    own = ("--user-module", "module_of_lengths")
    run = ("--init", model, "--save-dir", lengths / "run", "--max-update", 2, "--scale", 2, "--exponent", 1)
    caplog.set_level("INFO")
    found = result_of(finetune.main, capsys, "lengths", lengths, *own, *run)
    assert "valid: the task has no predictions; none are written" in caplog.text
    assert found["splits"]["valid"]["examples"] == 2
    assert list((lengths / "run" / "predictions").iterdir()) == []
    assert "| valid | 2 |" in (lengths / "run" / "report.md").read_text()
    measured = result_of(evaluate.main, capsys, "lengths", lengths, *own, "--model", lengths / "run")
    assert measured["loss"] == pytest.approx(found["splits"]["valid"]["loss"])  # with the options of its training
    assert (measured["head"], measured["num_targets"]) == ("length", 2)
    file = result_of(evaluate.main, capsys, "lengths", lengths / "valid.txt", *own, "--model", lengths / "run")
    assert file["loss"] == measured["loss"]
    scaled = result_of(evaluate.main, capsys, "lengths", lengths, *own, "--model", lengths / "run", "--scale", 0)
    assert scaled["loss"] < measured["loss"]
    message = refusal(
        evaluate.main, capsys, "lengths", lengths, *own, "--model", lengths / "run", "--tokens-per-sample", 9
    )
    assert "--tokens-per-sample has no effect on lengths, whose task has no such option" in message
