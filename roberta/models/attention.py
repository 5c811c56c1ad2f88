"""Self-attention over packed sequences: each token attends to the tokens of its own sequence.

Shapes: B sequences, T packed tokens, S longest sequence, H heads, D head width.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from roberta.layout import SequenceLayout
from roberta.models.dropout import dropout

MOST_IN_FP32 = 256  # tokens of a sequence, for which training in bf16 on a CPU has attention without dropout in fp32
_HALF = (torch.float16, torch.bfloat16)
# What torch's flash attention takes, in half precision.
_WIDEST_HEAD = 192  # of wider ones some devices have no gradients
_LEAST_CAPABILITY = (8, 0)
_EXACT_DROPOUT = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_VECTOR = 16  # keys, whose multiples torch's kernel is fastest for in bf16 with AVX512
_MOST_BEYOND = 12  # keys shown for nothing: where a vector lacks more, what is left of it is as cheap


def attention(q: Tensor, k: Tensor, v: Tensor, layout: SequenceLayout, *, dropout_p: float = 0.0) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v within each sequence.

    q, k, v and the result: (T, H, D). `dropout_p` applies to the attention probabilities. All ways to compute it give
    the same; sequences of unequal length need not be padded to the longest where a device has a better way.
    """
    # For blocks of one length cuDNN's kernel is the fastest, but it makes a plan for each new length of a text.
    is_packed = isinstance(layout, SequenceLayout)  # and no grid of a graph for export, whose lengths nobody knows
    if is_packed and _has_variable_length_kernel(q) and not (layout.is_uniform and q.requires_grad):
        return _variable_length_attention(q, k, v, layout, dropout_p=dropout_p)
    if q.device.type == "cpu" and layout.runs and not layout.is_uniform:
        return _attention_by_run(q, k, v, layout, dropout_p=dropout_p)
    return padded_attention(q, k, v, layout, dropout_p=dropout_p)


def padded_attention(q: Tensor, k: Tensor, v: Tensor, layout: SequenceLayout, *, dropout_p: float = 0.0) -> Tensor:
    """Compute `attention` at once for all sequences, padded to the longest: the reference, and what a GPU likes.

    Sequences of one common length need no mask tensor, which lets every backend take its fastest kernel.
    """
    mask = None if layout.is_uniform else layout.is_token[:, None, None, :]  # (B, 1, 1, S)
    q, k, v = (layout.pad(x).transpose(1, 2) for x in (q, k, v))  # (B, H, S, D)
    context = _scaled_dot_product(q, k, v, mask=mask, dropout_p=dropout_p)  # (B, H, S, D)
    return layout.pack(context.transpose(1, 2))  # (T, H, D)


def _attention_by_run(q: Tensor, k: Tensor, v: Tensor, layout: SequenceLayout, *, dropout_p: float) -> Tensor:
    """Compute `attention` for each run of sequences of one length, on views: no pads, no mask, and no copy but one.

    On a CPU a call costs little beside what padding would add to it: on batches of 16 to 128 pairs of MNLI this is 1.3
    to 10 times as fast (one AVX2 core, torch 2.13, 2026-11-23). Where `_sees_whole_vectors` says so, each sequence
    is shown keys that follow its own in memory, under a mask.
    """
    sizes = [count * length for count, length in layout.runs]
    starts = accumulate(sizes[:-1], initial=0)
    vector = _VECTOR if dropout_p == 0.0 and _sees_whole_vectors(q, k, v) else 1
    if vector > 1:
        edge = q.new_zeros(1, 1, 1, layout.max_seqlen + vector)  # what is added to scores: masks are parts of it
        edge[..., layout.max_seqlen :] = -torch.inf
    contexts = []
    for start, run, *parts in zip(starts, layout.runs, q.split(sizes), k.split(sizes), v.split(sizes), strict=True):
        queries, keys, values = (x.unflatten(0, run).transpose(1, 2) for x in parts)  # (B, H, S, D)
        length, mask = run[1], None
        beyond = -length % vector
        if 0 < beyond < length and beyond <= _MOST_BEYOND:
            keys, values = (_windows(x[start:], run, length + beyond).transpose(1, 2) for x in (k, v))
            mask = edge[..., layout.max_seqlen - length : layout.max_seqlen + beyond]
        context = _scaled_dot_product(queries, keys, values, mask=mask, dropout_p=dropout_p)
        contexts.append(context.transpose(1, 2).flatten(0, 1))
    return torch.cat(contexts)  # (T, H, D)


