"""Adam as RoBERTa was trained with it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from roberta.config import option
from roberta.errors import ConfigError
from roberta.registry import OPTIMIZERS


@dataclass(frozen=True)
class AdamConfig:
    """Options of Adam; the defaults are those of RoBERTa's pretraining (arXiv:1907.11692, table 9)."""

    adam_betas: tuple[float, float] = option((0.9, 0.98), help="decay rates of the two moment estimates")
    adam_eps: float = option(1e-6, help="added to the root of the second moment, before bias correction")
    weight_decay: float = option(0.01, help="decoupled weight decay, on every parameter")

    def __post_init__(self) -> None:
        if not all(0.0 <= beta < 1.0 for beta in self.adam_betas):
            raise ConfigError(f"--adam-betas takes two values in [0, 1), not {self.adam_betas}")
        if not 0.0 < self.adam_eps < math.inf:
            raise ConfigError(f"--adam-eps is {self.adam_eps}; it must be positive")
        if not 0.0 <= self.weight_decay < math.inf:
            raise ConfigError(f"--weight-decay is {self.weight_decay}; it must be at least 0")


@OPTIMIZERS.register("adam", AdamConfig)
def adam(config: AdamConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return Adam in fairseq's form: decoupled decay on all parameters, eps added before bias correction.

    fairseq divides by sqrt(v) + eps and corrects the bias of both moments in the step size. torch's AdamW divides by
    sqrt(v / (1 - beta2^t)) + eps, which is the same update with eps / sqrt(1 - beta2^t) in the place of eps.
    """
    beta1, beta2 = config.adam_betas
    optimizer = torch.optim.AdamW(
        parameters, lr=0.0, betas=(beta1, beta2), eps=config.adam_eps, weight_decay=config.weight_decay, fused=True
    )
    optimizer.param_groups[0]["num_steps"] = 0

    def correct_eps(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            group["num_steps"] += 1
            group["eps"] = config.adam_eps / (1.0 - beta2 ** group["num_steps"]) ** 0.5

    optimizer.register_step_pre_hook(correct_eps)
    return optimizer
