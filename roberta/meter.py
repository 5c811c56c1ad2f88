"""What a training run measures between two log records: sums of the criterion, and where the time went."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from roberta.distributed import SINGLE, World


class Meter:
    """Sums and seconds since the last reading. Tensors stay on their device until they are read."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """Begin anew: what was before was no training."""
        self._all_paused = 0.0
        self._asked = self._clock()
        self._restart()

    def _restart(self) -> None:
        self._started = self._clock()
        self._waited = 0.0
        self._paused = 0.0
        self._num_targets = 0
        self._num_tokens = 0
        self._sums: dict[str, Tensor] = {}

    @contextmanager
    def data_wait(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        entered = self._clock()
        yield
        self._waited += self._clock() - entered

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside out: it is not training."""
        entered = self._clock()
        yield
        seconds = self._clock() - entered
        self._paused += seconds
        self._all_paused += seconds

    def training_seconds(self) -> float:
        """Return the seconds since the last call, those that were paused left out."""
        now = self._clock() - self._all_paused
        seconds, self._asked = now - self._asked, now
        return seconds

    def add(self, sums: Mapping[str, Tensor], *, num_targets: int, num_tokens: int) -> None:
        """Add the sums of one batch."""
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._num_targets += num_targets
        self._num_tokens += num_tokens

    def read(self, criterion: Any, world: World = SINGLE) -> dict[str, float]:
        """Return the criterion's metrics and the meter's own figures, and begin anew.

        Those are `num_targets`, `tokens_per_s` (real tokens) and `data_wait` (share of the time). Sums are over all
        ranks of the world. This waits for the device.
        """
        names = sorted(self._sums)
        sums = [self._sums[name].item() for name in names]
        *totals, num_targets, num_tokens = world.total([*sums, self._num_targets, self._num_tokens])
        seconds = self._clock() - self._started - self._paused
        record = {
            **criterion.metrics(dict(zip(names, totals, strict=True)), int(num_targets)),
            "num_targets": int(num_targets),
            "tokens_per_s": num_tokens / seconds,
            "data_wait": self._waited / seconds,
        }
        self._restart()
        return record
