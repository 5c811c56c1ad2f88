"""Dynamic masking: which tokens of a sample the model must recover in this epoch (arXiv:1907.11692 section 4.1).

The choice is a function of (seed, epoch, sample, position), so it is the same in every batch, on every worker and
after a resume. As in fairseq, every position can be chosen, those of `<s>` and `</s>` included.

What is chosen are units: tokens, or whole words, alone or in spans. One draw decides what a unit becomes.

Shapes: B samples, T packed tokens, U units, K chosen units, M chosen tokens.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from roberta.config import flag, option
from roberta.data.dictionary import SPECIALS, Dictionary
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError
from roberta.randomness import hashed, stream_key, uniform

# A sort key is the sample in its batch, a rank, and the position in the sample, from the highest bits to the lowest.
_RANK_BITS, _POSITION_BITS = 24, 20


@dataclass(frozen=True)
class MaskingConfig:
    """How many tokens are chosen, in which units, and what the model sees in their place."""

    mask_prob: float = option(0.15, help="share of tokens that are chosen as targets; in validation the default")
    mask_prob_by_epoch: tuple[float, ...] = option(
        (), help="the share in epochs 1, 2, ... of training; --mask-prob holds after them"
    )
    leave_unmasked_prob: float = option(0.1, help="share of the chosen tokens that stay as they are")
    random_token_prob: float = option(0.1, help="share of the chosen tokens that become a random token")
    freq_weighted_replacement: bool = option(False, help="draw random tokens by the counts in dict.txt, not uniformly")
    mask_whole_words: bool = option(False, help="choose whole words, all tokens of each")
    mask_multiple_length: int = option(1, help="choose spans of this many tokens or words; spans may overlap")
    mask_stdev: float = option(0.0, help="standard deviation of the length of spans; 0: all have the same length")

    def __post_init__(self) -> None:
        for name, prob in (
            ("mask_prob", self.mask_prob),
            *(("mask_prob_by_epoch", prob) for prob in self.mask_prob_by_epoch),
        ):
            if not 0 < prob <= 1:
                raise ConfigError(f"{flag(name)} {prob}; expected above 0 and at most 1")
        for name in ("leave_unmasked_prob", "random_token_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{flag(name)} {getattr(self, name)}; expected 0 to 1")
        if self.leave_unmasked_prob + self.random_token_prob > 1:
            raise ConfigError(
                f"--leave-unmasked-prob {self.leave_unmasked_prob} and --random-token-prob {self.random_token_prob} "
                "sum to more than 1"
            )
        if not 1 <= self.mask_multiple_length < 2**31:
            raise ConfigError(f"--mask-multiple-length {self.mask_multiple_length}; expected 1 to 2147483647")
        if not 0 <= self.mask_stdev < math.inf:
            raise ConfigError(f"--mask-stdev {self.mask_stdev}; expected at least 0")
        if self.mask_stdev and self.mask_multiple_length == 1:
            raise ConfigError("--mask-stdev varies the length of spans; give their mean as --mask-multiple-length")

    def prob_in(self, epoch: int) -> float:
        """Return the share of tokens that are chosen in an epoch; those of training count from 1."""
        return self.mask_prob_by_epoch[epoch - 1] if 0 < epoch <= len(self.mask_prob_by_epoch) else self.mask_prob


@dataclass(frozen=True)
class Masked:
    """A packed batch after masking."""

    tokens: NDArray[np.int64]  # (T,): what the model sees
    select: NDArray[np.int64]  # (M,): the chosen rows of `tokens`, ascending
    targets: NDArray[np.int64]  # (M,): the original tokens there


@dataclass(frozen=True)
class Masker:
    """Masks packed batches of a vocabulary of V tokens."""

    config: MaskingConfig
    mask_id: int
    vocab_size: int
    num_special: int  # the first tokens, which are never drawn at random
    starts_word: NDArray[np.bool_] | None = None  # (V,): which tokens begin a word; None: units are tokens
    counts: NDArray[np.int64] | None = None  # (V,): how often each token is drawn; None: all as often

    @classmethod
    def of(cls, config: MaskingConfig, tokenizer: Tokenizer) -> "Masker":
        """Return the masker of a tokenizer's vocabulary.

        Raises:
            ConfigError: random tokens are to be drawn by counts, and the dictionary has none.
        """
        dictionary = tokenizer.dictionary
        starts_word = tokenizer.starts_word if config.mask_whole_words else None
        counts = _counts(dictionary) if config.freq_weighted_replacement else None
        return cls(config, dictionary.mask, len(dictionary), len(SPECIALS), starts_word, counts)

    def __call__(
        self,
        tokens: NDArray[np.int64],
        lengths: NDArray[np.integer],
        sample_ids: NDArray[np.integer],
        *,
        seed: int,
        epoch: int,
    ) -> Masked:
        """Return a packed batch with its targets chosen and masked.

        Of a sample of n units, n * mask_prob are chosen, rounded down or up at random so that the mean is exact; or as
        many spans as hold that number, and fewer where they overlap. Should no sample of the batch get a target, the
        first one that has tokens gets one, so that a loss always exists; only then does a sample depend on its batch.

        tokens: (T,) int64; lengths, sample_ids: (B,).
        """
        starts, units = self._units(tokens, lengths)
        chosen = _choose(units, sample_ids, self.config, seed, epoch)  # (K,)
        select, unit = _tokens_of(chosen, starts)  # (M,), (M,)
        fate = _draw("mask fate", seed, epoch, sample_ids, units, chosen)[unit]  # (M,)
        is_random = fate < self.config.random_token_prob
        is_masked = fate >= self.config.random_token_prob + self.config.leave_unmasked_prob
        random_tokens = self._random_tokens(_draw("mask token", seed, epoch, sample_ids, lengths, select))
        targets = tokens[select]
        masked = tokens.copy()
        masked[select] = np.where(is_masked, self.mask_id, np.where(is_random, random_tokens, targets))
        return Masked(masked, select, targets)

    def _units(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.integer]
    ) -> tuple[NDArray[np.int64], NDArray[np.integer]]:
        """Return where each unit starts, then T: (U + 1,), and how many units each sample has: (B,)."""
        if self.starts_word is None:
            return np.arange(len(tokens) + 1), lengths
        ends = np.cumsum(lengths, dtype=np.int64)
        is_start = np.append(self.starts_word[tokens], True)
        is_start[ends - lengths] = True
        starts = np.flatnonzero(is_start)
        return starts, np.searchsorted(starts, ends) - np.searchsorted(starts, ends - lengths)

    def _random_tokens(self, draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return a token for each number in [0, 1)."""
        if self.counts is None:
            return self.num_special + (draws * (self.vocab_size - self.num_special)).astype(np.int64)
        return np.searchsorted(self._cumulative, draws * self._cumulative[-1], side="right")

    @cached_property
    def _cumulative(self) -> NDArray[np.int64]:
        counts = np.array(self.counts)
        counts[: self.num_special] = 0
        return np.cumsum(counts)


