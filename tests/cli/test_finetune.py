"""roberta-finetune, in process: from a small table to a report, resumed sweeps, and what is said of bad input."""

import errno
import json
import os
import re
from pathlib import Path

import pytest
import torch

import roberta
from roberta.checkpoint import native
from roberta.finetuning import DATASETS
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig, RegressionHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.pretrained import load, transfer
from roberta.trainer import Trainer
from roberta_cli import finetune
from tests.builders import make_byte_tokenizer

ROWS = [("good", "yes"), ("fine", "yes"), ("great", "yes"), ("bad", "no"), ("dull", "no"), ("awful", "no")]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return the folder of a small random model of bytes."""
    torch.manual_seed(0)
    shape = {"vocab_size": 262, "max_positions": 24, "encoder_layers": 1, "embed_dim": 32, "ffn_embed_dim": 32}
    model = RobertaModel(RobertaConfig(**shape, attention_heads=2, dropout=0.0, attention_dropout=0.0))
    model.register_head("lm", MaskedLMHeadConfig())
    folder = tmp_path_factory.mktemp("model") / "model"
    native.save(folder, model, make_byte_tokenizer())
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_tables(tmp_path)


def write_tables(tmp_path: Path) -> Path:
    """Return a folder of tables: what is trained on is what is validated; the test split has no labels."""
    for split in ("train", "dev"):
        lines = ["text\tlabel", *("\t".join(row) for row in ROWS)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.tsv").write_text("text\ngreat\nawful\n")
    return tmp_path


def arguments(folder: Path, model: Path, *options: str, name: str = "table") -> list[str]:
    places = [name, str(folder), "--init", str(model), "--save-dir", str(folder / "run")]
    return [*places, "--device", "cpu", "--batch-size", "3", "--log-interval", "5", *options]


def run(folder: Path, model: Path, *options: str, name: str = "table") -> dict:
    assert finetune.main(arguments(folder, model, *options, name=name)) == 0
    return json.loads((folder / "run" / "report.json").read_text())


def refusal(arguments: list[str], capsys, code: int = 2) -> str:
    assert finetune.main(arguments) == code
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(autouse=True, scope="module")
def no_curves():
    """Leave the curves out of the reports; drawing them would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roberta.finetuning.find_spec", lambda name: None)
        yield


LEARN = ("--lr", "5e-3", "--max-epoch", "15", "--validate-interval-updates", "10")
SWEEP = ("--seeds", "1", "2", "--lr", "5e-3", "1e-6", "--max-epoch", "3")
NAMES = ["lr0.005_seed1", "lr0.005_seed2", "lr1e-06_seed1", "lr1e-06_seed2"]


