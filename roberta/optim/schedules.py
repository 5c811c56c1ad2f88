"""Learning-rate schedules: pure functions of the number of updates done.

Update k is made with the rate at k - 1 updates, as in fairseq: with a warm-up from 0 the first update has rate 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from roberta.config import option
from roberta.errors import ConfigError
from roberta.registry import SCHEDULES

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class WarmupConfig:
    """Options that every schedule has."""

    lr: float = option(5e-4, help="peak learning rate")
    warmup_updates: int = option(0, help="updates of linear warm-up to the peak")
    warmup_ratio: float = option(0.0, help="the warm-up as a share of all updates, in the place of their number")

    def __post_init__(self) -> None:
        if not 0.0 < self.lr < math.inf:
            raise ConfigError(f"--lr is {self.lr}; it must be positive")
        if self.warmup_updates < 0:
            raise ConfigError(f"--warmup-updates is {self.warmup_updates}; it must be at least 0")
        if not 0.0 <= self.warmup_ratio <= 1.0:
            raise ConfigError(f"--warmup-ratio is {self.warmup_ratio}; it must lie between 0 and 1")
        if self.warmup_ratio and self.warmup_updates:
            raise ConfigError(
                f"--warmup-ratio {self.warmup_ratio} and --warmup-updates {self.warmup_updates} contradict each other; "
                "set one of them to 0"
            )

    def warmup(self, total: int) -> int:
        """Return the updates of warm-up in a schedule of `total` updates."""
        return round(self.warmup_ratio * total) or self.warmup_updates


def _check_total(total_num_update: int | None) -> None:
    if total_num_update is not None and total_num_update < 1:
        raise ConfigError(f"--total-num-update is {total_num_update}; it must be at least 1")


@dataclass(frozen=True)
class PolynomialDecayConfig(WarmupConfig):
    """Options of the polynomial (by default linear) schedule."""

    end_learning_rate: float = option(0.0, help="rate at the end and after it")
    power: float = option(1.0, help="exponent of the decay; 1 is linear")
    total_num_update: int | None = option(None, help="updates until the end rate; those of the run where not given")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_total(self.total_num_update)
        if not 0.0 < self.power < math.inf:
            raise ConfigError(f"--power is {self.power}; it must be positive")
        if not 0.0 <= self.end_learning_rate <= self.lr:
            raise ConfigError(
                f"--end-learning-rate is {self.end_learning_rate}; it must lie between 0 and --lr {self.lr}"
            )


@SCHEDULES.register("polynomial_decay", PolynomialDecayConfig)
def polynomial_decay(config: PolynomialDecayConfig, max_update: int) -> Schedule:
    """Return linear warm-up to `lr`, then decay to `end_learning_rate` (arXiv:1907.11692, table 9: linear).

    Raises:
        ConfigError: the warm-up is longer than the schedule.
    """
    warmup, total = _span(config, max_update if config.total_num_update is None else config.total_num_update)

    def decay(num_updates: int) -> float:
        remaining = 1.0 - (num_updates - warmup) / (total - warmup) if num_updates < total else 0.0
        return (config.lr - config.end_learning_rate) * remaining**config.power + config.end_learning_rate

    return _after_warmup(warmup, config, decay)


@dataclass(frozen=True)
class CosineConfig(WarmupConfig):
    """Options of the cosine schedule."""

    min_lr: float = option(0.0, help="rate at the end and after it")
    total_num_update: int | None = option(None, help="updates until the lowest rate; those of the run where not given")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_total(self.total_num_update)
        if not 0.0 <= self.min_lr <= self.lr:
            raise ConfigError(f"--min-lr is {self.min_lr}; it must lie between 0 and --lr {self.lr}")


@SCHEDULES.register("cosine", CosineConfig)
def cosine(config: CosineConfig, max_update: int) -> Schedule:
    """Return linear warm-up to `lr`, then half a cosine to `min_lr` (arXiv:1608.03983, one period).

    Raises:
        ConfigError: the warm-up is longer than the schedule.
    """
    warmup, total = _span(config, max_update if config.total_num_update is None else config.total_num_update)

    def decay(num_updates: int) -> float:
        done = (num_updates - warmup) / (total - warmup) if num_updates < total else 1.0
        return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1.0 + math.cos(math.pi * done))

    return _after_warmup(warmup, config, decay)


@dataclass(frozen=True)
class InverseSqrtConfig(WarmupConfig):
    """Options of the inverse-square-root schedule."""

    warmup_init_lr: float = option(0.0, help="rate at the start of the warm-up")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.warmup_init_lr < math.inf:
            raise ConfigError(f"--warmup-init-lr is {self.warmup_init_lr}; it must be at least 0")


@SCHEDULES.register("inverse_sqrt", InverseSqrtConfig)
def inverse_sqrt(config: InverseSqrtConfig, max_update: int) -> Schedule:
    """Return warm-up to `lr`, then decay with the root of the number of updates (arXiv:1706.03762 section 5.3).

    Raises:
        ConfigError: there is no warm-up, which the decay starts from.
    """
    warmup = config.warmup(max_update)
    if not warmup:
        raise ConfigError("--lr-scheduler inverse_sqrt decays from the end of its warm-up; give --warmup-updates")

    def decay(num_updates: int) -> float:
        return config.lr * (warmup / num_updates) ** 0.5

    return _after_warmup(warmup, config, decay, config.warmup_init_lr)


@dataclass(frozen=True)
class FixedConfig(WarmupConfig):
    """Options of the constant schedule; it has none of its own."""


@SCHEDULES.register("fixed", FixedConfig)
def fixed(config: FixedConfig, max_update: int) -> Schedule:
    """Return linear warm-up to `lr`, which then stays."""
    return _after_warmup(config.warmup(max_update), config, lambda num_updates: config.lr)


@dataclass(frozen=True)
class WarmupStableDecayConfig(WarmupConfig):
    """Options of the warm-up, stable, decay schedule."""

    decay_updates: int = option(help="updates of linear decay to 0 at the end")


@SCHEDULES.register("wsd", WarmupStableDecayConfig)
def warmup_stable_decay(config: WarmupStableDecayConfig, max_update: int) -> Schedule:
    """Return linear warm-up to `lr`, which stays, and falls to 0 over the last `decay_updates` (arXiv:2404.06395).

    A run can be prolonged from a checkpoint before the decay without having wasted anything.

    Raises:
        ConfigError: warm-up and decay together are longer than the run.
    """
    warmup = config.warmup(max_update)
    if not 0 <= config.decay_updates <= max_update - warmup:
        raise ConfigError(
            f"--decay-updates {config.decay_updates} and --warmup-updates {warmup} "
            f"do not fit into the {max_update} updates of the run"
        )

    def decay(num_updates: int) -> float:
        return config.lr * min(1.0, max(0, max_update - num_updates) / max(1, config.decay_updates))

    return _after_warmup(warmup, config, decay)


def _after_warmup(warmup: int, config: WarmupConfig, decay: Schedule, initial_lr: float = 0.0) -> Schedule:
    """Return a schedule that rises from `initial_lr` to the peak, then goes on as `decay` says."""

    def lr(num_updates: int) -> float:
        if num_updates < warmup:
            return initial_lr + (config.lr - initial_lr) * num_updates / warmup
        return decay(num_updates)

    return lr


def _span(config: WarmupConfig, total: int) -> tuple[int, int]:
    """Return the updates of warm-up and of the whole schedule."""
    warmup = config.warmup(total)
    if warmup > total:
        raise ConfigError(f"--warmup-updates {warmup} is more than the {total} updates of the schedule")
    return warmup, total
