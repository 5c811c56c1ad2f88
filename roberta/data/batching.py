"""The order of samples in an epoch, and which of them make a batch.

Both depend on sizes and seeds alone: not on the data, the number of processes or the number of workers. Processes
share the batches of an update, so a run that is resumed by more or fewer of them goes through the same samples.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roberta.errors import ConfigError, DataError
from roberta.randomness import generator


def order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the indices of all samples in the order of an epoch: (num_samples,) int64."""
    return generator(seed, "order", epoch).permutation(num_samples).astype(np.int64, copy=False)


def batches(
    sizes: NDArray[np.integer], *, batch_size: int | None = None, max_tokens: int | None = None
) -> NDArray[np.int64]:
    """Return where each batch of consecutive samples starts, then the number of samples: (num_batches + 1,) int64.

    A batch takes as many samples as it can: at most `batch_size`, of at most `max_tokens` tokens in all. The last one
    may be smaller; no sample is left out. `sizes`: (N,) tokens of each sample, in the order of the epoch.

    Raises:
        ConfigError: neither limit is given, or one is below 1.
        DataError: a sample alone has more than `max_tokens`.
    """
    for flag, limit in (("--batch-size", batch_size), ("--max-tokens", max_tokens)):
        if limit is not None and limit < 1:
            raise ConfigError(f"{flag} {limit}; expected at least 1")
    if batch_size is None and max_tokens is None:
        raise ConfigError("a batch has no limit; give --batch-size, --max-tokens or both")
    if max_tokens is None:
        return np.append(np.arange(0, len(sizes), batch_size), len(sizes)).astype(np.int64)
    if len(sizes) and sizes.max() > max_tokens:
        raise DataError(
            f"a sample has {sizes.max()} tokens; --max-tokens allows {max_tokens}; raise it or shorten samples"
        )
    following = first_beyond(sizes, max_tokens)
    if batch_size is not None:
        following = np.minimum(following, np.arange(len(sizes)) + batch_size)
    return chain(following)


def updates(
    num_batches: int, *, world_size: int = 1, rank: int = 0, update_freq: int = 1, start: int = 0
) -> Iterator[list[int | None]]:
    """Yield, for each update of an epoch from batch `start` on, the batches that `rank` computes, in order.

    An update takes the next `update_freq * world_size` batches of the epoch; of these, rank r has those at positions
    r, r + world_size and so on. All ranks get as many; where the last update has none left for a rank, it gets None.

    >>> list(updates(5, world_size=2, rank=1, update_freq=2))
    [[1, 3], [None]]
    """
    for first in range(start, num_batches, update_freq * world_size):
        end = min(first + update_freq * world_size, num_batches)
        yield [turn + rank if turn + rank < end else None for turn in range(first, end, world_size)]


@dataclass(frozen=True)
class Epochs:
    """How samples become the updates of a run, epoch after epoch (from 1), seen from one of its processes."""

    sizes: NDArray[np.int64]  # (N,) tokens of each sample
    order: Callable[[int], NDArray[np.int64]]  # of the samples in an epoch
    batch_size: int | None
    max_tokens: int | None
    update_freq: tuple[int, ...]
    world_size: int = 1
    rank: int = 0

    def num_updates(self, epoch: int, start: int = 0) -> int:
        """Return how many updates an epoch has from batch `start` on."""
        _, offsets = self._batches(epoch)
        return -(-(len(offsets) - 1 - start) // self._batches_per_update(epoch))

    def total_updates(self, *, max_update: int | None, max_epoch: int | None, epoch: int = 1, start: int = 0) -> int:
        """Return the updates of a run from batch `start` of an epoch on that these limit, one of which is given."""
        if max_epoch is None:
            assert max_update is not None, "one of them is given"
            return max_update
        most = math.inf if max_update is None else max_update
        total = self.num_updates(epoch, start) if epoch <= max_epoch else 0
        while total < most and epoch < max_epoch:
            epoch += 1
            total += self.num_updates(epoch)
        return int(min(total, most))

    def total_tokens(self, max_update: int) -> int:
        """Return the tokens of the first updates of a run; in later epochs as many an update as in the first ones.

        Those are the epochs for which `update_freq` says something of its own.
        """
        tokens_of_epoch, tokens, left = int(self.sizes[self.order(1)].sum()), 0, max_update
        for epoch in range(1, len(self.update_freq)):
            updates = self.num_updates(epoch)
            if left <= updates:
                return tokens + round(tokens_of_epoch * left / updates)
            tokens, left = tokens + tokens_of_epoch, left - updates
        return tokens + round(tokens_of_epoch * left / self.num_updates(len(self.update_freq)))

    def updates(self, epoch: int, start: int = 0) -> Iterator[tuple[int, bool, list[NDArray[np.int64] | None]]]:
        """Yield the updates of an epoch from batch `start` on, each as (the batch after it, is it the last, mine).

        mine: the samples of each batch that this process computes. Every process gets as many; where an epoch ends,
        some of them are None.
        """
        sample_ids, offsets = self._batches(epoch)
        last = len(offsets) - 1
        update_freq = self._batches_per_update(epoch) // self.world_size
        for mine in updates(last, world_size=self.world_size, rank=self.rank, update_freq=update_freq, start=start):
            start = min(start + update_freq * self.world_size, last)
            yield (
                start,
                start == last,
                [None if i is None else sample_ids[offsets[i] : offsets[i + 1]] for i in mine],
            )

    def _batches(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        sample_ids = self.order(epoch)
        return sample_ids, batches(self.sizes[sample_ids], batch_size=self.batch_size, max_tokens=self.max_tokens)

    def _batches_per_update(self, epoch: int) -> int:
        return self.update_freq[min(epoch, len(self.update_freq)) - 1] * self.world_size


def first_beyond(sizes: NDArray[np.integer], limit: int) -> NDArray[np.int64]:
    """Return, for a group that starts at item i, the item that no longer fits into `limit`: (N,) int64, above i.

    A group has at least one item, even if that is larger than the limit.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    beyond = np.searchsorted(ends, ends - sizes + limit, side="right")
    return np.maximum(beyond, np.arange(1, len(sizes) + 1))


def chain(following: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0, following[0], following[following[0]] and so on until N: where the groups start, then N."""
    steps = np.ascontiguousarray(following).data
    at, visited = 0, [0]
    while at < len(steps):
        at = steps[at]
        visited.append(at)
    return np.array(visited, dtype=np.int64)
