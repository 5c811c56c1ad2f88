"""Fine-tuning as a library: sweeps, curves, heads of several classes in other formats, and the warning of chance."""

import dataclasses
import json
import logging
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from roberta import finetuning
from roberta.chance import ChanceWatch
from roberta.checkpoint import native
from roberta.criterions.masked_lm import MaskedLMLossConfig
from roberta.criterions.sentence_prediction import SentencePredictionLossConfig
from roberta.criterions.sentence_ranking import SentenceRankingLossConfig
from roberta.criterions.span import SpanLossConfig
from roberta.criterions.wsc import WSCLossConfig
from roberta.errors import ConfigError, DataError, PreemptionError, StorageError
from roberta.finetuning import DATASETS, RegularisationConfig, SweepConfig, best_of, data_set, finetune
from roberta.hub import from_pretrained
from roberta.locking import locked
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.optim.adam import AdamConfig
from roberta.optim.schedules import FixedConfig
from roberta.pretrained import Pretrained
from roberta.recipe import Recipe, TrainerConfig
from roberta.registry import CRITERIONS, TASKS
from roberta.report import Run
from roberta.tasks.masked_lm import MaskedLMTaskConfig
from roberta.tasks.sentence_prediction import SentencePredictionTask, SentencePredictionTaskConfig
from roberta.tasks.sentence_ranking import SentenceRankingTask, SentenceRankingTaskConfig
from roberta.tasks.wsc import WSCTask, WSCTaskConfig
from roberta.trainer import Trainer
from roberta.validation import evaluate, predict
from roberta_cli import convert
from tests.builders import make_byte_tokenizer


@pytest.fixture
def source() -> Pretrained:
    torch.manual_seed(0)
    shape = {"vocab_size": 262, "max_positions": 16, "encoder_layers": 1, "embed_dim": 16, "ffn_embed_dim": 16}
    model = RobertaModel(RobertaConfig(**shape, attention_heads=2, dropout=0.0, attention_dropout=0.0))
    return Pretrained(model.eval(), make_byte_tokenizer())


def recipe_of(tmp_path: Path, source: Pretrained, labels, lr: float = 1e-2, **options) -> Recipe:
    """Return a recipe for a table of these labels, whose texts are the numbers of the rows."""
    lines = ["text\tlabel", *(f"{number}\t{label}" for number, label in enumerate(labels))]
    (tmp_path / "data.tsv").write_text("\n".join(lines) + "\n")
    task = {name: options.pop(name) for name in ("kind", "valid_fraction") if name in options}
    trainer = {"max_update": 8, "batch_size": 8, "log_interval": 2, "validate_interval_updates": 4, **options}
    return Recipe(
        task=SentencePredictionTaskConfig(data=tmp_path / "data.tsv", tokens_per_sample=16, **task),
        model=source.model.config,
        criterion=SentencePredictionLossConfig(),
        optimizer=AdamConfig(),
        lr_scheduler=FixedConfig(lr=lr),
        trainer=TrainerConfig(save_dir=tmp_path / "run", device="cpu", save_interval_updates=100, **trainer),
    )


# The table of data sets


def test_every_data_set_has_a_task_and_a_criterion_with_its_options():
    for the_set in DATASETS.values():
        names = {field.name for field in dataclasses.fields(TASKS.config_class(the_set.task))}
        assert set(the_set.options) < names
        assert "tokens_per_sample" in names
        CRITERIONS.config_class(the_set.criterion)
    with pytest.raises(ConfigError, match="unknown data set 'sst-2'; allowed: .*; did you mean sst2?"):
        data_set("sst-2")
    assert "ax" not in DATASETS  # it has nothing to train on


@pytest.mark.parametrize("options", [{"seeds": ()}, {"seeds": (1, 1)}, {"lr": (1e-5, 1e-5)}])
def test_a_sweep_of_nothing_or_twice_the_same_is_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"--{name} takes at least one value, and none of them twice"):
        SweepConfig(**options)