def _counts(dictionary: Dictionary) -> NDArray[np.int64]:
    """Return how often each token was counted, checked to be known."""
    counts = np.array(dictionary.counts, dtype=np.int64)
    counted = np.delete(counts, [dictionary.mask, *range(len(SPECIALS))])  # the counts of those are no counts
    if not counted.any():
        raise ConfigError(
            "--freq-weighted-replacement draws by the counts in dict.txt, and all of them are 0; put a dict.txt with "
            "counts there, such as that of RoBERTa's release, or make one with roberta-preprocess --train-bpe"
        )
    return counts


def _draw(
    purpose: str,
    seed: int,
    epoch: int,
    sample_ids: NDArray[np.integer],
    lengths: NDArray[np.integer],
    rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each row of packed samples, a function of the sample and the position in it."""
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    sequence = np.searchsorted(starts, rows, side="right") - 1
    return uniform(hashed(stream_key(seed, purpose, epoch), sample_ids[sequence], rows - starts[sequence]))


def _choose(
    units: NDArray[np.integer], sample_ids: NDArray[np.integer], config: MaskingConfig, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return the chosen units, ascending: (K,) int64. units: (B,) units of each sample.

    Every unit has a pseudo-random rank among those of its sample; the lowest ones are chosen, or begin spans.
    """
    share = config.prob_in(epoch) / config.mask_multiple_length
    rounding = uniform(hashed(stream_key(seed, "mask count", epoch), sample_ids, np.zeros_like(sample_ids)))
    counts = (share * units + rounding).astype(np.int64)  # (B,)
    if not counts.any() and units.any():
        counts[np.flatnonzero(units)[0]] = 1
    first = np.cumsum(units, dtype=np.int64) - units
    positions = np.arange(units.sum()) - np.repeat(first, units)  # (U,)
    bits = hashed(stream_key(seed, "mask rank", epoch), np.repeat(sample_ids, units), positions)  # (U,)
    keys = np.sort(_sort_keys(np.repeat(np.arange(len(units)), units), bits, positions))
    lowest = keys[positions < np.repeat(counts, units)] & ((1 << _POSITION_BITS) - 1)  # (K,)
    chosen = np.sort(np.repeat(first, counts) + lowest)
    if config.mask_multiple_length == 1:
        return chosen
    lengths = _span_lengths(config, seed, epoch, sample_ids, units, chosen)
    ends = np.repeat(first + units, counts)
    return _covered(chosen, np.minimum(chosen + lengths, ends), int(units.sum()))


def _sort_keys(
    sequence: NDArray[np.int64], bits: NDArray[np.uint64], positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return keys that sort the units of each sample by rank. Sorting them took a sixth of an argsort (2026-11-23)."""
    assert positions.max(initial=0) >> _POSITION_BITS == 0, "a sample has more tokens than its sort keys can number"
    ranks = (bits >> np.uint64(64 - _RANK_BITS)).astype(np.int64)
    return sequence << (_RANK_BITS + _POSITION_BITS) | ranks << _POSITION_BITS | positions


def _span_lengths(
    config: MaskingConfig,
    seed: int,
    epoch: int,
    sample_ids: NDArray[np.integer],
    units: NDArray[np.integer],
    chosen: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the length of the span that begins at each chosen unit: (K,), normally distributed and rounded."""
    size, angle = (
        _draw(purpose, seed, epoch, sample_ids, units, chosen) for purpose in ("mask span size", "mask span angle")
    )
    normal = np.sqrt(-2 * np.log1p(-size)) * np.cos(2 * np.pi * angle)  # doi:10.1214/aoms/1177706645
    lengths = np.rint(config.mask_multiple_length + config.mask_stdev * normal).astype(np.int64)
    lengths = np.maximum(lengths, 0)
    if not lengths.any():
        lengths[:1] = 1  # so that a loss exists
    return lengths


def _covered(starts: NDArray[np.int64], ends: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the numbers below `size` that at least one of the ranges [start, end) holds, ascending."""
    changes = np.bincount(starts, minlength=size + 1) - np.bincount(ends, minlength=size + 1)
    return np.flatnonzero(np.cumsum(changes))


def _tokens_of(chosen: NDArray[np.int64], starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the tokens of the chosen units, and for each the number of its unit among them: (M,), (M,)."""
    lengths = starts[chosen + 1] - starts[chosen]
    unit = np.repeat(np.arange(len(chosen)), lengths)
    offsets = np.arange(len(unit)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return starts[chosen][unit] + offsets, unit
