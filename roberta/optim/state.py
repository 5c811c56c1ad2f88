"""What an optimizer and an average of the weights remember, by parameter name: how a checkpoint keeps it."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor, nn

from roberta.distributed import sharded_like, whole
from roberta.errors import CheckpointError, ConfigError, listed
from roberta.optim.averaging import WeightAverage

_AVERAGE = "average"
_NUM_REMEMBERED = "num_remembered"  # parameters of a group that had a gradient once: nothing is kept of the others

Shapes = dict[str, torch.Size]


def gather(model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None) -> dict[str, Tensor]:
    """Return the whole tensors that belong to each parameter, by `<kind>.<parameter name>`; every rank must ask.

    Raises:
        ConfigError: the optimizer keeps something other than tensors.
    """
    tensors = {
        f"{key}.{name}": whole(_tensor(key, value, optimizer))
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    if average is not None:
        tensors |= {f"{_AVERAGE}.{name}": whole(value) for name, value in average.values.items()}
    return tensors


def _tensor(key: str, value: Any, optimizer: torch.optim.Optimizer) -> Tensor:
    if not isinstance(value, Tensor):
        raise ConfigError(
            f"{type(optimizer).__name__} keeps {key!r} of a parameter as {type(value).__name__}, which no checkpoint "
            "holds; let it keep a tensor, or an option of the group"
        )
    return value


def group_options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return what each group of parameters has beside them, and how many of them the optimizer remembers."""
    return [
        {name: value for name, value in group.items() if name != "params"}
        | {_NUM_REMEMBERED: sum(bool(optimizer.state.get(parameter)) for parameter in group["params"])}
        for group in optimizer.param_groups
    ]


@torch.no_grad()
def restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    *,
    weights: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    groups: Sequence[Mapping[str, Any]],
    source: str,
) -> None:
    """Put back whole weights, what `gather` returned, and what `group_options` returned.

    Raises:
        CheckpointError: they are not those of this model, optimizer and average; the message lists the differences.
    """
    parameters = dict(model.named_parameters())
    kept = _kept(parameters, optimizer)
    own = model.state_dict()  # with buffers, and with every name of a parameter that has several
    faults = _differences(weights, {name: value.shape for name, value in own.items()})
    faults += _differences(tensors, kept | _averaged(average), may_lack=_never_stepped(kept, tensors))
    faults += _miscounted(parameters, optimizer, tensors, groups)
    if faults:
        raise CheckpointError(
            f"{source}: its state is not that of this run: {listed(faults, sep='; ')}; restore it "
            "from a copy, or start anew in another --save-dir"
        )
    for name, value in weights.items():
        own[name].copy_(sharded_like(value, own[name]))
    for name, value in tensors.items():
        key, _, parameter_name = name.partition(".")
        parameter = parameters[parameter_name]
        if key == _AVERAGE and average is not None:
            average.values[parameter_name] = sharded_like(value, parameter)
        else:
            optimizer.state[parameter][key] = sharded_like(value, parameter)
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        group.update({name: value for name, value in saved.items() if name != _NUM_REMEMBERED})


def _kept(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> Shapes:
    """Return the shapes of all that an optimizer may remember, by the names of `gather`.

    Only the optimizer knows, so it makes a step without gradient; what that changes is to be replaced.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    kept = {
        f"{key}.{name}": value.shape
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    optimizer.state.clear()
    return kept


def _averaged(average: WeightAverage | None) -> Shapes:
    return {} if average is None else {f"{_AVERAGE}.{name}": value.shape for name, value in average.values.items()}


def _never_stepped(kept: Shapes, tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the names of all that belongs to parameters of which nothing at all was kept."""
    stepped = {name.partition(".")[2] for name in kept.keys() & tensors.keys()}
    return {name for name in kept if name.partition(".")[2] not in stepped}


def _differences(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], *, may_lack: AbstractSet[str] = frozenset()
) -> list[str]:
    return [
        *(f"{name} is missing" for name in sorted(shapes.keys() - tensors.keys() - may_lack)),
        *(f"{name} is unknown" for name in sorted(tensors.keys() - shapes.keys())),
        *(
            f"{name} has the shape {tuple(tensors[name].shape)} instead of {tuple(shapes[name])}"
            for name in sorted(shapes.keys() & tensors.keys())
            if tensors[name].shape != shapes[name]
        ),
    ]


def _miscounted(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    groups: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Say which groups have more or fewer parameters with state than were saved; old checkpoints don't tell."""
    if len(groups) != len(optimizer.param_groups):
        return [f"it has {len(groups)} groups of parameters instead of {len(optimizer.param_groups)}"]
    remembered = {name.partition(".")[2] for name in tensors if not name.startswith(f"{_AVERAGE}.")}
    names = {parameter: name for name, parameter in parameters.items()}
    faults = []
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        absent = [names[parameter] for parameter in group["params"] if names[parameter] not in remembered]
        found = len(group["params"]) - len(absent)
        if saved.get(_NUM_REMEMBERED, found) != found:
            faults.append(
                f"of {len(group['params'])} parameters {found} have state instead of {saved[_NUM_REMEMBERED]}, "
                f"{listed(absent)} have not"
            )
    return faults
