"""Cross-entropy of a projection onto a large vocabulary, without ever holding all of its logits.

The logits of M rows and V symbols are the largest tensor of masked-LM training by far. Here they exist a piece at a
time in one small buffer, which turns into their own gradient in place; the backward pass has then nothing left to do.

Shapes: M rows, C embed_dim, V vocabulary.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from roberta.models.linear import CpuEngine, counts_for, numpy_product

_PIECE_BYTES = {"cpu": 2**25, "cuda": 2**30}  # a piece of logits, in its wide form
# Each piece adds to the whole gradient of the weight once. In bf16 on a CPU that costs as much as the products do, so
# pieces are larger there.
_LARGER_IN_BF16 = 4
# What goes from logits to gradients at once should fit the caches of the cores; the wide form of half precision takes
# no more memory than that.
_PART_BYTES = {"cpu": 2**22, "cuda": 2**30}
# On a CPU the gradient of the weight is added to so much at a time, so that what is added stays in the caches.
_SLAB_BYTES = 2**25
# Each row of the logits begins at a multiple of so many numbers: for the 50,265 symbols of RoBERTa that makes torch's
# product 1.3 to 1.7 times as fast, and the others up to a tenth (one AVX2 core, torch 2.13, 2026-11-28).
_ALIGNED = {"cpu": 16, "cuda": 64}  # GPUs take their fast products for rows of 16 bytes' multiples alone
# What gradients of logits are multiplied by while they are in half precision. In fp16 those below 3e-8 would be 0, and
# the scale of the loss comes too late for them. Their sums over symbols stay in range, those over rows are in fp32.
_FACTORS = {torch.float16: 2.0**8}


def projected_cross_entropy(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    engine: CpuEngine = "torch",
    *,
    compiled: bool = False,
) -> Tensor:
    """Return the sum over rows of -log softmax(rows weight^T + bias)[target], in nats.

    rows: (M, C); weight: (V, C); bias: (V,); targets: (M,) int64. Equal to `F.cross_entropy` with `reduction="sum"`
    of fp32 logits, also under autocast, where the matrix products alone are in half precision. `engine` is that of
    `roberta.models.linear`, of the logits; their gradients are as fast with torch. Where there are gradients,
    `compiled` has all that is between the products done in a few passes over the logits, by torch's compiler.
    """
    device = rows.device.type
    if torch.is_autocast_enabled(device):
        rows = rows.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return _ProjectedCrossEntropy.apply(rows, weight, bias, targets, engine, compiled)


class _ProjectedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, engine: CpuEngine, compiled: bool
    ) -> Tensor:
        wants_gradients = any(ctx.needs_input_grad)
        compiled = compiled and wants_gradients
        wide = torch.promote_types(rows.dtype, torch.float32)
        loss = rows.new_zeros((), dtype=wide)
        if wants_gradients:
            grad_rows = torch.empty_like(rows)
            grad_weight = torch.empty_like(weight, dtype=wide)  # not in half precision, if the weight isn't
            grad_bias = torch.zeros_like(bias, dtype=wide)
        weight = weight.to(rows.dtype)
        piece = max(1, _PIECE_BYTES[rows.device.type] // (wide.itemsize * len(weight)))
        if rows.dtype == torch.bfloat16 and not rows.is_cuda:
            piece *= _LARGER_IN_BF16
        width = len(weight) + -len(weight) % _ALIGNED[rows.device.type]

        def grid(size: int, dtype: torch.dtype) -> Tensor:
            cells = rows.new_empty(size, width, dtype=dtype)
            cells[:, len(weight) :].zero_()  # oneDNN reads them with AMX, times zero, and what was there may be nan
            return cells

        # What half precision multiplies is beside its fp32 form: the logits before, and their gradients after.
        shared = 0 if compiled else min(piece, len(rows))
        few = max(1, _PART_BYTES[rows.device.type] // (wide.itemsize * len(weight)))
        products = grid(shared, rows.dtype)[:, : len(weight)]
        buffer = None if rows.dtype == wide else grid(min(few, shared), wide)[:, : len(weight)]
        ctx.factor = _FACTORS.get(rows.dtype, 1.0)
        grad_of_bias: Tensor | None
        for start in range(0, len(rows), piece):
            x, target = rows[start : start + piece], targets[start : start + piece].unsqueeze(1)
            if compiled:  # all in memory of their own: the compiler makes another graph for what is a part of something
                cells, target = grid(len(x), rows.dtype), target.clone()
                product = cells[:, : len(weight)]
                torch.mm(x, weight.t(), out=product)
                for tensor in (cells, target):
                    torch._dynamo.maybe_mark_dynamic(tensor, 0)  # rows alone: that they are aligned should be known
                lost, grad_of_bias = _compiled()(cells, bias, target, ctx.factor)
                loss += lost
                grad_bias += grad_of_bias
            else:
                product = products[: len(x)]  # (m, V)
                _project(x, weight, bias, engine, out=product)
                for part, right in zip(product.split(few), target.split(few), strict=True):
                    logits = part if buffer is None else buffer[: len(part)].copy_(part).add_(bias)
                    lost, grad_of_bias = _cross_entropy(logits, right, part, ctx.factor, wants_gradients)
                    loss += lost
                    if grad_of_bias is not None:
                        grad_bias += grad_of_bias
            if wants_gradients:
                torch.mm(product, weight, out=grad_rows[start : start + piece])
                _add_product(grad_weight, product, x, is_first=start == 0)
        if wants_gradients:
            if not len(rows):
                grad_weight.zero_()
            ctx.save_for_backward(grad_rows, grad_weight, grad_bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        (scale,) = grad_outputs
        grad_rows, grad_weight, grad_bias = ctx.saved_tensors
        # In place: new blocks as large as the vocabulary's weight cost a CPU more than the product (4 % of a step at
        # 6x256 and 1,024 tokens, 2026-11-23). Torch refuses a second backward pass, as saved tensors have changed.
        part = scale / ctx.factor
        return grad_rows.mul_(part), grad_weight.mul_(part), grad_bias.mul_(scale), None, None, None


def _cross_entropy(
    logits: Tensor, target: Tensor, product: Tensor, factor: float, wants_gradients: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the loss of logits (m, V) and the gradient of their bias (V,), if that is asked for.

    The logits are overwritten, and `product` (m, V), which may be the same memory, has `factor` times their gradient.
    """
    logits -= logits.amax(dim=1, keepdim=True)
    right = logits.gather(1, target).sum()
    normaliser = logits.exp_().sum(dim=1, keepdim=True)  # (m, 1)
    loss = normaliser.log().sum() - right
    if not wants_gradients:
        return loss, None
    gradient = logits.div_(normaliser)
    gradient.scatter_add_(1, target, gradient.new_full((len(target), 1), -1.0))
    grad_bias = gradient.sum(dim=0)
    if product.dtype != logits.dtype:
        if factor == 1.0:
            product.copy_(gradient)  # in half the time of a product in two types
        else:
            torch.mul(gradient, factor, out=product)
    return loss, grad_bias


