"""Which parameters are trained, which are decayed, and at what share of the learning rate each layer is trained.

A group carries `lr_scale`; the trainer sets its `lr` to the schedule's rate times that before every update.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from roberta.config import option
from roberta.errors import ConfigError, choices

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")

NamedParameters = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class GroupsConfig:
    """Options that every optimizer has."""

    weight_decay: float = option(0.01, help="decoupled weight decay")
    decay_all: bool = option(True, help="decay biases and LayerNorms too, as RoBERTa did; --no-decay-all spares them")
    layer_lr_decay: float = option(1.0, help="learning rate of a layer, as a share of that of the layer above it")

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight_decay < float("inf"):
            raise ConfigError(f"--weight-decay is {self.weight_decay}; it must be at least 0")
        if not 0.0 < self.layer_lr_decay <= 1.0:
            raise ConfigError(f"--layer-lr-decay is {self.layer_lr_decay}; it must be above 0 and at most 1")


def parameter_groups(config: GroupsConfig, parameters: NamedParameters) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups of equal treatment, in an order that names and shapes decide.

    Embeddings count as the layer below the first one, heads as the layer above the last one (arXiv:1801.06146).
    """
    trainable = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    depths = {name: _depth(name) for name, _ in trainable}
    top = 1 + max((depth for depth in depths.values() if depth is not None), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable:
        depth = depths[name]
        scale = config.layer_lr_decay ** (top - (top if depth is None else depth))
        decay = config.weight_decay if config.decay_all or parameter.ndim > 1 else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    return [{"params": members, "lr_scale": scale, "weight_decay": decay} for (scale, decay), members in groups.items()]


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Keep parameters as they are: those of the given names, and of the modules of the given names.

    Raises:
        ConfigError: a part is not in the model, whose message names the nearest one; or nothing is left to train.
    """
    for part in parts:
        found = [value for name, value in model.named_parameters() if name == part or name.startswith(part + ".")]
        if not found:
            names = [name for name, _ in (*model.named_modules(), *model.named_parameters()) if name]
            raise ConfigError(f"--freeze {part}: the model has no such part; {choices(part, names)}")
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"--freeze {' '.join(parts)}: nothing is left to train; freeze less")


def _depth(name: str) -> int | None:
    """Return how many layers lie below a parameter of the encoder; None for one of a head."""
    if not name.startswith("encoder."):
        return None
    layer = _LAYER.match(name)
    return 0 if layer is None else int(layer[1]) + 1
