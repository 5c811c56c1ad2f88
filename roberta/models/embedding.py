"""The token embedding, whose matrix a head may project with, and one gradient of both.

The two gradients of a matrix that is looked up at one end of a model and projected with at the other are as large as
the vocabulary. Here the rows of the first are added to the second in its place. Otherwise torch fills a whole one with
zeros, which on a CPU takes up to a tenth of a step of a small model.

Shapes: T tokens, V vocabulary, C embed_dim.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class TokenEmbedding(nn.Embedding):
    """An embedding of tokens that may share the gradient of its matrix with a projection."""

    def __init__(self, vocab_size: int, embed_dim: int, padding_idx: int) -> None:
        super().__init__(vocab_size, embed_dim, padding_idx)
        self._is_shared = False
        self._projection: Tensor | None = None

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While the block runs, take what is looked up and what is projected there to be parts of one backward pass."""
        weight = self.weight
        self._is_shared = (
            weight.device.type == "cpu"  # a GPU has the memory and the time, and would wait for the number of rows
            and weight.requires_grad
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
        )
        try:
            yield
        finally:
            self._is_shared, self._projection = False, None

    @property
    def projection(self) -> Tensor:
        """The matrix (V, C), for a projection onto the vocabulary."""
        return self.weight if self._projection is None else self._projection

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (T,) to rows of the matrix (T, C)."""
        if not self._is_shared:
            return super().forward(tokens)
        rows, self._projection = _Shared.apply(self.weight, tokens, self.padding_idx)
        return rows


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
        grad_distinct[distinct == ctx.padding_idx] = 0.0
        return grad_weight.index_add_(0, distinct, grad_distinct), None, None