def test_only_the_dropouts_that_are_given_change_the_model():
    model = RobertaConfig(dropout=0.1, attention_dropout=0.2)
    assert RegularisationConfig().applied(model) == model
    changed = RegularisationConfig(dropout=0.0, encoder_layerdrop=0.3).applied(model)
    assert changed == dataclasses.replace(model, dropout=0.0, encoder_layerdrop=0.3)


# What a run leaves


def test_a_run_leaves_its_best_model_its_curves_and_its_report(tmp_path, source):
    pytest.importorskip("matplotlib", reason="draws curves")
    recipe = recipe_of(tmp_path, source, ["a", "b"] * 10, valid_fraction=0.5, keep_best=True)
    report = finetune("mine", recipe, SweepConfig(seeds=(3,), lr=(1e-2,)), source)
    run = tmp_path / "run"
    assert (run / "curves.svg").read_text().lstrip().startswith("<?xml")
    assert "![learning curves](curves.svg)" in (run / "report.md").read_text()
    assert report.best.seed == 3
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    values = {r["valid"]["num_updates"]: r["valid"]["accuracy"] for r in records if "valid" in r}
    assert report.best.best == max(values.values())
    assert values[report.best.update] == report.best.best == report.splits["valid"].figures["accuracy"]
    rows = [json.loads(line) for line in (run / "predictions" / "valid.jsonl").read_text().splitlines()]
    hub = from_pretrained(run)
    for row in rows:
        assert hub.predict("sentence_classification_head", row["text"]).label == row["prediction"]
    assert sum(row["prediction"] == row["answer"] for row in rows) / len(rows) == pytest.approx(report.best.best)


def test_predictions_are_made_with_the_products_of_the_run(tmp_path, source, monkeypatch):
    engines = []

    def note_engine(model, *others, **options):
        engines.append(model.cpu_engine)
        return predict(model, *others, **options)

    monkeypatch.setattr(finetuning, "predict", note_engine)
    recipe = recipe_of(tmp_path, source, ["a", "b"] * 10, valid_fraction=0.5, cpu_engine="numpy")
    finetune("mine", recipe, SweepConfig(seeds=(3,), lr=(1e-2,)), source)
    assert engines == ["numpy"]


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_a_signal_during_the_last_validation_of_a_run_ends_a_sweep_that_goes_on_as_if_it_had_not(
    tmp_path, source, monkeypatch, seeds
):
    monkeypatch.setattr("roberta.finetuning.find_spec", lambda name: None)
    recipe, sweep = recipe_of(tmp_path, source, ["a", "b"] * 4, max_update=2), SweepConfig(seeds=seeds)
    handler = signal.getsignal(signal.SIGTERM)

    def interrupted(*args, **options):
        signal.raise_signal(signal.SIGTERM)
        return evaluate(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("roberta.trainer.evaluate", interrupted)
        with pytest.raises(PreemptionError, match="stopped after the run .*, and saved; go on with --resume"):
            finetune("mine", recipe, sweep, source)
    assert signal.getsignal(signal.SIGTERM) == handler
    run = tmp_path / "run"
    begun = [run] if len(seeds) == 1 else sorted(run.iterdir())
    assert [[step.name for step in native.steps(folder)] for folder in begun] == [["step_0000002"]]
    resumed = dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, resume=True))
    report = finetune("mine", resumed, sweep, source)
    whole = dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, save_dir=tmp_path / "whole"))
    expected = finetune("mine", whole, sweep, source)
    assert [run.best for run in report.runs] == [run.best for run in expected.runs]


def test_without_matplotlib_the_report_has_no_curves_and_says_why(tmp_path, source, monkeypatch, caplog):
    monkeypatch.setattr("roberta.finetuning.find_spec", lambda name: None)
    with caplog.at_level(logging.INFO):
        finetune("mine", recipe_of(tmp_path, source, ["a", "b"] * 3), SweepConfig(), source)
    assert "no pictures in the report, for want of matplotlib: pip install 'roberta[plot]'" in caplog.text
    assert not (tmp_path / "run" / "curves.svg").exists()
    assert not (tmp_path / "run" / "confusion.svg").exists()
    assert "![" not in (tmp_path / "run" / "report.md").read_text()


