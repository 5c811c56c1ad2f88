"""Dropout: its rate, its masks, and where they come from."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from roberta.errors import ConfigError
from roberta.models import dropout as dropout_module
from roberta.models.dropout import dropout
from roberta.models.heads import (
    ChoiceHeadConfig,
    ClassificationHeadConfig,
    RegressionHeadConfig,
    SpanHeadConfig,
    TaggingHeadConfig,
)
from roberta.models.roberta import RobertaConfig

MANY = 2**14  # elements whose masks are not torch's
draws_one_by_one = dropout_module.torch_draws_one_by_one.__wrapped__


@pytest.fixture(autouse=True)
def slow_torch(monkeypatch):
    """Test the masks made here, on processors too where torch's own are taken."""
    monkeypatch.setattr(dropout_module, "torch_draws_one_by_one", lambda: True)


@pytest.mark.parametrize("p", [0.1, 0.125, 0.5, 1 / 3, 1e-3])
def test_elements_are_dropped_at_the_rate_and_the_others_scaled(p):
    torch.manual_seed(0)
    count = 2_000_001  # odd: a word of the generator has eight draws
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
    x = torch.ones(3, 5, 7 * 512)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.5), first)
    assert torch.equal(dropout(x, 0.5), second)


def test_the_gradient_has_the_same_mask():
    torch.manual_seed(0)
    x = torch.randn(50, 400, requires_grad=True)
    outputs = dropout(x, 0.4)
    (gradient,) = torch.autograd.grad(outputs.sum(), x)
    torch.testing.assert_close(gradient * x, outputs, rtol=1e-6, atol=0)
    assert set(gradient.unique().tolist()) == {0.0, torch.tensor(1 / 0.6).item()}


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_where_nothing_is_dropped_the_input_comes_back(p, training):
    x = torch.ones(4)
    state = torch.get_rng_state()
    assert dropout(x, p, training=training) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_type_stays_what_it_is(dtype):
    outputs = dropout(torch.ones(MANY, dtype=dtype), 0.1)
    assert outputs.dtype == dtype
    assert torch.equal(outputs[outputs != 0].unique(), torch.tensor([1 / 0.9], dtype=dtype))


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3, 5), (2, 3, MANY)])
def test_every_shape_is_kept(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_a_rate_just_below_one_drops_all():
    torch.manual_seed(0)
    assert (dropout(torch.ones(MANY), 1 - 1e-12) == 0).all()


@pytest.mark.parametrize("rate", [1.0, 1.5, -0.5, float("nan")])
@pytest.mark.parametrize(
    "config",
    [
        RobertaConfig,
        partial(ClassificationHeadConfig, num_classes=2),
        RegressionHeadConfig,
        ChoiceHeadConfig,
        partial(TaggingHeadConfig, num_classes=2),
        SpanHeadConfig,
    ],
)
def test_a_rate_that_is_no_chance_is_refused(config, rate):
    with pytest.raises(ConfigError, match=rf"dropout is {rate}; it must lie in \[0, 1\)"):
        config(dropout=rate)


def by_torch(count, p=0.5):
    torch.manual_seed(0)
    return F.dropout(torch.ones(count), p)


@pytest.mark.parametrize(
    ("count", "serial", "is_torchs"), [(MANY, True, False), (MANY - 1, True, True), (MANY, False, True)]
)
def test_small_masks_are_torchs_and_all_where_it_draws_in_parallel(count, serial, is_torchs, monkeypatch):
    monkeypatch.setattr(dropout_module, "torch_draws_one_by_one", lambda: serial)
    torch.manual_seed(0)
    assert torch.equal(dropout(torch.ones(count), 0.5), by_torch(count)) == is_torchs


@pytest.mark.parametrize("draws", [lambda x: len(x), lambda x: 1])
def test_it_is_told_how_torch_draws(draws, monkeypatch):
    """One draw whatever the size is how it looks with MKL; made up here."""
    monkeypatch.setattr(torch.Tensor, "bernoulli_", lambda x, p, generator: torch.rand(draws(x), generator=generator))
    assert draws_one_by_one() == (draws(torch.ones(3)) == 3)


def test_a_compiled_model_has_torchs_own_dropout():
    torch.manual_seed(0)
    compiled = torch.compile(lambda x: dropout(x, 0.5), backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(MANY)), by_torch(MANY))


def test_masks_of_a_cpu_are_drawn_on_it_whatever_the_default_device():
    x = torch.ones(MANY)
    with torch.device("meta"):
        assert 0 < (dropout(x, 0.5) == 0).sum() < MANY
