"""Features of texts: for each token, for each text, and what attends to what.

Shapes: T packed tokens, S_i tokens of sequence i, N texts, C embed_dim.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from roberta.errors import ConfigError, DataError, choices
from roberta.hub.border import Engine, pack
from roberta.layout import SequenceLayout
from roberta.models.roberta import RobertaModel

Pooling = Literal["mean", "cls", "max"]


def features(engine: Engine, texts: Sequence[tuple[str, ...]], *, truncate: bool) -> list[Tensor]:
    """Return the features of the last layer for each sequence of texts, in input order: (S_i, C) each."""

    def compute(_: list[int], tokens: Tensor, layout: SequenceLayout) -> list[Tensor]:
        parts = engine.model(tokens, layout).split(layout.lengths)
        return [rows.clone() for rows in parts]  # a view would keep all of its batch, also where it is saved

    return engine.each(engine.encode(texts, truncate=truncate), compute)


def all_hiddens(engine: Engine, texts: Sequence[tuple[str, ...]], *, truncate: bool) -> list[list[Tensor]]:
    """Return, for each sequence, the embedding output and the output of every layer: (S_i, C) each."""

    def compute(_: list[int], tokens: Tensor, layout: SequenceLayout) -> list[list[Tensor]]:
        layers = [hidden.split(layout.lengths) for hidden in engine.model.encoder.all_hiddens(tokens, layout)]
        return [[hidden.clone() for hidden in hiddens] for hiddens in zip(*layers, strict=True)]

    return engine.each(engine.encode(texts, truncate=truncate), compute)


def embeddings(
    engine: Engine, texts: Sequence[tuple[str, ...]], *, pooling: Pooling, normalize: bool, truncate: bool
) -> Tensor:
    """Return one vector for each sequence, in input order: (N, C).

    Raises:
        ConfigError: no such pooling.
    """
    if pooling not in get_args(Pooling):
        raise ConfigError(f"pooling is {pooling!r}; {choices(pooling, get_args(Pooling))}")
    weight = engine.model.encoder.embed_tokens.weight
    pooled = weight.new_empty((len(texts), weight.shape[1]))
    for indices, tokens, layout in engine.batches(engine.encode(texts, truncate=truncate)):
        pooled[indices] = _pool(engine.model(tokens, layout), layout, pooling)
    return F.normalize(pooled, dim=-1) if normalize else pooled


def attentions(model: RobertaModel, tokens: Tensor) -> list[Tensor]:
    """Return the attention probabilities of every layer for one sequence, (S,) or (1, S): (H, S, S) each.

    Raises:
        DataError: there are several sequences, or one that is empty or too long.
    """
    grid = pack(tokens, model)
    if grid.layout.num_sequences != 1:
        raise DataError(f"attentions takes one sequence, not {grid.layout.num_sequences}; call it for each")
    return model.encoder.attentions(grid.tokens)


def _pool(features: Tensor, layout: SequenceLayout, pooling: Pooling) -> Tensor:
    """Return one row for each sequence: (T, C) -> (B, C)."""
    if pooling == "cls":
        return features[layout.first]
    if pooling == "max":
        return layout.pad(features, -torch.inf).amax(dim=1)
    return layout.pad(features).sum(dim=1) / layout.cu_seqlens.diff().unsqueeze(1)