@pytest.fixture
def topics(tmp_path, source, monkeypatch) -> Path:
    """Return the run of a head that tells several classes at once."""
    monkeypatch.setattr("roberta.finetuning.find_spec", lambda name: None)
    recipe = recipe_of(tmp_path, source, ["art,sport", "", "sport"] * 4, kind="multi_label", keep_best=True)
    finetune("mine", recipe, SweepConfig(), source)
    return tmp_path / "run"


def test_several_classes_survive_other_formats_both_ways(topics, tmp_path):
    head, texts = "sentence_classification_head", ["1", "2", "three"]
    ours = from_pretrained(topics)
    assert convert.main([str(topics), str(tmp_path / "hf"), "--to", "hf"]) == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "art", "1": "sport"}
    back = from_pretrained(tmp_path / "hf")
    (name,) = (name for name, each in back.model.head_configs.items() if hasattr(each, "num_classes"))
    assert back.model.head_configs[name].multi_label
    for found, expected in zip(back.predict(name, texts), ours.predict(head, texts), strict=True):
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
        logits = ours.predict(head, ours.encode(texts[0]), return_logits=True)
        assert expected.label == max(expected.probabilities, key=expected.probabilities.get)
    assert list(ours.predict(head, texts[0]).probabilities.values()) == pytest.approx(logits[0].sigmoid().tolist())


# Chance


def warnings_of(caplog, recipe: Recipe, source: Pretrained) -> list[str]:
    caplog.clear()
    Trainer(recipe, source).train()
    return [record.getMessage() for record in caplog.records if "can't be told from chance" in record.getMessage()]


def test_a_training_accuracy_that_stays_at_chance_is_warned_of_once_after_a_quarter(tmp_path, source, caplog):
    """At a rate that moves nothing; of the 36 rows that are not held out, 28 are of one class."""
    recipe = recipe_of(tmp_path, source, ["a", "a", "a", "b"] * 10, lr=1e-30, max_update=16)
    (warning,) = warnings_of(caplog, recipe, source)
    assert warning.startswith("update 4 of 16: the training accuracy of 0.")
    assert "can't be told from chance (0.778); if it stays there, start again with another --seed" in warning


def test_a_training_accuracy_above_chance_is_not_warned_of(caplog):
    for accuracy, is_warned in ((0.9, False), (0.76, False), (0.75, True)):  # of 60: two standard errors are 0.125
        caplog.clear()
        ChanceWatch(0.625).look({"accuracy": accuracy, "num_targets": 60}, num_updates=4, last_update=8)
        assert ("can't be told from chance" in caplog.text) == is_warned, accuracy


def test_an_early_record_and_numbers_are_not_compared_with_chance(tmp_path, source, caplog):
    watch = ChanceWatch(0.5)
    record = {"accuracy": 0.1, "num_targets": 1000}
    watch.look(record, num_updates=24, last_update=100)
    assert not caplog.records
    watch.look(record, num_updates=25, last_update=100)
    watch.look(record, num_updates=26, last_update=100)
    assert len(caplog.records) == 1
    numbers = recipe_of(tmp_path, source, [1.0, 2.0, 3.0] * 4, kind="regression", lr=1e-30)
    assert warnings_of(caplog, numbers, source) == []


