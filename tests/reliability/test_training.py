"""Training whose processes are lost, hang or run out of memory, and whose checkpoints are written beside it.

Numbers are those of SECURITY.md's table.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from roberta.checkpoint import native
from roberta.checkpoint.background import BackgroundWriter, snapshot
from roberta.errors import StorageError, TrainingError
from roberta.failures import explained
from tests.reliability.building import make_data

ROOT = Path(__file__).parents[2]
OPTIONS = """--preset roberta.tiny --encoder-layers 1 --embed-dim 8 --ffn-embed-dim 8 --attention-heads 2
  --max-positions 32 --tokens-per-sample 32 --batch-size 4 --lr 1e-2 --warmup-updates 2 --total-num-update 5000
  --device cpu --log-interval 1 --validate-interval-updates 100000 --save-interval-updates 5""".split()


def start(data: Path, run: Path, *options: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    """Start a run in processes of its own session."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, "-m", "roberta_cli.train", str(data), "--save-dir", str(run), *OPTIONS]
    return subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE, text=True)


def two_ranks(data: Path, run: Path, *options: str) -> list[subprocess.Popen]:
    """Start a run of two processes without torchrun, which would end one when the other is lost."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = []
    for rank in range(2):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        try:
            processes.append(start(data, run, *options))
        finally:
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
                del os.environ[name]
    return processes


def wait_for_updates(run: Path, count: int, process: subprocess.Popen) -> None:
    for _ in range(1200):
        if (run / "log.jsonl").exists() and len((run / "log.jsonl").read_text().splitlines()) >= count:
            return
        assert process.poll() is None, "the run ended by itself"
        time.sleep(0.05)
    pytest.fail("no progress")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_16_17_a_lost_or_hanging_process_ends_the_others_with_a_message(number, tmp_path):
    """A process that is stopped answers to nobody, and keeps its connections."""
    data = make_data(tmp_path / "data")
    first, second = two_ranks(data, tmp_path / "run", "--max-update", "5000", "--timeout-minutes", "0.1")
    try:
        wait_for_updates(tmp_path / "run", 6, first)
        second.send_signal(number)
        begun = time.monotonic()
        _, message = first.communicate(timeout=60)
        print(json.dumps({"signal": number.name, "seconds until the other ended": round(time.monotonic() - begun, 1)}))
        assert first.returncode == TrainingError.exit_code, message
        assert "error: rank 0 of 2: another rank was lost or hangs" in message
        native.verify(native.newest(tmp_path / "run"))
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def descendants(parent: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    children = [int(text) for text in found.stdout.split()]
    return children + [child for other in children for child in descendants(other)]


@pytest.mark.slow
def test_16_twenty_launches_that_lose_a_process_recover(tmp_path):
    data = make_data(tmp_path / "data")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3")
    recovered, weights = 0, []
    for number in range(21):  # the first is left alone
        run = tmp_path / f"run{number}"
        process = start(data, run, "--max-update", "12", "--resume", launcher=launcher)
        if number:
            wait_for_updates(run, 1 + number % 8, process)
            os.kill(descendants(process.pid)[number % 2], signal.SIGKILL)
        _, message = process.communicate(timeout=240)
        assert process.returncode == 0, message[-3000:]
        weights.append(native.load(native.newest(run)).model.state_dict())
        recovered += all(torch.equal(weights[0][name], tensor) for name, tensor in weights[-1].items())
    print(json.dumps({"lost processes": 20, "recovered bit for bit": recovered - 1}))
    assert recovered == 21


def fail(error: Exception, *, rank: int = 0, world_size: int = 1, sample_ids: Sequence[int] = ()) -> None:
    """Raise an error within update 7."""
    with explained(rank=rank, world_size=world_size, update=7, sample_ids=sample_ids):
        raise error


def test_48_out_of_memory_names_rank_update_samples_and_what_to_change():
    knobs = "lower --batch-size or --max-tokens and raise --update-freq by as much, or give --checkpoint-activations"
    expected = rf"rank 1 of 4: out of memory at update 7, on samples 0, 1, 2, .* and 2 more \(.*\): {knobs}"
    with pytest.raises(RuntimeError) as genuine:
        torch.empty(2**50)
    with pytest.raises(TrainingError, match=expected):
        fail(genuine.value, rank=1, world_size=4, sample_ids=range(10))


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB\nmore")])
def test_48_out_of_memory_of_any_device_is_one_line(error):
    with pytest.raises(TrainingError, match=r"rank 0 of 1: out of memory at update 7, on samples none \([^\n]*$"):
        fail(error)


LOST = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")


@pytest.mark.parametrize("error", [LOST, torch.distributed.DistBackendError("NCCL error")])
def test_16_a_process_that_is_lost_in_a_backward_pass_is_named(error):
    with pytest.raises(TrainingError, match="rank 0 of 2: another rank was lost or hangs at update 7"):
        fail(error, world_size=2)


@pytest.mark.parametrize(("error", "world_size"), [(RuntimeError("size mismatch"), 2), (LOST, 1)])
def test_16_other_errors_stay_as_they_are(error, world_size):
    with pytest.raises(RuntimeError) as caught:
        fail(error, world_size=world_size)
    assert caught.value is error


def test_01_work_in_the_background_is_done_in_order_and_at_the_end_of_the_block():
    done: list[int] = []
    release = threading.Event()

    def work(number: int) -> None:
        release.wait(20)
        done.append(number)

    with BackgroundWriter() as writer:
        writer.submit(lambda: work(1))
        writer.check()
        assert done == []  # the caller goes on
        release.set()
        writer.submit(lambda: work(2))
        assert done[0] == 1
        writer.wait()
        assert done == [1, 2]
        writer.submit(lambda: work(3))
    assert done == [1, 2, 3]


def fill_disk() -> None:
    raise StorageError("disk full")


def write_badly(ask: str) -> None:
    """Let work in the background fail, and ask about it."""
    with BackgroundWriter() as writer:
        writer.submit(fill_disk)
        while ask == "check":
            writer.check()
        if ask == "wait":
            writer.wait()
        if ask == "submit":
            writer.submit(lambda: None)


@pytest.mark.parametrize("ask", ["check", "wait", "submit", "end"])
def test_01_an_error_in_the_background_comes_to_light(ask):
    with pytest.raises(StorageError, match="disk full"):
        write_badly(ask)


def test_01_an_error_in_the_background_comes_to_light_once():
    writer = BackgroundWriter()
    writer.submit(fill_disk)
    with pytest.raises(StorageError, match="disk full"):
        writer.wait()
    writer.check()
    writer.wait()


def test_01_an_error_of_the_training_goes_before_one_in_the_background_which_is_logged(caplog):
    def train() -> None:
        with BackgroundWriter() as writer:
            writer.submit(fill_disk)
            raise TrainingError("no such thing")

    with pytest.raises(TrainingError, match="no such thing"):
        train()
    assert "disk full" in caplog.text


def test_01_a_snapshot_stays_as_it_was():
    tensors = {"a": torch.ones(3, requires_grad=True), "b": torch.ones(4)[::2]}
    copies = snapshot(tensors)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.zero_()
    assert all(copy.tolist() == [1.0] * len(copy) and not copy.requires_grad for copy in copies.values())
