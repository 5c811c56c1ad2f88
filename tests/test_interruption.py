"""The polite end: what the first signal does, and what the second."""

import signal
from collections.abc import Iterator

import pytest

from roberta.interruption import Interruption


@pytest.fixture(autouse=True)
def python_s_own_handler() -> Iterator[None]:
    """A process that a shell started in the background ignores Ctrl-C."""
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


def test_a_repetition_at_once_is_the_same_signal_and_a_later_one_interrupts():
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
