"""Dropout, with cheap random numbers on a CPU (arXiv:1207.0580)."""

from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from roberta.errors import ConfigError

_LEAST = 2**14  # elements; for fewer, making a generator takes longer than torch's draws


def check_rates(config: Any, *names: str) -> None:
    """Refuse a config whose fields of these names are no chances to drop something.

    Raises:
        ConfigError: one of them is outside [0, 1).
    """
    for name in names:
        if not 0.0 <= getattr(config, name) < 1.0:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must lie in [0, 1)")


def dropout(x: Tensor, p: float, *, training: bool = True) -> Tensor:
    """Set each element to 0 with chance p, and divide the others by 1 - p; return x itself outside of training.

    Masks always follow from torch's random state. Where `draws_itself` says so, that gives no more than the seed of a
    generator of numpy's, which takes a third to a half of the time, backward pass included:
    `examples/benchmark/kernels.py`.
    """
    if not training or p == 0.0:
        return x
    if not draws_itself(x.numel(), x.device):
        return F.dropout(x, p)
    return x * torch.from_numpy(_factors(x.numel(), p, x.dtype)).view(x.shape).to(x.dtype)


def draws_itself(count: int, device: torch.device) -> bool:
    """Return whether `dropout` draws so many elements by itself: on a CPU where torch is slow at it."""
    return device.type == "cpu" and count >= _LEAST and not torch.compiler.is_compiling() and torch_draws_one_by_one()


@cache
def torch_draws_one_by_one() -> bool:
    """Return whether torch draws the masks of a CPU number by number, in one thread.

    It has a way to leave them to all threads of MKL on processors of Intel's, for one number of its own generator.
    """
    states = []
    for count in (1000, 2000):
        generator = torch.Generator().manual_seed(0)
        torch.empty(count, device="cpu").bernoulli_(0.5, generator=generator)
        states.append(generator.get_state())
    return not torch.equal(*states)


def _factors(count: int, p: float, dtype: torch.dtype) -> NDArray[np.floating]:
    """Return what as many elements are multiplied by: 0 or 1 / (1 - p)."""
    seed = int(torch.randint(2**63 - 1, (), device="cpu"))  # on the host, as the mask is
    generator = np.random.SFC64(seed)
    # A byte decides, but for one of its 256 values, which takes a whole word: the rate is met to its last digit.
    draws = generator.random_raw((count + 7) // 8).view(np.uint8)[:count]
    limit, rest = divmod(256 * p, 1.0)
    kept = draws > np.uint8(limit)
    undecided = np.flatnonzero(draws == np.uint8(limit))
    kept[undecided] = generator.random_raw(len(undecided)) >= np.uint64(rest * 2.0**64)
    wide = np.float64 if dtype == torch.float64 else np.float32
    return np.multiply(kept, 1.0 / (1.0 - p), dtype=wide)
