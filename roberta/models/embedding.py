"""The token embedding, whose matrix a head may project with, and one gradient of both.

The two gradients of a matrix that is looked up at one end of a model and projected with at the other are as large as
the vocabulary. Here the rows of the first are added to the second, in its place. Otherwise torch fills a whole one with
zeros, which on a CPU takes up to a tenth of a step of a small model.

Shapes: T tokens, V vocabulary, C embed_dim.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@dataclass
class _Sharing:
    embedding: nn.Module
    projection: Tensor | None = None


_SHARING: ContextVar[_Sharing | None] = ContextVar("sharing", default=None)  # of each thread its own


class TokenEmbedding(nn.Embedding):
    """An embedding of tokens that may share the gradient of its matrix with a projection."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (T,) to rows of the matrix (T, C)."""
        if torch.compiler.is_compiling():
            return super().forward(tokens)
        sharing = _SHARING.get()
        if sharing is None or sharing.embedding is not self or sharing.projection is not None or not self._is_trained:
            return super().forward(tokens)
        rows, sharing.projection = _Shared.apply(self.weight, tokens, self.padding_idx)
        return rows

    @property
    def _is_trained(self) -> bool:
        """Whether there will be a gradient, on a CPU: a GPU would have to wait for the number of rows."""
        return self.weight.device.type == "cpu" and self.weight.requires_grad and torch.is_grad_enabled()


@contextmanager
def shared(embedding: nn.Module) -> Iterator[None]:
    """While the block runs, join the gradients of the first lookup of a `TokenEmbedding` and of its `projection`."""
    token = _SHARING.set(_Sharing(embedding))
    try:
        yield
    finally:
        _SHARING.reset(token)


def projection(embedding: nn.Embedding) -> Tensor:
    """Return the matrix (V, C) of an embedding, for a projection whose gradient nobody else sees: it is changed."""
    sharing = _SHARING.get()
    if sharing is None or sharing.embedding is not embedding or sharing.projection is None:
        return embedding.weight
    return sharing.projection


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor, padding_idx: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(tokens)
        ctx.set_materialize_grads(False)
        ctx.num_rows, ctx.padding_idx = len(weight), padding_idx
        return F.embedding(tokens, weight), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, None, None]:
        (tokens,) = ctx.saved_tensors
        grad_rows, grad_weight = grad_outputs
        if grad_rows is None:
            return grad_weight, None, None
        gradient_of = torch.ops.aten.embedding_dense_backward
        if grad_weight is None:
            return gradient_of(grad_rows, tokens, ctx.num_rows, ctx.padding_idx, False), None, None
        distinct, places = tokens.unique(return_inverse=True)
        grad_distinct = gradient_of(grad_rows, places, len(distinct), -1, False)  # summed in the order of the tokens
        grad_distinct.masked_fill_((distinct == ctx.padding_idx).unsqueeze(1), 0.0)
        return grad_weight.index_add_(0, distinct, grad_distinct), None, None
