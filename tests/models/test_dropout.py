"""Dropout: its rate, its masks, and where they come from."""

import pytest
import torch
import torch.nn.functional as F

from roberta.models.dropout import dropout


@pytest.mark.parametrize("p", [0.1, 0.125, 0.5, 1 / 3, 1e-3])
def test_elements_are_dropped_at_the_rate_and_the_others_scaled(p):
    torch.manual_seed(0)
    count = 2_000_001  # odd: a generator's word has two draws
    outputs = dropout(torch.full((count,), 3.0), p)
    dropped = (outputs == 0).sum().item()
    assert abs(dropped - p * count) < 4 * (count * p * (1 - p)) ** 0.5  # 4 sigma
    assert torch.equal(outputs[outputs != 0].unique(), torch.tensor([3.0]) * torch.tensor(1 / (1 - p)))


@pytest.mark.parametrize("lag", [1, 2, 3, 64])
def test_neighbours_are_dropped_independently(lag):
    torch.manual_seed(0)
    count = 1_000_000
    dropped = (dropout(torch.ones(count), 0.1) == 0).float()
    both = (dropped[lag:] * dropped[:-lag]).sum().item()
    assert abs(both - 0.01 * count) < 4 * (count * 0.01 * 0.99) ** 0.5


def test_masks_follow_from_torchs_random_state():
    x = torch.ones(3, 5, 7)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.5), first)
    assert torch.equal(dropout(x, 0.5), second)


def test_the_gradient_has_the_same_mask():
    torch.manual_seed(0)
    x = torch.randn(50, 4, requires_grad=True)
    outputs = dropout(x, 0.4)
    (gradient,) = torch.autograd.grad(outputs.sum(), x)
    torch.testing.assert_close(gradient * x, outputs, rtol=1e-6, atol=0)
    assert set(gradient.unique().tolist()) == {0.0, torch.tensor(1 / 0.6).item()}


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_where_nothing_is_dropped_the_input_comes_back(p, training):
    x = torch.ones(4)
    state = torch.get_rng_state()
    assert dropout(x, p, training) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_type_stays_what_it_is(dtype):
    outputs = dropout(torch.ones(100, dtype=dtype), 0.1)
    assert outputs.dtype == dtype
    assert torch.equal(outputs[outputs != 0].unique(), torch.tensor([1 / 0.9], dtype=dtype))


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3, 5)])
def test_every_shape_is_kept(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_a_rate_just_below_one_drops_nearly_all():
    assert (dropout(torch.ones(1000), 1 - 1e-12) == 0).all()


def test_while_torch_compiles_it_sees_its_own_dropout(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x = torch.ones(100)
    torch.manual_seed(0)
    found = dropout(x, 0.5)
    torch.manual_seed(0)
    assert torch.equal(found, F.dropout(x, 0.5))
