"""The training loop: batches in, updates, logs, validation and checkpoints out.

It knows no concrete model, task or criterion. Its position in the data is three integers, and all randomness is keyed
by (seed, update), so a resumed run goes on bit for bit as the unbroken one would have.
"""

import dataclasses
import logging
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roberta.checkpoint import native
from roberta.config import flag, option, to_json
from roberta.data.batching import batches, order
from roberta.errors import CheckpointError, ConfigError, DataError, TrainingError
from roberta.layout import Batch
from roberta.meter import Meter
from roberta.optim.schedules import Schedule
from roberta.progress import JsonLog, progress_bar
from roberta.randomness import stream_key
from roberta.registry import CRITERIONS, MODELS, OPTIMIZERS, SCHEDULES, TASKS
from roberta.tasks.task import Task
from roberta.validation import Device, Precision, autocast, check_lengths, choose_device, evaluate

logger = logging.getLogger(__name__)

FREE_ON_RESUME = frozenset(
    {
        "save_dir",
        "max_update",
        "device",
        "log_interval",
        "validate_interval_updates",
        "save_interval_updates",
        "keep_checkpoints",
        "resume",
    }
)


@dataclass(frozen=True)
class TrainerConfig:
    """Options of the training loop."""

    save_dir: Path = option(help="folder of the run: checkpoints and log")
    max_update: int = option(help="number of updates to make in all")
    batch_size: int | None = option(None, help="samples per forward pass, at most")
    max_tokens: int | None = option(None, help="tokens per forward pass, at most")
    update_freq: int = option(1, help="forward passes per update (gradient accumulation)")
    clip_norm: float = option(0.0, help="clip the gradient norm to this; 0 leaves it alone")
    seed: int = option(1, help="seed of initialisation, data order, masks and dropout")
    precision: Precision = option("fp32", help="number format of the forward pass; weights stay fp32")
    device: Device = option("auto", help="where to train; auto takes CUDA if there is one")
    log_interval: int = option(25, help="updates between log records")
    validate_interval_updates: int = option(500, help="updates between validations; there is one at the end too")
    save_interval_updates: int = option(500, help="updates between checkpoints; there is one at the end too")
    keep_checkpoints: int = option(2, help="how many of the newest checkpoints to keep")
    resume: bool = option(False, help="go on from the newest checkpoint in --save-dir, if there is one")

    def __post_init__(self) -> None:
        for name in ("max_update", "update_freq", "log_interval", "validate_interval_updates", "save_interval_updates"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; it must be at least 1")
        if self.batch_size is None and self.max_tokens is None:
            raise ConfigError("give --batch-size, --max-tokens or both")
        if self.keep_checkpoints < 1:
            raise ConfigError(f"--keep-checkpoints is {self.keep_checkpoints}; at least 1 must stay")
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


@dataclass
class Position:
    """Where a run is: updates done, and the next batch of which epoch (epochs count from 1)."""

    num_updates: int = 0
    epoch: int = 1
    next_batch: int = 0


class Trainer:
    """One training run, built from its recipe."""

    def __init__(self, recipe: Recipe) -> None:
        config = recipe.trainer
        self.task: Task = TASKS.build(recipe.task)
        self.train_samples = self.task.samples("train")
        self.valid_samples = self.task.samples("valid")
        model_config = dataclasses.replace(recipe.model, vocab_size=len(self.task.tokenizer.dictionary))
        for samples in (self.train_samples, self.valid_samples):
            check_lengths(samples, model_config.max_positions)
        self.recipe = dataclasses.replace(recipe, model=model_config)
        self.config = config
        self.device = choose_device(config.device)
        torch.manual_seed(stream_key(config.seed, "initialisation"))
        self.model: Any = MODELS.build(model_config)
        self.model.register_head(self.task.head, self.task.head_config())
        self.model.to(self.device)
        self.criterion = CRITERIONS.build(recipe.criterion)
        self.optimizer: torch.optim.Optimizer = OPTIMIZERS.build(recipe.optimizer, self.model.parameters())
        self.schedule: Schedule = SCHEDULES.build(recipe.schedule, config.max_update)
        self.position = Position()
        self.meter = Meter()
        self.grad_norm = torch.zeros(())

    def train(self) -> dict[str, float]:
        """Train up to `max_update`, and return the metrics of the last validation.

        Raises:
            ConfigError: `save_dir` holds a run and `resume` is off, or the run there has other options.
            TrainingError: the loss is not finite.
        """
        self._open_run()
        config = self.config
        metrics: dict[str, float] = {}
        bar = progress_bar(desc="train", unit="update", total=config.max_update, initial=self.position.num_updates)
        with bar, JsonLog(config.save_dir / "log.jsonl") as log:
            for sample_ids in self._updates():
                with self.meter.data_wait():
                    micro_batches = [self._batch(ids) for ids in sample_ids]
                self.train_step(micro_batches)
                bar.update()
                if self._is_due(config.log_interval):
                    record = self._log_record()
                    log.write({"train": record})
                    bar.set_postfix({name: f"{record[name]:.4g}" for name in ("loss", "ppl", "lr", "tokens_per_s")})
                    if bar.disable:
                        logger.info("train %s", _summary(record))
                if self._is_due(config.validate_interval_updates):
                    with self.meter.paused():
                        metrics = {"num_updates": self.position.num_updates, **self._validate()}
                    log.write({"valid": metrics})
                    logger.info("valid %s", _summary(metrics))
                if self._is_due(config.save_interval_updates):
                    with self.meter.paused():
                        self._save()
        return metrics or {"num_updates": self.position.num_updates, **self._validate()}

    def train_step(self, micro_batches: Sequence[Batch]) -> None:
        """Make one update from the mean loss over all targets of the micro-batches."""
        num_targets = sum(batch.num_targets for batch in micro_batches)
        self.model.train()
        torch.manual_seed(stream_key(self.config.seed, "dropout", self.position.num_updates))
        for batch in micro_batches:
            with autocast(self.device, self.config.precision):
                loss, sums = self.criterion(self.model, batch.to(self.device))
            (loss / num_targets).backward()
            self.meter.add(sums, num_targets=batch.num_targets, num_tokens=batch.layout.num_tokens)
        max_norm = self.config.clip_norm or math.inf
        self.grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.position.num_updates)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.position.num_updates += 1

    def _updates(self) -> Iterator[list[NDArray[np.int64]]]:
        """Yield the sample ids of each micro-batch of the next update, on and on over the epochs."""
        position, config = self.position, self.config
        while position.num_updates < config.max_update:
            sample_ids = order(len(self.train_samples), seed=config.seed, epoch=position.epoch)
            sizes = self.train_samples.sizes[sample_ids]
            offsets = batches(sizes, batch_size=config.batch_size, max_tokens=config.max_tokens)
            last = len(offsets) - 1
            while position.next_batch < last and position.num_updates < config.max_update:
                start, end = position.next_batch, min(position.next_batch + config.update_freq, last)
                position.next_batch = end
                yield [sample_ids[offsets[i] : offsets[i + 1]] for i in range(start, end)]
            if position.next_batch == last:
                position.epoch, position.next_batch = position.epoch + 1, 0

    def _batch(self, sample_ids: NDArray[np.int64]) -> Batch:
        return self.train_samples.batch(sample_ids, seed=self.config.seed, epoch=self.position.epoch)

    def _is_due(self, interval: int) -> bool:
        return self.position.num_updates == self.config.max_update or self.position.num_updates % interval == 0

    def _validate(self) -> dict[str, float]:
        return evaluate(
            self.model,
            self.criterion,
            self.valid_samples,
            batch_size=self.config.batch_size,
            max_tokens=self.config.max_tokens,
            precision=self.config.precision,
        )

    def _log_record(self) -> dict[str, float]:
        num_updates = self.position.num_updates
        record = {
            "num_updates": num_updates,
            "epoch": self.position.epoch,
            **self.meter.read(self.criterion),
            "lr": self.schedule(num_updates - 1),
            "gnorm": self.grad_norm.item(),
        }
        if not math.isfinite(record["loss"]) or not math.isfinite(record["gnorm"]):
            raise TrainingError(
                f"loss {record['loss']}, gradient norm {record['gnorm']} at update {num_updates} or shortly before; "
                "earlier checkpoints are intact: start again with a lower --lr, more --warmup-updates or --clip-norm"
            )
        return record

    def _open_run(self) -> None:
        save_dir = self.config.save_dir
        if not self.config.resume and native.steps(save_dir):
            raise ConfigError(
                f"{save_dir} already holds a run; add --resume to go on with it, or choose another --save-dir"
            )
        save_dir.mkdir(parents=True, exist_ok=True)
        folder = native.newest(save_dir)
        if folder is not None:
            self._restore(folder)
            logger.info("resumed from %s", folder)

    def _save(self) -> None:
        if any(not torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise TrainingError(
                f"parameters are not finite after update {self.position.num_updates}; nothing was saved"
            )
        progress = {
            **dataclasses.asdict(self.position),
            "data": self._data_fingerprint(),
            "optimizer": [_without_params(group) for group in self.optimizer.param_groups],
        }
        training = native.TrainingState(self.recipe.to_json(), self._optimizer_tensors(), progress)
        folder = self.config.save_dir / native.step_name(self.position.num_updates)
        native.save(folder, self.model, self.task.tokenizer, training)
        native.prune(self.config.save_dir, self.config.keep_checkpoints)

    def _restore(self, folder: Path) -> None:
        checkpoint = native.load(folder)
        if checkpoint.training is None:
            raise CheckpointError(f"{folder}: holds a model but no training state; a run can't be resumed from it")
        _check_same(checkpoint.training.options, self.recipe.to_json(), str(folder))
        progress = dict(checkpoint.training.progress)
        if progress.pop("data") != self._data_fingerprint():
            raise DataError(
                f"{folder}: the run was trained on other data than {self.recipe.task}; resume it with its own"
            )
        groups = progress.pop("optimizer")
        self.position = Position(**progress)
        self.model.load_state_dict(checkpoint.model.state_dict())
        parameters = dict(self.model.named_parameters())
        for name, value in checkpoint.training.optimizer.items():
            key, _, parameter_name = name.partition(".")
            self.optimizer.state[parameters[parameter_name]][key] = value.to(self.device)
        for group, saved in zip(self.optimizer.param_groups, groups, strict=True):
            group.update(saved)

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        return {
            f"{key}.{name}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state[parameter].items()
        }

    def _data_fingerprint(self) -> str:
        sizes = self.train_samples.sizes
        return f"{len(sizes)} samples, {int(sizes.sum())} tokens, crc32 {zlib.crc32(sizes.tobytes()):08x}"


def _check_same(saved: dict[str, Any], given: dict[str, Any], source: str) -> None:
    """Refuse to resume with options that would change what is computed."""
    differences = []
    for part, options in given.items():
        for name, value in options.items():
            old = saved.get(part, {}).get(name)
            if old != value and not (part == "trainer" and name in FREE_ON_RESUME):
                differences.append(f"{part} {flag(name)} was {old}, is {value}")
    if differences:
        raise ConfigError(f"can't resume {source} with other options: {'; '.join(differences)}")


def _without_params(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _summary(record: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.5g}" for name, value in record.items())
