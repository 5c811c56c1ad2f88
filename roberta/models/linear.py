"""Linear maps, and what multiplies their matrices on a CPU.

Which engine is the fastest differs from processor to processor, by up to 40 %: torch's own products, those of numpy
(OpenBLAS in its wheels), or oneDNN's with weights that were laid out for it beforehand. All of them take as many
threads as OMP_NUM_THREADS says. Their results differ in the last bits.

Shapes: T rows, C inputs, N outputs.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CpuEngine = Literal["torch", "numpy", "onednn"]
CpuEngineChoice = Literal["auto", "torch", "numpy", "onednn"]
CPU_ENGINES: tuple[CpuEngine, ...] = get_args(CpuEngine)

_ROWS = 512  # what weights are laid out for: a batch has some hundred tokens at least
_TRIAL_ROWS = 1024  # and where there are many texts some thousand
_ROUNDS = 3
_WORTH_IT = 0.97  # of torch's time
_PRECISIONS = {  # of other engines than torch
    "numpy": {torch.float32: "fp32"},
    "onednn": {torch.float32: "fp32", torch.bfloat16: "bf16"},
}


class Linear(nn.Linear):
    """A linear map whose `engine` can be chosen. It counts in fp32 on a CPU; elsewhere torch's own product is taken.

    "onednn" counts in bf16 too, and for frozen weights alone, without a gradient: fused optimizers change a weight
    behind every check.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self._engine: CpuEngine = "torch"
        self._packed: _PackedWeight | None = None  # for oneDNN

    @property
    def engine(self) -> CpuEngine:
        """What multiplies; another choice frees what the one before had laid out."""
        return self._engine

    @engine.setter
    def engine(self, engine: CpuEngine) -> None:
        self._engine, self._packed = engine, None

    def forward(self, x: Tensor) -> Tensor:
        """Map (T, C) to (T, N)."""
        if self.engine != "onednn" or not self.is_frozen:
            if self._packed is not None:
                self._packed = None  # whatever happens to the weight now, it will be laid out anew
            return linear(x, self.weight, self.bias, self.engine)
        if x.requires_grad or not counts_for("onednn", x, self.weight):
            return F.linear(x, self.weight, self.bias)
        return self._by_onednn(x)

    @property
    def is_frozen(self) -> bool:
        """Whether neither weight nor bias is trained, and each of their changes is counted by torch."""
        return not (self.weight.requires_grad or self.bias.requires_grad or self.weight.is_inference())

    def try_out(self, rows: int) -> None:
        """Map as many rows of any contents, to see how long it takes."""
        self(self.weight.new_ones(rows, self.in_features))

    def _by_onednn(self, x: Tensor) -> Tensor:
        if self._packed is None or not self._packed.is_of(self.weight):
            self._packed = _PackedWeight(self.weight)
        bias = self.bias.contiguous()  # its strides would not be looked at
        output: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed.weight, bias, "none", [], "")
        return output

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # it can't be copied


def linear(x: Tensor, weight: Tensor, bias: Tensor, engine: CpuEngine) -> Tensor:
    """Return x weight^T + bias, (T, N), by numpy if that is the engine and it can, else by torch.

    x: (T, C); weight: (N, C); bias: (N,).
    """
    if engine == "numpy" and counts_for("numpy", x, weight):
        output: Tensor = _NumpyLinear.apply(x, weight, bias)
        return output
    return F.linear(x, weight, bias)


def counts_for(engine: Literal["numpy", "onednn"], x: Tensor, weight: Tensor) -> bool:
    """Return whether an engine can take the product of these: on a CPU in its precision, and computed as it stands.

    Under autocast torch computes in half precision; while it compiles or exports, it has to see the product.
    """
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in _PRECISIONS[engine]
        and (x.dtype != torch.bfloat16 or _has_bf16())
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


