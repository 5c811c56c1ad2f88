"""Dropout on a CPU: shares, means, gradients, seeds."""

import pytest
import torch

from roberta.models.dropout import dropout


@pytest.mark.parametrize("p", [0.1, 0.125, 0.5, 0.9])
def test_the_share_that_is_dropped_is_p(p):
    torch.manual_seed(0)
    count = 2**20
    dropped = (dropout(torch.ones(count), p, training=True) == 0).double().mean().item()
    assert dropped == pytest.approx(p, abs=5 * (p * (1 - p) / count) ** 0.5)


def test_values_that_stay_are_scaled_to_keep_the_mean():
    torch.manual_seed(0)
    values = dropout(torch.full((1001,), 3.0, dtype=torch.float64), 0.25, training=True)
    assert set(values.tolist()) == {0.0, 3.0 / 0.75}


@pytest.mark.parametrize("shape", [(3,), (5, 7), (2, 3, 4, 5), (0, 4), ()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_shape_and_type_stay(shape, dtype):
    values = dropout(torch.ones(shape, dtype=dtype), 0.5, training=True)
    assert (values.shape, values.dtype) == (shape, dtype)


def test_neighbours_fall_independently():
    """Two values are drawn as one integer; pairs, and values that far apart, must not go together."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(2**20), 0.5, training=True) > 0).double() - 0.5
    for apart in (1, 2, 3, 64):
        product = (kept[apart:] * kept[:-apart]).mean().item() * 4
        assert abs(product) < 5 / 2**10  # the standard error is 2^-10
    assert abs((kept[0::2] * kept[1::2]).mean().item() * 4) < 5 / 2**9.5


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(0)
    x = torch.ones(50, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.3, training=True)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_the_same_seed_drops_the_same_values():
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(dropout(torch.ones(100), 0.5, training=True))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_nothing_is_dropped_or_drawn_in_evaluation_or_at_rate_zero():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    x = torch.ones(100)
    for p, training in ((0.5, False), (0.0, True)):
        assert torch.equal(dropout(x, p, training), x)
    assert torch.equal(torch.get_rng_state(), state)
