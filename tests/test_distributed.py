"""Training by several processes: real ones, on gloo. One launch trains all the recipes, one after another."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from roberta import distributed
from roberta.checkpoint import native
from roberta.errors import ConfigError
from roberta.trainer import Trainer
from roberta_cli.train import parse
from tests.builders import make_byte_tokenizer

ROOT = Path(__file__).parents[1]
OPTIONS = """--preset roberta.tiny --encoder-layers 2 --embed-dim 16 --ffn-embed-dim 32 --max-positions 33
  --tokens-per-sample 33 --batch-size 4 --lr 1e-2 --warmup-updates 1 --total-num-update 20 --max-update 5 --device cpu
  --log-interval 1 --save-interval-updates 100 --validate-interval-updates 100 --timeout-minutes 1"""
RUNS = {  # of two processes; 48 samples are 7 batches of 7 at most, so one process goes without the last
    "ddp": "--batch-size 7 --max-update 6",
    "fsdp": "--batch-size 7 --max-update 6 --parallelism fsdp",
    "half_fsdp": "--batch-size 7 --max-update 3 --parallelism fsdp",
    "uneven_ddp": "--batch-size 7 --update-freq 4 --max-update 3",
    "uneven_fsdp": "--batch-size 7 --update-freq 4 --max-update 3 --parallelism fsdp",
    "muon_ddp": "--optimizer muon",
    "muon_fsdp": "--optimizer muon --parallelism fsdp",
    "average_ddp": "--ema-decay 0.5 --validate-interval-updates 2 --keep-best",
    "average_fsdp": "--ema-decay 0.5 --validate-interval-updates 2 --keep-best --parallelism fsdp",
    "layerdrop": "--encoder-layers 3 --encoder-layerdrop 0.7 --batch-size 7 --update-freq 2",
    "fp16": "--precision fp16",
    "checkpointed_fsdp": "--checkpoint-activations --parallelism fsdp",
    "engine": "--cpu-engine auto",
    "refused": "--encoder-layerdrop 0.5 --parallelism fsdp",
}
ALONE = {
    "whole": "ddp",
    "uneven": "uneven_ddp",
    "muon": "muon_ddp",
    "layerdrop": "layerdrop",
    "fp16": "fp16",
    "checkpointed": "checkpointed_fsdp",
    "engine": "engine",
}
TRAIN_ALL = """
import json, os, sys
from pathlib import Path
import roberta.models.roberta
from roberta.distributed import leave_world
from roberta.errors import RobertaError
from roberta.trainer import Trainer
from roberta_cli.train import parse
rank = int(os.environ["RANK"])
roberta.models.roberta.fastest_engine = lambda *_: ("numpy", "torch")[rank]  # each its own
for arguments in json.loads(sys.argv[1]):
    recipe, _ = parse(arguments)
    try:
        trainer = Trainer(recipe)
        trainer.train()
        recipe.trainer.save_dir.with_suffix(f".engine{rank}").write_text(trainer.model.cpu_engine)
    except RobertaError as error:
        recipe.trainer.save_dir.with_suffix(".error").write_text(str(error))
leave_world()
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}


def launch(*arguments: str, processes: int = 2) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
        *arguments,
    ]


def arguments_of(data: Path, run: Path, options: str) -> list[str]:
    return [str(data), "--save-dir", str(run), *shlex.split(OPTIONS), *shlex.split(options)]


