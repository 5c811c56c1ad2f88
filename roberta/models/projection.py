"""Cross-entropy of a projection onto a large vocabulary, without ever holding all of its logits.

The logits of M rows and V symbols are the largest tensor of masked-LM training by far. Here they exist a piece at a
time in one small buffer, which turns into their own gradient in place; the backward pass has then nothing left to do.

Shapes: M rows, C embed_dim, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from roberta.models.linear import CpuEngine, counts_for, numpy_product

_PIECE_BYTES = {"cpu": 2**25, "cuda": 2**30}  # a piece of logits should fit the last-level cache of a CPU
# Each row of the logits begins at a multiple of so many numbers: for the 50,265 symbols of RoBERTa that makes torch's
# product 1.3 to 1.7 times as fast, and the others up to a tenth (one AVX2 core, torch 2.13, 2026-11-28).
_ALIGNED = {"cpu": 16, "cuda": 64}  # GPUs take their fast products for rows of 16 bytes' multiples alone
# What gradients of logits are multiplied by while they are in half precision. In fp16 those below 3e-8 would be 0, and
# the scale of the loss comes too late for them. Their sums over symbols stay in range, those over rows are in fp32.
_FACTORS = {torch.float16: 2.0**8}


def projected_cross_entropy(
    rows: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, engine: CpuEngine = "torch"
) -> Tensor:
    """Return the sum over rows of -log softmax(rows weight^T + bias)[target], in nats.

    rows: (M, C); weight: (V, C); bias: (V,); targets: (M,) int64. Equal to `F.cross_entropy` with `reduction="sum"`
    of fp32 logits, also under autocast, where the matrix products alone are in half precision. `engine` is that of
    `roberta.models.linear`, of the logits; their gradients are as fast with torch.
    """
    device = rows.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        rows, weight = rows.to(dtype), weight.to(dtype)
    with torch.autocast(device, enabled=False):
        return _ProjectedCrossEntropy.apply(rows, weight, bias, targets, engine)


class _ProjectedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, engine: CpuEngine) -> Tensor:
        wants_gradients = any(ctx.needs_input_grad)
        wide = torch.promote_types(rows.dtype, torch.float32)
        loss = rows.new_zeros((), dtype=wide)
        if wants_gradients:
            grad_rows = torch.empty_like(rows)
            grad_weight = torch.zeros_like(weight, dtype=wide)
            grad_bias = torch.zeros_like(bias, dtype=wide)
        piece = max(1, _PIECE_BYTES[rows.device.type] // (wide.itemsize * len(weight)))
        width = len(weight) + -len(weight) % _ALIGNED[rows.device.type]
        buffer = rows.new_empty((min(piece, len(rows)), width), dtype=wide)[:, : len(weight)]
        # What half precision multiplies is beside its fp32 form: the logits before, and their gradients after.
        products = buffer if rows.dtype == wide else rows.new_empty(len(buffer), width)[:, : len(weight)]
        ctx.factor = _FACTORS.get(rows.dtype, 1.0)
        for start in range(0, len(rows), piece):
            x, target = rows[start : start + piece], targets[start : start + piece].unsqueeze(1)
            logits = buffer[: len(x)]  # (m, V)
            product = logits if products is buffer else products[: len(x)]
            _linear(x, weight, bias, engine, product=product, out=logits)
            logits -= logits.amax(dim=1, keepdim=True)
            loss -= logits.gather(1, target).sum()
            normaliser = logits.exp_().sum(dim=1, keepdim=True)  # (m, 1)
            loss += normaliser.log().sum()
            if wants_gradients:
                grad_logits = logits.div_(normaliser)
                grad_logits.scatter_add_(1, target, grad_logits.new_full((len(x), 1), -1.0))
                grad_bias += grad_logits.sum(dim=0)
                if product is not logits:
                    torch.mul(grad_logits, ctx.factor, out=product)
                torch.mm(product, weight, out=grad_rows[start : start + piece])
                _accumulate(grad_weight, product, x)
        if wants_gradients:
            ctx.save_for_backward(grad_rows, grad_weight, grad_bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (scale,) = grad_outputs
        grad_rows, grad_weight, grad_bias = ctx.saved_tensors
        # In place: new blocks as large as the vocabulary's weight cost a CPU more than the product (4 % of a step at
        # 6x256 and 1,024 tokens, 2026-11-23). Torch refuses a second backward pass, as saved tensors have changed.
        part = scale / ctx.factor
        return grad_rows.mul_(part), grad_weight.mul_(part), grad_bias.mul_(scale), None, None


def _linear(x: Tensor, weight: Tensor, bias: Tensor, engine: CpuEngine, *, product: Tensor, out: Tensor) -> None:
    """Write x weight^T + bias into `out`, which may be wider than x and weight, by way of `product`, which is not."""
    if engine == "numpy" and counts_for(x, weight):
        numpy_product(x, weight.t(), out).add_(bias)
    elif x.dtype == out.dtype:
        torch.addmm(bias, x, weight.t(), out=out)
    else:
        out.copy_(torch.mm(x, weight.t(), out=product)).add_(bias)


def _accumulate(grad_weight: Tensor, grad_logits: Tensor, x: Tensor) -> None:
    if x.dtype == grad_weight.dtype:
        grad_weight.addmm_(grad_logits.t(), x)
    elif x.dtype == torch.float16 and x.is_cuda:
        grad_weight += torch.mm(grad_logits.t(), x, out_dtype=grad_weight.dtype)
    elif x.dtype == torch.float16:
        grad_weight.addmm_(grad_logits.t().to(grad_weight.dtype), x.to(grad_weight.dtype))
    else:
        grad_weight += grad_logits.t() @ x
