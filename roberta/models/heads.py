"""Heads: what turns feature rows into answers. A head maps (M, C) rows to (M, K) rows and knows nothing of sequences.

Which rows it sees is the caller's `select`: the masked positions for masked LM, else what the config's `rows` says, the
`<s>` of each sequence or every token. A new head is a config class here, registered with a module.

Shapes: M selected rows, C embed_dim, K outputs, V vocabulary.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from roberta.config import option
from roberta.errors import ConfigError
from roberta.layout import SequenceLayout
from roberta.models.dropout import check_rates, dropout
from roberta.models.embedding import projection, shared
from roberta.models.linear import CpuEngine, linear
from roberta.models.projection import projected_cross_entropy
from roberta.models.transformer import Activation, TransformerEncoder, activation, init_weights
from roberta.registry import HEADS

Rows = Literal["first", "all"]  # the <s> of each sequence, or every token

LM_HEAD = "lm"  # the name of a model's masked-LM head
_ROWS_PER_MASK = 7  # of 15 % masked

_DROPOUT = "dropout before the output layer"
_LABELS = "names of the classes in the order of the outputs"


@dataclass(frozen=True)
class MaskedLMHeadConfig:
    """Options of the masked-LM head."""

    rows: ClassVar[Rows] = "all"
    activation_fn: Activation = option("gelu", help="activation between the dense layer and its LayerNorm")
    tied: bool = option(True, help="project with the token embedding instead of a matrix of its own")


@HEADS.register("masked_lm", MaskedLMHeadConfig)
class MaskedLMHead(nn.Module):
    """Predict the token under each row: dense, activation, LayerNorm, vocabulary projection (arXiv:1810.04805)."""

    def __init__(self, config: MaskedLMHeadConfig, encoder: TransformerEncoder) -> None:
        super().__init__()
        vocab_size, embed_dim = encoder.embed_tokens.weight.shape
        self.engine: CpuEngine = "torch"  # of the projection
        self.is_compiled = False  # set by who trains it
        self.dense = nn.Linear(embed_dim, embed_dim)
        self.activation = activation(config.activation_fn)
        self.layer_norm = nn.LayerNorm(embed_dim, eps=encoder.layernorm_embedding.eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self._embed_tokens = (encoder.embed_tokens,)  # in a tuple: the shared matrix is the encoder's, stored once
        self.weight = None if config.tied else nn.Parameter(encoder.embed_tokens.weight.detach().clone())
        self.apply(init_weights)

    def forward(self, rows: Tensor) -> Tensor:
        """Map (M, C) to logits (M, V)."""
        return linear(self._transform(rows), self._projection, self.bias, self.engine)

    def loss(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Return the summed negative log-likelihood of `targets` (M,) under the logits of (M, C), in nats."""
        weight = projection(self._embed_tokens[0]) if self.weight is None else self.weight
        return projected_cross_entropy(
            self._transform(rows), weight, self.bias, targets, self.engine, compiled=self.is_compiled
        )

    def sharing(self) -> AbstractContextManager[None]:
        """Return a context in which the features and the loss of a pass have one gradient of a tied matrix."""
        return nullcontext() if self.weight is not None else shared(self._embed_tokens[0])

    def _transform(self, rows: Tensor) -> Tensor:
        return self.layer_norm(self.activation(self.dense(rows)))  # (M, C)

    def try_out(self, rows: int) -> None:
        """Project as many rows as are masked of `rows`, of any contents, to see how long it takes."""
        weight = self._projection
        linear(weight.new_ones(rows // _ROWS_PER_MASK, weight.shape[1]), weight, self.bias, self.engine)

    @torch.no_grad()
    def add_symbols(self, num_symbols: int) -> None:
        """Append outputs that begin as the mean of those there are; the token embedding grows apart from this."""
        self.bias = nn.Parameter(with_mean_rows(self.bias, num_symbols), self.bias.requires_grad)
        if self.weight is not None:
            self.weight = nn.Parameter(with_mean_rows(self.weight, num_symbols), self.weight.requires_grad)

    @property
    def _projection(self) -> Tensor:
        return self._embed_tokens[0].weight if self.weight is None else self.weight  # (V, C)


@dataclass(frozen=True)
class SequenceHeadConfig:
    """Options of all heads that judge a sequence."""

    rows: ClassVar[Rows] = "first"
    inner_dim: int | None = option(None, help="width of the dense layer; embed_dim where not given")
    activation_fn: Activation = option("tanh", help="activation after the dense layer")
    dropout: float = option(0.0, help="dropout before the dense and the output layer (fairseq's pooler dropout)")

    def __post_init__(self) -> None:
        if self.inner_dim is not None and self.inner_dim < 1:
            raise ConfigError(f"inner_dim is {self.inner_dim}; it must be at least 1")
        check_rates(self, "dropout")

    @property
    def num_outputs(self) -> int:
        return 1


@dataclass(frozen=True)
class ClassificationHeadConfig(SequenceHeadConfig):
    """Options of a classification head: K class logits for a sequence."""

    num_classes: int = option(help="number of outputs")
    labels: tuple[str, ...] = option((), help=_LABELS)
    multi_label: bool = option(False, help="each class is told for itself, so that several may hold, or none")

    def __post_init__(self) -> None:
        _check_classes("classification", self.num_classes, self.labels)
        super().__post_init__()

    @property
    def num_outputs(self) -> int:
        return self.num_classes


@dataclass(frozen=True)
class RegressionHeadConfig(SequenceHeadConfig):
    """Options of a regression head: one number for a sequence. Its output counts from `minimum` 0 to `maximum` 1."""

    minimum: float = option(0.0, help="value of the output 0, the low end of the scale")
    maximum: float = option(1.0, help="value of the output 1, the high end of the scale")

    def __post_init__(self) -> None:
        if not -math.inf < self.minimum < self.maximum < math.inf:
            raise ConfigError(
                f"minimum is {self.minimum}, maximum {self.maximum}; the minimum must be the smaller one, and both "
                "must be finite"
            )
        super().__post_init__()


@dataclass(frozen=True)
class ChoiceHeadConfig(SequenceHeadConfig):
    """Options of a choice head: one score for a sequence, to be compared with those of the other choices."""


@HEADS.register("classification", ClassificationHeadConfig)
@HEADS.register("regression", RegressionHeadConfig)
@HEADS.register("choice", ChoiceHeadConfig)
class SequenceHead(nn.Module):
    """Judge a sequence by its `<s>` row: dropout, dense, activation, dropout, output projection."""

    def __init__(self, config: SequenceHeadConfig, encoder: TransformerEncoder) -> None:
        super().__init__()
        embed_dim = encoder.embed_tokens.embedding_dim
        inner_dim = config.inner_dim or embed_dim
        self.dropout = config.dropout
        self.activation = activation(config.activation_fn)
        self.dense = nn.Linear(embed_dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, config.num_outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """Map (M, C) to (M, K)."""
        x = dropout(rows, self.dropout, training=self.training)
        x = self.activation(self.dense(x))  # (M, inner_dim)
        return self.out_proj(dropout(x, self.dropout, training=self.training))


@dataclass(frozen=True)
class TaggingHeadConfig:
    """Options of a tagging head: K class logits for a token."""

    rows: ClassVar[Rows] = "all"
    num_classes: int = option(help="number of outputs")
    dropout: float = option(0.0, help=_DROPOUT)
    labels: tuple[str, ...] = option((), help=_LABELS)

    def __post_init__(self) -> None:
        _check_classes("tagging", self.num_classes, self.labels)
        check_rates(self, "dropout")

    @property
    def num_outputs(self) -> int:
        return self.num_classes


@dataclass(frozen=True)
class SpanHeadConfig:
    """Options of a span head: for a token, the logits of being the first and the last one of the span."""

    rows: ClassVar[Rows] = "all"
    dropout: float = option(0.0, help=_DROPOUT)
    answerable: bool = option(False, help="a third output, which counts at <s>: the logit of there being a span at all")

    def __post_init__(self) -> None:
        check_rates(self, "dropout")

    @property
    def num_outputs(self) -> int:
        return 3 if self.answerable else 2


@HEADS.register("tagging", TaggingHeadConfig)
@HEADS.register("span", SpanHeadConfig)
class TokenHead(nn.Module):
    """Judge each token by its row: dropout, output projection (arXiv:1810.04805 section 4)."""

    def __init__(self, config: TaggingHeadConfig | SpanHeadConfig, encoder: TransformerEncoder) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.out_proj = nn.Linear(encoder.embed_tokens.embedding_dim, config.num_outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """Map (M, C) to (M, K)."""
        return self.out_proj(dropout(rows, self.dropout, training=self.training))


def select_rows(config: Any, layout: SequenceLayout) -> Tensor | None:
    """Return the rows that a head of this config sees: (B,) int64, or None for all of them."""
    return layout.first if config.rows == "first" else None


def with_mean_rows(matrix: Tensor, num_rows: int) -> Tensor:
    """Return (V, ...) with rows appended that are the mean of its rows: (V + num_rows, ...)."""
    mean = matrix.float().mean(dim=0, keepdim=True).to(matrix.dtype)
    return torch.cat([matrix, mean.expand(num_rows, *matrix.shape[1:])])


def _check_classes(kind: str, num_classes: int, labels: tuple[str, ...]) -> None:
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}; a {kind} head needs at least 1")
    if labels and len(labels) != num_classes:
        raise ConfigError(f"{len(labels)} labels for num_classes {num_classes}; give one name per class")
    if len(set(labels)) < len(labels):
        raise ConfigError(f"labels {', '.join(labels)}: a name stands there twice; give each class a name of its own")