def _cross_entropy_of_products(cells: Tensor, bias: Tensor, target: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Compute `_cross_entropy` of the logits product + bias, in a form that torch's compiler makes a few passes of.

    cells: the product, (m, V), and what is behind it to align its rows.
    """
    product = cells[:, : len(bias)]
    logits = product.to(torch.promote_types(product.dtype, torch.float32)) + bias
    normaliser = logits.logsumexp(dim=1, keepdim=True)  # (m, 1)
    loss = (normaliser - logits.gather(1, target)).sum()
    is_right = torch.arange(logits.shape[1], device=logits.device) == target
    gradient = (logits - normaliser).exp() - is_right.to(logits.dtype)
    product.copy_(gradient * factor)
    return loss, gradient.sum(dim=0)


@cache
def _compiled() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(_cross_entropy_of_products)


def _project(x: Tensor, weight: Tensor, bias: Tensor, engine: CpuEngine, *, out: Tensor) -> None:
    """Write x weight^T + bias into `out`; in half precision, where the sum needs a wider form, without the bias."""
    if x.dtype in (torch.float16, torch.bfloat16):
        torch.mm(x, weight.t(), out=out)
    elif engine == "numpy" and counts_for("numpy", x, weight):
        numpy_product(x, weight.t(), out).add_(bias)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def _add_product(total: Tensor, grad_logits: Tensor, x: Tensor, *, is_first: bool) -> None:
    """Add grad_logits^T x to `total` (V, C); the first is written there, as zeros cost a CPU a pass of their own."""
    if x.dtype == torch.float16 and not x.is_cuda:
        grad_logits, x = grad_logits.to(total.dtype), x.to(total.dtype)
    if x.dtype == total.dtype:
        total.addmm_(grad_logits.t(), x, beta=0.0 if is_first else 1.0)
        return
    symbols = len(total) if x.is_cuda else max(1, _SLAB_BYTES // (total.itemsize * total.shape[1]))
    for slab, grad_of_slab in zip(total.split(symbols), grad_logits.split(symbols, dim=1), strict=True):
        product = torch.mm(grad_of_slab.t(), x, out_dtype=total.dtype) if x.is_cuda else grad_of_slab.t() @ x
        if is_first:
            slab.copy_(product)
        else:
            slab.add_(product)
