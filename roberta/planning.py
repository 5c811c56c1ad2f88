"""What a recipe takes: before it runs, from its data and its batches, and while it runs, as a share of the machine."""

import dataclasses
import logging
import resource
from dataclasses import dataclass

import numpy as np
import torch

from roberta import pretrained
from roberta.config import option, refuse_idle
from roberta.data.batching import Epochs
from roberta.devices import choose_device
from roberta.distributed import World
from roberta.errors import ConfigError
from roberta.estimates import Estimate, Workload, count_parameters, estimate, flops_per_token, mfu, peak_flops
from roberta.optim.muon import MuonConfig
from roberta.randomness import generator
from roberta.recipe import Recipe, TrainerConfig
from roberta.registry import TASKS
from roberta.tasks.task import Samples, Task
from roberta.timetable import Timetable
from roberta.validation import check_head, check_lengths

logger = logging.getLogger(__name__)

_SOME = 64  # samples
_NEARLY = 0.9  # of the tokens of full updates


@dataclass(frozen=True)
class DryRunConfig:
    """Options of a dry run: the machines that the run is meant for."""

    dry_run: bool = option(False, help="print parameters, FLOPs, memory, updates and hours, and train nothing")
    devices: int = option(1, help="dry run: number of processes, with a device each")
    device_name: str | None = option(None, help="dry run: the device, such as H100 or A100; the one here if not given")
    utilisation: float = option(0.35, help="dry run: share of the device's peak FLOP/s that training reaches")

    def __post_init__(self) -> None:
        if not self.dry_run:
            refuse_idle(self, ("devices", "device_name", "utilisation"), "has no effect without --dry-run")
        if self.devices < 1:
            raise ConfigError(f"--devices is {self.devices}; it must be at least 1")
        if not 0.0 < self.utilisation <= 1.0:
            raise ConfigError(f"--utilisation is {self.utilisation}; it must lie between 0 and 1")


class Usage:
    """How much of the machine a run uses, for its log."""

    def __init__(self, workload: Workload, device: torch.device) -> None:
        self.device = device
        self.world_size = workload.world_size
        is_gpu = device.type == "cuda"
        self.peak = peak_flops(torch.cuda.get_device_name(device), workload.precision) if is_gpu else None
        self.flops = flops_per_token(workload, count_parameters(workload.model, workload.head))

    def read(self, tokens_per_second: float) -> dict[str, float]:
        """Return the most memory so far, of the device or else of the process, and where the peak is known the MFU."""
        if self.device.type == "cuda":
            size = torch.cuda.max_memory_allocated(self.device)
        else:
            size = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        figures = {"memory_gib": size / 2**30}
        if self.peak is not None:
            figures["mfu"] = mfu(tokens_per_second, self.flops, peak=self.peak, world_size=self.world_size)
        return figures


def usage_of(recipe: Recipe, task: Task, samples: Samples, *, world: World, max_update: int) -> Usage:
    """Return the meter of what a recipe's run uses of the machines of a world."""
    workload = workload_of(
        recipe, task, samples, world_size=world.size, max_update=max_update, device_type=world.device.type
    )
    return Usage(workload, world.device)


def plan(recipe: Recipe, config: DryRunConfig) -> Estimate:
    """Return what a recipe takes on the devices of a dry run.

    Raises:
        ConfigError, DataError, VocabError: what training would raise of its data, its shape and its timetable.
    """
    recipe, task, samples = _opened(recipe)
    trainer = recipe.trainer
    device = choose_device(trainer.device)
    name = config.device_name or (torch.cuda.get_device_name(device) if device.type == "cuda" else None)
    epochs = epochs_of(samples, trainer, world_size=config.devices)
    timetable = Timetable(
        recipe.lr_scheduler,
        epochs,
        max_update=trainer.max_update,
        max_epoch=trainer.max_epoch,
        max_hours=trainer.max_hours,
    )
    workload = workload_of(
        recipe,
        task,
        samples,
        world_size=config.devices,
        max_update=timetable.max_update,
        device_type="cpu" if name is None else "cuda",
    )
    tokens = epochs.total_tokens(timetable.max_update)
    if tokens < _NEARLY * workload.tokens:
        logger.warning(
            "epochs of this data end within updates, which have %d tokens in the mean then, and not %d: time and "
            "tokens are those of this data; more text takes longer",
            tokens // timetable.max_update,
            workload.tokens_per_update,
        )
    workload = dataclasses.replace(workload, total_tokens=tokens)
    found = estimate(workload, device_name=name, utilisation=config.utilisation)
    if trainer.max_hours is not None and found.hours is not None and found.hours > trainer.max_hours:
        logger.warning(
            "all updates take %.1f hours; --max-hours %g ends the run after about %d of %d",
            found.hours,
            trainer.max_hours,
            timetable.max_update * trainer.max_hours / found.hours,
            timetable.max_update,
        )
    return found


def _opened(recipe: Recipe) -> tuple[Recipe, Task, Samples]:
    """Return the recipe with the vocabulary of its data, its task, and the samples that it trains on."""
    init_from = recipe.trainer.init_from
    source = None if init_from is None else pretrained.load(init_from)
    task: Task = TASKS.build(recipe.task, None if source is None else source.tokenizer)
    samples = task.samples("train")
    model = dataclasses.replace(recipe.model, vocab_size=len(task.tokenizer.dictionary))
    check_head(recipe.criterion, task.head_config(model))
    if source is not None:
        pretrained.check_shape(source, model, str(init_from))
    for split in (samples, task.samples("valid")):
        check_lengths(split, model.max_positions)
    return dataclasses.replace(recipe, model=model), task, samples


def epochs_of(samples: Samples, config: TrainerConfig, *, world_size: int, rank: int = 0) -> Epochs:
    """Return how samples become the updates of a run."""
    return Epochs(
        sizes=samples.sizes,
        order=lambda epoch: samples.order(seed=config.seed, epoch=epoch),
        batch_size=config.batch_size,
        max_tokens=config.max_tokens,
        update_freq=config.update_freq,
        world_size=world_size,
        rank=rank,
    )


def workload_of(
    recipe: Recipe, task: Task, samples: Samples, *, world_size: int, max_update: int, device_type: str
) -> Workload:
    """Return what a recipe computes, by the mean length of its samples, and the targets of some of them."""
    trainer = recipe.trainer
    drawn = generator(trainer.seed, "workload").integers(len(samples), size=_SOME)
    batch = samples.batch(np.unique(drawn), seed=trainer.seed, epoch=1)
    rows = batch.layout.num_tokens if batch.select is None else len(batch.select)
    size = float(samples.sizes.mean())
    limits = [trainer.batch_size and trainer.batch_size * size, trainer.max_tokens]
    return Workload(
        model=recipe.model,
        head=task.head_config(recipe.model),
        tokens_per_batch=round(min(limit for limit in limits if limit is not None)),
        tokens_per_sample=round(batch.layout.num_tokens / batch.layout.num_sequences),
        targets_per_token=rows / batch.layout.num_tokens,
        update_freq=trainer.update_freq[-1],
        world_size=world_size,
        max_update=max_update,
        precision=trainer.precision,
        parallelism=trainer.parallelism,
        device_type=device_type,
        matrix_moments=1 if isinstance(recipe.optimizer, MuonConfig) else 2,
        has_average=trainer.ema_decay > 0.0,
        freeze=trainer.freeze,
        head_name=task.head,
        checkpoints_activations=trainer.checkpoint_activations,
    )
