"""Training whose processes are lost, hang or run out of memory, and whose checkpoints are written beside it.

Numbers are those of SECURITY.md's table.
"""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from roberta import logs
from roberta.checkpoint import native
from roberta.checkpoint.background import BackgroundWriter, snapshot
from roberta.distributed import World
from roberta.errors import LostProcessError, StorageError, TrainingError
from roberta.failures import explained_memory
from roberta.recipe import FREE_ON_RESUME
from roberta.trainer import Trainer
from tests.reliability.building import make_data, make_recipe
from tests.reliability.losing import start, wait_for_updates
from tests.reliability.test_checkpoints import summary


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


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
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
        assert re.search(
            r"error: rank 0 of 2: another rank was lost or hangs after update \d+ \(.*--timeout-minutes", message
        )
        native.verify(native.newest(tmp_path / "run"))
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_16_twenty_launches_that_lose_a_process_recover():
    found = summary("losing", timeout=3600.0)
    assert found["identical"] == found["recovered"] == found["launches"] >= 20


@pytest.mark.parametrize("has_room_at_the_end", [True, False])
def test_07_training_survives_a_log_that_can_not_be_written(has_room_at_the_end, tmp_path, monkeypatch, caplog):
    write, failures, is_full = logs._write_all, 0, True

    def write_or_fail(descriptor: int, content: bytes) -> None:
        nonlocal failures, is_full
        is_full &= not has_room_at_the_end or content.count(b'"train"') < 9
        if is_full:
            failures += 1
            os.write(descriptor, content[:20])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(descriptor, content)

    monkeypatch.setattr(logs, "_write_all", write_or_fail)
    Trainer(make_recipe(make_data(tmp_path / "data"), tmp_path / "run", 9)).train()
    monkeypatch.undo()
    native.verify(tmp_path / "run" / native.step_name(9))
    assert failures >= 8
    assert caplog.text.count("No space left on device; training goes on") == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / logs.LOG).read_text().splitlines()]
    expected = [1, 2, 3, 4, 5, 6, 7, 8, 9] if has_room_at_the_end else []
    assert [record["train"]["num_updates"] for record in lines if "train" in record] == expected


def fail_alone(error: Exception) -> None:
    raise error


def fail(error: Exception, *, rank: int = 0, world_size: int = 1, sample_ids: Sequence[int] = ()) -> None:
    """Raise an error within update 7."""
    with explained_memory(rank=rank, world_size=world_size, update=7, sample_ids=sample_ids):
        raise error


def test_48_out_of_memory_names_rank_update_samples_and_what_to_change():
    knobs = "give --checkpoint-activations or --parallelism fsdp and go on with --resume"
    expected = rf"rank 1 of 4: out of memory at update 7, on samples 0, 1, 2, .* and 2 more \(.*\): {knobs}"
    with pytest.raises(RuntimeError) as genuine:
        torch.empty(2**50)
    with pytest.raises(TrainingError, match=expected):
        fail(genuine.value, rank=1, world_size=4, sample_ids=range(10))


@pytest.mark.parametrize("world_size", [1, 2])
def test_48_what_is_advised_with_resume_may_change_on_resume_and_the_rest_begins_anew(world_size):
    with pytest.raises(TrainingError) as told:
        fail(MemoryError(), world_size=world_size)
    resumed, anew = str(told.value).split("; or begin anew in another --save-dir, with --init-from")
    advised = set(re.findall(r"--([a-z-]+)", resumed)) - {"resume"}
    assert advised
    assert {name.replace("-", "_") for name in advised} <= FREE_ON_RESUME
    assert "--batch-size or --max-tokens" in anew
    assert "--resume" not in anew


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB\nmore")])
def test_48_out_of_memory_of_any_device_is_one_line(error):
    with pytest.raises(TrainingError, match=r"rank 0 of 1: out of memory at update 7, on samples none \([^\n]*$"):
        fail(error)


LOST = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")


def lose(error: Exception, *, world_size: int = 2) -> None:
    """Raise an error after update 7."""
    with World(0, world_size, torch.device("cpu")).watched(lambda: 7):
        raise error


@pytest.mark.parametrize("error", [LOST, torch.distributed.DistBackendError("NCCL error")])
def test_16_a_process_that_is_lost_in_a_backward_pass_is_named(error):
    with pytest.raises(LostProcessError, match="rank 0 of 2: another rank was lost or hangs after update 7"):
        lose(error)


def test_16_a_process_that_is_lost_between_exchanges_is_named_with_the_update():
    world = World(0, 2, torch.device("cpu"))
    with (
        pytest.raises(LostProcessError, match=r"of 2: another rank was lost or hangs after update 7 \(gone\); see"),
        world.watched(lambda: 7),
    ):
        world._together(lambda: fail_alone(RuntimeError("gone")))


@pytest.mark.parametrize("part", ["_validate", "_save"])
def test_16_a_process_that_is_lost_in_a_validation_or_a_save_is_named_with_the_update(part, tmp_path, monkeypatch):
    trainer = Trainer(make_recipe(make_data(tmp_path / "data"), tmp_path / "run", 3))
    monkeypatch.setattr(trainer, part, lambda *_: trainer.world._together(lambda: fail_alone(RuntimeError("gone"))))
    with pytest.raises(LostProcessError, match=r"another rank was lost or hangs after update 3 \(gone\); see"):
        trainer.train()


@pytest.mark.parametrize(
    ("error", "world_size"),
    [(RuntimeError("size mismatch"), 2), (RuntimeError("no such file: /home/me/gloo/x"), 2), (LOST, 1)],
)
def test_16_other_errors_stay_as_they_are(error, world_size):
    with pytest.raises(RuntimeError) as caught:
        lose(error, world_size=world_size)
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
