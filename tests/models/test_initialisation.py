"""Where training starts from: heads that look at the tokens nearby."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from roberta.layout import SequenceLayout
from roberta.models.heads import MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel

SHAPE: dict[str, Any] = {
    "vocab_size": 200,
    "max_positions": 64,
    "encoder_layers": 3,
    "embed_dim": 128,
    "ffn_embed_dim": 256,
    "attention_heads": 4,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}


def test_each_head_of_the_first_layer_looks_at_its_own_neighbour() -> None:
    model = _model("local", embed_dim=256)
    tokens = torch.randint(4, 200, (40,), generator=torch.Generator().manual_seed(1))
    layout = SequenceLayout.from_lengths([40])
    x = model.encoder.embed(tokens, layout)
    layer: Any = model.encoder.layers[0]
    probabilities = layer.self_attn.probabilities(x, layout)  # (H, S, S)
    inner = torch.arange(4, 36)
    for head, offset in enumerate((-1, 1, -2, 2)):
        shares = {d: probabilities[head][inner, inner + d].mean().item() for d in range(-4, 5)}
        assert max(shares, key=lambda d: shares[d]) == offset
        assert 0.2 < shares[offset] < 0.99  # and not at it alone


def test_the_second_layer_has_half_its_heads_do_so_and_the_third_none() -> None:
    local, bert = _model("local"), _model("bert")
    changed = [
        [
            not torch.equal(ours, theirs)
            for ours, theirs in zip(_queries(local, number), _queries(bert, number), strict=True)
        ]
        for number in range(3)
    ]
    assert changed == [[True] * 4, [True, True, False, False], [False] * 4]


def test_all_else_is_drawn_as_ever() -> None:
    local, bert = _model("local").state_dict(), _model("bert").state_dict()
    changed = {name for name in local if not torch.equal(local[name], bert[name])}
    assert changed == {
        "encoder.embed_positions.weight",
        "encoder.layers.0.self_attn.qkv_proj.weight",
        "encoder.layers.0.self_attn.out_proj.weight",
        "encoder.layers.1.self_attn.qkv_proj.weight",
    }
    positions = local["encoder.embed_positions.weight"]
    assert torch.equal(positions[:2], bert["encoder.embed_positions.weight"][:2])


@pytest.mark.parametrize(("embed_dim", "attention_heads"), [(15, 3), (9, 9), (10, 5), (64, 1)])
def test_it_takes_any_shape(embed_dim: int, attention_heads: int) -> None:
    model = _model("local", embed_dim=embed_dim, attention_heads=attention_heads, encoder_layers=1)
    features = model.encoder(torch.arange(4, 24), SequenceLayout.from_lengths([20]))
    assert features.isfinite().all()


def test_what_depends_on_the_neighbours_is_learned_sooner() -> None:
    losses = {start: _loss_of_copying(_model(start)) for start in ("bert", "local")}
    assert losses["local"] < 0.75 * losses["bert"]


def _loss_of_copying(model: RobertaModel) -> float:
    """Return the last loss of a short training where a masked token is the one before it: ten updates' mean."""
    torch.manual_seed(0)
    model.register_head("lm", MaskedLMHeadConfig())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    layout = SequenceLayout.from_lengths([32] * 8)
    losses = []
    for _ in range(60):
        tokens = torch.randint(4, 199, (8, 16)).repeat_interleave(2, dim=1)  # pairs of like tokens
        masked = tokens.clone()
        masked[:, 1::4] = 199
        rows = (masked == 199).flatten().nonzero()[:, 0]
        features = model.encoder(masked.flatten(), layout, select=rows)
        loss = F.cross_entropy(model.heads["lm"](features), tokens.flatten()[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


def _model(start: Any, **changes: Any) -> RobertaModel:
    torch.manual_seed(0)
    return RobertaModel(RobertaConfig(**{**SHAPE, **changes}, initialisation=start))


def _queries(model: RobertaModel, number: int) -> tuple[torch.Tensor, ...]:
    layer: Any = model.encoder.layers[number]
    return layer.self_attn.qkv_proj.weight.chunk(3)[0].chunk(4)
