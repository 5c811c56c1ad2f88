"""New symbols in a model's vocabulary: rows of the token embedding, and outputs of its masked-LM heads."""

import dataclasses

import torch
from torch import nn

from roberta.models.heads import MaskedLMHead, with_mean_rows
from roberta.models.roberta import RobertaModel


@torch.no_grad()
def add_symbols(model: RobertaModel, num_symbols: int) -> None:
    """Append symbols whose embedding, bias and output row begin as the mean of those there are; the old ones stay.

    The parameters that grow are new ones: an optimizer made before this does not know them.
    """
    embedding = model.encoder.embed_tokens
    embedding.weight = nn.Parameter(
        with_mean_rows(embedding.weight, num_symbols), requires_grad=embedding.weight.requires_grad
    )
    embedding.num_embeddings = len(embedding.weight)
    for head in model.heads.values():
        if isinstance(head, MaskedLMHead):
            head.add_symbols(num_symbols)
    model.config = dataclasses.replace(model.config, vocab_size=len(embedding.weight))
