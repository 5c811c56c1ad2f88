"""The polite end: what the first signal does, and what the second."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from roberta.checkpoint import native
from roberta.interruption import Interruption

ROOT = Path(__file__).parents[1]
OPTIONS = """--preset roberta.tiny --encoder-layers 2 --embed-dim 16 --ffn-embed-dim 32 --max-positions 33
  --tokens-per-sample 33 --batch-size 4 --lr 1e-2 --warmup-updates 2 --max-update 200 --device cpu --log-interval 1
  --save-interval-updates 1000 --validate-interval-updates 1000""".split()


@pytest.fixture(autouse=True)
def python_s_own_handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that a shell started in the background ignores Ctrl-C."""
    for name in ("RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_lets_the_work_go_on(number):
    with Interruption() as interruption:
        assert not interruption.requested
        signal.raise_signal(number)
        assert interruption.requested


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(first):
    with Interruption(Clock()) as interruption:
        signal.raise_signal(first)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", ["RANK", "TORCHELASTIC_RUN_ID"])
def test_under_torchrun_a_repetition_at_once_is_the_same_signal_and_a_later_one_interrupts(name, monkeypatch):
    monkeypatch.setenv(name, "0")
    clock = Clock()
    with Interruption(clock) as interruption:
        signal.raise_signal(signal.SIGINT)
        clock.now = 4.0
        signal.raise_signal(signal.SIGINT)
        assert interruption.requested
        clock.now = 6.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_of_before_are_back_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_one_within_another_notes_the_first_signal_for_both_and_the_second_ends_both_at_once():
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as outer:
        with Interruption() as inner:
            assert not inner.requested
            signal.raise_signal(signal.SIGINT)
            assert inner.requested
        assert outer.requested
        with Interruption() as later:
            assert later.requested
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_what_one_within_another_leaves_goes_on_being_noted():
    with Interruption() as outer:
        with Interruption():
            pass
        assert not outer.requested
        signal.raise_signal(signal.SIGINT)
        assert outer.requested


def command(data: Path, run: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "roberta_cli.train", str(data), "--save-dir", str(run), *OPTIONS, *options]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="module")
def whole(byte_data_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that nobody stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(byte_data_bin, run), env=environment(), capture_output=True, timeout=120, check=True)
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_says_so_and_goes_on_bit_for_bit(whole, byte_data_bin, tmp_path, number):
    run = tmp_path / "cut"
    process = subprocess.Popen(command(byte_data_bin, run), env=environment(), stderr=subprocess.PIPE, text=True)
    while not (run / "log.jsonl").exists() or (run / "log.jsonl").read_text().count('"train"') < 5:
        assert process.poll() is None, "the run ended by itself"
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 75, error
    assert "and saved; go on with --resume" in error
    resumed = subprocess.run(
        command(byte_data_bin, run, "--resume"), env=environment(), capture_output=True, text=True, timeout=120
    )
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = (native.load(native.newest(folder)).model.state_dict() for folder in (run, whole))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_in_another_thread_nothing_is_noted():
    def enter() -> bool:
        with Interruption() as interruption:
            return interruption.requested

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor() as pool:
        assert pool.submit(enter).result() is False
    assert signal.getsignal(signal.SIGTERM) == before
