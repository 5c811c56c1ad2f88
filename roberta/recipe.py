"""What a training run is: the configs of all its components, and which of them may change when it is resumed."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from roberta.checkpoint import native
from roberta.config import flag, option, to_json
from roberta.distributed import Parallelism
from roberta.errors import ConfigError
from roberta.registry import CRITERIONS, MODELS, OPTIMIZERS, SCHEDULES, TASKS
from roberta.validation import Device, Precision

FREE_ON_RESUME = frozenset(
    {
        "save_dir",
        "max_update",
        "update_freq",
        "device",
        "parallelism",
        "timeout_minutes",
        "log_interval",
        "validate_interval_updates",
        "save_interval_updates",
        "keep_checkpoints",
        "patience",
        "resume",
        "init_from",
    }
)


@dataclass(frozen=True)
class TrainerConfig:
    """Options of the training loop."""

    save_dir: Path = option(help="folder of the run: checkpoints and log")
    max_update: int = option(help="number of updates to make in all")
    batch_size: int | None = option(None, help="samples per forward pass, at most")
    max_tokens: int | None = option(None, help="tokens per forward pass, at most")
    update_freq: int = option(1, help="forward passes per update and process (gradient accumulation)")
    clip_norm: float = option(0.0, help="clip the gradient norm to this; 0 leaves it alone")
    nonfinite: Literal["stop", "skip"] = option("stop", help="what to do at an update whose gradient is not finite")
    seed: int = option(1, help="seed of initialisation, data order, masks and dropout")
    precision: Precision = option("fp32", help="number format of the forward pass; weights stay fp32")
    device: Device = option("auto", help="where to train; auto takes CUDA if there is one")
    parallelism: Parallelism = option("ddp", help="under torchrun: whole models (ddp) or sharded ones (fsdp)")
    timeout_minutes: float = option(10.0, help="under torchrun: how long to wait for the other processes")
    log_interval: int = option(25, help="updates between log records")
    validate_interval_updates: int = option(500, help="updates between validations; there is one at the end too")
    save_interval_updates: int = option(500, help="updates between checkpoints; there is one at the end too")
    keep_checkpoints: int = option(2, help="how many of the newest checkpoints to keep")
    patience: int | None = option(None, help="stop after this many validations without a better loss")
    init_from: str | None = option(None, help="model to take the weights from (name or path); training starts anew")
    resume: bool = option(False, help="go on from the newest checkpoint in --save-dir, if there is one")

    def __post_init__(self) -> None:
        positive = ("max_update", "update_freq", "log_interval", "validate_interval_updates", "save_interval_updates")
        for name in (*positive, "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; it must be at least 1")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"--patience is {self.patience}; it must be at least 1")
        if self.batch_size is None and self.max_tokens is None:
            raise ConfigError("give --batch-size, --max-tokens or both")
        if not 0.0 <= self.clip_norm < math.inf:
            raise ConfigError(f"--clip-norm is {self.clip_norm}; it must be at least 0")
        if not 0.0 < self.timeout_minutes < math.inf:
            raise ConfigError(f"--timeout-minutes is {self.timeout_minutes}; it must be positive")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; it must be at least 0")


@dataclass(frozen=True)
class Recipe:
    """The configs of all components of a run; what a checkpoint stores under `training`."""

    task: Any
    model: Any
    criterion: Any
    optimizer: Any
    schedule: Any
    trainer: TrainerConfig

    def to_json(self) -> dict[str, Any]:
        """Return all options, by component."""
        return {
            "task": native.describe(TASKS, self.task),
            "model": native.describe(MODELS, self.model),
            "criterion": native.describe(CRITERIONS, self.criterion),
            "optimizer": native.describe(OPTIMIZERS, self.optimizer),
            "lr_scheduler": native.describe(SCHEDULES, self.schedule),
            "trainer": to_json(self.trainer),
        }

    def check_resumes(self, saved: dict[str, Any], source: str) -> None:
        """Refuse to go on from a run whose options would have computed something else.

        Raises:
            ConfigError: some differ; the message lists them.
        """
        differences = []
        for part, options in self.to_json().items():
            for name, value in options.items():
                old = saved.get(part, {}).get(name)
                is_free = (part == "trainer" and name in FREE_ON_RESUME) or (part, name) == ("task", "data")
                if old != value and not is_free:
                    differences.append(f"{part} {flag(name)} was {old}, is {value}")
        if differences:
            raise ConfigError(f"can't resume {source} with other options: {'; '.join(differences)}")
