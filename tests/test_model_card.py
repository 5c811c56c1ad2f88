"""Model cards: everything that the files say, and nothing else."""

import dataclasses
import hashlib
import json
import logging
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from roberta import pretrained
from roberta.checkpoint import native
from roberta.criterions.masked_lm import MaskedLMLossConfig
from roberta.errors import CheckpointError, StorageError
from roberta.hub import RobertaHubInterface, from_pretrained
from roberta.model_card import Facts, _scores, read_facts, write_card, write_run_cards
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


def header(text: str) -> dict[str, Any]:
    """Return the values of the YAML block, as an independent parser reads them."""
    opening, block, _ = text.split("---\n", maxsplit=2)
    assert opening == ""
    values = yaml.safe_load(block)
    assert isinstance(values, dict)
    return values


def body(text: str) -> str:
    """Return what follows the YAML block."""
    return text.split("---\n", maxsplit=2)[2].lstrip()


def finetuned(run: Path, data_set: str, init: str, figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the header of the card of a run as if it had been made from `init` on a data set, with these scores."""
    example = Prediction("0", "here", "text", "a", "a", 0.0, {"a": 1.0})
    (single,) = (Run(1e-5, 1, run, 10, 0.5, 60.0),)
    splits = {name: Split(values, [example]) for name, values in figures.items()}
    report = Report(data_set, f"data/{data_set}", init, "accuracy", (single,), single, splits)
    (run / "report.json").write_text(report.to_json())
    recipe = json.loads((run / "run.json").read_text())
    recipe["recipe"]["trainer"]["init_from"] = init
    (run / "run.json").write_text(json.dumps(recipe))
    return header(write_run_cards(run)[0].read_text())


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
    assert body(text).startswith("# mine\n\nA RoBERTa encoder of 1 layers, width 8 and 1 attention heads")
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


@pytest.mark.parametrize("change", [lambda text: "of my own \ufeff", lambda text: text.replace("Licence", "License")])
def test_a_card_that_people_wrote_or_changed_stays_and_the_log_says_so(run, caplog, change):
    card, other = write_run_cards(run)
    card.write_text(change(card.read_text()))
    kept = card.read_bytes()
    other.unlink()
    with caplog.at_level(logging.INFO, logger="roberta.model_card"):
        assert write_run_cards(run) == [card, other]
    assert card.read_bytes() == kept
    assert other.is_file()
    (record,) = caplog.records
    assert record.getMessage() == f"{card} was written or changed by hand, and stays; delete it for a new one"


def test_a_card_that_is_no_text_stays(run):
    (run / "README.md").write_bytes(b"\xff\n")
    write_run_cards(run)
    assert (run / "README.md").read_bytes() == b"\xff\n"


def test_a_card_that_nobody_changed_is_brought_up_to_date(hub, tmp_path):
    hub.save_pretrained(tmp_path / "mine")
    for name in ("first", "second"):
        text = write_card(tmp_path / "mine", Facts(name=name)).read_text()
        assert body(text).startswith(f"# {name}\n")


@pytest.mark.parametrize(
    "damage", [b'{"valid": {"num_upd\xff\n', b'{"valid": 3}\n', b'{"valid": {"loss": 1.0}}\n', b'{"valid": {"num_up']
)
def test_a_damaged_line_of_the_log_costs_no_card_and_no_score(run, damage):
    before = read_facts(run).validation
    with (run / "log.jsonl").open("ab") as log:
        log.write(damage)
    assert read_facts(run).validation == before != {}
    assert table(write_run_cards(run)[0].read_text(), "Scores")["loss"] == (f"{before['loss']:.4f}",)


def test_a_run_says_how_it_was_trained_and_what_came_out(run):
    assert write_run_cards(run) == [run / "README.md", run / "best" / "README.md"]
    text = (run / "README.md").read_text()
    assert text == (run / "best/README.md").read_text()
    assert body(text).startswith("# novels\n")
    training = table(text, "Training")
    recipe = json.loads((run / "run.json").read_text())["recipe"]
    assert training["task data"] == (recipe["task"]["data"],)
    assert training["trainer seed"] == ("7",)
    assert training["lr scheduler lr"] == ("0.001",)
    assert training["updates"] == ("4",)
    data = json.loads((native.steps(run)[-1] / "state.json").read_text())["data"]
    assert training["training data"] == (", ".join(f"{name} {value}" for name, value in data.items()),)
    assert training["training data"][0].startswith(f"samples {data['samples']}, tokens {data['tokens']}")
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


def test_scores_that_are_not_finite_are_said_to_be_so_and_are_no_results(run):
    with (run / "log.jsonl").open("a") as log:
        log.write('{"valid": {"num_updates": 4, "loss": null, "ppl": 2.5}}\n')
    text = write_run_cards(run)[0].read_text()
    assert table(text, "Scores") == {"loss": ("not finite",), "ppl": ("2.5000",)}
    (result,) = header(text)["model-index"][0]["results"]
    assert [metric["name"] for metric in result["metrics"]] == ["ppl"]
    runs = tuple(Run(1e-5, seed, run, 0, math.nan, 60.0) for seed in (1, 2))
    report = Report("rte", "data", "roberta.base", "loss", runs, runs[0], {"valid": Split({"loss": math.nan}, [])})
    (run / "report.json").write_text(report.to_json())
    text = write_run_cards(run)[0].read_text()
    assert table(text, "Scores") == {"valid": ("0", "not finite")}
    assert "lr 1e-05: median not finite, from not finite to not finite, 2 seeds" in text
    assert "model-index" not in header(text)


def test_a_run_that_was_resumed_says_how_often(run):
    assert "times resumed" not in table(write_run_cards(run)[0].read_text(), "Training")
    described = json.loads((run / "run.json").read_text())
    start = {"command": ["roberta-train"], "versions": {}, "num_updates": 2}
    (run / "run.json").write_text(json.dumps({**described, "earlier": [start, start]}))
    assert table(write_run_cards(run)[0].read_text(), "Training")["times resumed"] == ("2",)


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
    assert body(text).startswith("# sweep\n")
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


def test_the_first_lines_say_what_the_model_is_for(hub, tmp_path):
    hub.save_pretrained(tmp_path / "mine")
    assert header((tmp_path / "mine/README.md").read_text()) == {
        "license": "unknown",
        "library_name": "roberta",
        "pipeline_tag": "text-classification",
        "tags": ["roberta", "text-classification"],
    }


def test_a_model_that_has_a_name_is_opened_by_it(hub, tmp_path):
    hub.save_pretrained(tmp_path / "mine")
    text = write_card(tmp_path / "mine", Facts(name="roberta.mine")).read_text()
    assert body(text).startswith("# roberta.mine\n")
    assert 'roberta.from_pretrained("roberta.mine")' in text


def test_licence_and_languages_are_stated_where_they_are_given(hub, tmp_path):
    hub.save_pretrained(tmp_path / "mine")
    text = write_card(tmp_path / "mine", Facts(license="mit", languages=("en", "no"))).read_text()
    assert (header(text)["license"], header(text)["language"]) == ("mit", ["en", "no"])
    assert "Licence: mit." in text
    assert "Not stated yet" not in text


def test_a_pretrained_model_has_the_scores_of_its_last_validation(run):
    text = write_run_cards(run)[0].read_text()
    (index,) = header(text)["model-index"]
    assert index["name"] == "novels"
    (result,) = index["results"]
    assert result["task"] == {"type": "fill-mask"}
    data = json.loads((run / "run.json").read_text())["recipe"]["task"]["data"]
    assert result["dataset"] == {"name": Path(data).name, "type": "text", "split": "validation"}
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    last = read_facts(run).validation
    assert values == {"loss": pytest.approx(last["loss"], abs=1e-6), "ppl": pytest.approx(last["ppl"], abs=1e-6)}
    assert header(text)["metrics"] == ["loss", "perplexity"]
    assert "datasets" not in header(text)
    assert "language" not in header(text)


def test_a_public_data_set_has_its_name_on_the_hub(run):
    found = finetuned(run, "mnli", "roberta.large", {"valid": {"accuracy": 0.9}, "valid1": {"accuracy": 1e-7}})
    assert found["datasets"] == ["nyu-mll/glue"]
    assert found["language"] == ["en"]
    assert found["base_model"] == "FacebookAI/roberta-large"
    results = found["model-index"][0]["results"]
    assert [result["dataset"]["split"] for result in results] == ["validation", "validation_mismatched"]
    assert {(result["dataset"]["name"], result["dataset"]["config"]) for result in results} == {("mnli", "mnli")}
    assert [result["metrics"][0]["value"] for result in results] == [0.9, 0.0]


def test_data_of_ones_own_is_no_data_set_of_the_hub(run):
    found = finetuned(run, "table", "hf:someone/a-model", {"valid": {"matthews": 0.25}, "test": {}})
    assert "datasets" not in found
    assert "language" not in found
    assert found["base_model"] == "someone/a-model"
    (result,) = found["model-index"][0]["results"]
    assert result["dataset"] == {"name": "table", "type": "table", "split": "validation"}
    assert result["metrics"] == [{"type": "matthews_correlation", "name": "matthews", "value": 0.25}]


def test_a_figure_that_is_no_number_is_no_score(run):
    found = finetuned(run, "rte", "elsewhere", {"valid": {"accuracy": 0.5, "f1": float("nan")}})
    assert found["metrics"] == ["accuracy"]
    assert "base_model" not in found


@pytest.mark.parametrize(
    "name", ["no", "1e-05", "a: b", "a #b", 'it\'s "\\n"', "- x", "x\u2028\x85y", "\U0001f600", "null "]
)
def test_any_name_survives_in_yaml(run, name):
    found = finetuned(run, name, f"hf:{name}", {"valid": {"accuracy": 0.5}})
    assert found["base_model"] == name
    assert found["model-index"][0]["results"][0]["dataset"]["type"] == name


def test_the_hubs_own_reader_takes_the_scores(run):
    finetuned(run, "rte", "roberta.base", {"valid": {"accuracy": 0.5, "macro_f1": 0.25}})
    (first, second) = ModelCard.load(run / "README.md").data.eval_results
    assert (first.dataset_type, first.dataset_config, first.metric_type) == ("nyu-mll/glue", "rte", "accuracy")
    assert (second.metric_type, second.metric_value) == ("f1", 0.25)


def test_the_card_of_the_best_model_has_its_own_figures(run):
    log, step = run / "log.jsonl", native.steps(run)[-1]
    last = read_facts(run).validation
    better = {**last, "num_updates": 1, "loss": last["loss"] - 1.0}
    log.write_text(json.dumps({"valid": better}) + "\n" + log.read_text())
    state = json.loads((step / "state.json").read_text())
    (step / "state.json").write_text(json.dumps({**state, "best_update": 1}))
    assert read_facts(run).validation == better
    assert "after update 1." in _scores(read_facts(run))
    shutil.rmtree(run / "best")
    assert read_facts(run).validation == last  # the card is that of the newest model
