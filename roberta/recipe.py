"""What a training run is: the configs of all its components, and which of them may change when it is resumed."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from roberta.config import flag, option, to_json
from roberta.devices import Device, Precision
from roberta.distributed import Parallelism
from roberta.errors import ConfigError
from roberta.models.linear import CpuEngineChoice
from roberta.registry import CRITERIONS, MODELS, OPTIMIZERS, SCHEDULES, TASKS, Registry

logger = logging.getLogger(__name__)

FREE_ON_RESUME = frozenset(
    {
        "save_dir",
        "max_update",
        "max_epoch",
        "max_hours",
        "update_freq",
        "device",
        "parallelism",
        "timeout_minutes",
        "log_interval",
        "validate_interval_updates",
        "save_interval_updates",
        "keep_checkpoints",
        "keep_interval_updates",
        "keep_best",
        "patience",
        "checkpoint_activations",
        "compile",
        "cpu_engine",
        "tensorboard_logdir",
        "resume",
        "init_from",
    }
)
MOST = 2**40  # samples or tokens of a batch
PLACES = ("data", "vocab", "valid_data", "dev", "train_file", "valid_file")  # the data there has a fingerprint
FREE_OF_OTHERS = frozenset(
    {
        *(("task", name) for name in PLACES),
        ("task", "valid_fraction"),
        ("lr_scheduler", "decay_updates"),
    }
)

_TABLES: dict[str, Registry] = {
    "task": TASKS,
    "model": MODELS,
    "criterion": CRITERIONS,
    "optimizer": OPTIMIZERS,
    "lr_scheduler": SCHEDULES,
}


@dataclass(frozen=True)
class TrainerConfig:
    """Options of the training loop."""

    save_dir: Path = option(help="folder of the run: checkpoints and log")
    max_update: int | None = option(None, help="number of updates to make in all")
    max_epoch: int | None = option(None, help="times to go through the training data, at most")
    max_hours: float | None = option(
        None, help="hours of training in all, at most; --lr-scheduler wsd makes its decay end by then"
    )
    batch_size: int | None = option(None, help="samples per forward pass, at most")
    max_tokens: int | None = option(None, help="tokens per forward pass, at most")
    update_freq: tuple[int, ...] = option(
        (1,), help="forward passes per update and process (gradient accumulation); for each epoch, the last one stays"
    )
    clip_norm: float = option(0.0, help="clip the gradient norm to this; 0 leaves it alone")
    nonfinite: Literal["stop", "skip"] = option("stop", help="what to do at an update whose gradient is not finite")
    seed: int = option(1, help="seed of initialisation, data order, masks and dropout")
    precision: Precision = option("fp32", help="number format of the forward pass; weights stay fp32")
    freeze: tuple[str, ...] = option((), help="parts that are not trained, such as encoder.embed_tokens or encoder")
    ema_decay: float = option(
        0.0, help="decay of an average of the weights, which is then what is validated and kept as the best; 0 is off"
    )
    checkpoint_activations: bool = option(False, help="compute each layer twice instead of keeping what it computed")
    compile: bool = option(False, help="compile the layers and the loss, for a GPU; takes a minute at the start")
    cpu_engine: CpuEngineChoice = option(
        "torch",
        help="what multiplies matrices in fp32 on a CPU; auto measures which is fastest, and a resumed run keeps it",
    )
    device: Device = option("auto", help="where to train; auto takes CUDA if there is one")
    parallelism: Parallelism = option("ddp", help="under torchrun: whole models (ddp) or sharded ones (fsdp)")
    timeout_minutes: float = option(10.0, help="under torchrun: how long to wait for the other processes")
    log_interval: int = option(25, help="updates between log records")
    validate_interval_updates: int = option(
        500, help="updates between validations; 0 validates after each epoch; there is one at the end too"
    )
    save_interval_updates: int = option(
        500, help="updates between checkpoints; 0 saves after each epoch; there is one at the end too"
    )
    keep_checkpoints: int = option(2, help="how many of the newest checkpoints to keep")
    keep_interval_updates: int | None = option(None, help="keep those after each multiple of this many updates too")
    keep_best: bool = option(False, help="keep the model of the best validation, in the folder best")
    patience: int | None = option(None, help="stop after this many validations without a better one")
    tensorboard_logdir: Path | None = option(None, help="folder for TensorBoard's event files; needs tensorboard")
    init_from: str | None = option(None, help="model to take the weights from (name or path); training starts anew")
    resume: bool = option(False, help="go on from the newest checkpoint in --save-dir, if there is one")

    def __post_init__(self) -> None:
        positive = ("max_update", "max_epoch", "log_interval", "keep_checkpoints", "keep_interval_updates", "patience")
        for name in positive:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; it must be at least 1")
        for name in ("validate_interval_updates", "save_interval_updates"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; it must be at least 0")
        for name in ("batch_size", "max_tokens"):
            if getattr(self, name) is not None and not 1 <= getattr(self, name) <= MOST:
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; it must lie between 1 and {MOST}")
        if not self.update_freq or min(self.update_freq) < 1:
            raise ConfigError(f"--update-freq is {self.update_freq}; it takes numbers of at least 1")
        if self.cpu_engine != "torch":
            self._check_engine_fits()
        if self.ema_decay and not self.keep_best:
            raise ConfigError(
                "--ema-decay without --keep-best: checkpoints hold the weights that are trained, and their average, "
                "which is what is validated, would be lost; add --keep-best"
            )
        if self.max_update is None and self.max_epoch is None:
            raise ConfigError("give --max-update, --max-epoch or both")
        if self.batch_size is None and self.max_tokens is None:
            raise ConfigError("give --batch-size, --max-tokens or both")
        if self.max_hours is not None and not 0.0 < self.max_hours < math.inf:
            raise ConfigError(f"--max-hours is {self.max_hours}; it must be positive")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ConfigError(f"--ema-decay is {self.ema_decay}; it must lie in [0, 1)")
        if not 0.0 <= self.clip_norm < math.inf:
            raise ConfigError(f"--clip-norm is {self.clip_norm}; it must be at least 0")
        if not 0.0 < self.timeout_minutes < math.inf:
            raise ConfigError(f"--timeout-minutes is {self.timeout_minutes}; it must be positive")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; it must be at least 0")

    def _check_engine_fits(self) -> None:
        others = {
            "--compile": self.compile,
            f"--precision {self.precision}": self.precision != "fp32",
            "--parallelism fsdp": self.parallelism == "fsdp",  # it frees weights in place, which numpy has seen
        }
        for other, is_given in others.items():
            if is_given:
                raise ConfigError(
                    f"--cpu-engine {self.cpu_engine} multiplies whole matrices in fp32 as it goes, and can't be had "
                    f"with {other}; leave out one of them"
                )


def config_classes(**names: str) -> dict[str, Any]:
    """Return the config classes of components, such as `optimizer="adam"`, by what they are in a recipe.

    Raises:
        ConfigError: no component is registered under a name.
    """
    return {part: _TABLES[part].config_class(name) for part, name in names.items()}


@dataclass(frozen=True)
class Recipe:
    """The configs of all components of a run; what a checkpoint stores under `training`."""

    task: Any
    model: Any
    criterion: Any
    optimizer: Any
    lr_scheduler: Any
    trainer: TrainerConfig

    def continuing(self, options: Mapping[str, Any]) -> "Recipe":
        """Return the recipe of a run that goes on: the model that it took its weights from is that of its beginning.

        options: all options of the run, as `to_json` wrote them.
        """
        init_from = options.get("trainer", {}).get("init_from")
        if self.trainer.init_from not in (None, init_from):
            logger.warning("the run began from %s; %s has no effect any more", init_from, self.trainer.init_from)
        return dataclasses.replace(self, trainer=dataclasses.replace(self.trainer, init_from=init_from))

    def to_json(self) -> dict[str, Any]:
        """Return all options, by component."""
        parts = {part: table.describe(getattr(self, part)) for part, table in _TABLES.items()}
        return {**parts, "trainer": to_json(self.trainer)}

    def check_resumes(self, saved: dict[str, Any], source: str) -> None:
        """Refuse to go on from a run whose options would have computed something else.

        An option that the run did not know yet had its default.

        Raises:
            ConfigError: some differ; the message lists them.
        """
        differences = []
        for part, options in self.to_json().items():
            before = _defaults(getattr(self, part)) | saved.get(part, {})
            for name, value in options.items():
                old = before.get(name)
                is_free = (part == "trainer" and name in FREE_ON_RESUME) or (part, name) in FREE_OF_OTHERS
                if old != value and not is_free:
                    differences.append(f"{part} {flag(name)} was {old}, is {value}")
        if differences:
            raise ConfigError(
                f"can't resume {source} with other options: {'; '.join(differences)}; give the old ones, or choose "
                "another --save-dir"
            )


def _defaults(config: Any) -> dict[str, Any]:
    """Return the defaults of a config's options as JSON has them; nothing for those that are required."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in defaults.items()
        if value is not dataclasses.MISSING
    }
