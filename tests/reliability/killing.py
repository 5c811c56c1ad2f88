"""Kill a training run at random moments, again and again, and compare how it ends with one that was left alone.

    python -m tests.reliability.killing --kills 200 --seed 1

Prints a line of JSON, and one on stderr after each run; the exit code is 0 if every run ended bit for bit as it should
and no folder was unusable. The parent imports everything once and forks the runs, so that a life is training and
saving, not importing.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import tqdm

from roberta.checkpoint import native
from roberta.trainer import Trainer
from tests.reliability.building import make_data, make_recipe

UPDATES = 24
LEFTOVERS = (".tmp-*", "*.part", ".lock")


def start(data: Path, run: Path) -> int:
    """Fork a process that trains to the end, going on from what there is, and return its id."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        try:
            Trainer(make_recipe(data, run, UPDATES)).train()
        except BaseException as error:  # the parent counts whatever it is
            (run / "failure.txt").write_text(repr(error))
            os._exit(1)
        os._exit(0)
    return child


def live(data: Path, run: Path, seconds: float, number: signal.Signals) -> int:
    """Let a process train for so long, then send the signal; return the exit status it ends with."""
    child = start(data, run)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def figures(data: Path, run: Path) -> dict[str, torch.Tensor]:
    """Return every number of the last checkpoint of a run."""
    folder = native.newest(run)
    assert folder is not None
    checkpoint = native.load(folder)
    assert checkpoint.training is not None
    progress = {**checkpoint.training.progress, "seconds": None}
    return {
        **checkpoint.model.state_dict(),
        **checkpoint.training.optimizer,
        "progress": torch.tensor(list(json.dumps(progress, sort_keys=True).encode())),
    }


def losses(run: Path) -> list[tuple[float, float]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(record["train"]["num_updates"], record["train"]["loss"]) for record in records if "train" in record]


def main() -> int:
    import torch._dynamo  # slow: or every child imports it with its optimizer

    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--signal", default="SIGKILL", choices=["SIGKILL", "SIGTERM"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0  # its thread may hold a lock while we fork
    tqdm.tqdm.set_lock(threading.RLock())  # its own is one for all forks, and who is killed does not give it back
    rng = random.Random(options.seed)
    number = signal.Signals[options.signal]
    summary = {"kills": 0, "runs": 0, "identical": 0, "failures": [], "unusable": 0, "leftovers": 0}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data")
        whole = Path(folder) / "whole"
        whole.mkdir()
        before = time.monotonic()
        assert live(data, whole, 120.0, number) == 0, (whole / "failure.txt").read_text()
        length = time.monotonic() - before
        expected, expected_losses = figures(data, whole), losses(whole)
        while summary["kills"] < options.kills:
            run = Path(folder) / f"run{summary['runs']}"
            run.mkdir()
            status = -number
            while status != 0:
                status = live(data, run, rng.uniform(0.0, length * 0.6), number)
                error = failure(run)
                is_stopped = status == -number or (status == 1 and error.startswith("PreemptionError("))
                if status != 0 and not is_stopped:
                    summary["failures"].append(error)
                    break
                summary["kills"] += is_stopped
                summary["unusable"] += not is_usable(run)
            else:
                ours = figures(data, run)
                same = ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)
                summary["identical"] += same and losses(run) == expected_losses
                summary["leftovers"] += any(path for pattern in LEFTOVERS for path in run.glob(pattern))
            summary["runs"] += 1
            print(json.dumps(summary), file=sys.stderr, flush=True)
    summary["seconds"] = round(time.monotonic() - begun)
    print(json.dumps({"signal": options.signal, "seed": options.seed, **summary}), flush=True)
    good = summary["identical"] == summary["runs"] and not (summary["unusable"] or summary["leftovers"])
    return 0 if good else 1


def failure(run: Path) -> str:
    """Return, once, how a life failed."""
    path = run / "failure.txt"
    text = path.read_text() if path.exists() else "no failure was written"
    path.unlink(missing_ok=True)
    return text


def is_usable(run: Path) -> bool:
    """Return whether a run can be gone on with: it has an intact checkpoint, or none at all yet."""
    try:
        native.newest(run)
    except Exception:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
