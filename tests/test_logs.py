"""The records of a run: JSON lines, TensorBoard where asked for, and what a resumed run forgets."""

import errno
import json
import logging
import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from roberta import logs as logs_module
from roberta.errors import ConfigError, StorageError
from roberta.logs import Logs, forget_after


def test_a_log_that_writes_nothing_leaves_what_others_write(tmp_path):
    path = tmp_path / "log.jsonl"
    with Logs(path) as mine, Logs(path):
        mine.write("train", {"num_updates": 1})
    assert path.read_bytes() == b'{"train": {"num_updates": 1}}\n'


def test_a_record_is_a_line_at_once(tmp_path):
    path = tmp_path / "log.jsonl"
    with Logs(path) as logs:
        logs.write("train", {"num_updates": 1, "loss": 2.5})
        assert json.loads(path.read_text()) == {"train": {"num_updates": 1, "loss": 2.5}}
        logs.write("valid", {"num_updates": 1, "loss": 3.5})
    with Logs(path) as logs:
        logs.write("train", {"num_updates": 2, "loss": 1.5})
    assert [list(json.loads(line)) for line in path.read_text().splitlines()] == [["train"], ["valid"], ["train"]]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    """JSON has no words for them, though Python writes and reads NaN and Infinity."""
    path = tmp_path / "log.jsonl"
    with Logs(path) as logs:
        logs.write("train", {"num_updates": 1, "loss": math.nan, "ppl": math.inf, "lr": -math.inf, "gnorm": 2.5})
    assert path.read_text() == '{"train": {"num_updates": 1, "loss": null, "ppl": null, "lr": null, "gnorm": 2.5}}\n'
    forget_after(path, 1)
    assert updates(path) == [1]


def write_lines(path: Path, *updates: int, tail: str = "") -> None:
    path.write_text("".join(json.dumps({"train": {"num_updates": update}}) + "\n" for update in updates) + tail)


@pytest.mark.parametrize(("after", "kept"), [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_records_after_an_update_are_forgotten(tmp_path, after, kept):
    path = tmp_path / "log.jsonl"
    write_lines(path, 1, 2, 3)
    forget_after(path, after)
    assert [json.loads(line)["train"]["num_updates"] for line in path.read_text().splitlines()] == kept
    assert [found.name for found in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_line_that_a_crash_cut_off_is_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    write_lines(path, 1, tail='{"train": {"num_upd')
    forget_after(path, 9)
    assert path.read_text().count("\n") == len(path.read_text().splitlines()) == 1


def test_without_a_log_there_is_nothing_to_forget(tmp_path):
    forget_after(tmp_path / "log.jsonl", 3)
    assert not list(tmp_path.iterdir())


def test_tensorboard_that_is_not_installed_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError, match="--tensorboard-logdir needs a package: .*; run: pip install tensorboard"):
        Logs(tmp_path / "log.jsonl", tmp_path / "board")
    assert not list(tmp_path.iterdir())


def updates(path: Path) -> list[int]:
    return [json.loads(line)["train"]["num_updates"] for line in path.read_bytes().split(b"\n")[:-1]]


def test_lines_that_are_none_do_not_stop_a_run_from_going_on(tmp_path):
    """A machine that loses its power can leave zeros where the last lines were."""
    path = tmp_path / "log.jsonl"
    write_lines(path, 1, 2)
    with path.open("ab") as file:
        file.write(bytes(40) + b"\n\xff\n[]\n{}\n" + b'{"train": 5}\n{"train": {}}\n{"train": {"num_updates": "x"}}\n')
        file.write(b'{"train": {"num_updates": 1e999}}\n{"train": {"num_updates": ' + b"9" * 5000 + b"}}\n")
        file.write(b"[" * 200_000 + b"\n")
    forget_after(path, 9)
    assert updates(path) == [1, 2]


@pytest.fixture
def room(tmp_path: Path) -> Callable[[int], None]:
    """Return what sets the size that files may have, as a disk that fills up does; the signal for it is ignored."""
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_does_not_end_the_training_and_costs_no_record(tmp_path, room, caplog):
    path = tmp_path / "log.jsonl"
    line = len(json.dumps({"train": {"num_updates": 1}})) + 1
    with Logs(path) as logs:
        logs.write("train", {"num_updates": 1})
        room(line + line // 2)  # the next line does not fit whole
        for update in (2, 3, 4):
            logs.write("train", {"num_updates": update})
            assert updates(path) == [1]
            assert path.stat().st_size == line
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "log.jsonl: can't be written: [Errno 27] File too large; training goes on" in caplog.text
        room(1000)
        logs.write("train", {"num_updates": 5})
        assert updates(path) == [1, 2, 3, 4, 5]
        room(5 * line)
        logs.write("train", {"num_updates": 6})
        room(1000)
    assert updates(path) == [1, 2, 3, 4, 5, 6]
    assert len(caplog.records) == 2


def test_a_half_line_that_can_not_be_cut_off_at_once_is_cut_off_before_the_next(tmp_path, monkeypatch, caplog):
    path = tmp_path / "log.jsonl"
    write = os.write

    def write_half(descriptor: int, content: bytes) -> int:
        if os.fstat(descriptor).st_size % 2 == 0 and len(content) > 9:
            return write(descriptor, content[:9])
        raise OSError(errno.EIO, "Input/output error")

    with Logs(path) as logs:
        with monkeypatch.context() as broken:
            broken.setattr(os, "write", write_half)
            broken.setattr(Logs, "_cut_back", lambda logs: None)
            logs.write("train", {"num_updates": 1})
        assert path.stat().st_size == 9
        logs.write("train", {"num_updates": 2})
    assert updates(path) == [1, 2]


def test_records_that_never_found_room_are_counted_at_the_end(tmp_path, room, caplog):
    with Logs(tmp_path / "log.jsonl") as logs:
        room(0)
        for update in (1, 2):
            logs.write("train", {"num_updates": update})
    assert (tmp_path / "log.jsonl").stat().st_size == 0
    assert "2 records are lost" in caplog.text


def test_a_log_that_can_not_be_opened_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"log\.jsonl: can't be written: .*choose another folder"):
        Logs(tmp_path / "none" / "log.jsonl")


def read_board(folder: Path) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(folder))
    board.Reload()
    return [(event.step, event.value) for event in board.Scalars("train/loss")]


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_forgets_what_a_crash_undid(tmp_path):
    """The run dies after update 5 and goes on from its checkpoint after update 3, with other figures."""
    pytest.importorskip("tensorboard")
    for first, last, loss, resumed in ((1, 5, 8.0, 0), (4, 6, 2.0, 3)):
        with Logs(tmp_path / "log.jsonl", tmp_path / "board", resumed) as logs:
            for update in range(first, last + 1):
                logs.write("train", {"num_updates": update, "loss": loss})
    assert read_board(tmp_path / "board") == [(1, 8.0), (2, 8.0), (3, 8.0), (4, 2.0), (5, 2.0), (6, 2.0)]


class FullBoard:
    """TensorBoard's writer on a disk that is full."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    close = add_scalar


def test_tensorboard_on_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logs_module, "_tensorboard", lambda folder, num_updates: FullBoard())
    with Logs(tmp_path / "log.jsonl", tmp_path / "board") as logs:
        for update in (1, 2):
            logs.write("train", {"num_updates": update})
    assert updates(tmp_path / "log.jsonl") == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "TensorBoard's files can't be written: [Errno 28] No space left on device; its records end here"
    ]