def test_a_small_table_is_learnt_by_heart(folder, model, capsys):
    assert finetune.main(arguments(folder, model, *LEARN)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["splits"]["valid"] == {
        "examples": 6,
        "accuracy": 1.0,
        "macro_f1": 1.0,
        "matthews": 1.0,
        "num_truncated": 0,
    }
    assert found["splits"]["test"] == {"examples": 2, "num_truncated": 0}
    save_dir = folder / "run"
    assert {path.name for path in save_dir.iterdir()} >= {"best", "predictions", "report.md", "report.json", "run.json"}
    assert json.loads((save_dir / "report.json").read_text()) == {k: v for k, v in found.items() if k != "save_dir"}
    valid = [json.loads(line) for line in (save_dir / "predictions" / "valid.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in valid] == [row["answer"] for row in valid] == [label for _, label in ROWS]
    assert valid[3]["source"] == f"{folder}/dev.tsv:5"
    assert set(valid[0]["probabilities"]) == {"no", "yes"}
    test = [json.loads(line) for line in (save_dir / "predictions" / "test.jsonl").read_text().splitlines()]
    assert [(row["prediction"], row["answer"]) for row in test] == [("yes", None), ("no", None)]
    report = (save_dir / "report.md").read_text()
    assert report.startswith(f"# table\n\nFine-tuned from `{model}` on `{folder}`.")
    assert "## Confusion" in report


def test_the_hub_opens_a_run_and_answers_in_label_names(folder, model):
    run(folder, model, *LEARN)
    hub = roberta.from_pretrained(folder / "run")
    found = hub.predict("sentence_classification_head", [text for text, _ in ROWS])
    assert [each.label for each in found] == [label for _, label in ROWS]
    assert list(hub.model.head_configs) == ["sentence_classification_head"]  # the masked-LM head was left behind


@pytest.fixture(scope="module")
def swept(tmp_path_factory, model) -> tuple[Path, dict]:
    """Return a folder with a finished sweep, and its report."""
    folder = write_tables(tmp_path_factory.mktemp("swept"))
    return folder, run(folder, model, *SWEEP)


def test_a_sweep_trains_every_combination_and_takes_over_the_best(swept):
    folder, found = swept
    save_dir = folder / "run"
    assert sorted(path.name for path in save_dir.glob("lr*")) == sorted(NAMES)
    assert [(each["lr"], each["seed"]) for each in found["runs"]] == [(5e-3, 1), (5e-3, 2), (1e-6, 1), (1e-6, 2)]
    assert found["best"]["value"] == max(each["value"] for each in found["runs"])
    assert [row["runs"] for row in found["learning_rates"]] == [2, 2]
    taken, source = (
        native.load(path / "best").model.state_dict() for path in (save_dir, Path(found["best"]["save_dir"]))
    )
    assert all(torch.equal(tensor, source[name]) for name, tensor in taken.items())
    assert found["splits"]["valid"]["accuracy"] == found["best"]["value"]
    assert "## Runs" in (save_dir / "report.md").read_text()
    others = {path.name for path in save_dir.iterdir()} - set(NAMES)
    assert {"best", "predictions", "report.md", "report.json"} <= others
    assert not list(save_dir.glob("step_*"))


def without_places(report: dict) -> dict:
    runs = [{**each, "seconds": 0, "save_dir": Path(each["save_dir"]).name} for each in report["runs"]]
    return {**report, "data": "", "best": report["best"]["value"], "runs": runs}


def test_a_finished_sweep_is_not_trained_again(swept, model, capsys, monkeypatch):
    folder, report = swept
    assert "already holds runs; add --resume" in refusal(arguments(folder, model, *SWEEP), capsys)
    monkeypatch.setattr(Trainer, "train_step", None)
    assert without_places(run(folder, model, *SWEEP, "--resume")) == without_places(report)


def test_an_interrupted_sweep_goes_on_where_it_was(folder, swept, model, monkeypatch):
    whole, report = swept
    train_step, count = Trainer.train_step, []

    def stopped(self, batches, *, interrupted=False):
        count.append(self.config.save_dir.name)
        return train_step(self, batches, interrupted=len(count) == 9)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopped)
        assert finetune.main(arguments(folder, model, *SWEEP)) == 75
    assert count == [NAMES[0]] * 6 + [NAMES[1]] * 3
    assert not (folder / "run" / "report.json").exists()
    assert without_places(run(folder, model, *SWEEP, "--resume")) == without_places(report)
    for name in NAMES:
        ours, theirs = (native.load(native.newest(each / "run" / name)).model.state_dict() for each in (folder, whole))
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_without_keep_best_the_newest_model_predicts(folder, model):
    found = run(folder, model, "--seeds", "1", "2", "--max-update", "2", "--no-keep-best")
    newest = native.load(native.newest(Path(found["best"]["save_dir"]))).model.state_dict()
    taken = roberta.from_pretrained(folder / "run").model.state_dict()
    assert all(torch.equal(tensor, newest[name]) for name, tensor in taken.items())


def test_without_keep_best_the_report_has_the_figures_of_the_model_that_is_there(folder, model, monkeypatch):
    """In the end the loss is made to grow."""
    train = Trainer.train

    def uphill_in_the_end(self):
        self.timetable.lr = lambda update: 5e-3 if update < 22 else -5e-2
        return train(self)

    monkeypatch.setattr(Trainer, "train", uphill_in_the_end)
    found = run(folder, model, *LEARN, "--max-update", "30", "--validate-interval-updates", "7", "--no-keep-best")
    records = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    accuracies = [record["valid"]["accuracy"] for record in records if "valid" in record]
    assert accuracies[-1] < max(accuracies)  # else this test shows nothing
    assert (found["best"]["update"], found["best"]["value"]) == (30, accuracies[-1])
    assert found["splits"]["valid"]["accuracy"] == accuracies[-1]


def test_a_sweep_takes_the_best_model_over_where_files_cannot_be_linked(folder, model, monkeypatch):
    def refuse(*places):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run(folder, model, "--seeds", "1", "2", "--max-update", "2")
    assert native.load(folder / "run" / "best")


def test_numbers_are_predicted_on_their_scale(folder, model):
    for split in ("train", "dev"):
        table = (folder / f"{split}.tsv").read_text().replace("yes", "5.0").replace("no", "1.0")
        (folder / f"{split}.tsv").write_text(table)
    found = run(folder, model, *LEARN, "--kind", "regression")
    assert found["metric"] == "pearson"
    assert found["splits"]["valid"]["pearson"] > 0.95
    hub = roberta.from_pretrained(folder / "run")
    rows = (folder / "run" / "predictions" / "valid.jsonl").read_text().splitlines()
    for (text, _), row in zip(ROWS, map(json.loads, rows), strict=True):
        value = hub.predict("sentence_classification_head", text).value
        assert value == pytest.approx(row["prediction"], abs=1e-4)
        assert row["error"] == pytest.approx(abs(row["answer"] - row["prediction"]))


def test_several_classes_at_once_are_told_independently(folder, model):
    rows = [("sport and art", "sport,art"), ("only art", "art"), ("none", ""), ("sport", "sport")]
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("\n".join(["text\tlabel", *("\t".join(row) for row in rows)]) + "\n")
    found = run(
        folder, model, "--lr", "5e-3", "--max-epoch", "40", "--validate-interval-updates", "20", "--kind", "multi_label"
    )
    assert found["splits"]["valid"] == {"examples": 4, "micro_f1": 1.0, "exact_match": 1.0, "num_truncated": 0}
    both, art, none, sport = roberta.from_pretrained(folder / "run").predict(
        "sentence_classification_head", [text for text, _ in rows]
    )
    for result, expected in ((both, (1, 1)), (art, (1, 0)), (none, (0, 0)), (sport, (0, 1))):
        assert tuple(round(result.probabilities[name]) for name in ("art", "sport")) == expected
    assert sum(both.probabilities.values()) > 1.0
    assert "## Confusion" not in (folder / "run" / "report.md").read_text()


def test_a_set_of_glue_ends_with_the_file_that_its_site_takes(folder, model):
    header = "index\tsentence1\tsentence2"
    rows = {"train": "0\ta\tb\tentailment", "dev": "0\tc\td\tnot_entailment", "test": "3\te\tf"}
    for split, row in rows.items():
        label = "" if split == "test" else "\tlabel"
        (folder / f"{split}.tsv").write_text(f"{header}{label}\n{row}\n")
    found = run(folder, model, "--max-update", "1", name="rte")
    assert (found["data_set"], found["metric"]) == ("rte", "accuracy")
    (prediction,) = map(json.loads, (folder / "run" / "predictions" / "test.jsonl").read_text().splitlines())
    submission = (folder / "run" / "predictions" / "RTE.tsv").read_text()
    assert submission == f"index\tprediction\n3\t{prediction['prediction']}\n"
    assert list(roberta.from_pretrained(folder / "run").model.head_configs) == ["rte"]


def test_sequences_are_no_longer_than_the_model_takes(folder, model, caplog):
    (folder / "train.tsv").write_text("\n".join(["text\tlabel", "x" * 100 + "\tyes", "short\tno"]) + "\n")
    with caplog.at_level("INFO"):
        run(folder, model, "--lr", "1e-3", "--max-update", "1")
    assert "train: 2 samples; 1 cut to 24 tokens" in caplog.text
    saved = json.loads((folder / "run" / "run.json").read_text())["recipe"]
    assert saved["task"]["tokens_per_sample"] == 24


def test_options_come_from_the_recipes_and_then_from_the_command_line(folder, model):
    name, recipe, sweep, _ = finetune.parse(
        ["rte", str(folder), "--init", str(model), "--save-dir", "run", "--weight-decay", "0.2", "--dropout", "0.3"]
    )
    assert (name, sweep.lr, sweep.seeds) == ("rte", (2e-5,), (1,))
    assert (recipe.trainer.max_epoch, recipe.trainer.batch_size, recipe.trainer.keep_best) == (10, 16, True)
    assert (recipe.lr_scheduler.warmup_ratio, recipe.optimizer.adam_betas) == (0.06, (0.9, 0.98))
    assert (recipe.optimizer.weight_decay, recipe.model.dropout, recipe.model.attention_dropout) == (0.2, 0.3, 0.0)
    assert recipe.task.data_layout == "rte"
    other = finetune.parse(["table", str(folder), "--init", str(model), "--warmup-updates=7"])[1]
    assert (other.trainer.max_epoch, other.lr_scheduler.lr) == (10, 2e-5)
    assert (other.lr_scheduler.warmup_updates, other.lr_scheduler.warmup_ratio) == (7, 0.0)


@pytest.mark.parametrize("given", [["--max-update", "60"], ["--max-update=60", "--max-epoch", "90"]])
def test_how_long_to_train_is_said_by_the_arguments_alone_where_they_say_it(folder, model, given):
    for name in ("rte", "commonsense_qa"):  # recipes that count epochs, and updates
        trainer = finetune.parse([name, str(folder), "--init", str(model), *given])[1].trainer
        assert (trainer.max_update, trainer.max_epoch) == (60, 90 if len(given) > 2 else None)
    trainer = finetune.parse(["commonsense_qa", str(folder), "--init", str(model), "--max-epoch", "3"])[1].trainer
    assert (trainer.max_update, trainer.max_epoch) == (None, 3)


def test_a_recipe_of_ones_own_may_say_how_many_updates_warm_up(folder, model):
    (folder / "my.args").write_text("--warmup-updates 7\n")
    recipe = finetune.parse(["table", str(folder), f"@{folder}/my.args", "--init", str(model)])[1]
    assert (recipe.lr_scheduler.warmup_updates, recipe.lr_scheduler.warmup_ratio) == (7, 0.0)


def test_data_whose_name_begins_with_the_sign_of_a_recipe_can_be_given(folder, model, monkeypatch):
    (folder / "@data").mkdir()
    monkeypatch.chdir(folder)
    assert finetune.parse(["table", "@@data", "--init", str(model)])[1].task.data == Path("@data")


def test_every_data_set_has_a_recipe_that_can_be_read(folder, model):
    from roberta.finetuning import DATASETS

    windows = ["--doc-stride", "4", "--max-question-length", "8"]
    for name in DATASETS:
        options = windows if name.startswith("squad") else []
        found, recipe, _, _ = finetune.parse([name, str(folder), "--init", str(model), *options])
        assert found == name
        assert recipe.trainer.keep_best
        assert recipe.trainer.save_dir == Path("runs") / name
        assert recipe.trainer.max_epoch or recipe.trainer.max_update


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "name a data set and where it is, before all options"),
        (["rte"], "name a data set and where it is, before all options"),
        (["--seeds", "1", "rte", "DATA"], "name a data set and where it is, before all options"),
        (["--debug", "table", "DATA", "--save-dir", "RUN"], "name a data set and where it is, before all options"),
        (["ret", "DATA"], "unknown data set 'ret'; .*did you mean rte"),
        (["table", "DATA", "--sede", "1"], "unknown argument '--sede'; did you mean --seeds"),
        (
            ["table", "GONE", "--save-dir", "RUN", "--init", "MODEL"],
            "GONE: no such file or folder; give the path of the data",
        ),
        (["table", "DATA/gone.tsv", "--save-dir", "RUN", "--init", "MODEL"], "gone.tsv"),
        (["rte", "DATA", "--save-dir", "RUN", "--init", "MODEL"], "train.tsv:1: no column 'sentence1'"),
        (
            ["table", "DATA", "--save-dir", "RUN", "--init", "MODEL", "--lr", "1", "1"],
            "--lr takes .* none of them twice",
        ),
        (
            ["table", "DATA", "--save-dir", "RUN", "--init", "MODEL", "--warmup-updates", "3", "--warmup-ratio", "0.1"],
            "--warmup-ratio 0.1 and --warmup-updates 3 contradict each other; set one of them to 0",
        ),
        (
            ["table", "DATA", "--save-dir", "RUN", "--init", "MODEL", "--class-weights", "1"],
            "has 1 numbers for 2 classes; give one each, in the order of the labels: no, yes",
        ),
        (
            ["table", "DATA", "--save-dir", "RUN", "--init", "MODEL", "--labels", "yes", "maybe"],
            "label 'no' is not one",
        ),
        (
            ["table", "DATA", "--save-dir", "RUN", "--init", "MODEL", "--text-columns", "txt"],
            "no column 'txt'; .*text?",
        ),
        (["table", "DATA", "--save-dir", "RUN", "--init", "MODEL", "--metric", "pearson"], "does not fit the labels"),
        (["table", "DATA", "--save-dir", "RUN", "--init", "MODEL", "--patience", "0"], "--patience is 0"),
    ],
)
def test_bad_input_is_refused_by_name(folder, model, capsys, changes, message):
    places = {"DATA": str(folder), "MODEL": str(model), "RUN": str(folder / "run"), "GONE": str(folder / "GONE")}
    given = [places.get(each, each.replace("DATA/", f"{folder}/")) for each in changes]
    given += ["--device", "cpu"] if "--save-dir" in given else []
    error = refusal(given, capsys)
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not native.steps(folder / "run")


