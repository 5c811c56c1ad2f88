"""The commands as a user runs them: text in, a trained model out, measured and used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from roberta.data.tokenizer import Tokenizer
from roberta.hub import from_pretrained
from roberta_cli import entry, evaluate, quickstart, train

TINY = """--preset roberta.tiny --encoder-layers 1 --embed-dim 16 --ffn-embed-dim 16 --max-positions 64
  --tokens-per-sample 64 --batch-size 8 --lr 1e-2 --device cpu""".split()


def run_train(data: Path, run: Path, *options: str) -> int:
    return train.main([str(data), "--save-dir", str(run), "--max-update", "3", *TINY, *options])


@pytest.fixture(scope="module")
def run_dir(data_bin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert run_train(data_bin, folder) == 0
    return folder


def test_train_prints_the_last_validation_as_json(data_bin, tmp_path, capsys):
    assert run_train(data_bin, tmp_path / "run") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["valid"]["num_updates"] == 3
    assert 0 < result["valid"]["nats"] < 12


def test_eval_repeats_the_loss_of_the_last_validation(run_dir, data_bin, capsys):
    assert evaluate.main(["masked_lm", str(data_bin), "--model", str(run_dir), "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    logged = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()][-1]["valid"]
    assert result["nats"] == pytest.approx(logged["nats"], rel=1e-5)
    assert result["num_targets"] == logged["num_targets"]


def test_a_run_opens_in_the_hub_from_any_place(run_dir, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    roberta = from_pretrained(run_dir)
    assert roberta.encode("Hello world!").tolist() == [0, 31414, 232, 328, 2]
    assert len(roberta.fill_mask("It is a <mask>.")) == 5


def test_torch_hub_opens_a_run_through_hubconf(run_dir):
    repository = Path(__file__).parents[2]
    roberta = torch.hub.load(str(repository), "from_pretrained", run_dir, source="local")
    assert roberta.extract_features(roberta.encode("Hello world!")).shape == (1, 5, 16)


def test_recipe_files_hold_options_and_the_command_line_wins(data_bin, tmp_path):
    (tmp_path / "recipe.args").write_text("# a comment\n" + " ".join(TINY) + "  # another\n--max-update 9\n--seed 5\n")
    recipe = train.parse([f"@{tmp_path / 'recipe.args'}", str(data_bin), "--save-dir", "run", "--seed", "6"])
    assert (recipe.trainer.max_update, recipe.trainer.seed, recipe.model.embed_dim) == (9, 6, 16)
    assert recipe.model.attention_heads == 2  # of the preset


def test_a_user_module_brings_its_own_components(data_bin, tmp_path, monkeypatch):
    (tmp_path / "my_schedule.py").write_text(
        "from dataclasses import dataclass\n"
        "from roberta.config import option\n"
        "from roberta.registry import SCHEDULES\n"
        "@dataclass(frozen=True)\n"
        "class FlatConfig:\n"
        "    flat_lr: float = option(0.1, help='the rate')\n"
        "@SCHEDULES.register('flat', FlatConfig)\n"
        "def flat(config, max_update):\n"
        "    return lambda num_updates: config.flat_lr\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arguments = [option for option in TINY if option not in ("--lr", "1e-2")]
    arguments += ["--user-module", "my_schedule", "--lr-scheduler", "flat", "--flat-lr", "0.01"]
    assert train.main([str(data_bin), "--save-dir", str(tmp_path / "run"), "--max-update", "1", *arguments]) == 0
    record = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert record["train"]["lr"] == 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["no-such-folder", "--save-dir", "run", "--max-update", "1", "--batch-size", "1"],
            "no-such-folder: no dict.txt there",
        ),
        (["data", "--save-dir", "run", "--batch-size", "1"], "required: --max-update"),
        (
            ["data", "--save-dir", "run", "--max-update", "1", "--batch-size", "1", "--preset", "roberta.bsae"],
            "mean roberta.base",
        ),
        (["data", "--save-dir", "run", "--max-update", "1", "--batch-size", "1", "--task", "masked"], "mean masked_lm"),
        (
            ["data", "--save-dir", "run", "--max-update", "1", "--batch-size", "1", "--user-module", "nothing"],
            "--user-module",
        ),
        (["data", "--save-dir", "run", "--max-update", "1"], "--batch-size, --max-tokens"),
        (["data", "--save-dir", "run", "--max-update", "x"], "argument --max-update: invalid int value: 'x'"),
        (["data", "--save-dir", "run", "--precision", "fp8"], "invalid choice: 'fp8'"),
        (
            ["data", "--save-dir", "run", "--max-updates", "3"],
            "unknown argument '--max-updates'; did you mean --max-update?",
        ),
        (["@nope.args"], "nope.args"),
        (["data", "--save-dir", "run", "--max-update", "1", "--batch-size", "1", "--lr", "nan"], "--lr is nan"),
        (["data", "--save-dir", "run", "--max-update", "1", "--batch-size", "1", "--power", "0"], "--power is 0.0"),
    ],
)
def test_bad_arguments_give_one_line_and_exit_code_2(arguments, message, capsys):
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("error: ")


def test_options_with_two_values_leave_the_data_alone():
    recipe = train.parse([*"--save-dir run --max-update 1 --batch-size 1 --adam-betas 0.8 0.9 data".split()])
    assert (recipe.optimizer.adam_betas, recipe.task.data) == ((0.8, 0.9), Path("data"))


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_folder_that_can_not_be_written_gives_exit_code_5(place, data_bin, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run_train(data_bin, tmp_path / place) == 5
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: --save-dir")
    assert quickstart.main(["--folder", str(tmp_path / place)]) == 5


def test_ctrl_c_outside_of_training_gives_exit_code_130(monkeypatch, capsys):
    def interrupt(argv):
        raise KeyboardInterrupt

    assert entry.run(interrupt, []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert evaluate.main(["masked_lm", str(tmp_path), "--model", str(tmp_path), "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_damaged_checkpoint_gives_exit_code_3(run_dir, tmp_path, data_bin, capsys):
    (tmp_path / "step_0000001").mkdir()
    assert evaluate.main(["masked_lm", str(data_bin), "--model", str(tmp_path)]) == 3
    assert "MANIFEST.json: missing" in capsys.readouterr().err


def test_an_eval_of_another_vocabulary_is_refused(run_dir, data_bin, tmp_path, capsys):
    for path in data_bin.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = (tmp_path / "dict.txt").read_text().splitlines(keepends=True)
    (tmp_path / "dict.txt").write_text("".join([lines[1], lines[0], *lines[2:]]))
    assert evaluate.main(["masked_lm", str(tmp_path), "--model", str(run_dir)]) == 3
    assert "its dictionary is not the model's" in capsys.readouterr().err


MNLI_HEADER = [
    "index",
    "promptID",
    "pairID",
    "genre",
    "p1",
    "p2",
    "p3",
    "p4",
    "sentence1",
    "sentence2",
    "label1",
    "gold_label",
]


def write_mnli(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    lines = ["\t".join(MNLI_HEADER)]
    lines += ["\t".join([*["x"] * 8, premise, hypothesis, label, label]) for premise, hypothesis, label in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def mnli_model(run_dir, tmp_path_factory):
    from roberta.checkpoint import native

    roberta = from_pretrained(run_dir)
    torch.manual_seed(0)
    roberta.register_classification_head("mnli", num_classes=3)
    folder = tmp_path_factory.mktemp("mnli") / "model"
    native.save(folder, roberta.model, Tokenizer.load())
    return folder


def test_eval_counts_the_right_predictions_of_an_mnli_head(mnli_model, tmp_path, capsys):
    texts = [
        ('He said "no', "He spoke."),
        ("A man sleeps.", "A man runs."),
        ("It rains.", "The sun shines and it is warm."),
    ]
    roberta = from_pretrained(mnli_model)
    names = ("contradiction", "neutral", "entailment")
    answers = [names[int(roberta.predict("mnli", roberta.encode(*pair)).argmax())] for pair in texts]
    wrong = names[(names.index(answers[1]) + 1) % 3]
    rows = [(*texts[0], answers[0]), (*texts[1], wrong), (*texts[2], answers[2])]
    path = write_mnli(tmp_path / "dev.tsv", rows)
    assert evaluate.main(["mnli", str(path), "--model", str(mnli_model), "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["correct"], result["num_examples"], result["accuracy"]) == (2, 3, pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("gold_label", "label"), ":1: 12 columns, the last one ('label',)"),
        (
            lambda text: text.replace("\tneutral\n", "\t-\n"),
            ":2: label '-'; allowed: contradiction, entailment, neutral",
        ),
        (lambda text: text.replace("x\tx", "x", 1), ":2: 11 columns, the header has 12"),
        (lambda text: text.split("\n")[0], "a header and no rows"),
    ],
)
def test_files_that_are_no_mnli_are_refused_with_the_line(change, message, mnli_model, tmp_path, capsys):
    path = write_mnli(tmp_path / "dev.tsv", [("a", "b", "neutral")])
    path.write_text(change(path.read_text()))
    assert evaluate.main(["mnli", str(path), "--model", str(mnli_model)]) == 2
    assert f"dev.tsv{message}" in capsys.readouterr().err.replace(": a header", "a header")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head", "lm"], "head 'lm' is of kind masked_lm; accuracy needs a classification head"),
        (["--head", "mnly"], "did you mean mnli?"),
        (["--max-tokens", "-5"], "--max-tokens is -5"),
    ],
)
def test_eval_options_that_do_not_fit_are_refused(options, message, mnli_model, tmp_path, capsys):
    path = write_mnli(tmp_path / "dev.tsv", [("a", "b", "neutral")])
    assert evaluate.main(["mnli", str(path), "--model", str(mnli_model), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_text_that_is_too_long_is_named_by_its_line(mnli_model, tmp_path, capsys):
    path = write_mnli(tmp_path / "dev.tsv", [("a", "b", "neutral"), ("a " * 90, "b", "neutral")])
    assert evaluate.main(["mnli", str(path), "--model", str(mnli_model)]) == 2
    assert "dev.tsv:3: 9" in capsys.readouterr().err


def test_the_heads_own_labels_go_before_the_published_ones(run_dir, tmp_path, capsys):
    from roberta.checkpoint import native

    roberta = from_pretrained(run_dir)
    accuracies = []
    for labels in (("contradiction", "neutral", "entailment"), ("entailment", "neutral", "contradiction")):
        torch.manual_seed(0)
        roberta.register_classification_head("mnli", num_classes=3, labels=labels)
        roberta.model.heads["mnli"].out_proj.bias.data += torch.tensor([9.0, 0.0, 0.0])  # always the first
        native.save(tmp_path / "model", roberta.model, Tokenizer.load())
        path = write_mnli(tmp_path / "dev.tsv", [("a", "b", "contradiction")])
        assert evaluate.main(["mnli", str(path), "--model", str(tmp_path / "model"), "--device", "cpu"]) == 0
        accuracies.append(json.loads(capsys.readouterr().out)["accuracy"])
    assert accuracies == [1.0, 0.0]


def test_eval_reads_the_genuine_mnli_file(shared, capsys):
    data = shared / "data/glue_data/MNLI/dev_matched.tsv"
    assert evaluate.main(["mnli", str(data), "--model", str(shared / "golden/ckpt2019"), "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_examples"] == 1000
    assert 0.2 < result["accuracy"] < 0.5  # random weights


def test_the_quickstart_goes_the_whole_way(tmp_path, capsys, monkeypatch):
    from roberta.data import sample

    monkeypatch.setattr(sample, "sample_corpus", lambda split: "It is a truth universally acknowledged.\n\n" * 40)
    monkeypatch.setattr(quickstart, "RECIPE", [*TINY, "--warmup-updates", "1"])
    assert quickstart.main(["--folder", str(tmp_path / "quick"), "--max-update", "2"]) == 0
    output = capsys.readouterr().out
    for command in (
        "$ roberta-preprocess",
        "$ roberta-train",
        "$ roberta-eval masked_lm",
        "fill_mask(",
        "checkpoints are in",
    ):
        assert command in output
    assert quickstart.main(["--folder", str(tmp_path / "quick"), "--max-update", "2"]) == 0


@pytest.mark.parametrize("command", ["preprocess", "train", "evaluate", "quickstart"])
def test_help_explains_the_command_with_an_example(command):
    code = f"from roberta_cli.{command} import main; main(['--help'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "example:" in result.stdout
    assert "roberta-" in result.stdout
    assert "(default: " in result.stdout
