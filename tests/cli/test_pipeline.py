"""The commands as a user runs them: text in, a trained model out, measured and used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from roberta.hub import from_pretrained
from roberta.registry import CRITERIONS, TASKS
from roberta_cli import entry, evaluate, quickstart, train

TINY = """--preset roberta.tiny --encoder-layers 1 --embed-dim 16 --ffn-embed-dim 16 --max-positions 64
  --tokens-per-sample 64 --batch-size 8 --lr 1e-2 --device cpu""".split()


def run_train(data: Path, run: Path, *options: str) -> int:
    return train.main([str(data), "--save-dir", str(run), "--max-update", "3", *TINY, *options])


@pytest.fixture(scope="module")
def run_dir(data_bin, tmp_path_factory):
    """Return a run whose samples are not those of the defaults."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert run_train(data_bin, folder, "--tokens-per-sample", "32", "--sample-break-mode", "none") == 0
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
    recipe = train.parse([f"@{tmp_path / 'recipe.args'}", str(data_bin), "--save-dir", "run", "--seed", "6"])[0]
    assert (recipe.trainer.max_update, recipe.trainer.seed, recipe.model.embed_dim) == (9, 6, 16)
    assert recipe.model.attention_heads == 2  # of the preset


def test_the_criterion_is_that_of_the_task_and_a_vocabulary_may_be_named(tmp_path):
    arguments = ["data", "--save-dir", "run", "--max-update", "1", *TINY]
    for task, more in (("masked_lm", ["--vocab", "roberta.mini"]), ("wsc", []), ("sentence_ranking", [])):
        recipe, _ = train.parse([*arguments, "--task", task, *more])
        assert CRITERIONS.name_of(type(recipe.criterion)) == TASKS.name_of(type(recipe.task)) == task
        if more:
            assert (recipe.task.vocab / "dict.txt").is_file()


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
            "no-such-folder: no such file or folder",
        ),
        (["data", "--save-dir", "run", "--batch-size", "1"], "give --max-update, --max-epoch or both"),
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
    recipe = train.parse([*"--save-dir run --max-update 1 --batch-size 1 --adam-betas 0.8 0.9 data".split()])[0]
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


def test_the_quickstart_goes_the_whole_way(tmp_path, capsys, monkeypatch):
    from roberta.data import sample

    monkeypatch.setattr(sample, "sample_corpus", lambda split: "It is a truth universally acknowledged.\n\n" * 40)
    passages = [("Mr. Knightley smiled.", "Emma"), ("Anne hoped to be wise.", "Persuasion")] * 4
    monkeypatch.setattr(sample, "sample_passages", lambda split: passages)
    monkeypatch.setattr(quickstart, "RECIPE", [*TINY, "--warmup-updates", "1"])
    arguments = ["--folder", str(tmp_path / "quick"), "--max-update", "2", "--classifier-updates", "2"]
    assert quickstart.main(arguments) == 0
    output = capsys.readouterr().out
    for command in (
        "$ roberta-preprocess",
        "$ roberta-train",
        "$ roberta-eval masked_lm",
        "fill_mask(",
        "checkpoints are in",
    ):
        assert command in output
    assert quickstart.main(arguments) == 0


@pytest.mark.parametrize("command", ["preprocess", "train", "evaluate", "quickstart"])
def test_help_explains_the_command_with_an_example(command):
    code = f"from roberta_cli.{command} import main; main(['--help'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "example:" in result.stdout
    assert "roberta-" in result.stdout
    assert "(default: " in result.stdout
