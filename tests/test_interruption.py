"""The polite end: what the first signal does, and what the second."""

import signal
from collections.abc import Iterator

import pytest

from roberta.interruption import Interruption


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
