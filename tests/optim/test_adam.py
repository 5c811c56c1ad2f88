"""Adam in fairseq's form, against its formula in float64."""

import math

import numpy as np
import pytest
import torch

from roberta.errors import ConfigError
from roberta.optim.adam import AdamConfig, adam


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_updates_equal_the_formula_with_eps_before_bias_correction(weight_decay):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(7, 3, dtype=torch.float64))
    config = AdamConfig(adam_betas=(0.9, 0.98), adam_eps=1e-3, weight_decay=weight_decay)
    optimizer = adam(config, [("weight", parameter)])
    p, m, v = parameter.detach().numpy().copy(), 0.0, 0.0
    for step in range(1, 12):
        lr = 0.01 / step
        gradient = torch.randn(7, 3, dtype=torch.float64) * 1e-3
        parameter.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        g = gradient.numpy()
        m = 0.9 * m + 0.1 * g
        v = 0.98 * v + 0.02 * g * g
        size = lr * math.sqrt(1 - 0.98**step) / (1 - 0.9**step)
        p -= lr * weight_decay * p
        p -= size * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(parameter.detach().numpy(), p, rtol=1e-12)


def test_the_form_differs_from_torchs_adamw():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = adam(AdamConfig(adam_eps=1e-3, weight_decay=0.0), [("weight", ours)])
    optimizer.param_groups[0]["lr"] = 0.01
    torchs = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.98), eps=1e-3, weight_decay=0.0)
    ours.grad = theirs.grad = torch.full((3,), 1e-3)
    optimizer.step()
    torchs.step()
    assert (ours - theirs).abs().max() > 1e-3


@pytest.mark.parametrize(
    "options", [{"adam_betas": (0.9, 1.0)}, {"adam_eps": 0.0}, {"adam_eps": math.nan}, {"weight_decay": -1.0}]
)
def test_impossible_options_are_refused_by_name(options):
    with pytest.raises(ConfigError, match="--adam-|--weight-decay is -1"):
        AdamConfig(**options)