def test_a_model_that_is_not_there_is_refused(folder, capsys):
    message = refusal(arguments(folder, folder / "gone"), capsys, code=3)
    assert "gone: neither a file or folder nor a model of that name" in message


def test_a_damaged_test_split_is_found_before_training(folder, model, capsys):
    (folder / "test.tsv").write_text("text\tlabel\ngreat\tmaybe\n")
    message = refusal(arguments(folder, model, *LEARN), capsys)
    assert "test.tsv:2: label 'maybe' is not one of the classes to learn" in message
    assert not (folder / "run").exists()


def test_a_head_of_the_same_name_that_does_not_fit_starts_anew(folder, model, caplog):
    trained = load(model).model
    trained.register_head("sentence_classification_head", ClassificationHeadConfig(num_classes=3))
    native.save(folder / "other", trained, make_byte_tokenizer())
    with caplog.at_level("INFO"):
        run(folder, folder / "other", "--max-update", "1")
    found = (
        f"the head 'sentence_classification_head' of {folder / 'other'} has num_classes 3 instead of 2; it starts from"
    )
    assert found in caplog.text


@pytest.mark.parametrize(
    ("theirs", "unlike"),
    [
        (ClassificationHeadConfig(num_classes=2, labels=("a", "b"), dropout=0.3), ""),
        (ClassificationHeadConfig(num_classes=2), ""),
        (ClassificationHeadConfig(num_classes=2, labels=("b", "a")), "labels ('b', 'a') instead of ('a', 'b')"),
        (ClassificationHeadConfig(num_classes=2, inner_dim=8), "inner_dim 8 instead of None"),
        (RegressionHeadConfig(), "a RegressionHeadConfig instead of a ClassificationHeadConfig"),
    ],
)
def test_a_trained_head_is_kept_unless_its_weights_would_mean_something_else(theirs, unlike, folder, model, caplog):
    source, ours = load(model), load(model).model
    source.model.register_head("x", theirs)
    ours.register_head("x", ClassificationHeadConfig(num_classes=2, labels=("a", "b")))
    transfer(source, ours, "x", "SOURCE")
    if unlike:
        assert f"the head 'x' of SOURCE has {unlike}; it starts from random weights" in caplog.text
        assert caplog.records[0].levelname == "WARNING"
    else:
        kept = ours.heads["x"].state_dict()
        assert all(torch.equal(tensor, kept[name]) for name, tensor in source.model.heads["x"].state_dict().items())
        told = "the classes of head 'x' of SOURCE have no names; they are taken for a, b"
        assert (told in caplog.text) == (not theirs.labels)
        assert len(caplog.records) == (not theirs.labels)


def test_the_help_names_every_data_set_and_shows_the_recipe(capsys):
    words = set(finetune.DESCRIPTION.split())
    assert set(DATASETS) <= words
    with pytest.raises(SystemExit):
        finetune.main(["squad2", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "one run each (default: 1.5e-05)" in shown
    assert "log (default: runs/squad2)" in shown
    assert "at most (default: 48)" in shown
