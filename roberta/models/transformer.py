"""The transformer encoder of RoBERTa: post-norm layers over packed tokens (arXiv:1706.03762, arXiv:1907.11692).

It maps token ids to features. Heads, losses and text are elsewhere.

Shapes: B sequences, T packed tokens, H heads, D head width, C embed_dim.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from roberta.layout import SequenceLayout
from roberta.models.attention import attention, attention_probabilities
from roberta.models.dropout import dropout
from roberta.models.embedding import TokenEmbedding
from roberta.models.linear import Linear

if TYPE_CHECKING:
    from roberta.models.roberta import RobertaConfig

INIT_STD = 0.02

Activation = Literal["gelu", "gelu_tanh", "relu", "tanh"]
Perturbation = Callable[[Tensor], Tensor]  # of token embeddings (T, C)


def activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """Return the activation function of that name; `gelu` is the exact erf form.

    Where its input needs no gradient, the result may be written over it: give it what nothing else needs.
    """
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": _gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu": F.relu,
        "tanh": torch.tanh,
    }
    assert set(functions) == set(get_args(Activation))
    return functions[name]


def _gelu(x: Tensor) -> Tensor:
    """Compute GELU, in the memory of x where no gradient is needed.

    New memory of that size costs a CPU more than the function itself: without it the linear maps, GELU and LayerNorms
    of a layer of base take 7 to 11 % less time (640 and 1,500 rows, one AVX2 core, torch 2.13, 2026-11-27).
    """
    return F.gelu(x) if x.requires_grad else torch.ops.aten.gelu_(x)


def init_weights(module: nn.Module) -> None:
    """Initialise a linear layer or embedding as BERT does: N(0, INIT_STD), zero bias, zero padding row."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
        if module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection for q, k and v."""

    def __init__(self, embed_dim: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.dropout = dropout
        self.qkv_proj = Linear(embed_dim, 3 * embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, layout: SequenceLayout) -> Tensor:
        """Map (T, C) to (T, C), what `out_proj` still has to mix."""
        q, k, v = self.qkv(x, layout)  # (T, H, D)
        context = attention(q, k, v, layout, dropout_p=self.dropout if self.training else 0.0).flatten(1)  # (T, C)
        # As a view it would make the compiler tell it from the rows of a last layer, and compile what follows twice.
        flat: Tensor = torch.ops.aten._unsafe_view(context, context.shape)
        return flat

    def probabilities(self, x: Tensor, layout: SequenceLayout) -> Tensor:
        """Map the one sequence (S, C) of a layout to its attention probabilities without dropout: (H, S, S)."""
        q, k, _ = self.qkv(x, layout)
        return attention_probabilities(q, k)

    def qkv(self, x: Tensor, layout: SequenceLayout) -> tuple[Tensor, ...]:
        """Map (T, C) to queries, keys and values, (T, H, D) each; variants that turn them by position do it here."""
        qkv = self.qkv_proj(x).view(len(x), 3, self.attention_heads, -1)  # (T, 3, H, D)
        return qkv.unbind(1)


class TransformerLayer(nn.Module):
    """One post-norm layer: x = LN(x + attention(x)); x = LN(x + ffn(x))."""

    def __init__(self, config: "RobertaConfig") -> None:
        super().__init__()
        self.dropout = config.dropout
        self.activation_dropout = config.activation_dropout
        self.activation = activation(config.activation_fn)
        self.self_attn = SelfAttention(config.embed_dim, config.attention_heads, config.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.fc1 = Linear(config.embed_dim, config.ffn_embed_dim)
        self.fc2 = Linear(config.ffn_embed_dim, config.embed_dim)
        self.final_layer_norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, layout: SequenceLayout, select: Tensor | None = None) -> Tensor:
        """Map (T, C) to (T, C), or to its rows `select` (M,) alone, (M, C), whose keys and values are all rows."""
        context = self.self_attn(x, layout)
        if select is not None:
            x, context = x.index_select(0, select), context.index_select(0, select)  # (M, C)
        return self.combine(x, context)

    def combine(self, x: Tensor, context: Tensor) -> Tensor:
        """Map the input (T, C) and what attention found in it (T, C) to the output (T, C); row by row, no layout."""
        context = dropout(self.self_attn.out_proj(context), self.dropout, training=self.training)
        x = self.self_attn_layer_norm(x + context)
        hidden = self.activation(self.fc1(x))  # (T, ffn_embed_dim)
        hidden = dropout(hidden, self.activation_dropout, training=self.training)
        return self.final_layer_norm(x + dropout(self.fc2(hidden), self.dropout, training=self.training))


class TransformerEncoder(nn.Module):
    """Token and position embeddings, then a stack of layers."""

    def __init__(self, config: "RobertaConfig") -> None:
        super().__init__()
        self.dropout = config.dropout
        self.layerdrop = config.encoder_layerdrop
        self.checkpoint_activations = False  # set by who trains it, as is the next
        self.drops_all = False  # where layers are dropped at all: every one, for a batch that counts for nothing
        self.first_position = config.padding_idx + 1
        rows = self.first_position + config.max_positions
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.embed_dim, config.padding_idx)
        self.embed_positions = nn.Embedding(rows, config.embed_dim, config.padding_idx)
        self.layernorm_embedding = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.encoder_layers))
        self.apply(init_weights)

    def embed(self, tokens: Tensor, layout: SequenceLayout, perturb: Perturbation | None = None) -> Tensor:
        """Map token ids (T,) to the input of the first layer (T, C); `perturb` changes their embeddings first."""
        x = self.embed_tokens(tokens)  # (T, C)
        x = x if perturb is None else perturb(x)
        x = self.layernorm_embedding(x + self.embed_positions(layout.positions + self.first_position))
        return dropout(x, self.dropout, training=self.training)

    def forward(
        self,
        tokens: Tensor,
        layout: SequenceLayout,
        perturb: Perturbation | None = None,
        select: Tensor | None = None,
    ) -> Tensor:
        """Map token ids (T,) to the features of the last layer (T, C), or to its rows `select` (M,) alone, (M, C).

        `perturb` is that of `embed`. The last layer computes no more than the rows asked for.
        """
        x = self.embed(tokens, layout, perturb)
        layers = self._kept_layers()
        for layer in layers[:-1]:
            x = self._computed(layer, x, layout, None)
        if layers:
            return self._computed(layers[-1], x, layout, select)
        return x if select is None else x.index_select(0, select)

    def _computed(self, layer: nn.Module, x: Tensor, layout: SequenceLayout, select: Tensor | None) -> Tensor:
        if self.checkpoint_activations and self.training:
            computed: Tensor = checkpoint(layer, x, layout, select, use_reentrant=False)
            return computed
        return layer(x, layout, select)

    def _kept_layers(self) -> list[nn.Module]:
        """Return the layers of a forward pass: in training, each is left out with chance `layerdrop`."""
        if not self.layerdrop or not self.training:
            return list(self.layers)
        if self.drops_all:
            return []  # an optimizer would make an update of each layer that has a gradient, be it zero
        draws = torch.rand(len(self.layers)).tolist()  # on the host
        return [layer for layer, draw in zip(self.layers, draws, strict=True) if draw >= self.layerdrop]

    def all_hiddens(self, tokens: Tensor, layout: SequenceLayout) -> list[Tensor]:
        """Map token ids (T,) to the embedding output and the output of every layer, each (T, C)."""
        hiddens = [self.embed(tokens, layout)]
        for layer in self.layers:
            hiddens.append(layer(hiddens[-1], layout))
        return hiddens

    def attentions(self, tokens: Tensor) -> list[Tensor]:
        """Map the token ids (S,) of one sequence to the attention probabilities of every layer, each (H, S, S)."""
        layout = SequenceLayout.from_lengths([len(tokens)], tokens.device)
        hiddens, layers = self.all_hiddens(tokens, layout)[:-1], cast(Any, self.layers)
        return [layer.self_attn.probabilities(x, layout) for layer, x in zip(layers, hiddens, strict=True)]