def _sees_whole_vectors(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Return whether attention is faster with whole vectors of keys, of which some are masked.

    torch's kernel for CPUs takes what is left over from the last 16 number by number. In bf16 windows of SQuAD's take
    1.4 times as long for it, and pairs of MNLI's 0.96 to 1.2 times; in fp32 it depends on the lengths which is faster
    (two cores with AMX, torch 2.13, 2026-12-01). What is masked has to be finite, which the range of bf16 sees to.
    """
    return (
        q.dtype == torch.bfloat16
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and not any(x.requires_grad for x in (q, k, v))
    )


def _windows(x: Tensor, run: tuple[int, int], size: int) -> Tensor:
    """Return `size` rows from the first row of each sequence of a run that (R, H, D) begins with: (B, size, H, D).

    They are views, but where too few rows follow: zeros do then.
    """
    count, length = run
    missing = (count - 1) * length + size - len(x)
    rows = F.pad(x, (0, 0, 0, 0, 0, missing)) if missing > 0 else x
    row, *others = rows.stride()
    return rows.as_strided((count, size, *x.shape[1:]), (length * row, row, *others))


def _scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, dropout_p: float) -> Tensor:
    """Compute the attention of heads (B, H, S, D).

    mask: (B, 1, 1, S), True where there is something to see, or what is added to the scores.

    Written out it is without torch's care for rows that see nothing, and its masks of dropout are cheaper. Like torch's
    own on a CPU it is in fp32 then, whatever the precision of the heads.
    """
    if mask is None and dropout_p == 0.0 and _is_slow_backward(q, k, v):
        with torch.autocast(q.device.type, enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    if mask is not None or not _is_written_out(q.device, dropout_p=dropout_p):
        with kernels(q.device, dropout_p=dropout_p):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        scores = q.to(wide) / math.sqrt(q.shape[-1]) @ k.to(wide).transpose(-2, -1)  # (B, H, S, S)
        context = dropout(scores.softmax(dim=-1), dropout_p) @ v.to(wide)
    return context.to(q.dtype)


def _is_slow_backward(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Return whether attention with gradients is faster in fp32 than in the precision of heads (B, H, S, D).

    In bf16 torch's kernel for CPUs takes twice as long over 32 to 128 tokens, and as long over 256; over 512 it takes
    0.8 of the time with AMX, and longer without it (two cores, torch 2.13, 2026-12-01).
    """
    is_trained = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    return is_trained and q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= MOST_IN_FP32


def kernels(device: torch.device, *, dropout_p: float) -> AbstractContextManager[None]:
    """Return a context in which torch chooses among the kernels that keep a rate of dropout.

    cuDNN's has sixteenths of it alone; it refuses others in newer versions of torch, and rounds them in older ones.
    """
    if device.type != "cuda" or float(16 * dropout_p).is_integer():
        return nullcontext()
    context: AbstractContextManager[None] = sdpa_kernel(_EXACT_DROPOUT)
    return context


def _is_written_out(device: torch.device, *, dropout_p: float) -> bool:
    """Return whether to compute attention here: with dropout torch has no kernel of its own on a CPU."""
    return dropout_p > 0.0 and device.type == "cpu" and not torch.compiler.is_compiling()


def _has_variable_length_kernel(q: Tensor) -> bool:
    """Return whether `_variable_length_attention` takes heads (T, H, D) of this type and width on their device."""
    if not q.is_cuda or q.dtype not in _HALF or q.shape[-1] % 8 or q.shape[-1] > _WIDEST_HEAD:
        return False
    return torch.cuda.get_device_capability(q.device) >= _LEAST_CAPABILITY


def _variable_length_attention(q: Tensor, k: Tensor, v: Tensor, layout: SequenceLayout, *, dropout_p: float) -> Tensor:
    """Compute `attention` in a kernel that knows where each sequence begins.

    It is the one that torch's nested tensors take; `torch.nn.attention.varlen` has it without dropout alone.
    """
    offsets, longest = layout.cu_seqlens, layout.max_seqlen
    flash_attention = torch.ops.aten._flash_attention_forward
    context: Tensor = flash_attention(q, k, v, offsets, offsets, longest, longest, dropout_p, False, False)[0]
    return context  # (T, H, D)


def backend(device: torch.device, dtype: torch.dtype, *, heads: int, width: int, dropout_p: float) -> str:
    """Return which of torch's kernels computes the attention of training on a device, for blocks of one length.

    width: of a head. It is found by asking torch for small tensors of the kind; nothing is computed. "products
    written out" is no kernel of torch's, but the products and the softmax one after the other.
    """
    if _is_written_out(device, dropout_p=dropout_p):
        return "products written out"
    q = torch.empty(1, heads, 64, width, device=device, dtype=dtype, requires_grad=True)
    with kernels(device, dropout_p=dropout_p):
        chosen = SDPBackend(torch._fused_sdp_choice(q, q, q, dropout_p=dropout_p))
    return chosen.name.removesuffix("_ATTENTION").lower()


def attention_probabilities(q: Tensor, k: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) of one sequence: (H, S, S), row by row what a token attends to.

    q, k: (S, H, D). For inspection: `attention` never holds these.
    """
    scores = q.transpose(0, 1) @ k.permute(1, 2, 0) / math.sqrt(q.shape[-1])  # (H, S, S)
    return scores.softmax(dim=-1)
