"""Validation: the metrics of a criterion over a split, from exact sums over every sample, none dropped."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from roberta.data.batching import batches
from roberta.devices import Precision, autocast
from roberta.distributed import SINGLE, World
from roberta.errors import ConfigError, DataError, choices
from roberta.layout import Batch
from roberta.models.mode import evaluation_mode
from roberta.progress import progress_bar
from roberta.tasks.task import Samples

VALID_SEED = VALID_EPOCH = 0  # the same masks at every validation of every run; training epochs count from 1


def check_lengths(samples: Samples, max_positions: int) -> None:
    """Refuse samples longer than the model takes.

    Raises:
        ConfigError: there is such a sample.
    """
    if samples.max_seqlen > max_positions:
        raise ConfigError(
            f"samples of up to {samples.max_seqlen} tokens, but the model takes {max_positions}: "
            "lower --tokens-per-sample, or raise --max-positions of a new model"
        )


def check_head(criterion: Any, head: Any) -> None:
    """Refuse a head that a criterion says it is not for; both are given as their configs.

    Raises:
        ConfigError: it is not.
    """
    if hasattr(criterion, "check_fits"):
        criterion.check_fits(head)


def check_criterion(criterion: Any, samples: Samples) -> None:
    """Refuse a criterion with parameters, which nothing trains, and parts that lack what the figures are made of.

    Raises:
        ConfigError: it has parameters that are not frozen; or the figures need outputs, and the criterion or the
            samples don't tell them.
    """
    if isinstance(criterion, nn.Module) and any(parameter.requires_grad for parameter in criterion.parameters()):
        raise ConfigError(f"{type(criterion).__name__} has parameters, which are not trained; put them into a head")
    if samples.metric == "loss":
        return
    lacking = [f"{type(criterion).__name__}.{name}" for name in ("outputs", "loss") if not hasattr(criterion, name)]
    lacking += [f"{type(samples).__name__}.score"] if type(samples).score is Samples.score else []
    if lacking:
        raise ConfigError(
            f"the figure {samples.metric!r} needs {', '.join(lacking)}: define it, or let metric be 'loss'"
        )


def evaluate(
    model: nn.Module,
    criterion: Any,
    samples: Samples,
    *,
    batch_size: int | None,
    max_tokens: int | None,
    precision: Precision = "fp32",
    world: World = SINGLE,
) -> dict[str, float]:
    """Return the criterion's metrics over all samples, with `num_targets` beside them; the model's mode is restored.

    The ranks of a world share the batches, and all get the result.

    Raises:
        ConfigError: the metric of the samples is not among the figures.
        DataError: there are no samples.
    """
    limits = {"batch_size": batch_size, "max_tokens": max_tokens}
    return measure(model, criterion, samples, **limits, precision=precision, world=world)[0]


@torch.inference_mode()
def measure(
    model: nn.Module,
    criterion: Any,
    samples: Samples,
    *,
    batch_size: int | None,
    max_tokens: int | None,
    precision: Precision = "fp32",
    world: World = SINGLE,
) -> tuple[dict[str, float], list[NDArray[np.float32]]]:
    """Return what `evaluate` does, and the outputs of the head that it is from; none where the loss is all there is.

    Raises:
        ConfigError, DataError: as `evaluate`.
    """
    sums: dict[str, Any] = {}
    num_targets = 0
    outputs: dict[int, NDArray[np.float32]] = {}  # by sample
    limits = {"batch_size": batch_size, "max_tokens": max_tokens}
    for batch, counts in _batches(model, samples, precision=precision, world=world, **limits):
        if samples.metric == "loss":
            _, batch_sums = criterion(model, batch)
        else:
            rows = criterion.outputs(model, batch)
            _, batch_sums = criterion.loss(rows, batch)
            outputs.update(_by_sample(rows, batch))
        for name, value in batch_sums.items():  # on the device, which is not waited for
            sums[name] = sums.get(name, 0.0) + counts * value.double()
        num_targets += counts * batch.num_targets
    total_targets, *totals = world.total([float(num_targets), *map(float, sums.values())])
    num_targets = int(total_targets)
    figures = criterion.metrics(dict(zip(sums, totals, strict=True)), num_targets)
    ordered: list[NDArray[np.float32]] = []
    if samples.metric != "loss":
        merged = {index: rows for part in world.gather(outputs) for index, rows in part.items()}
        ordered = [merged[index] for index in range(len(samples))]
        figures |= samples.score(ordered)
    if samples.metric not in figures:
        raise ConfigError(f"{type(samples).__name__}.metric is {samples.metric!r}; {choices(samples.metric, figures)}")
    return {**figures, "num_targets": num_targets}, ordered


@torch.inference_mode()
def predict(
    model: nn.Module, criterion: Any, samples: Samples, *, max_tokens: int, precision: Precision = "fp32"
) -> list[NDArray[np.float32]]:
    """Return the outputs of the criterion's head for each sample: (rows, K), in the order of the samples.

    Raises:
        DataError: there are no samples.
    """
    outputs: dict[int, NDArray[np.float32]] = {}
    for batch, _ in _batches(model, samples, batch_size=None, max_tokens=max_tokens, precision=precision, world=SINGLE):
        outputs.update(_by_sample(criterion.outputs(model, batch), batch))
    return [outputs[index] for index in range(len(samples))]


def _batches(
    model: nn.Module,
    samples: Samples,
    *,
    batch_size: int | None,
    max_tokens: int | None,
    precision: Precision,
    world: World,
) -> Iterator[tuple[Batch, bool]]:
    """Yield this rank's batches, on the model's device and in its evaluation mode, and whether each counts.

    Sequences of like length go together. Sharded models compute in step, so some ranks get a batch that does not count.
    """
    if not len(samples):
        raise DataError("nothing to evaluate on: the split has no samples")
    device = next(model.parameters()).device
    by_length = np.argsort(samples.sizes, kind="stable")
    ranges = list(pairwise(batches(samples.sizes[by_length], batch_size=batch_size, max_tokens=max_tokens).tolist()))
    with (
        evaluation_mode(model),
        autocast(device, precision),
        progress_bar(desc="evaluate", unit="sample", total=len(samples), enabled=world.is_main) as bar,
    ):
        for first in range(0, len(ranges), world.size):
            mine = first + world.rank
            start, end = ranges[mine] if mine < len(ranges) else ranges[0]
            batch = samples.batch(by_length[start:end], seed=VALID_SEED, epoch=VALID_EPOCH)
            yield batch.to(device), mine < len(ranges)
            bar.update(ranges[min(first + world.size, len(ranges)) - 1][1] - ranges[first][0])


def _by_sample(rows: Tensor, batch: Batch) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Return the rows (M, K) of each sample of a batch, with its number."""
    parts = [part.numpy() for part in rows.float().cpu().split(batch.rows_per_sample)]
    return zip(batch.sample_ids, parts, strict=True)
