"""Learning-rate schedules: pure functions of the number of updates done.

Update k is made with the rate at k - 1 updates, as in fairseq: with a warm-up the first update has rate 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

from roberta.config import option
from roberta.errors import ConfigError
from roberta.registry import SCHEDULES

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class PolynomialDecayConfig:
    """Options of the polynomial (by default linear) schedule."""

    lr: float = option(5e-4, help="peak learning rate")
    warmup_updates: int = option(0, help="updates of linear warm-up from 0 to the peak")
    end_learning_rate: float = option(0.0, help="rate at the end and after it")
    power: float = option(1.0, help="exponent of the decay; 1 is linear")
    total_num_update: int | None = option(None, help="updates until the end rate; --max-update where not given")

    def __post_init__(self) -> None:
        if self.lr <= 0.0:
            raise ConfigError(f"--lr is {self.lr}; it must be positive")
        if self.warmup_updates < 0:
            raise ConfigError(f"--warmup-updates is {self.warmup_updates}; it must be at least 0")


@SCHEDULES.register("polynomial_decay", PolynomialDecayConfig)
def polynomial_decay(config: PolynomialDecayConfig, max_update: int) -> Schedule:
    """Return linear warm-up to `lr`, then decay to `end_learning_rate` (arXiv:1907.11692, table 9: linear).

    Raises:
        ConfigError: the warm-up is longer than the schedule.
    """
    total = config.total_num_update or max_update
    warmup = config.warmup_updates
    if warmup > total:
        raise ConfigError(f"--warmup-updates {warmup} is more than the {total} updates of the schedule")

    def lr(num_updates: int) -> float:
        if warmup and num_updates <= warmup:
            return config.lr * num_updates / warmup
        if num_updates >= total:
            return config.end_learning_rate
        remaining = 1.0 - (num_updates - warmup) / (total - warmup)
        return (config.lr - config.end_learning_rate) * remaining**config.power + config.end_learning_rate

    return lr
