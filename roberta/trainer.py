"""The training loop: batches in, updates, logs, validation and checkpoints out.

It knows no concrete model, task or criterion. Its position in the data is three integers, and all randomness is keyed
by (seed, update, batch), so a resumed run goes on bit for bit as the unbroken one would have, and processes that share
the batches of an update compute what one process would with that many times the accumulation.
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

from roberta import pretrained
from roberta.checkpoint import native
from roberta.data.batching import batches, order, updates
from roberta.distributed import join_world, parallelise, sharded_like, synchronise_gradients, whole
from roberta.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    PreemptionError,
    StorageError,
    TrainingError,
    VocabError,
)
from roberta.interruption import Interruption
from roberta.layout import Batch
from roberta.meter import Meter
from roberta.optim.schedules import Schedule
from roberta.progress import JsonLog, forget_after, progress_bar
from roberta.randomness import stream_key
from roberta.recipe import Recipe
from roberta.registry import CRITERIONS, MODELS, OPTIMIZERS, SCHEDULES, TASKS
from roberta.tasks.task import Task
from roberta.validation import autocast, check_lengths, choose_device, evaluate

logger = logging.getLogger(__name__)

LOG = "log.jsonl"


@dataclass
class Position:
    """Where a run is: updates done, the next batch of which epoch (epochs count from 1), and its best validation."""

    num_updates: int = 0
    epoch: int = 1
    next_batch: int = 0
    best_loss: float = math.inf
    validations_since_best: int = 0
    num_skipped: int = 0


class Trainer:
    """One training run, built from its recipe; under torchrun, one rank of it."""

    def __init__(self, recipe: Recipe) -> None:
        config = recipe.trainer
        self.world = join_world(choose_device(config.device), config.timeout_minutes)
        self.task: Task = TASKS.build(recipe.task)
        self.train_samples = self.task.samples("train")
        self.valid_samples = self.task.samples("valid")
        model_config = dataclasses.replace(recipe.model, vocab_size=len(self.task.tokenizer.dictionary))
        for samples in (self.train_samples, self.valid_samples):
            check_lengths(samples, model_config.max_positions)
            batches(samples.sizes, batch_size=config.batch_size, max_tokens=config.max_tokens)
        self.recipe = dataclasses.replace(recipe, model=model_config)
        self.config = config
        torch.manual_seed(stream_key(config.seed, "initialisation"))
        self.model: Any = MODELS.build(model_config)
        self.model.register_head(self.task.head, self.task.head_config(model_config))
        if config.init_from is not None and not (config.resume and native.steps(config.save_dir)):
            self._take_weights(config.init_from)
        self.model.to(self.world.device)
        self.forward = parallelise(self.model, self.model.encoder.layers, self.world, config.parallelism)
        self.criterion = CRITERIONS.build(recipe.criterion, self.task.head)
        self.optimizer: torch.optim.Optimizer = OPTIMIZERS.build(recipe.optimizer, self.model.parameters())
        self.schedule: Schedule = SCHEDULES.build(recipe.schedule, config.max_update)
        self.position = Position()
        self.meter = Meter()
        self.grad_norms: list[tuple[Tensor, tuple[int, ...]]] = []  # since the last log record, with the samples

    def train(self) -> dict[str, float]:
        """Train up to `max_update`, and return the metrics of the last validation.

        Raises:
            ConfigError: `save_dir` holds a run and `resume` is off, or the run there has other options.
            TrainingError: a gradient is not finite, or a process of the world was lost.
            PreemptionError: SIGTERM or Ctrl-C came; the run was saved and can be resumed.
        """
        self._open_run()
        config = self.config
        metrics: dict[str, float] = {}
        bar = progress_bar(
            desc="train",
            unit="update",
            total=config.max_update,
            initial=self.position.num_updates,
            enabled=self.world.is_main,
        )
        with bar, JsonLog(config.save_dir / LOG) as log, Interruption() as interruption:
            for sample_ids in self._updates():
                with self.meter.data_wait():
                    micro_batches = [None if ids is None else self._batch(ids) for ids in sample_ids]
                is_interrupted = self.train_step(micro_batches, interrupted=interruption.requested)
                bar.update()
                if self._is_due(config.log_interval):
                    self._report(log, bar)
                if self._is_due(config.validate_interval_updates):
                    metrics = self._validate(log)
                if self._is_due(config.save_interval_updates) or is_interrupted or self._is_over():
                    self._save()
                if is_interrupted and not self._is_over():
                    raise PreemptionError(
                        f"stopped after update {self.position.num_updates}, and saved; go on with --resume"
                    )
        if self._has_lost_patience():
            logger.info("no better loss in %d validations: stopped", config.patience)
        return metrics or self._evaluate()

    def train_step(self, micro_batches: Sequence[Batch | None], *, interrupted: bool = False) -> bool:
        """Make one update from the mean loss over all targets of all ranks' micro-batches.

        Micro-batch k of rank r is number k * world_size + r of the update. All ranks have as many, so that they
        exchange parameters and gradients in step; None stands for one that counts for nothing.
        Returns whether any rank was `interrupted`.
        """
        batches_ = [batch for batch in micro_batches if batch is not None]
        num_targets, interruptions = self.world.total(
            [float(sum(batch.num_targets for batch in batches_)), float(interrupted)]
        )
        self.model.train()
        for k, given in enumerate(micro_batches):
            batch = self._batch(np.array([0])) if given is None else given
            counts = given is not None
            synchronise_gradients(self.forward, enabled=k == len(micro_batches) - 1)
            number = k * self.world.size + self.world.rank
            torch.manual_seed(stream_key(self.config.seed, "dropout", self.position.num_updates, number))
            with autocast(self.world.device, self.config.precision):
                loss, sums = self.criterion(self.forward, batch.to(self.world.device))
            weight = counts * self.world.size / num_targets  # exchanging gradients takes their mean over ranks
            (loss * weight).backward()
            self.meter.add(
                {name: value * counts for name, value in sums.items()},
                num_targets=counts * batch.num_targets,
                num_tokens=counts * batch.layout.num_tokens,
            )
        self._step(tuple(index for batch in batches_ for index in batch.sample_ids))
        self.position.num_updates += 1
        return interruptions > 0

    def _step(self, sample_ids: tuple[int, ...]) -> None:
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        grad_norm = whole(torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters]))
        if self.config.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, grad_norm)
        self.grad_norms.append((grad_norm, sample_ids))
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.position.num_updates)
        # Asking for the number waits for the device, so it is done only where the user wants updates skipped.
        if self.config.nonfinite == "skip" and not math.isfinite(grad_norm.item()):
            self.grad_norms.pop()
            self.position.num_skipped += 1
            logger.warning("update %d skipped: gradient norm %f", self.position.num_updates + 1, grad_norm.item())
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()

    def _updates(self) -> Iterator[list[NDArray[np.int64] | None]]:
        """Yield the sample ids of each of this rank's micro-batches of the next update, on and on over the epochs.

        Every rank gets as many; where an epoch ends, some of them are None.
        """
        position, config, world = self.position, self.config, self.world
        while not self._is_over():
            sample_ids = order(len(self.train_samples), seed=config.seed, epoch=position.epoch)
            sizes = self.train_samples.sizes[sample_ids]
            offsets = batches(sizes, batch_size=config.batch_size, max_tokens=config.max_tokens)
            last = len(offsets) - 1
            for mine in updates(
                last,
                world_size=world.size,
                rank=world.rank,
                update_freq=config.update_freq,
                start=position.next_batch,
            ):
                position.next_batch = min(position.next_batch + config.update_freq * world.size, last)
                yield [None if i is None else sample_ids[offsets[i] : offsets[i + 1]] for i in mine]
                if self._is_over():
                    break
            if position.next_batch >= last:
                position.epoch, position.next_batch = position.epoch + 1, 0

    def _batch(self, sample_ids: NDArray[np.int64]) -> Batch:
        return self.train_samples.batch(sample_ids, seed=self.config.seed, epoch=self.position.epoch)

    def _is_due(self, interval: int) -> bool:
        return self.position.num_updates == self.config.max_update or self.position.num_updates % interval == 0

    def _is_over(self) -> bool:
        return self.position.num_updates >= self.config.max_update or self._has_lost_patience()

    def _has_lost_patience(self) -> bool:
        return self.config.patience is not None and self.position.validations_since_best >= self.config.patience

    def _evaluate(self) -> dict[str, float]:
        metrics = evaluate(
            self.forward,
            self.criterion,
            self.valid_samples,
            batch_size=self.config.batch_size,
            max_tokens=self.config.max_tokens,
            precision=self.config.precision,
            world=self.world,
        )
        return {"num_updates": self.position.num_updates, **metrics}

    def _validate(self, log: JsonLog) -> dict[str, float]:
        with self.meter.paused():
            metrics = self._evaluate()
        position = self.position
        is_better = metrics["loss"] < position.best_loss
        position.best_loss = min(position.best_loss, metrics["loss"])
        position.validations_since_best = 0 if is_better else position.validations_since_best + 1
        if self.world.is_main:
            log.write({"valid": metrics})
            logger.info("valid %s", _summary(metrics))
        return metrics

    def _report(self, log: JsonLog, bar: Any) -> None:
        """Write a log record of the updates since the last one; this waits for the device."""
        first = self.position.num_updates - len(self.grad_norms) + 1
        for update, (grad_norm, sample_ids) in enumerate(self.grad_norms, start=first):
            if not math.isfinite(grad_norm.item()):
                raise TrainingError(
                    f"gradient norm {grad_norm.item()} at update {update}, on samples {_some(sample_ids)} of rank "
                    f"{self.world.rank}: start again in another --save-dir with a lower --lr, more --warmup-updates, "
                    "--clip-norm or --nonfinite skip; "
                    f"checkpoints in this one: {len(native.steps(self.config.save_dir))}"
                )
        record = {
            "num_updates": self.position.num_updates,
            "epoch": self.position.epoch,
            **self.meter.read(self.criterion, self.world),
            "lr": self.schedule(self.position.num_updates - 1),
            "gnorm": self.grad_norms[-1][0].item() if self.grad_norms else math.nan,
            "skipped": self.position.num_skipped,
        }
        self.grad_norms.clear()
        if self.world.is_main:
            log.write({"train": record})
            bar.set_postfix({name: f"{record[name]:.4g}" for name in ("loss", "ppl", "lr", "tokens_per_s")})
            if bar.disable:
                logger.info("train %s", _summary(record))

    def _open_run(self) -> None:
        save_dir = self.config.save_dir
        if not self.config.resume and native.steps(save_dir):
            raise ConfigError(
                f"{save_dir} already holds a run; add --resume to go on with it, or choose another --save-dir"
            )
        try:
            save_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"--save-dir {save_dir}: can't be made: {error}; choose another folder") from error
        folder = native.newest(save_dir)
        if folder is not None:
            self._restore(folder)
            logger.info("resumed from %s", folder)
        self._check_ranks_agree()
        if self.world.is_main:
            native.forget_after(save_dir, self.position.num_updates)
            forget_after(save_dir / LOG, self.position.num_updates)
        self.world.wait()

    def _check_ranks_agree(self) -> None:
        mine = float(self.position.num_updates)
        total, squares = self.world.total([mine, mine * mine])
        if total != mine * self.world.size or squares != mine * mine * self.world.size:
            raise CheckpointError(
                f"rank {self.world.rank} goes on from update {mine:.0f}, other ranks from elsewhere; "
                f"--save-dir {self.config.save_dir} must be one folder that all of them share"
            )

    def _take_weights(self, name_or_path: str) -> None:
        """Start from the weights of another model; a head that it lacks keeps its random ones."""
        source = pretrained.load(name_or_path)
        if source.tokenizer.dictionary != self.task.tokenizer.dictionary:
            raise VocabError(f"--init-from {name_or_path}: its dictionary is not the data's; binarise with its --vocab")
        free = ("dropout", "attention_dropout", "activation_dropout")
        ours, theirs = dataclasses.asdict(self.model.config), dataclasses.asdict(source.model.config)
        differences = [f"{key} {theirs[key]} instead of {ours[key]}" for key in ours if ours[key] != theirs[key]]
        if any(not difference.startswith(free) for difference in differences):
            raise ConfigError(
                f"--init-from {name_or_path}: it has {', '.join(differences)}; choose the --preset it has"
            )
        self.model.encoder.load_state_dict(source.model.encoder.state_dict())
        if source.model.head_configs.get(self.task.head) == self.model.head_configs[self.task.head]:
            self.model.heads[self.task.head].load_state_dict(source.model.heads[self.task.head].state_dict())
        else:
            logger.info(
                "%s has no head %r like the task's; it starts from random weights", name_or_path, self.task.head
            )

    def _save(self) -> None:
        with self.meter.paused():
            weights = {name: whole(tensor) for name, tensor in self.model.state_dict().items()}
            optimizer = self._optimizer_tensors()
            if any(not torch.isfinite(tensor).all() for tensor in weights.values()):
                raise TrainingError(
                    f"weights are not finite after update {self.position.num_updates}; nothing was saved"
                )
            progress = {
                **dataclasses.asdict(self.position),
                "best_loss": self.position.best_loss if math.isfinite(self.position.best_loss) else None,
                "data": self._data_fingerprint(),
                "optimizer": [_without_params(group) for group in self.optimizer.param_groups],
            }
            if self.world.is_main:
                training = native.TrainingState(self.recipe.to_json(), optimizer, progress)
                folder = self.config.save_dir / native.step_name(self.position.num_updates)
                native.save(folder, self.model, self.task.tokenizer, training, weights)
                native.prune(self.config.save_dir, self.config.keep_checkpoints)
            self.world.wait()

    def _restore(self, folder: Path) -> None:
        checkpoint = native.load(folder, check_tensors=False)  # `newest` has just checked them
        if checkpoint.training is None:
            raise CheckpointError(f"{folder}: holds a model but no training state; a run can't be resumed from it")
        options = checkpoint.training.options
        self.recipe.check_resumes(options, str(folder))
        progress = dict(checkpoint.training.progress)
        if progress.pop("data") != self._data_fingerprint():
            raise DataError(f"{folder}: the run was trained on other data than {self.recipe.task}; resume with its own")
        self._check_schedule(options["trainer"]["max_update"], progress["num_updates"])
        groups = progress.pop("optimizer")
        progress["best_loss"] = math.inf if progress["best_loss"] is None else progress["best_loss"]
        self.position = Position(**progress)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in checkpoint.model.state_dict().items():
                parameters[name].copy_(sharded_like(value, parameters[name]))
        for name, value in checkpoint.training.optimizer.items():
            key, _, parameter_name = name.partition(".")
            parameter = parameters[parameter_name]
            self.optimizer.state[parameter][key] = sharded_like(value, parameter)
        for group, saved in zip(self.optimizer.param_groups, groups, strict=True):
            group.update(saved)

    def _check_schedule(self, old_max_update: int, num_updates: int) -> None:
        """Refuse a new --max-update that would have meant other learning rates in the updates already made."""
        old: Schedule = SCHEDULES.build(self.recipe.schedule, old_max_update)
        if any(old(n) != self.schedule(n) for n in range(num_updates)):
            raise ConfigError(
                f"--max-update was {old_max_update}, is {self.config.max_update}, and the learning rates up to update "
                f"{num_updates} follow from it; resume with the old one, or start with --total-num-update next time"
            )

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        return {
            f"{key}.{name}": whole(value)
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state[parameter].items()
        }

    def _data_fingerprint(self) -> str:
        sizes = self.train_samples.sizes
        symbols = "\n".join(self.task.tokenizer.dictionary.symbols).encode()
        checksum = zlib.crc32(symbols, zlib.crc32(sizes.tobytes()))
        return f"{len(sizes)} samples, {int(sizes.sum())} tokens, crc32 {checksum:08x}"


def _without_params(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _summary(record: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.5g}" for name, value in record.items())


def _some(sample_ids: tuple[int, ...]) -> str:
    rest = f" and {len(sample_ids) - 8} more" if len(sample_ids) > 8 else ""
    return f"{', '.join(map(str, sample_ids[:8])) or 'none'}{rest}"
