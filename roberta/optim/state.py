"""What an optimizer and an average of the weights remember, by parameter name: how a checkpoint keeps it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roberta.distributed import sharded_like, whole
from roberta.optim.averaging import WeightAverage

_AVERAGE = "average"


def gather(model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None) -> dict[str, Tensor]:
    """Return the whole tensors that belong to each parameter, by `<kind>.<parameter name>`; every rank must ask."""
    tensors = {
        f"{key}.{name}": whole(value)
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    if average is not None:
        tensors |= {f"{_AVERAGE}.{name}": whole(value) for name, value in average.values.items()}
    return tensors


def group_options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return what each group of parameters has beside them."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


@torch.no_grad()
def restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    *,
    weights: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    groups: Sequence[Mapping[str, Any]],
) -> None:
    """Put back whole weights, what `gather` returned, and what `group_options` returned."""
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(sharded_like(value, parameters[name]))
    for name, value in tensors.items():
        key, _, parameter_name = name.partition(".")
        parameter = parameters[parameter_name]
        if key == _AVERAGE and average is not None:
            average.values[parameter_name] = sharded_like(value, parameter)
        else:
            optimizer.state[parameter][key] = sharded_like(value, parameter)
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        group.update(saved)
