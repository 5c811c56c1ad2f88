"""Model cards: everything that the files say, and nothing else."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

from roberta import pretrained
from roberta.checkpoint import native
from roberta.criterions.masked_lm import MaskedLMLossConfig
from roberta.errors import CheckpointError, StorageError
from roberta.hub import RobertaHubInterface, from_pretrained
from roberta.model_card import write_run_cards
from roberta.models.heads import ClassificationHeadConfig, RegressionHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.optim.adam import AdamConfig
from roberta.optim.schedules import PolynomialDecayConfig
from roberta.recipe import Recipe, TrainerConfig
from roberta.report import Report, Run, Split
from roberta.tasks.masked_lm import MaskedLMTaskConfig
from roberta.tasks.task import Prediction
from roberta.trainer import Trainer
from tests.builders import make_byte_tokenizer

SHAPE = RobertaConfig(
    vocab_size=262, max_positions=32, encoder_layers=1, embed_dim=8, ffn_embed_dim=8, attention_heads=1
)


def table(text: str, heading: str) -> dict[str, tuple[str, ...]]:
    """Return the rows of the table below a heading, by their first cell."""
    part = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [tuple(cell.strip() for cell in row[1:-1].split("|")) for row in re.findall(r"^\|.*\|$", part, re.MULTILINE)]
    return {row[0]: row[1:] for row in rows[2:]}


@pytest.fixture
def hub() -> RobertaHubInterface:
    torch.manual_seed(0)
    model = RobertaModel(SHAPE)
    model.register_head("topic", ClassificationHeadConfig(num_classes=2, labels=("war", "peace|treaty")))
    model.register_head("stars", RegressionHeadConfig(maximum=5.0))
    return RobertaHubInterface(model.eval(), make_byte_tokenizer())


@pytest.fixture
def run(byte_data_bin: Path, tmp_path: Path) -> Path:
    """Return the folder of a finished run of two validations, the best of them kept."""
    trainer = TrainerConfig(
        save_dir=tmp_path / "novels",
        max_update=4,
        batch_size=8,
        seed=7,
        device="cpu",
        keep_best=True,
        validate_interval_updates=2,
        save_interval_updates=2,
    )
    task = MaskedLMTaskConfig(data=byte_data_bin, tokens_per_sample=32)
    schedule = PolynomialDecayConfig(lr=1e-3, warmup_updates=1)
    Trainer(Recipe(task, SHAPE, MaskedLMLossConfig(), AdamConfig(), schedule, trainer)).train()
    return tmp_path / "novels"


def test_a_saved_model_says_what_it_is_and_what_its_files_are(hub, tmp_path):
    hub.save_pretrained(tmp_path / "mine")
    text = (tmp_path / "mine/README.md").read_text()
    assert text.startswith("# mine\n\nA RoBERTa encoder of 1 layers, width 8 and 1 attention heads")
    assert f"{sum(p.numel() for p in hub.parameters()):,} parameters, f32." in text
    assert "`topic` (classification: war, peace|treaty); `stars` (regression)" in text
    files = table(text, "Files")
    for name, (size, digest) in files.items():
        content = (tmp_path / "mine" / name).read_bytes()
        assert (size, digest) == (f"{len(content):,}", hashlib.sha256(content).hexdigest())
    assert {"model.safetensors", "config.json", "dict.txt"} <= files.keys()
    assert "## Training" not in text
    assert "## Scores" not in text


def test_the_code_of_the_card_runs(hub, tmp_path):
    hub.save_pretrained(tmp_path / "mine")
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "mine/README.md").read_text(), re.DOTALL)
    assert code.count('model.predict("') == 2
    exec(code.replace("path/of/this/folder", str(tmp_path / "mine")), {})


def test_a_card_that_people_changed_is_no_damage(hub, tmp_path):
    hub.save_pretrained(tmp_path / "mine")
    (tmp_path / "mine/README.md").write_text("mine")
    native.verify(tmp_path / "mine")
    assert from_pretrained(tmp_path / "mine").model.config == SHAPE
    hub.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine/README.md").read_text().startswith("# mine\n")


def test_a_run_says_how_it_was_trained_and_what_came_out(run):
    assert write_run_cards(run) == [run / "README.md", run / "best" / "README.md"]
    text = (run / "README.md").read_text()
    assert text == (run / "best/README.md").read_text()
    assert text.startswith("# novels\n")
    training = table(text, "Training")
    recipe = json.loads((run / "run.json").read_text())["recipe"]
    assert training["task data"] == (recipe["task"]["data"],)
    assert training["trainer seed"] == ("7",)
    assert training["lr scheduler lr"] == ("0.001",)
    assert training["updates"] == ("4",)
    assert training["training data"] == (json.loads((native.steps(run)[-1] / "state.json").read_text())["data"],)
    assert "torch " in training["versions"][0]
    assert "Task `masked_lm`, criterion `masked_lm`, from random weights." in text
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = [record["valid"] for record in records if "valid" in record][-1]
    assert table(text, "Scores")["loss"] == (f"{last['loss']:.4f}",)
    assert "after update 4" in text
    assert pretrained.load(run).model.config == SHAPE


def test_after_fine_tuning_the_scores_are_those_of_the_report(run):
    runs = tuple(
        Run(lr, seed, run.parent / f"lr{lr:g}_seed{seed}", 10 * seed, 0.5 + seed / 10, 60.0)
        for lr in (1e-5, 2e-5)
        for seed in (1, 2)
    )
    example = Prediction("0", "here", "text", "a", "a", 0.0, {"a": 1.0})
    splits = {"valid": Split({"accuracy": 0.7}, [example]), "test": Split({}, [example])}
    report = Report("rte", "glue_data/RTE", "roberta.base", "accuracy", runs, runs[1], splits)
    (run / "report.json").write_text(report.to_json())
    write_run_cards(run)
    text = (run / "README.md").read_text()
    assert table(text, "Scores") == {"valid": ("1", "0.7000")}
    assert "the best of 4 runs by accuracy on the validation data: lr 1e-05, seed 2, after update 20" in text
    assert "lr 2e-05: median 0.6500, from 0.6000 to 0.7000, 2 seeds" in text


def test_the_best_of_several_runs_is_told_of_with_its_own_recipe(run, tmp_path):
    sweep = tmp_path / "sweep"
    (sweep / "lr0.001_seed7").parent.mkdir()
    run.rename(sweep / "lr0.001_seed7")
    (sweep / "lr0.001_seed7/best").rename(sweep / "best")
    best = Run(1e-3, 7, Path("elsewhere/lr0.001_seed7"), 4, 0.5, 1.0)
    report = Report("rte", "data", "roberta.base", "accuracy", (best,), best, {"valid": Split({}, [])})
    (sweep / "report.json").write_text(report.to_json())
    write_run_cards(sweep)
    text = (sweep / "best/README.md").read_text()
    assert text.startswith("# sweep\n")
    assert table(text, "Training")["trainer seed"] == ("7",)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint of a run; name the folder that --save-dir gave"):
        write_run_cards(tmp_path)


def test_a_card_that_cannot_be_written_is_a_storage_error(run):
    (run / "README.md").mkdir()
    with pytest.raises(StorageError, match=r"README.md: can't be written"):
        write_run_cards(run)


def test_only_options_that_exist_are_shown(run):
    shown = table((write_run_cards(run)[0]).read_text(), "Training")
    assert not {"task type", "trainer ema"} & shown.keys()
    options = {field.name for field in dataclasses.fields(TrainerConfig)}
    assert {name.removeprefix("trainer ").replace(" ", "_") for name in shown if name.startswith("trainer")} <= options
