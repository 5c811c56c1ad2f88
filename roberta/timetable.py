"""When a run ends, and the learning rate of each of its updates: planned beforehand, shortened where time runs out."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roberta.config import from_json
from roberta.data.batching import Epochs
from roberta.errors import CheckpointError, ConfigError
from roberta.optim.schedules import Schedule, WarmupStableDecayConfig
from roberta.registry import SCHEDULES

SECONDS_PER_HOUR = 3600.0


@dataclass
class Position:
    """Where a run is: updates done, the next batch of which epoch (epochs count from 1), and its best validation."""

    num_updates: int = 0
    epoch: int = 1
    next_batch: int = 0
    num_tokens: int = 0  # trained on
    best: float | None = None  # of the figure that tells which checkpoint is the best
    best_update: int = 0
    validations_since_best: int = 0
    num_skipped: int = 0
    seconds: float = 0.0  # of training
    end: int | None = None  # the last update, where the time ran out or will

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str) -> "Position":
        """Return a position as it was saved.

        Raises:
            CheckpointError: a field is missing or unknown, or of another type.
        """
        missing = {field.name for field in dataclasses.fields(cls)}.difference(values)
        try:
            found = from_json(cls, values, source=source)
        except ConfigError as error:
            raise CheckpointError(f"{error}; restore it from a copy, or go on from another checkpoint") from error
        if missing:
            raise CheckpointError(f"{source}: missing {', '.join(sorted(missing))}; go on from another checkpoint")
        return found

    def forget_best(self) -> None:
        """Begin to look for the best validation anew."""
        self.best, self.best_update, self.validations_since_best = None, 0, 0

    def take_validation(self, value: float, *, maximise: bool) -> bool:
        """Take note of a validation's figure; return whether it is the best so far, as one that is finite can be."""
        is_better = math.isfinite(value) and (
            self.best is None or (value > self.best if maximise else value < self.best)
        )
        self.validations_since_best = 0 if is_better else self.validations_since_best + 1
        if is_better:
            self.best, self.best_update = value, self.num_updates
        return is_better


class Timetable:
    """The plan of a run with a schedule, limited by updates, epochs and hours; the position it goes by is the run's."""

    def __init__(
        self,
        schedule: Any,
        epochs: Epochs,
        *,
        max_update: int | None,
        max_epoch: int | None,
        max_hours: float | None,
    ) -> None:
        self.config = schedule
        self.epochs = epochs
        self.limits = (max_update, max_epoch)
        self.max_hours = max_hours
        self.max_update = epochs.total_updates(max_update=max_update, max_epoch=max_epoch)  # hours may end it before
        self.lr = _schedule(self.config, self.max_update, None)

    def last_update(self, position: Position) -> int:
        """Return the number of the update that ends the run."""
        return self.max_update if position.end is None else min(position.end, self.max_update)

    def hours_left(self, position: Position) -> float:
        """Return the hours until the last update, if it goes on as fast as so far."""
        left = (self.last_update(position) - position.num_updates) * position.seconds / position.num_updates
        if self.max_hours is not None:
            left = min(left, max(0.0, self.max_hours * SECONDS_PER_HOUR - position.seconds))
        return left / SECONDS_PER_HOUR

    def spend(self, seconds: float, position: Position) -> None:
        """Fix the last update of a run whose time runs out; with wsd, early enough for the decay to be made in time."""
        position.seconds += seconds
        if self.max_hours is None or position.end is not None:
            return
        left = self.max_hours * SECONDS_PER_HOUR - position.seconds
        if isinstance(self.config, WarmupStableDecayConfig) and position.num_updates >= self.config.warmup(
            self.max_update
        ):
            if left <= self.config.decay_updates * position.seconds / position.num_updates:
                position.end = position.num_updates + self.config.decay_updates
                self.lr = _schedule(self.config, self.max_update, position.end)
        elif left <= 0.0:
            position.end = position.num_updates

    def resume(
        self, position: Position, *, old_schedule: Any, old_max_update: int, old_max_hours: float | None
    ) -> None:
        """Plan the rest of a run that was planned with `old_schedule` for `old_max_update` and `old_max_hours`.

        Raises:
            ConfigError: the new plan would have meant other learning rates in the updates already made.
        """
        old_end = position.end
        if old_max_hours != self.max_hours:
            position.end = None
        max_update, max_epoch = self.limits
        self.max_update = position.num_updates + self.epochs.total_updates(
            max_update=None if max_update is None else max_update - position.num_updates,
            max_epoch=max_epoch,
            epoch=position.epoch,
            start=position.next_batch,
        )
        self.lr = _schedule(self.config, self.max_update, position.end)
        old = _schedule(old_schedule, old_max_update, old_end)
        if any(old(n) != self.lr(n) for n in range(position.num_updates)):
            old_last = old_max_update if old_end is None else min(old_end, old_max_update)
            raise ConfigError(_refusal(position, old_schedule, self.config, (old_last, self.last_update(position))))


def _refusal(position: Position, old: Any, new: Any, last_updates: tuple[int, int]) -> str:
    """Return what differs between the schedules and last updates of a run then and now, and what to do."""
    differences, options, advice = [], [], ""
    if old != new:
        differences.append(f"--decay-updates was {old.decay_updates}, is {new.decay_updates}")
        options.append("--decay-updates")
    if last_updates[0] != last_updates[1]:
        differences.append("the run was to end after update {}, now {}".format(*last_updates))
        options.append("--max-update (or --max-epoch, --max-hours)")
    if hasattr(new, "total_num_update"):
        advice = ", or start with --total-num-update next time"
    return (
        f"{' and '.join(differences)}, and the learning rates up to update {position.num_updates} follow from it; "
        f"resume with the old {' and '.join(options)}{advice}"
    )


def _schedule(config: Any, max_update: int, end: int | None) -> Schedule:
    """Return the learning rates of a run planned for `max_update`; the decay of wsd is over when its time is."""
    if end is not None and isinstance(config, WarmupStableDecayConfig):
        config = dataclasses.replace(config, warmup_ratio=0.0, warmup_updates=config.warmup(max_update))
        max_update = min(end, max_update)
    schedule: Schedule = SCHEDULES.build(config, max_update)
    return schedule
