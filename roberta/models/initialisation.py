"""A starting point for pretraining other than BERT's, for the same function.

Shapes: C embed_dim, D width of a head, P positions, K = D // 2.
"""

import math
from typing import Any

import torch
from torch import Tensor

from roberta.models.transformer import INIT_STD, SelfAttention, TransformerEncoder

_PEAK = 8.0  # score of the place that a head looks at: most of the attention, and not all
_CARRIED = 0.7  # of what a head finds, on its way to the output
_STEEPNESS = 1.5  # of the frequencies: above 1 they crowd where they are low, and no far place looks like a near one


@torch.no_grad()
def look_nearby(encoder: TransformerEncoder) -> None:
    """Let the heads of the first two layers start out as windows on the tokens next to each token.

    BERT's starting point knows nothing about places, and a small model spends much of a short run on finding out that
    near tokens matter. Here position embeddings start as sinusoids of the tokens' size, each head of the first layer
    looks at one of the offsets -1, 1, -2, 2, ... and passes on its share of what is there, and the first half of the
    second layer's heads look there too. All of it is added to the usual random weights and is free to change. A
    relative of mimetic initialisation (arXiv:2305.09828), made for an encoder with learned positions.
    """
    frequencies = _frequencies(encoder.embed_positions.weight.shape[1])
    _set_sinusoids(encoder, frequencies)
    for number, layer in enumerate(encoder.layers[:2]):
        attention: Any = layer.self_attn
        for head in range(attention.attention_heads if number == 0 else attention.attention_heads // 2):
            offset = (head // 2 + 1) * (-1) ** (head + 1)
            _look(attention, head, offset, frequencies, carries=number == 0)


def _frequencies(embed_dim: int) -> Tensor:
    """Return one frequency for every two dimensions, in radians a token, within (0, pi)."""
    count = embed_dim // 2
    return math.pi * ((torch.arange(count) + 0.5) / count) ** _STEEPNESS


def _set_sinusoids(encoder: TransformerEncoder, frequencies: Tensor) -> None:
    weight = encoder.embed_positions.weight  # (padding and what is before it + P, C)
    angles = torch.arange(len(weight) - encoder.first_position).outer(frequencies)  # (P, C // 2)
    waves = torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)  # (P, C), or C - 1 where C is odd
    weight[encoder.first_position :, : waves.shape[1]] = math.sqrt(2.0) * INIT_STD * waves


def _look(attention: SelfAttention, head: int, offset: int, frequencies: Tensor, *, carries: bool) -> None:
    """Add to the weights of a head what makes it look `offset` tokens further on, and pass on what it finds."""
    heads, embed_dim = attention.attention_heads, attention.out_proj.weight.shape[0]
    width = embed_dim // heads
    pairs = torch.arange(width // 2) * heads + head  # (K,): of each head its own, from all over the scale
    sines, cosines = 2 * pairs, 2 * pairs + 1
    rows = 2 * torch.arange(len(pairs))
    turn = frequencies[pairs] * offset
    query, key = torch.zeros(width, embed_dim), torch.zeros(width, embed_dim)
    key[rows, sines] = key[rows + 1, cosines] = 1.0
    query[rows, sines] = query[rows + 1, cosines] = turn.cos()  # sin(a + turn) = sin(a) cos(turn) + cos(a) sin(turn)
    query[rows, cosines], query[rows + 1, sines] = turn.sin(), -turn.sin()
    peak = len(pairs) / math.sqrt(width)  # where sinusoids of size 1 meet; half of a token's size is its position
    scale = math.sqrt(_PEAK / max(peak, 1.0))
    query_weight, key_weight, value_weight = (
        block[head * width :][:width] for block in attention.qkv_proj.weight.chunk(3)
    )
    query_weight += scale * query
    key_weight += scale * key
    if carries:
        share = torch.eye(embed_dim)[head::heads]  # (D, C)
        value_weight += _CARRIED * share
        attention.out_proj.weight[:, head * width : (head + 1) * width] += _CARRIED * share.t()
