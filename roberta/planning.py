"""What a recipe will take before it runs: its data is opened and its batches counted, nothing is trained or written."""

import dataclasses
from dataclasses import dataclass

import torch

from roberta import pretrained
from roberta.config import option
from roberta.data.batching import Epochs
from roberta.errors import ConfigError
from roberta.estimates import Estimate, Workload, estimate
from roberta.optim.muon import MuonConfig
from roberta.recipe import Recipe
from roberta.registry import TASKS
from roberta.tasks.task import Task
from roberta.validation import check_lengths, choose_device


@dataclass(frozen=True)
class DryRunConfig:
    """Options of a dry run: the machines that the run is meant for."""

    dry_run: bool = option(False, help="print parameters, FLOPs, memory, updates and hours, and train nothing")
    devices: int = option(1, help="dry run: number of processes, with a device each")
    device_name: str | None = option(None, help="dry run: the device, such as H100 or A100; the one here if not given")
    utilisation: float = option(0.35, help="dry run: share of the device's peak FLOP/s that training reaches")

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ConfigError(f"--devices is {self.devices}; it must be at least 1")
        if not 0.0 < self.utilisation <= 1.0:
            raise ConfigError(f"--utilisation is {self.utilisation}; it must lie between 0 and 1")


def plan(recipe: Recipe, config: DryRunConfig) -> Estimate:
    """Return what a recipe takes on the devices of a dry run.

    Raises:
        ConfigError, DataError, VocabError: what training would raise before its first update.
    """
    trainer = recipe.trainer
    tokenizer = None if trainer.init_from is None else pretrained.load(trainer.init_from).tokenizer
    task: Task = TASKS.build(recipe.task, tokenizer)
    samples = task.samples("train")
    model = dataclasses.replace(recipe.model, vocab_size=len(task.tokenizer.dictionary))
    check_lengths(samples, model.max_positions)
    epochs = Epochs(
        sizes=samples.sizes,
        order=lambda epoch: samples.order(seed=trainer.seed, epoch=epoch),
        batch_size=trainer.batch_size,
        max_tokens=trainer.max_tokens,
        update_freq=trainer.update_freq,
        world_size=config.devices,
    )
    _, _, batches = next(epochs.updates(1))
    assert batches[0] is not None
    batch = samples.batch(batches[0], seed=trainer.seed, epoch=1)
    rows = batch.layout.num_tokens if batch.select is None else len(batch.select)
    device = choose_device(trainer.device)
    name = config.device_name or (torch.cuda.get_device_name(device) if device.type == "cuda" else None)
    workload = Workload(
        model=model,
        head=task.head_config(model),
        tokens_per_batch=batch.layout.num_tokens,
        tokens_per_sample=round(batch.layout.num_tokens / batch.layout.num_sequences),
        targets_per_token=rows / batch.layout.num_tokens,
        update_freq=trainer.update_freq[-1],
        world_size=config.devices,
        max_update=epochs.total_updates(max_update=trainer.max_update, max_epoch=trainer.max_epoch),
        precision=trainer.precision,
        parallelism=trainer.parallelism,
        device_type="cpu" if name is None else "cuda",
        optimizer_moments=1 if isinstance(recipe.optimizer, MuonConfig) else 2,
        checkpoints_activations=trainer.checkpoint_activations,
    )
    return estimate(workload, device_name=name, utilisation=config.utilisation)
