"""Muon, against the singular value decomposition and against Adam for what is no matrix of a layer."""

import pytest
import torch
from torch import nn

from roberta.errors import ConfigError
from roberta.optim.adam import AdamConfig, adam
from roberta.optim.muon import MuonConfig, muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (16, 64), (64, 16), (1, 5)])
def test_an_update_keeps_the_singular_vectors_and_evens_the_singular_values(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    update = orthogonalised(matrix) / (0.2 * max(shape) ** 0.5)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    core = left.t() @ update @ right.t()  # diagonal where the singular vectors are those of the matrix
    values = core.diagonal()
    assert (core - values.diag()).abs().max() < 1e-9
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_elements_of_an_update_have_the_size_of_adams():
    torch.manual_seed(0)
    for shape in ((64, 64), (64, 256)):
        assert orthogonalised(torch.randn(shape)).pow(2).mean().sqrt() == pytest.approx(0.2, rel=0.25)


def parameters() -> list[tuple[str, nn.Parameter]]:
    torch.manual_seed(0)
    shapes = {
        "encoder.embed_tokens.weight": (9, 4),
        "encoder.layers.0.self_attn.qkv_proj.weight": (12, 4),
        "encoder.layers.0.fc1.weight": (6, 4),
        "encoder.layers.0.fc1.bias": (6,),
        "heads.lm.dense.weight": (4, 4),
    }
    return [(name, nn.Parameter(torch.randn(shape))) for name, shape in shapes.items()]


def step(optimizer: torch.optim.Optimizer, named: list[tuple[str, nn.Parameter]], number: int) -> None:
    torch.manual_seed(number)
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["lr_scale"]
    optimizer.step()


def test_what_is_no_matrix_of_a_layer_is_updated_as_by_adam():
    ours, theirs = parameters(), parameters()
    options = {"weight_decay": 0.1, "adam_eps": 1e-3}
    torch.optim.AdamW([nn.Parameter(torch.ones(1))])  # torch wraps the step of a class at its first use
    by_muon, by_adam = muon(MuonConfig(**options), ours), adam(AdamConfig(**options), theirs)
    for number in range(4):
        step(by_muon, ours, number)
        step(by_adam, theirs, number)
    for (name, mine), (_, other) in zip(ours, theirs, strict=True):
        is_matrix = name.startswith("encoder.layers.") and mine.ndim == 2
        assert torch.equal(mine, other) == (not is_matrix), name


def test_q_k_and_v_are_orthogonalised_each_for_itself():
    named = parameters()
    weight = dict(named)["encoder.layers.0.self_attn.qkv_proj.weight"]
    before = weight.detach().clone()
    optimizer = muon(MuonConfig(weight_decay=0.0, momentum=0.0), named)
    step(optimizer, named, 0)
    for block, old, gradient in zip(weight.chunk(3), before.chunk(3), weight.grad.chunk(3), strict=True):
        assert torch.allclose(block, old - 0.1 * orthogonalised(gradient), atol=1e-6)


def test_the_step_follows_its_formula_with_momentum_and_decay():
    named = parameters()
    weight = dict(named)["encoder.layers.0.fc1.weight"]
    optimizer = muon(MuonConfig(weight_decay=0.5, momentum=0.9), named)
    expected, momentum = weight.detach().clone(), torch.zeros(6, 4)
    for number in range(3):
        step(optimizer, named, number)
        momentum = 0.9 * momentum + 0.1 * weight.grad
        expected = 0.95 * expected - 0.1 * orthogonalised(0.1 * weight.grad + 0.9 * momentum)
    assert torch.allclose(weight, expected, atol=1e-5)


def test_an_impossible_momentum_is_refused():
    with pytest.raises(ConfigError, match="--momentum is 1.0"):
        MuonConfig(momentum=1.0)
