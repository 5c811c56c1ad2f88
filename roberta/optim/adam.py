"""Adam as RoBERTa was trained with it, and in the form that torch and most others have."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from roberta.config import option
from roberta.errors import ConfigError
from roberta.optim.groups import GroupsConfig, NamedParameters, parameter_groups
from roberta.registry import OPTIMIZERS


@dataclass(frozen=True)
class AdamConfig(GroupsConfig):
    """Options of Adam; the defaults are those of RoBERTa's pretraining (arXiv:1907.11692, table 9)."""

    adam_betas: tuple[float, float] = option((0.9, 0.98), help="decay rates of the two moment estimates")
    adam_eps: float = option(1e-6, help="added to the root of the second moment, before bias correction")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_adam(self.adam_betas, self.adam_eps)


@dataclass(frozen=True)
class AdamWConfig(GroupsConfig):
    """Options of Adam in torch's form."""

    adam_betas: tuple[float, float] = option((0.9, 0.98), help="decay rates of the two moment estimates")
    adam_eps: float = option(1e-6, help="added to the root of the second moment, after bias correction")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_adam(self.adam_betas, self.adam_eps)


@OPTIMIZERS.register("adam", AdamConfig)
def adam(config: AdamConfig, parameters: NamedParameters) -> torch.optim.Optimizer:
    """Return Adam in fairseq's form: decoupled decay, eps added before bias correction.

    fairseq divides by sqrt(v) + eps and corrects the bias of both moments in the step size. torch's AdamW divides by
    sqrt(v / (1 - beta2^t)) + eps, which is the same update with eps / sqrt(1 - beta2^t) in the place of eps.
    """
    optimizer = _fused(config, parameters)
    for group in optimizer.param_groups:
        group["num_steps"] = 0

    def before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        correct_eps(optimizer.param_groups, config.adam_eps, config.adam_betas[1])

    optimizer.register_step_pre_hook(before_step)
    return optimizer


@OPTIMIZERS.register("adamw", AdamWConfig)
def adamw(config: AdamWConfig, parameters: NamedParameters) -> torch.optim.Optimizer:
    """Return torch's AdamW: decoupled decay, eps added after bias correction (arXiv:1711.05101)."""
    return _fused(config, parameters)


def correct_eps(groups: Iterable[dict[str, Any]], eps: float, beta2: float) -> None:
    """Have AdamW add `eps` before bias correction in its next step; `num_steps` of a group counts those."""
    for group in groups:
        group["num_steps"] += 1
        group["eps"] = eps / (1.0 - beta2 ** group["num_steps"]) ** 0.5


def check_adam(betas: tuple[float, float], eps: float) -> None:
    """Refuse values that Adam can't have.

    Raises:
        ConfigError: a beta is outside [0, 1), or eps is not positive.
    """
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise ConfigError(f"--adam-betas takes two values in [0, 1), not {betas}")
    if not 0.0 < eps < math.inf:
        raise ConfigError(f"--adam-eps is {eps}; it must be positive")


def _fused(config: AdamConfig | AdamWConfig, parameters: NamedParameters) -> torch.optim.AdamW:
    groups = parameter_groups(config, parameters)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.adam_betas, eps=config.adam_eps, fused=True)
