"""Self-attention over packed sequences: each token attends to the tokens of its own sequence.

Shapes: B sequences, T packed tokens, S longest sequence, H heads, D head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from roberta.layout import SequenceLayout


def attention(q: Tensor, k: Tensor, v: Tensor, layout: SequenceLayout, *, dropout_p: float = 0.0) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v within each sequence.

    q, k, v and the result: (T, H, D). `dropout_p` applies to the attention probabilities.
    Sequences of one common length need no mask tensor, which lets every backend take its fastest kernel.
    """
    mask = None if layout.is_uniform else layout.is_token[:, None, None, :]  # (B, 1, 1, S)
    q, k, v = (layout.pad(x).transpose(1, 2) for x in (q, k, v))  # (B, H, S, D)
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)  # (B, H, S, D)
    return layout.pack(context.transpose(1, 2))  # (T, H, D)


def backend(device: torch.device, dtype: torch.dtype, *, heads: int, width: int, dropout_p: float) -> str:
    """Return which of torch's kernels computes the attention of training on a device, for blocks of one length.

    width: of a head. It is found by asking torch for small tensors of the kind; nothing is computed.
    """
    q = torch.empty(1, heads, 64, width, device=device, dtype=dtype, requires_grad=True)
    chosen = SDPBackend(torch._fused_sdp_choice(q, q, q, dropout_p=dropout_p))
    return chosen.name.removesuffix("_ATTENTION").lower()


def attention_probabilities(q: Tensor, k: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) of one sequence: (H, S, S), row by row what a token attends to.

    q, k: (S, H, D). For inspection: `attention` never holds these.
    """
    scores = q.transpose(0, 1) @ k.permute(1, 2, 0) / math.sqrt(q.shape[-1])  # (H, S, S)
    return scores.softmax(dim=-1)
