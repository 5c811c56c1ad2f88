"""Linear maps in int8 for inference on a CPU: weights rounded once, inputs as they come.

Sums are exact, in 32 bits, by oneDNN. Shapes: T rows, C inputs, N outputs.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roberta.errors import ConfigError

_LEVELS = 255  # of an input, which is unsigned
_LARGEST = 127  # weight
_LARGEST_SUM = 126  # of two weights; both may be rounded up, and equal ones are 63 each


class Int8Linear(nn.Module):
    """A linear map whose weight has a scale for each output, and its input one for each row: rows stay independent.

    It can be neither differentiated, moved, copied nor saved.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()  # (N, C)
        self._scale = weight_scales(weight)  # (N,)
        rounded = (weight / self._scale.unsqueeze(1)).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._zero = torch.zeros(len(weight), dtype=torch.int64)  # (N,): weights are symmetric
        sums = rounded.sum(dim=1) * self._scale  # (N,): what a constant input of 1 gives
        self._added = torch.stack((sums, torch.zeros_like(sums) if linear.bias is None else linear.bias.detach()))
        self.num_weights = sum(parameter.numel() for parameter in linear.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Map (T, C) to (T, N), in fp32."""
        if x.requires_grad:
            raise ConfigError("a model in int8 gives no gradients; use it in torch.no_grad(), or the model in fp32")
        rounded, scale, low = rounded_inputs(x.float())  # under autocast it may be narrower
        output = _int8_product(rounded, self._packed, self._scale, self._zero)
        # In place, and what is added in one pass, by a product: low x sums + 1 x bias.
        return output.mul_(scale).addmm_(torch.cat((low, torch.ones_like(low)), dim=1), self._added)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Int8Linear":
        refuse_to_move(fn)
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ConfigError("a model in int8 can't be copied or pickled; load it again, and call .int8() on that")

    def _save_to_state_dict(self, *_: Any) -> None:
        raise ConfigError(
            "a model in int8 has no weights to save or replace, as they are rounded; do it before .int8()"
        )


def refuse_to_move(fn: Callable[[Tensor], Tensor]) -> None:
    """Check what `nn.Module._apply` is to do with each tensor of a model in int8.

    Raises:
        ConfigError: it would leave the CPU or fp32.
    """
    moved = fn(torch.empty(0))
    if moved.device.type != "cpu" or moved.dtype != torch.float32:
        raise ConfigError(
            f"a model in int8 computes on the CPU, with fp32 around it, and can't become {moved.dtype} on "
            f"{moved.device}; load it again"
        )


def to_int8(module: nn.Module) -> None:
    """Replace all linear maps within a module by such in int8.

    Raises:
        ConfigError: torch was built without oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        raise ConfigError("int8 needs oneDNN (mkldnn), which this build of torch doesn't have")
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, Int8Linear(child))


def weight_scales(weight: Tensor) -> Tensor:
    """Return what a step of int8 is worth in the weights (N, C) of each output: (N,).

    Processors without VNNI add the products of two neighbouring inputs in 16 bits. These hold 255 times 128, so it is
    weights side by side and of one sign that may not be larger together; they leave steps almost as fine as 8 bits. If
    others than neighbours are added, which a trial tells, no weight may be larger than half of that.
    """
    if torch.cpu._is_vnni_supported():
        return _not_zero(weight.abs().amax(dim=1) / _LARGEST)
    sums = _largest_sums(weight) if adds_neighbours() else 2.0 * weight.abs().amax(dim=1)
    return _not_zero(sums / _LARGEST_SUM)


def _largest_sums(weight: Tensor) -> Tensor:
    """Return the largest size of two neighbouring weights (N, C) of one sign together, or of a single one: (N,)."""
    pairs = F.pad(weight, (0, weight.shape[1] % 2)).unflatten(1, (-1, 2))  # (N, C / 2, 2)
    return torch.maximum(*(signed.clamp(min=0).sum(dim=2).amax(dim=1) for signed in (pairs, -pairs)))


@cache
def adds_neighbours() -> bool:
    """Return whether sums in 16 bits, where there are such, are those of inputs 2k and 2k + 1, by a trial.

    The weights are 127 and 1, 1 and 127 or 64 and 64, in random order: any other sum of two exceeds 16 bits somewhere.
    """
    pairs = torch.tensor([[127, 1], [1, 127], [64, 64]], dtype=torch.int8)
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 40):
        weight = pairs[torch.randint(3, (48, 384), generator=generator)].flatten(1)  # (48, 768)
        inputs = torch.full((rows, 768), _LEVELS, dtype=torch.uint8)
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        found = _int8_product(inputs, packed, torch.ones(48), torch.zeros(48, dtype=torch.int64))
        if not torch.equal(found, (inputs.double() @ weight.double().t()).float()):
            return False
    return True


def _int8_product(rounded: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return the sums of inputs (T, C) uint8 times weights, times the scale of each output (N,): (T, N)."""
    output: Tensor = torch.ops.onednn.qlinear_pointwise(
        rounded, 1.0, 0, packed, scale, zero, None, 1.0, 0, torch.float32, "none", [], "none"
    )
    return output


def rounded_inputs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (T, C) as uint8, and of each row a scale and its lowest value (T, 1): x is about rounded * scale + low."""
    low = x.amin(dim=1, keepdim=True)  # faster than aminmax, which reads only once
    scale = _not_zero((x.amax(dim=1, keepdim=True) - low) / _LEVELS)
    levels = (x - low).mul_(1.0 / scale).add_(0.5)
    rounded = levels.to(torch.int16).to(torch.uint8)  # in two steps, which have fast kernels: a third of the time
    return rounded, scale, low


def _not_zero(scale: Tensor) -> Tensor:
    """Return scales with 1 for those too small to divide by, of numbers that are as good as equal."""
    return torch.where(scale <= torch.finfo(scale.dtype).tiny, 1.0, scale)  # what is not a number stays so
