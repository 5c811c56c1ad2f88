"""Kill one process of a run that torchrun started, launch after launch, and compare how it ends with one left alone.

    python -m tests.reliability.losing --losses 20 --seed 1

Prints a line of JSON for each launch and one for all; the exit code is 0 if every run ended bit for bit as it should.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from roberta.checkpoint import native
from tests.reliability.building import make_data

ROOT = Path(__file__).parents[2]
OPTIONS = """--preset roberta.tiny --encoder-layers 1 --embed-dim 8 --ffn-embed-dim 8 --attention-heads 2
  --max-positions 32 --tokens-per-sample 32 --batch-size 4 --lr 1e-2 --warmup-updates 2 --total-num-update 5000
  --device cpu --log-interval 1 --validate-interval-updates 100000 --save-interval-updates 5""".split()
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3")
UPDATES = 24
SECONDS = 240.0  # that a launch may take


def start(data: Path, run: Path, *options: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a run in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, "-m", "roberta_cli.train", str(data), "--save-dir", str(run), *OPTIONS]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *options], env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for_updates(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Return when the log of a run has so many lines."""
    end = time.monotonic() + SECONDS
    while not (run / "log.jsonl").exists() or len((run / "log.jsonl").read_text().splitlines()) < count:
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < end, "no progress"
        time.sleep(0.02)


def descendants(parent: int) -> list[int]:
    """Return the ids of the processes that a process started, and of those that they did."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    children = [int(text) for text in found.stdout.split()]
    return children + [child for other in children for child in descendants(other)]


def launch(data: Path, run: Path, lost: tuple[int, int] | None) -> bool:
    """Train to the end with two processes; `lost` is a rank that is killed, and after which update. Was it there?"""
    process = start(data, run, "--max-update", str(UPDATES), "--resume", launcher=TORCHRUN)
    try:
        if lost is not None:
            rank, update = lost
            wait_for_updates(run, update, process)
            os.kill(descendants(process.pid)[rank], signal.SIGKILL)
        _, message = process.communicate(timeout=SECONDS)
    finally:
        if process.poll() is None:
            for number in (*descendants(process.pid), process.pid):
                os.kill(number, signal.SIGKILL)
    assert process.returncode == 0, message[-3000:]
    return "exitcode: -9" in message


def figures(run: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of the last checkpoint of a run."""
    folder = native.newest(run)
    assert folder is not None
    assert folder.name == native.step_name(UPDATES)
    checkpoint = native.load(folder)
    assert checkpoint.training is not None
    return {**checkpoint.model.state_dict(), **checkpoint.training.optimizer}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--losses", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    summary = {"losses": 0, "launches": 0, "recovered": 0, "identical": 0}
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data")
        launch(data, Path(folder) / "whole", None)
        expected = figures(Path(folder) / "whole")
        while summary["losses"] < options.losses:
            run = Path(folder) / f"run{summary['launches']}"
            lost = rng.randrange(2), rng.randrange(1, UPDATES - 4)
            begun = time.monotonic()
            summary["launches"] += 1
            try:
                summary["losses"] += launch(data, run, lost)
                summary["recovered"] += 1
                ours = figures(run)
                summary["identical"] += all(torch.equal(ours[name], expected[name]) for name in expected)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                summary["losses"] += 1
                print(error, file=sys.stderr)
            print(json.dumps({"rank, update": lost, "seconds": round(time.monotonic() - begun)}), flush=True)
    print(json.dumps({"seed": options.seed, **summary}), flush=True)
    return 0 if summary["identical"] == summary["launches"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
