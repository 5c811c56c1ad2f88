"""Randomness as a function of its key, never a running stream.

Every random draw of this package is keyed by (seed, purpose, epoch or step, index, ...): the same key gives the same
draw on any machine, with any number of workers, before and after a resume. A generator state is therefore never saved.
"""

import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Return a NumPy generator of its own for (seed, purpose, *key)."""
    return np.random.Generator(np.random.PCG64(_entropy(seed, purpose, key)))


def stream_key(seed: int, purpose: str, *key: int) -> int:
    """Return a 63-bit number that stands for (seed, purpose, *key), for instance as a torch seed."""
    return int(np.random.SeedSequence(_entropy(seed, purpose, key)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_torch(seed: int, device: "torch.device") -> None:
    """Seed torch's generators of the CPU and of `device`, as `torch.manual_seed` does.

    That one also takes down the whole stack for every kind of device that isn't there: a millisecond each time within a
    training step (torch 2.13, 2026-11-30).
    """
    import torch  # slow, and the data need none of it

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def hashed(stream: int, rows: NDArray[np.integer], columns: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return one pseudo-random uint64 per (row, column) pair of `stream` (SplitMix64, doi:10.1145/2714064.2660195)."""
    with np.errstate(over="ignore"):
        row_keys = _mix(np.uint64(stream) + rows.astype(np.uint64) * _INCREMENT)
        return _mix(row_keys + (columns.astype(np.uint64) + np.uint64(1)) * _INCREMENT)


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return the top 53 bits of each number as a float in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _entropy(seed: int, purpose: str, key: tuple[int, ...]) -> list[int]:
    return [seed, zlib.crc32(purpose.encode()), len(key), *key]  # with the length: NumPy ignores zeros at the end


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _MULTIPLIERS[0]
    state = (state ^ (state >> np.uint64(27))) * _MULTIPLIERS[1]
    return state ^ (state >> np.uint64(31))
