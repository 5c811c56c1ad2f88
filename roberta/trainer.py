"""The training loop: batches in, updates, logs, validation and checkpoints out.

It knows no concrete model, task or criterion. Its position in the data is three integers, and all randomness is keyed
by (seed, update, batch), so a resumed run goes on bit for bit as the unbroken one would have, and processes that share
the batches of an update compute what one process would with that many times the accumulation.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roberta import identity, pretrained
from roberta.chance import ChanceWatch
from roberta.checkpoint import native
from roberta.checkpoint.background import snapshot
from roberta.data.batching import batches
from roberta.data.tokenizer import Tokenizer
from roberta.devices import attention_backend, autocast, choose_device
from roberta.distributed import forget_gathered, join_world, parallelise, synchronise_gradients, whole
from roberta.errors import CheckpointError, DataError, PreemptionError
from roberta.failures import explained_memory
from roberta.gradients import Gradients
from roberta.interruption import Interruption
from roberta.layout import Batch
from roberta.logs import Logs
from roberta.meter import Meter
from roberta.optim.averaging import WeightAverage
from roberta.optim.groups import freeze
from roberta.optim.state import gather, group_options, restore
from roberta.planning import epochs_of, usage_of
from roberta.progress import in_millions, progress_bar
from roberta.randomness import seed_torch, stream_key
from roberta.recipe import Recipe
from roberta.registry import CRITERIONS, MODELS, OPTIMIZERS, SCHEDULES, TASKS
from roberta.run_folder import RunFolder
from roberta.tasks.task import Task
from roberta.timetable import SECONDS_PER_HOUR, Position, Timetable
from roberta.validation import check_criterion, check_head, check_lengths, evaluate

logger = logging.getLogger(__name__)
_ON_THE_BAR = ("loss", "ppl", "accuracy", "lr", "gnorm", "tokens_per_s", "mfu")


class Trainer:
    """One training run, built from its recipe; under torchrun, one rank of it.

    source: the model to start from, in the place of the recipe's `init_from`, for callers that hold it already.
    """

    def __init__(self, recipe: Recipe, source: pretrained.Pretrained | None = None) -> None:
        config = self.config = recipe.trainer
        self.world = join_world(choose_device(config.device), config.timeout_minutes)
        self.run_folder = RunFolder(config, is_main=self.world.is_main)
        if self.run_folder.resumed_from is not None:
            source, recipe = None, recipe.continuing(native.training_options(self.run_folder.resumed_from))
            config = self.config = recipe.trainer
        elif source is None and config.init_from is not None:
            source = pretrained.load(config.init_from)
        self.task: Task = TASKS.build(recipe.task, self._tokenizer(source))
        model_config = dataclasses.replace(recipe.model, vocab_size=len(self.task.tokenizer.dictionary))
        self.recipe = dataclasses.replace(recipe, model=model_config)
        self.train_samples, self.valid_samples = self.task.samples("train"), self.task.samples("valid")
        self._check_samples()
        self.epochs = epochs_of(self.train_samples, config, world_size=self.world.size, rank=self.world.rank)
        self.timetable = Timetable(
            recipe.lr_scheduler,
            self.epochs,
            max_update=config.max_update,
            max_epoch=config.max_epoch,
            max_hours=config.max_hours,
        )
        self.model = self._initial_model(source)
        self.forward = parallelise(
            self.model,
            self.model.encoder,
            self.world,
            config.parallelism,
            checkpoint_activations=config.checkpoint_activations,
            compiled=config.compile,
        )
        self.criterion = CRITERIONS.build(recipe.criterion, self.task.head)
        check_criterion(self.criterion, self.valid_samples)
        self.optimizer: torch.optim.Optimizer = OPTIMIZERS.build(recipe.optimizer, self.model.named_parameters())
        self.average = WeightAverage(self.model.named_parameters(), config.ema_decay) if config.ema_decay else None
        self.gradients = Gradients(config, self.world.rank)
        self.position = Position()
        self.meter = Meter()
        self.usage = usage_of(
            self.recipe, self.task, self.train_samples, world=self.world, max_update=self.timetable.max_update
        )
        self.epoch_is_over = False
        self.chance_watch = ChanceWatch(self.train_samples.chance)

    def train(self) -> dict[str, float]:
        """Train up to the last update, and return the metrics of the last validation.

        Raises:
            ConfigError: `save_dir` holds a run and `resume` is off, or the run there has other options.
            TrainingError: a gradient is not finite, or a process of the world was lost.
            PreemptionError: SIGTERM or Ctrl-C came; the run was saved and can be resumed.
        """
        with self.run_folder.alone(), self.world.watched(lambda: self.position.num_updates):
            self._open_run()
            metrics = self._train() or self._evaluate()
        if self._has_lost_patience():
            logger.info("no better %s in %d validations: stopped", self.valid_samples.metric, self.config.patience)
        return metrics

    def _train(self) -> dict[str, float]:
        """Make all updates, and return the metrics of the last validation, if there was one."""
        config = self.config
        metrics: dict[str, float] = {}
        bar = progress_bar(
            desc="train",
            unit="update",
            total=self.last_update,
            initial=self.position.num_updates,
            enabled=self.world.is_main,
        )
        self.meter.begin()
        with bar, self.run_folder.logs(self.position.num_updates) as logs, Interruption() as interruption:
            for sample_ids in self._updates():
                with self._explained_memory(sample_ids):
                    with self.meter.data_wait():
                        micro_batches = [None if ids is None else self._batch(ids) for ids in sample_ids]
                    is_interrupted = self.train_step(micro_batches, interrupted=interruption.requested)
                self.run_folder.check()
                bar.update()
                if self._is_due(config.log_interval):
                    self._report(logs, bar)
                if self._is_due(config.validate_interval_updates):
                    metrics = self._validate(logs)
                    if self._has_lost_patience() and not self._is_due(config.log_interval):
                        self._report(logs, bar)
                if self._is_due(config.save_interval_updates) or is_interrupted or self._is_over():
                    self._save()
                if is_interrupted and not self._is_over():
                    self.run_folder.wait()  # before anything is called saved
                    self.world.wait()  # torchrun ends the others when one of them ends
                    raise PreemptionError(
                        f"stopped after update {self.position.num_updates}, and saved; go on with --resume"
                    )
        return metrics

    def train_step(self, micro_batches: Sequence[Batch | None], *, interrupted: bool = False) -> bool:
        """Make one update from the mean loss over all targets of all ranks' micro-batches.

        Micro-batch k of rank r is number k * world_size + r of the update. All ranks have as many, so that they
        exchange parameters and gradients in step; None stands for one that counts for nothing.
        Returns whether any rank was `interrupted`.
        """
        batches_ = [batch for batch in micro_batches if batch is not None]
        seconds = self.meter.training_seconds() if self.world.is_main else 0.0
        counts_of_mine = [sum(batch.num_targets for batch in batches_), sum(b.layout.num_tokens for b in batches_)]
        num_targets, num_tokens, interruptions, seconds = self.world.total(
            [*map(float, counts_of_mine), float(interrupted), seconds]
        )
        self.model.train()
        weight = self.gradients.weight(num_targets) * self.world.size  # of gradients, ranks take the mean
        for k, given in enumerate(micro_batches):
            batch = self._batch(np.array([0])) if given is None else given
            counts = given is not None
            self.model.encoder.drops_all = not counts
            synchronise_gradients(self.forward, enabled=k == len(micro_batches) - 1)
            number = k * self.world.size + self.world.rank
            seed_torch(stream_key(self.config.seed, "dropout", self.position.num_updates, number), self.world.device)
            with autocast(self.world.device, self.config.precision):
                loss, sums = self.criterion(self.forward, batch.to(self.world.device))
            (loss * (weight * counts)).backward()
            self.meter.add(
                {name: value * counts for name, value in sums.items()},
                num_targets=counts * batch.num_targets,
                num_tokens=counts * batch.layout.num_tokens,
            )
        self._step(tuple(index for batch in batches_ for index in batch.sample_ids), num_targets)
        self.position.num_updates += 1
        self.position.num_tokens += int(num_tokens)
        self.timetable.spend(seconds, self.position)
        return interruptions > 0

    def _explained_memory(self, sample_ids: Sequence[NDArray[np.int64] | None]) -> AbstractContextManager[None]:
        mine = [index for ids in sample_ids if ids is not None for index in ids.tolist()]
        update = self.position.num_updates + 1
        return explained_memory(rank=self.world.rank, world_size=self.world.size, update=update, sample_ids=mine)

    def _step(self, sample_ids: tuple[int, ...], num_targets: float) -> None:
        is_fit = self.gradients.take(self.model.parameters(), sample_ids, self.position, num_targets=num_targets)
        for group in self.optimizer.param_groups:
            group["lr"] = self.timetable.lr(self.position.num_updates) * group.get("lr_scale", 1.0)
        if is_fit:
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.position.num_updates + 1)
        self.optimizer.zero_grad()

    def _updates(self) -> Iterator[list[NDArray[np.int64] | None]]:
        """Yield the sample ids of each of this rank's micro-batches of the next update, on and on over the epochs."""
        position = self.position
        while not self._is_over():
            for after, is_last, mine in self.epochs.updates(position.epoch, start=position.next_batch):
                position.next_batch, self.epoch_is_over = after, is_last
                yield mine
                if self._is_over():
                    return
            position.epoch, position.next_batch = position.epoch + 1, 0

    def _batch(self, sample_ids: NDArray[np.int64]) -> Batch:
        return self.train_samples.batch(sample_ids, seed=self.config.seed, epoch=self.position.epoch)

    @property
    def last_update(self) -> int:
        """The number of the update that ends the run."""
        return self.timetable.last_update(self.position)

    def _is_due(self, interval: int) -> bool:
        """Return whether something is to be done after this update; an interval of 0 means the end of each epoch."""
        if self.position.num_updates >= self.last_update:
            return True
        return self.position.num_updates % interval == 0 if interval else self.epoch_is_over

    def _is_over(self) -> bool:
        return self.position.num_updates >= self.last_update or self._has_lost_patience()

    def _has_lost_patience(self) -> bool:
        return self.config.patience is not None and self.position.validations_since_best >= self.config.patience

    def _evaluate(self) -> dict[str, float]:
        with self._averaged():
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

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the average of the weights, where there is one, in their place while the block runs."""
        if self.average is None:
            yield
            return
        with self.average.applied():
            yield
        forget_gathered(self.model)

    def _validate(self, logs: Logs) -> dict[str, float]:
        with self.meter.paused():
            metrics = self._evaluate()
            value, maximise = metrics[self.valid_samples.metric], self.valid_samples.maximise
            if self.position.take_validation(value, maximise=maximise):
                self._save_best()
        if self.world.is_main:
            logs.write("valid", metrics)
            logger.info("valid %s", _summary(metrics))
        return metrics

    def _report(self, logs: Logs, bar: Any) -> None:
        """Write a log record of the updates since the last one; this waits for the device."""
        position = self.position
        grad_norm = self.gradients.read(position.num_updates)
        figures = self.meter.read(self.criterion, self.world)
        record = {
            "num_updates": position.num_updates,
            "epoch": position.epoch,
            "tokens": position.num_tokens,
            **figures,
            **self.usage.read(figures["tokens_per_s"]),
            "lr": self.timetable.lr(position.num_updates - 1),
            **({} if grad_norm is None else {"gnorm": grad_norm}),
            "skipped": position.num_skipped,
            "hours": position.seconds / SECONDS_PER_HOUR,
            "hours_left": self.timetable.hours_left(position),
            **({} if self.gradients.loss_scale is None else {"loss_scale": self.gradients.loss_scale.scale}),
        }
        if self.world.is_main:
            self.chance_watch.look(record, num_updates=position.num_updates, last_update=self.last_update)
            logs.write("train", record)
            bar.set_postfix({name: f"{record[name]:.4g}" for name in _ON_THE_BAR if name in record})
            if bar.disable:
                logger.info("train %s", _summary(record))

    def _open_run(self) -> None:
        self.run_folder.check_is_free()
        if self.run_folder.resumed_from is not None:
            self._restore(self.run_folder.resumed_from)
            if self.world.is_main:
                logger.info("resumed from %s", self.run_folder.resumed_from)
        else:
            if self.config.resume and self.world.is_main:
                logger.warning("--resume: there is no checkpoint in %s; training begins anew", self.config.save_dir)
            if self.config.cpu_engine == "auto":
                identity.settle_engine(self.model, None, self.world)
        self._check_ranks_agree()
        if self.world.is_main:
            self.run_folder.begin(self.position.num_updates, self.recipe.to_json())
            self._announce()
        self.world.wait()

    def _announce(self) -> None:
        """Say what is trained, where and how."""
        config = self.config
        trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        logger.info(
            "%d samples, %d tokens, %d updates; %sM parameters, %sM of them trained; %s x %d, %s, attention by %s, "
            "matrices by %s",
            len(self.train_samples),
            int(self.train_samples.sizes.sum()),
            self.last_update,
            in_millions(self.model.num_parameters),
            in_millions(trained),
            self.world.device,
            self.world.size,
            config.precision,
            attention_backend(self.recipe.model, self.world.device, config.precision),
            self.model.cpu_engine,
        )

    def _check_ranks_agree(self) -> None:
        if not self.world.agrees(self.position.num_updates):
            raise CheckpointError(
                f"rank {self.world.rank} goes on from update {self.position.num_updates}, other ranks from elsewhere; "
                f"--save-dir {self.config.save_dir} must be one folder that all of them share"
            )

    def _tokenizer(self, source: pretrained.Pretrained | None) -> Tokenizer | None:
        """Return the tokenizer of the model that training starts from, or goes on from."""
        if self.run_folder.resumed_from is not None:
            return Tokenizer.load(self.run_folder.resumed_from)
        return None if source is None else source.tokenizer

    def _check_samples(self) -> None:
        """Refuse samples that do not fit the model or the limits of a batch, and none to train on."""
        if not len(self.train_samples):
            raise DataError("nothing to train on: the train split has no samples")
        for samples in (self.train_samples, self.valid_samples):
            check_lengths(samples, self.recipe.model.max_positions)
            batches(samples.sizes, batch_size=self.config.batch_size, max_tokens=self.config.max_tokens)

    def _initial_model(self, source: pretrained.Pretrained | None) -> Any:
        """Return the model that training starts from, on its device; what a source has no weights of is drawn."""
        torch.manual_seed(stream_key(self.config.seed, "initialisation"))
        model: Any = MODELS.build(self.recipe.model)
        head = self.task.head_config(self.recipe.model)
        check_head(self.recipe.criterion, head)
        model.register_head(self.task.head, head)
        if source is not None:
            pretrained.transfer(source, model, self.task.head, str(self.config.init_from))
        freeze(model, self.config.freeze)
        model.to(self.world.device)
        if self.config.cpu_engine != "auto":
            model.set_cpu_engine(self.config.cpu_engine)
        return model

    def _weights(self) -> dict[str, Tensor]:
        """Return the whole weights, checked to be finite; every rank must ask for them."""
        weights = {name: whole(tensor) for name, tensor in self.model.state_dict().items()}
        self.gradients.check_weights(weights.values(), self.position.num_updates)
        return weights

    def _save(self) -> None:
        with self.meter.paused():
            weights, optimizer = self._weights(), gather(self.model, self.optimizer, self.average)
            progress = {
                **dataclasses.asdict(self.position),
                "max_update": self.timetable.max_update,
                "conditions": identity.conditions(self.world, self.model.cpu_engine),
                "data": self._data_fingerprint,
                "valid": self._valid_fingerprint,
                "optimizer": group_options(self.optimizer),
                "loss_scale": self.gradients.state(),
            }
            if self.world.is_main:
                training = native.TrainingState(self.recipe.to_json(), snapshot(optimizer), progress)
                self.run_folder.write_step(
                    self.model, self.task.tokenizer, training=training, weights=snapshot(weights)
                )

    def _save_best(self) -> None:
        """Write the model alone, as it was validated, in the place of the last best one, which goes if none is kept."""
        if not self.config.keep_best:
            if self.world.is_main:
                self.run_folder.forget_best()
            return
        with self._averaged():
            weights = self._weights()
            if self.world.is_main:
                self.run_folder.write_best(self.model, self.task.tokenizer, weights, self.position.num_updates)
            self.world.wait()

    def _restore(self, folder: Path) -> None:
        checkpoint = native.load(folder, check_tensors=False)  # `newest` has just checked them
        if checkpoint.training is None:
            raise CheckpointError(f"{folder}: holds a model but no training state; a run can't be resumed from it")
        options = checkpoint.training.options
        self.recipe.check_resumes(options, str(folder))
        position, state = identity.position_and_rest(checkpoint.training.progress, str(folder))
        identity.check_data(state["data"], self._data_fingerprint, source=str(folder), task=self.recipe.task)
        if self.config.cpu_engine == "auto":
            identity.settle_engine(self.model, state["conditions"].get("cpu_engine", "torch"), self.world)
        if self.world.is_main:
            identity.warn_of_conditions(state["conditions"], identity.conditions(self.world, self.model.cpu_engine))
            before = [freq * state["conditions"].get("processes", 1) for freq in options["trainer"]["update_freq"]]
            identity.warn_of_updates(before, [freq * self.world.size for freq in self.config.update_freq])
        self.position = Position.from_json(position, str(folder))
        is_validated_elsewhere = identity.is_validated_elsewhere(state["valid"], self._valid_fingerprint)
        if is_validated_elsewhere or self.run_folder.has_lost_best(self.position.best_update):
            self.position.forget_best()
        self.timetable.resume(
            self.position,
            old_schedule=SCHEDULES.described(options["lr_scheduler"], str(folder)),
            old_max_update=state["max_update"],
            old_max_hours=options["trainer"].get("max_hours"),
        )
        self.gradients.restore(state["loss_scale"])
        restore(
            self.model,
            self.optimizer,
            self.average,
            weights=checkpoint.model.state_dict(),
            tensors=checkpoint.training.optimizer,
            groups=state["optimizer"],
            source=str(folder),
        )

    @cached_property
    def _data_fingerprint(self) -> dict[str, int]:
        return identity.data_fingerprint(self.train_samples, self.task.tokenizer)

    @cached_property
    def _valid_fingerprint(self) -> dict[str, int]:
        return identity.data_fingerprint(self.valid_samples, self.task.tokenizer)


def _summary(record: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.5g}" for name, value in record.items())
