"""An exponential moving average of the weights: what is validated and kept as the best, while training goes on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of parameters over the updates. At the start it follows faster, so that old weights are forgotten."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        self.decay = decay
        self.parameters = dict(parameters)
        self.values: dict[str, Tensor] = {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Take in the weights after update `num_updates`, which counts from 1."""
        decay = min(self.decay, (1.0 + num_updates) / (10.0 + num_updates))
        for name, parameter in self.parameters.items():
            self.values[name].lerp_(parameter.detach(), 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the weights while the block runs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            current = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name] = current
