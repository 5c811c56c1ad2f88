"""Heads: what turns feature rows into answers. A head maps (M, C) rows to (M, K) rows and knows nothing of sequences.

Which rows it sees is the caller's `select`: the masked positions for masked LM, the `<s>` of each sequence for
classification. A new head is a config class and a module here.

Shapes: M selected rows, C embed_dim, K outputs, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roberta.config import option
from roberta.errors import ConfigError
from roberta.models.projection import projected_cross_entropy
from roberta.models.transformer import LAYER_NORM_EPS, Activation, TransformerEncoder, activation, init_weights
from roberta.registry import HEADS


@dataclass(frozen=True)
class MaskedLMHeadConfig:
    """Options of the masked-LM head."""

    activation_fn: Activation = option("gelu", help="activation between the dense layer and its LayerNorm")
    tied: bool = option(True, help="project with the token embedding instead of a matrix of its own")


@HEADS.register("masked_lm", MaskedLMHeadConfig)
class MaskedLMHead(nn.Module):
    """Predict the token under each row: dense, activation, LayerNorm, vocabulary projection (arXiv:1810.04805)."""

    def __init__(self, config: MaskedLMHeadConfig, encoder: TransformerEncoder) -> None:
        super().__init__()
        vocab_size, embed_dim = encoder.embed_tokens.weight.shape
        self.dense = nn.Linear(embed_dim, embed_dim)
        self.activation = activation(config.activation_fn)
        self.layer_norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self._embed_tokens = (encoder.embed_tokens,)  # in a tuple: the shared matrix is the encoder's, stored once
        self.weight = None if config.tied else nn.Parameter(encoder.embed_tokens.weight.detach().clone())
        self.apply(init_weights)

    def forward(self, rows: Tensor) -> Tensor:
        """Map (M, C) to logits (M, V)."""
        return F.linear(self._transform(rows), self._projection, self.bias)

    def loss(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Return the summed negative log-likelihood of `targets` (M,) under the logits of (M, C), in nats."""
        return projected_cross_entropy(self._transform(rows), self._projection, self.bias, targets)

    def _transform(self, rows: Tensor) -> Tensor:
        return self.layer_norm(self.activation(self.dense(rows)))  # (M, C)

    @property
    def _projection(self) -> Tensor:
        return self._embed_tokens[0].weight if self.weight is None else self.weight  # (V, C)


@dataclass(frozen=True)
class ClassificationHeadConfig:
    """Options of a classification head."""

    num_classes: int = option(help="number of outputs")
    inner_dim: int | None = option(None, help="width of the dense layer; embed_dim where not given")
    activation_fn: Activation = option("tanh", help="activation after the dense layer")
    dropout: float = option(0.0, help="dropout before the dense and the output layer (fairseq's pooler dropout)")
    labels: tuple[str, ...] = option((), help="names of the classes in the order of the outputs")

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ConfigError(f"num_classes is {self.num_classes}; a classification head needs at least 1")
        if self.labels and len(self.labels) != self.num_classes:
            raise ConfigError(f"{len(self.labels)} labels for num_classes {self.num_classes}; give one name per class")


@HEADS.register("classification", ClassificationHeadConfig)
class ClassificationHead(nn.Module):
    """Classify a sequence by its `<s>` row: dropout, dense, tanh, dropout, output projection."""

    def __init__(self, config: ClassificationHeadConfig, encoder: TransformerEncoder) -> None:
        super().__init__()
        embed_dim = encoder.embed_tokens.embedding_dim
        inner_dim = config.inner_dim or embed_dim
        self.dropout = config.dropout
        self.activation = activation(config.activation_fn)
        self.dense = nn.Linear(embed_dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, config.num_classes)

    def forward(self, rows: Tensor) -> Tensor:
        """Map (M, C) to logits (M, K)."""
        x = F.dropout(rows, self.dropout, self.training)
        x = self.activation(self.dense(x))  # (M, inner_dim)
        return self.out_proj(F.dropout(x, self.dropout, self.training))
