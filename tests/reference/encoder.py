"""RoBERTa's encoder and heads as slow, readable float64 NumPy: the oracle of the real ones.

One sequence at a time, one formula a line, no batching, no fused matrices beyond what the parameters dictate.
`dropout(x, p)` is called wherever the model drops out, in the same order; attention dropout is not modelled.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Dropout = Callable[[Array, float], Array]

EPS = 1e-5
_erf = np.vectorize(math.erf)


def no_dropout(x: Array, p: float) -> Array:
    return x


def layer_norm(x: Array, weights: Mapping[str, Array], name: str) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + EPS) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Array, weights: Mapping[str, Array], name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x: Array) -> Array:
    return x * 0.5 * (1.0 + _erf(x / math.sqrt(2.0)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(x: Array, weights: Mapping[str, Array], name: str, heads: int) -> Array:
    q, k, v = np.split(linear(x, weights, f"{name}.qkv_proj"), 3, axis=-1)
    width = x.shape[-1] // heads
    contexts = []
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        scores = (q[:, columns] / math.sqrt(width)) @ k[:, columns].T
        contexts.append(softmax(scores) @ v[:, columns])
    return linear(np.concatenate(contexts, axis=-1), weights, f"{name}.out_proj")


def hiddens(
    tokens: list[int],
    weights: Mapping[str, Array],
    *,
    layers: int,
    heads: int,
    p: float = 0.0,
    activation_p: float = 0.0,
    dropout: Dropout = no_dropout,
) -> list[Array]:
    """Return the embedding output and each layer's output for one sequence."""
    positions = [2 + offset for offset in range(len(tokens))]  # <pad> is 1, so the first token has position 2
    x = weights["encoder.embed_tokens.weight"][tokens] + weights["encoder.embed_positions.weight"][positions]
    outputs = [dropout(layer_norm(x, weights, "encoder.layernorm_embedding"), p)]
    for number in range(layers):
        name = f"encoder.layers.{number}"
        x = outputs[-1]
        x = layer_norm(
            x + dropout(attention(x, weights, f"{name}.self_attn", heads), p), weights, f"{name}.self_attn_layer_norm"
        )
        inner = dropout(gelu(linear(x, weights, f"{name}.fc1")), activation_p)
        outputs.append(
            layer_norm(x + dropout(linear(inner, weights, f"{name}.fc2"), p), weights, f"{name}.final_layer_norm")
        )
    return outputs


def lm_logits(features: Array, weights: Mapping[str, Array]) -> Array:
    rows = layer_norm(gelu(linear(features, weights, "heads.lm.dense")), weights, "heads.lm.layer_norm")
    return rows @ weights["encoder.embed_tokens.weight"].T + weights["heads.lm.bias"]


def class_logits(features: Array, weights: Mapping[str, Array], head: str) -> Array:
    return linear(np.tanh(linear(features[0], weights, f"heads.{head}.dense")), weights, f"heads.{head}.out_proj")


def cross_entropy(logits: Array, targets: list[int]) -> float:
    """Return the summed negative log-likelihood in nats."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return float(-sum(log_probabilities[row, target] for row, target in enumerate(targets)))
