"""Muon: momentum whose update of a matrix is orthogonalised (arXiv:2502.16982); Adam for everything else.

It changes how RoBERTa is trained, not what it is: an option for those who pretrain anew, with fewer updates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roberta.config import option
from roberta.distributed import sharded_like, whole
from roberta.errors import ConfigError
from roberta.optim.adam import AdamConfig, correct_eps
from roberta.optim.groups import NamedParameters, parameter_groups
from roberta.registry import OPTIMIZERS

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration: singular values end up between about 0.7 and 1.2
_ITERATIONS = 5
_RMS = 0.2  # of an update's elements, that of Adam's typical update: both share one learning rate


@dataclass(frozen=True)
class MuonConfig(AdamConfig):
    """Options of Muon; those of Adam are for embeddings, heads, biases and LayerNorms."""

    momentum: float = option(0.95, help="decay rate of the momentum of matrices")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.momentum < 1.0:
            raise ConfigError(f"--momentum is {self.momentum}; it must lie in [0, 1)")


class Muon(torch.optim.AdamW):
    """AdamW whose groups with `blocks` take Muon's step: matrices of that many square-like blocks one above the other.

    q, k and v are three matrices, stored as one; each is orthogonalised for itself.
    """

    def __init__(self, groups: list[dict[str, Any]], config: MuonConfig) -> None:
        super().__init__(groups, lr=0.0, betas=config.adam_betas, eps=config.adam_eps, fused=True)
        self._config = config

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one update of all parameters that have a gradient."""
        assert closure is None
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["blocks"]]
        correct_eps(self.param_groups, self._config.adam_eps, self._config.adam_betas[1])
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            for parameter in group["params"] if group["blocks"] else ():
                if parameter.grad is not None:
                    self._step_matrix(parameter, group)

    def _step_matrix(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        gradient: Any = parameter.grad
        momentum = state["momentum_buffer"].lerp_(gradient, 1.0 - self._config.momentum)
        direction = whole(gradient.lerp(momentum, self._config.momentum))  # Nesterov's look-ahead
        update = torch.cat([orthogonalised(block) for block in direction.chunk(group["blocks"])])
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(sharded_like(update, parameter), alpha=-group["lr"])


@OPTIMIZERS.register("muon", MuonConfig)
def muon(config: MuonConfig, parameters: NamedParameters) -> torch.optim.Optimizer:
    """Return Muon for the matrices of the encoder's layers, and Adam in fairseq's form for all other parameters."""
    named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    matrices = {id(parameter): name for name, parameter in named if _is_matrix_of_layer(name, parameter)}
    groups = []
    for group in parameter_groups(config, named):
        members = group["params"]
        kinds = [3 * ("qkv_proj" in matrices[id(p)]) or 1 if id(p) in matrices else 0 for p in members]
        for blocks in sorted(set(kinds)):
            chosen = [p for p, kind in zip(members, kinds, strict=True) if kind == blocks]
            groups.append({**group, "params": chosen, "blocks": blocks, "num_steps": 0})
    return Muon(groups, config)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return U V^T of the singular value decomposition U S V^T of a matrix, roughly, scaled to Adam's typical size.

    Products are in bf16 on CUDA, where that is what is fast, else in the matrix's own precision.
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    is_tall = x.shape[0] > x.shape[1]
    x = x.t() if is_tall else x  # the products below are of the shorter side
    x = x / (x.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.t()
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.t() if is_tall else x
    return (_RMS * max(matrix.shape) ** 0.5 * x).to(matrix.dtype)


def _is_matrix_of_layer(name: str, parameter: Tensor) -> bool:
    return name.startswith("encoder.layers.") and parameter.ndim == 2
