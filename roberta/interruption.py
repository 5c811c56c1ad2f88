"""A polite end: SIGTERM and Ctrl-C let the work at hand finish and be saved."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_SAME_SECONDS = 5.0  # torchrun passes on a signal that its workers had already: that is no second one
_TORCHRUN = ("RANK", "TORCHELASTIC_RUN_ID")  # nobody else repeats signals: Ctrl-C reaches every process once


class Interruption:
    """Within this context the first signal is noted in `requested`; one that comes later acts as it did before.

    Within another one, signals that came before count too, and those that come are noted in both. Outside of the main
    thread, to which Python gives all signals, nothing is noted.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted: float | None = None
        self._same_seconds = _SAME_SECONDS if any(name in os.environ for name in _TORCHRUN) else 0.0
        self._handlers: dict[signal.Signals, Any] = {}
        self._outer: Interruption | None = None

    @property
    def requested(self) -> bool:
        """A signal has come."""
        return self._noted is not None if self._outer is None else self._outer.requested

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is not threading.main_thread():
            return self
        owner = getattr(signal.getsignal(SIGNALS[0]), "__self__", None)
        if isinstance(owner, Interruption):
            self._outer = owner
        else:
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is None:
            self._noted = self._clock()
        elif self._clock() - self._noted >= self._same_seconds:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