@cache
def _has_bf16() -> bool:
    """Return whether oneDNN takes bf16 on this processor."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def numpy_product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the product (M, N) of fp32 matrices (M, K) and (K, N) on the CPU by numpy, without a gradient."""
    out = a.new_empty(len(a), b.shape[1]) if out is None else out
    np.matmul(a.detach().numpy(), b.detach().numpy(), out=out.numpy())
    return out


def obstacle(engine: CpuEngine, maps: Sequence[Linear]) -> str:
    """Return why an engine can't be taken for the maps of a model, none of which are left in int8; "" if it can."""
    if engine == "torch":
        return ""
    dtypes, devices = {m.weight.dtype for m in maps}, {m.weight.device.type for m in maps}
    if not (dtypes <= _PRECISIONS[engine].keys() and devices == {"cpu"}):
        allowed = " and ".join(_PRECISIONS[engine].values())
        found = " and ".join(sorted({f"{m.weight.dtype} on {m.weight.device}" for m in maps})) or "int8"
        return f"the engine {engine} multiplies in {allowed} on the CPU, and the layers are in {found}; choose torch"
    if engine == "onednn" and not torch.backends.mkldnn.is_available():
        return "this build of torch doesn't have oneDNN (mkldnn); choose torch, numpy or auto"
    if torch.bfloat16 in dtypes and not _has_bf16():
        return "oneDNN has no products in bf16 on this processor; choose torch, or use .float() before"
    if engine == "onednn" and not all(m.is_frozen for m in maps):
        return (
            "the engine onednn is for frozen layers, made outside of torch.inference_mode(); call "
            ".requires_grad_(False) before, or choose another"
        )
    return ""


def fastest_engine(parts: Mapping[Any, int], candidates: Sequence[CpuEngine]) -> CpuEngine:
    """Return the engine that takes the least time for parts of a model, measured here and now, one after the other.

    parts: modules with an `engine` and a method `try_out(rows)`, and how often the time of each counts. The answer is
    "torch" unless another one saves at least 3 %. A layer of base takes some seconds, its vocabulary as long.
    """
    if len(candidates) == 1:
        return candidates[0]
    chosen = {part: part.engine for part in parts}
    best = dict.fromkeys(candidates, math.inf)  # whatever else was going on
    try:
        with torch.no_grad():
            for _ in range(_ROUNDS):
                for engine in candidates:
                    seconds = sum(times * _seconds(part, engine) for part, times in parts.items())
                    best[engine] = min(best[engine], seconds)
    finally:
        for part, engine in chosen.items():
            part.engine = engine
    fastest = min(candidates, key=best.__getitem__)
    return fastest if best[fastest] < _WORTH_IT * best["torch"] else "torch"


def _seconds(part: Any, engine: CpuEngine) -> float:
    part.engine = engine
    part.try_out(_TRIAL_ROWS)  # lays weights out, and fills the caches
    start = time.perf_counter()
    part.try_out(_TRIAL_ROWS)
    return time.perf_counter() - start


class _PackedWeight:
    """A weight (N, C) in the layout of oneDNN, and what it was made of."""

    def __init__(self, weight: Tensor) -> None:
        self._source = weight.detach()  # while it is held, no other weight can have its address
        self._version = weight._version
        self.weight = torch.ops.mkldnn._reorder_linear_weight(self._source, _ROWS)

    def is_of(self, weight: Tensor) -> bool:
        """Return whether that is the weight it was made of, unchanged since."""
        return weight.data_ptr() == self._source.data_ptr() and weight._version == self._version


class _NumpyLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return numpy_product(x.contiguous(), weight.t()).add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()  # (T, N)
        wanted: tuple[Callable[[], Tensor], ...] = (
            lambda: numpy_product(grad, weight),
            lambda: numpy_product(grad.t(), x.contiguous()),
            lambda: grad.sum(dim=0),
        )
        return tuple(
            compute() if needed else None for compute, needed in zip(wanted, ctx.needs_input_grad, strict=True)
        )
