"""Dynamic masking: which tokens of a sample the model must recover in this epoch (arXiv:1907.11692 section 4.1).

The choice is a function of (seed, epoch, sample, position), so it is the same in every batch, on every worker and
after a resume. As in fairseq, every position can be chosen, those of `<s>` and `</s>` included.

Shapes: B samples, T packed tokens, M chosen tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roberta.config import option
from roberta.errors import ConfigError
from roberta.randomness import hashed, stream_key, uniform

_RANK_BITS = np.uint64(40)  # of a sort key; the other 24 number the samples of a batch


@dataclass(frozen=True)
class MaskingConfig:
    """How many tokens are chosen, and what the model sees in their place."""

    mask_prob: float = option(0.15, help="share of tokens that are chosen as targets")
    leave_unmasked_prob: float = option(0.1, help="share of the chosen tokens that stay as they are")
    random_token_prob: float = option(0.1, help="share of the chosen tokens that become a random token")

    def __post_init__(self) -> None:
        if not 0 < self.mask_prob <= 1:
            raise ConfigError(f"--mask-prob {self.mask_prob}; expected above 0 and at most 1")
        if min(self.leave_unmasked_prob, self.random_token_prob) < 0:
            raise ConfigError("--leave-unmasked-prob and --random-token-prob can't be negative")
        if self.leave_unmasked_prob + self.random_token_prob > 1:
            raise ConfigError(
                f"--leave-unmasked-prob {self.leave_unmasked_prob} and --random-token-prob {self.random_token_prob} "
                "sum to more than 1"
            )


@dataclass(frozen=True)
class Masked:
    """A packed batch after masking."""

    tokens: NDArray[np.int64]  # (T,): what the model sees
    select: NDArray[np.int64]  # (M,): the chosen rows of `tokens`, ascending
    targets: NDArray[np.int64]  # (M,): the original tokens there


def mask(
    tokens: NDArray[np.int64],
    lengths: NDArray[np.integer],
    sample_ids: NDArray[np.integer],
    config: MaskingConfig,
    *,
    seed: int,
    epoch: int,
    mask_id: int,
    vocab_size: int,
    num_special: int,
) -> Masked:
    """Return a packed batch with its targets chosen and masked.

    Of a sample of n tokens, n * mask_prob are chosen, rounded down or up at random so that the mean is exact. A random
    token is any of the vocabulary but its first `num_special`. Should no sample of the batch get a target, the first
    one that has tokens gets one, so that a loss always exists; only then does a sample depend on its batch.

    tokens: (T,) int64; lengths, sample_ids: (B,).
    """
    select = _choose(lengths, sample_ids, config.mask_prob, seed, epoch)
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    sequence = np.searchsorted(starts, select, side="right") - 1  # (M,)
    samples, positions = sample_ids[sequence], select - starts[sequence]  # (M,)

    def draw(purpose: str) -> NDArray[np.float64]:
        return uniform(hashed(stream_key(seed, purpose, epoch), samples, positions))  # (M,)

    fate = draw("mask fate")
    is_random = fate < config.random_token_prob
    is_masked = fate >= config.random_token_prob + config.leave_unmasked_prob
    random_tokens = num_special + (draw("mask token") * (vocab_size - num_special)).astype(np.int64)
    targets = tokens[select]
    masked = tokens.copy()
    masked[select] = np.where(is_masked, mask_id, np.where(is_random, random_tokens, targets))
    return Masked(masked, select, targets)


def _choose(
    lengths: NDArray[np.integer], sample_ids: NDArray[np.integer], mask_prob: float, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return the rows of the chosen tokens, ascending: (M,) int64.

    Every token has a pseudo-random rank among those of its sample; the lowest ones are chosen.
    """
    rounding = uniform(hashed(stream_key(seed, "mask count", epoch), sample_ids, np.zeros_like(sample_ids)))
    counts = (mask_prob * lengths + rounding).astype(np.int64)  # (B,)
    if not counts.any() and lengths.any():
        counts[np.flatnonzero(lengths)[0]] = 1
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)  # (T,)
    bits = hashed(stream_key(seed, "mask rank", epoch), np.repeat(sample_ids, lengths), positions)  # (T,)
    sequence = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
    keys = (sequence << _RANK_BITS) | (bits >> (np.uint64(64) - _RANK_BITS))
    by_rank = np.argsort(keys, kind="stable")  # stable: a tie goes to the lower position, in every batch
    return np.sort(by_rank[positions < np.repeat(counts, lengths)])
