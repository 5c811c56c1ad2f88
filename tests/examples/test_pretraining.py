"""The recipes of the examples, those of the paper, and the Slurm script with a Slurm of three small scripts."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from roberta.data.sample import sample_corpus
from roberta.hub import from_pretrained
from roberta.pretrained import SHIPPED
from roberta_cli import preprocess, train
from roberta_cli.train import parse

FOLDER = Path(__file__).parents[2] / "examples/pretraining"
RECIPES = sorted(FOLDER.parent.glob("*/*.args"))
LAYOUT = re.compile(r"^# +(\d+) GPUs?: +--batch-size (\d+) --update-freq (\d+)(.*)$", re.MULTILINE)


def recipe_of(path: Path, *options: str):
    return parse([f"@{path}", "data-bin", "--save-dir", "run", *options])[0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_needs_data_and_a_folder_alone(path):
    assert recipe_of(path).trainer.save_dir == Path("run")
    assert recipe_of(path, "--seed", "7").trainer.seed == 7


@pytest.mark.parametrize(
    ("name", "layers", "batch", "updates", "lr", "warmup", "second_beta"),
    [  # arXiv:1907.11692 tables 3 and 9
        ("base_256", 12, 256, 1_000_000, 1e-4, 10_000, 0.999),
        ("base_2k", 12, 2048, 125_000, 7e-4, 7_500, 0.98),
        ("base_8k", 12, 8192, 31_250, 1e-3, 1_875, 0.98),
        ("large_8k", 24, 8192, 500_000, 4e-4, 30_000, 0.98),
    ],
)
def test_recipes_hold_the_numbers_of_the_paper(name, layers, batch, updates, lr, warmup, second_beta):
    path = FOLDER / f"{name}.args"
    recipe = recipe_of(path)
    assert recipe.model.encoder_layers == layers
    assert (recipe.model.dropout, recipe.model.attention_dropout) == (0.1, 0.1)
    assert (recipe.trainer.max_update, recipe.trainer.clip_norm) == (updates, 0.0)
    assert (recipe.lr_scheduler.lr, recipe.lr_scheduler.warmup_updates) == (lr, warmup)
    assert recipe.optimizer.adam_betas == (0.9, second_beta)
    assert (recipe.optimizer.adam_eps, recipe.optimizer.weight_decay) == (1e-6, 0.01)
    assert (recipe.task.tokens_per_sample, recipe.task.sample_break_mode) == (512, "complete")
    layouts = LAYOUT.findall(path.read_text())
    assert [int(gpus) for gpus, *_ in layouts] == [1, 8, 64]
    for gpus, batch_size, update_freq, remark in layouts:
        assert int(gpus) * int(batch_size) * int(update_freq) == batch
        is_given = f"\n--batch-size {batch_size} --update-freq {update_freq} --precision" in path.read_text()
        assert is_given == ("as below" in remark)
    assert sum("as below" in remark for *_, remark in layouts) == 1


SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" >>"$CALLS"; fi
"""
TORCHRUN = """#!/usr/bin/env bash
echo "$@" >>"$CALLS"
if [ -n "$EXIT" ]; then exit "$EXIT"; fi
trap 'echo saved >>"$CALLS"; exit 1' TERM
while true; do sleep 0.05; done
"""


@pytest.fixture
def start(tmp_path):
    """Return what starts the script with these three in the place of Slurm's and torch's."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("torchrun", TORCHRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": f"test-{os.getpid()}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "32",
    }
    (tmp_path / "calls").touch()
    yield lambda exit_code: subprocess.Popen(
        ["bash", str(FOLDER / "slurm.sh"), "@a b.args", "data-bin"], env={**environment, "EXIT": exit_code}
    )
    Path(f"/tmp/roberta-test-{os.getpid()}.pid").unlink(missing_ok=True)


def test_a_job_whose_time_is_up_saves_and_goes_back_into_the_queue(start, tmp_path):
    process = start("")
    calls = tmp_path / "calls"
    deadline = time.monotonic() + 20
    while not calls.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)  # until its trap is set
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    launch, *rest = calls.read_text().splitlines()
    assert rest == ["saved", f"requeue test-{os.getpid()}"]
    assert "--nnodes 2 --nproc-per-node 4" in launch
    assert "--rdzv-endpoint node1:29500" in launch
    assert launch.endswith("--no-python roberta-train @a b.args data-bin --resume")


@pytest.mark.parametrize("exit_code", ["0", "3"])
def test_a_job_that_ends_or_fails_is_not_requeued(start, tmp_path, exit_code):
    assert start(exit_code).wait(20) == int(exit_code)
    assert "requeue" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("positions", [128, 160])
def test_the_shipped_model_is_made_of_a_run(tmp_path, positions):
    for split in ("train", "valid"):
        (tmp_path / split).write_text(sample_corpus(split)[:20_000], encoding="utf-8")
    texts = ["--trainpref", tmp_path / "train", "--validpref", tmp_path / "valid", "--vocab", SHIPPED["roberta.mini"]]
    assert preprocess.main([*map(str, texts), "--destdir", str(tmp_path / "bin")]) == 0
    shape = ["--preset", "roberta.mini", "--max-positions", positions, "--tokens-per-sample", 128, "--batch-size", 2]
    run = ["--max-update", 1, "--save-dir", tmp_path / "run"]
    assert train.main([str(tmp_path / "bin"), *map(str, [*shape, *run])]) == 0
    subprocess.run(
        [sys.executable, FOLDER / "ship_mini.py", tmp_path / "run", tmp_path / "mini"], check=True, timeout=120
    )
    trained, shipped = from_pretrained(tmp_path / "run"), from_pretrained(tmp_path / "mini")
    assert (trained.max_tokens, shipped.max_tokens) == (positions, 128)
    text = "It is a <mask>."
    assert torch.equal(trained.half().extract_features(text), shipped.extract_features(text))
    card = (tmp_path / "mini/README.md").read_text(encoding="utf-8")
    assert 'roberta.from_pretrained("roberta.mini")' in card
    assert "She opened the <mask>" in card
    assert ("160 positions; those past the 128" in card) == (positions > 128)