def test_chance_among_options_is_their_share(tmp_path, source):
    rows = [{"question": "q", "options": list("abcd")[:count], "answer": 0} for count in (2, 4)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = SentenceRankingTask(SentenceRankingTaskConfig(data=tmp_path, tokens_per_sample=16), source.tokenizer)
    samples = task.samples("train")
    assert samples.chance == pytest.approx((1 / 2 + 1 / 4) / 2)
    sentence = {"sentence": "A _ b.", "option1": "x", "option2": "y", "answer": "1"}
    (tmp_path / "train.jsonl").write_text(json.dumps(sentence))
    task = WSCTask(WSCTaskConfig(data=tmp_path, data_layout="winogrande"), source.tokenizer)
    assert task.samples("train").chance == 0.5


def test_a_split_without_samples_can_not_be_trained_on(tmp_path, source, monkeypatch):
    recipe = recipe_of(tmp_path, source, ["a", "b"] * 4)
    trainer = Trainer(recipe, source)
    samples = trainer.task.samples("train")
    samples.sizes = np.array([], dtype=np.int64)
    monkeypatch.setattr(type(trainer.task), "samples", lambda self, split: samples)
    with pytest.raises(DataError, match="nothing to train on: the train split has no samples"):
        Trainer(recipe, source)


def test_a_best_model_of_a_run_is_linked_not_copied(tmp_path, source, monkeypatch):
    monkeypatch.setattr("roberta.finetuning.find_spec", lambda name: None)
    recipe = recipe_of(tmp_path, source, ["a", "b"] * 4, keep_best=True, max_update=2)
    report = finetune("mine", recipe, SweepConfig(seeds=(1, 2)), source)
    ours, theirs = (folder / "best" / native.MODEL for folder in (tmp_path / "run", report.best.save_dir))
    assert ours.samefile(theirs)


def test_predictions_that_no_run_made_are_not_replaced(tmp_path, source):
    recipe = recipe_of(tmp_path, source, ["a", "b"] * 4)
    (tmp_path / "run" / "predictions").mkdir(parents=True)
    (tmp_path / "run" / "predictions" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="predictions is not of a run, and would be replaced"):
        finetune("mine", recipe, SweepConfig(), source)
    assert (tmp_path / "run" / "predictions" / "mine.txt").exists()
    with pytest.raises(ConfigError, match="two of them are the same to six digits"):
        finetune("mine", recipe, SweepConfig(lr=(0.01, 0.010000001)), source)


def test_one_file_of_a_glue_set_is_no_place_to_train_and_validate(tmp_path, source):
    (tmp_path / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n")
    with pytest.raises(ConfigError, match=r"train\.tsv: a file, which has but one split; give the folder"):
        SentencePredictionTask(SentencePredictionTaskConfig(data=tmp_path / "train.tsv", data_layout="rte"))


def test_several_runs_do_not_take_the_place_of_others(tmp_path, source, monkeypatch):
    monkeypatch.setattr("roberta.finetuning.find_spec", lambda name: None)
    recipe, sweep = recipe_of(tmp_path, source, ["a", "b"] * 4, keep_best=True, max_update=2), SweepConfig(seeds=(1, 2))
    finetune("mine", recipe, sweep, source)
    with locked(tmp_path / "run"), pytest.raises(StorageError, match="in use by process"):
        finetune("mine", recipe, sweep, source)
    shutil.rmtree(tmp_path / "run" / "best")
    (tmp_path / "run" / "report.json").unlink()  # as after a kill
    with pytest.raises(ConfigError, match="run already holds runs; add --resume to go on with them"):
        finetune("mine", recipe, SweepConfig(seeds=(3, 4)), source)
    alone = dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, save_dir=tmp_path / "alone"))
    finetune("mine", alone, SweepConfig(), source)
    for resume in (False, True):
        trainer = dataclasses.replace(alone.trainer, resume=resume)
        with pytest.raises(ConfigError, match="alone holds a single run; choose another --save-dir for several"):
            finetune("mine", dataclasses.replace(alone, trainer=trainer), sweep, source)


def test_all_runs_are_checked_before_the_first_one(tmp_path, source):
    recipe = recipe_of(tmp_path, source, ["a", "b"] * 4)
    with pytest.raises(ConfigError, match="--lr is nan"):
        finetune("mine", recipe, SweepConfig(lr=(1e-3, float("nan"))), source)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("maximise", [True, False])
def test_a_run_that_went_astray_is_never_the_best(maximise):
    figures = [float("nan"), 0.5, float("inf"), 0.7, float("-inf"), 0.7]
    runs = [Run(1e-3, seed, Path(f"seed{seed}"), 1, figure, 1.0) for seed, figure in enumerate(figures)]
    assert best_of(runs, maximise=maximise).seed == (3 if maximise else 1)
    assert best_of(runs[:1], maximise=maximise).seed == 0