@pytest.fixture(scope="module")
def runs(byte_data_bin, tmp_path_factory) -> Path:
    """Return the folder of the runs of two processes, and beside them those of one with twice the accumulation."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "train_all.py").write_text(TRAIN_ALL)
    arguments = [arguments_of(byte_data_bin, folder / name, options) for name, options in RUNS.items()]
    command = launch(str(folder / "train_all.py"), json.dumps(arguments))
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=180, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    for name, twin in ALONE.items():
        options = RUNS[twin].replace("--parallelism fsdp", "").replace("auto", "numpy")
        frequency = re.search(r"--update-freq (\d+)", options)
        options += f" --update-freq {2 * int(frequency[1]) if frequency else 2}"
        train(byte_data_bin, folder / f"{name}_alone", options)
    return folder


def train(data: Path, run: Path, options: str) -> None:
    """Train in this process."""
    recipe, _ = parse(arguments_of(data, run, options))
    Trainer(recipe).train()


def records(run: Path, kind: str = "train") -> list[dict]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [line[kind] for line in map(json.loads, lines) if kind in line]


def nats(run: Path, kind: str = "train") -> list[float]:
    return [record["nats"] for record in records(run, kind)]


def checkpoint(run: Path) -> native.Checkpoint:
    return native.load(native.newest(run))


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], atol: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=atol, rtol=0, msg=lambda text, at=name: f"{at}: {text}")


@pytest.mark.parametrize(("others", "agree"), [((5, 5), True), ((5, 6), False), ((4, 6), False), ((0, 0), False)])
def test_ranks_that_come_with_other_numbers_are_noticed(others, agree, monkeypatch):
    def total(world: distributed.World, values: list[float]) -> list[float]:
        return [mine + sum(other**power for other in others) for power, mine in enumerate(values, start=1)]

    monkeypatch.setattr(distributed.World, "total", total)
    assert distributed.World(0, 3, torch.device("cpu")).agrees(5) == agree


@pytest.mark.parametrize("missing", ["LOCAL_RANK", "MASTER_ADDR"])
def test_half_an_environment_of_torchrun_is_refused(missing, monkeypatch):
    for name in distributed.ENVIRONMENT:
        monkeypatch.setenv(name, "0")
    monkeypatch.delenv(missing)
    with pytest.raises(ConfigError, match=f"RANK is set, but {missing} is not: start the processes with torchrun"):
        distributed.join_world(torch.device("cpu"), 1.0)


@pytest.mark.parametrize("run", ["ddp", "fsdp"])
def test_two_processes_equal_one_with_twice_the_accumulation(runs, run):
    """With dropout, over the end of an epoch, where one process goes without a batch."""
    for ours, theirs in zip(records(runs / run), records(runs / "whole_alone"), strict=True):
        assert ours["nats"] == pytest.approx(theirs["nats"], abs=1e-5)
        assert ours["gnorm"] == pytest.approx(theirs["gnorm"], rel=1e-4)
        assert (ours["epoch"], ours["num_targets"]) == (theirs["epoch"], theirs["num_targets"])
    assert ours["epoch"] == 2
    (ours,), (theirs,) = records(runs / run, "valid"), records(runs / "whole_alone", "valid")
    assert ours["num_targets"] == theirs["num_targets"]
    assert ours["nats"] == pytest.approx(theirs["nats"], abs=1e-4)
    ours, theirs = (checkpoint(runs / name).model.state_dict() for name in (run, "whole_alone"))
    assert_close(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("run", ["uneven_ddp", "uneven_fsdp"])
def test_processes_with_uneven_shares_of_an_update_stay_in_step(runs, run):
    """The last update of an epoch has an odd number of batches, more than one for each process."""
    assert nats(runs / run) == pytest.approx(nats(runs / "uneven_alone"), abs=1e-5)
    assert records(runs / run)[-1]["epoch"] == 3


def test_a_run_of_two_sharded_processes_goes_on_as_one(runs, byte_data_bin):
    options = "--batch-size 7 --max-update 6 --update-freq 2 --resume"
    train(byte_data_bin, runs / "half_fsdp", options)
    assert [record["num_updates"] for record in records(runs / "half_fsdp")] == [1, 2, 3, 4, 5, 6]
    assert nats(runs / "half_fsdp") == pytest.approx(nats(runs / "whole_alone"), abs=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("muon_ddp", "muon_alone"),
        ("muon_fsdp", "muon_alone"),
        ("layerdrop", "layerdrop_alone"),
        ("engine", "engine_alone"),
        ("checkpointed_fsdp", "checkpointed_alone"),
        ("average_fsdp", "average_ddp"),
    ],
)
def test_every_way_to_train_computes_the_same(runs, ours, theirs):
    assert len(nats(runs / ours)) == 5
    assert nats(runs / ours) == pytest.approx(nats(runs / theirs), abs=2e-5)
    assert nats(runs / ours, "valid") == pytest.approx(nats(runs / theirs, "valid"), abs=1e-4)
    assert_close(checkpoint(runs / ours).model.state_dict(), checkpoint(runs / theirs).model.state_dict(), atol=1e-3)


def test_fp16_of_two_processes_is_that_of_one(runs):
    assert nats(runs / "fp16") == pytest.approx(nats(runs / "fp16_alone"), abs=5e-3)
    progress = [checkpoint(runs / name).training.progress for name in ("fp16", "fp16_alone")]
    assert progress[0]["loss_scale"] == progress[1]["loss_scale"]


def test_moments_and_averages_of_sharded_models_are_saved_whole(runs):
    for sharded, replicated in (("muon_fsdp", "muon_ddp"), ("average_fsdp", "average_ddp")):
        ours, theirs = (checkpoint(runs / name).training.optimizer for name in (sharded, replicated))
        assert {name: value.shape for name, value in ours.items()} == {n: value.shape for n, value in theirs.items()}
    assert_close(ours, theirs, atol=1e-3)
    best = [native.load(runs / name / "best").model.state_dict() for name in ("average_fsdp", "average_ddp")]
    assert_close(*best, atol=1e-3)
    averages = {name.removeprefix("average."): value for name, value in ours.items() if name.startswith("average.")}
    assert averages.keys() == best[0].keys()
    assert all(torch.equal(value, best[0][name]) for name, value in averages.items())


def test_all_processes_multiply_as_the_first_one_found_best(runs):
    assert [(runs / f"engine.engine{rank}").read_text() for rank in range(2)] == ["numpy", "numpy"]
    assert checkpoint(runs / "engine").training.progress["conditions"]["cpu_engine"] == "numpy"


def test_sharded_layers_are_not_dropped(runs):
    assert "--encoder-layerdrop and --parallelism fsdp exclude each other" in (runs / "refused.error").read_text()


@pytest.fixture
def table(tmp_path) -> Path:
    """Return a table of texts with their labels, and the folder of a random model of bytes beside it."""
    from roberta.models.roberta import RobertaConfig, RobertaModel

    rows = [f"{word} {number}\t{word}" for number in range(9) for word in ("good", "bad")]
    (tmp_path / "data.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    shape = {"vocab_size": 262, "max_positions": 16, "encoder_layers": 1, "embed_dim": 16, "ffn_embed_dim": 16}
    native.save(tmp_path / "model", RobertaModel(RobertaConfig(**shape, attention_heads=2)), make_byte_tokenizer())
    return tmp_path / "data.tsv"


def test_two_processes_fine_tune_together_and_one_of_them_reports(table):
    """With R3F, for which the model is called twice before one backward pass."""
    options = "--max-epoch 2 --batch-size 3 --lr 1e-2 1e-3 --r3f-lambda 1 --device cpu --timeout-minutes 1"
    run = table.with_name("run")
    places = ("table", str(table), "--init", str(table.with_name("model")), "--save-dir", str(run))
    command = launch("-m", "roberta_cli.finetune", *places, *options.split())
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=180, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    (line,) = result.stdout.splitlines()
    report = json.loads(line)
    assert [entry["lr"] for entry in report["runs"]] == [1e-2, 1e-3]
    assert report["splits"]["valid"]["examples"] == 2
    assert len((run / "predictions" / "valid.jsonl").read_text().splitlines()) == 2


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return sorted(found)


@pytest.mark.slow  # two starts of two processes
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes of a launch in /proc")
def test_a_launch_that_lost_a_process_starts_again_and_ends_bit_for_bit(byte_data_bin, tmp_path):
    options = "--max-update 60 --total-num-update 100 --save-interval-updates 10 --resume"
    whole = launch("-m", "roberta_cli.train", *arguments_of(byte_data_bin, tmp_path / "whole", options))
    subprocess.run(whole, env=environment(), capture_output=True, timeout=180, check=True)
    run = tmp_path / "run"
    command = launch("--max-restarts", "2", "-m", "roberta_cli.train", *arguments_of(byte_data_bin, run, options))
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for _ in range(1200):
        if len(native.steps(run)) > 1:
            break
        assert process.poll() is None, "the run ended by itself"
        time.sleep(0.05)
    os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error[-3000:]
    assert "resumed from" in error
    assert nats(run) == nats(tmp_path / "whole")
    ours, theirs = (checkpoint(folder).model.state_dict() for folder in (run, tmp_path / "whole"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