@pytest.mark.parametrize("criterion", [MaskedLMLossConfig(), WSCLossConfig(), SpanLossConfig()])
def test_a_criterion_for_other_heads_is_refused_before_training(tmp_path, source, criterion):
    recipe = dataclasses.replace(recipe_of(tmp_path, source, ["a", "b"] * 4), criterion=criterion)
    with pytest.raises(ConfigError, match="heads that .* ClassificationHeadConfig"):
        Trainer(recipe, source)


@pytest.mark.parametrize("criterion", [SentencePredictionLossConfig(), SentenceRankingLossConfig()])
def test_a_criterion_for_heads_that_predict_no_tokens_is_refused(byte_data_bin, tmp_path, source, criterion):
    recipe = recipe_of(tmp_path, source, ["a", "b"] * 4)
    task = MaskedLMTaskConfig(data=byte_data_bin, tokens_per_sample=16)
    with pytest.raises(ConfigError, match="this loss is for heads .* MaskedLMHeadConfig"):
        Trainer(dataclasses.replace(recipe, task=task, criterion=criterion))


def test_what_a_run_began_with_is_told_after_a_resume(tmp_path, source, monkeypatch):
    monkeypatch.setattr("roberta.finetuning.find_spec", lambda name: None)
    recipe = recipe_of(tmp_path, source, ["a", "b"] * 4, max_update=2, init_from="its-own")
    assert finetune("mine", recipe, SweepConfig(), source).init_from == "its-own"
    options = {"init_from": "another", "resume": True, "max_update": 4}
    resumed = dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, **options))
    assert finetune("mine", resumed, SweepConfig(), source).init_from == "its-own"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["trainer"]["init_from"] == "its-own"


def test_other_validation_data_makes_the_best_figure_be_forgotten(tmp_path, source, caplog):
    (tmp_path / "data").mkdir()
    for split, labels in (("train", "abab"), ("valid", "abb")):
        rows = "".join(f"{number}\t{label}\n" for number, label in enumerate(labels))
        (tmp_path / "data" / f"{split}.tsv").write_text(f"text\tlabel\n{rows}")
    recipe = recipe_of(tmp_path, source, "ab", max_update=4, validate_interval_updates=1)
    recipe = dataclasses.replace(recipe, task=dataclasses.replace(recipe.task, data=tmp_path / "data"))
    Trainer(recipe, source).train()
    resumed = dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, resume=True, max_update=5))
    trainer = Trainer(resumed, source)
    trainer._restore(trainer.run_folder.resumed_from)
    assert trainer.position.best_update > 0
    assert "forgotten" not in caplog.text
    (tmp_path / "data" / "valid.tsv").write_text("text\tlabel\n0\tb\n1\ta\n2\ta\n")
    trainer = Trainer(resumed, source)
    trainer._restore(trainer.run_folder.resumed_from)
    assert (trainer.position.best, trainer.position.best_update) == (None, 0)
    assert "the validation data is not that of before (contents was" in caplog.text


def test_half_a_surrogate_pair_in_a_text_costs_no_predictions(tmp_path, source, monkeypatch):
    monkeypatch.setattr("roberta.finetuning.find_spec", lambda name: None)
    rows = [{"text": f"cut {number} \ud83d", "label": "ab"[number % 2]} for number in range(8)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = recipe_of(tmp_path, source, "ab", max_update=1)
    recipe = dataclasses.replace(recipe, task=dataclasses.replace(recipe.task, data=tmp_path / "data.jsonl"))
    finetune("mine", recipe, SweepConfig(), source)
    (line,) = (tmp_path / "run" / "predictions" / "valid.jsonl").read_text().splitlines()
    assert json.loads(line)["text"].endswith("\ud83d")
    assert "\\ud83d" in (tmp_path / "run" / "report.md").read_text()
