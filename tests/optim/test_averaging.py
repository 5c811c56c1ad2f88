"""The average of weights over the updates, against its formula in float64."""

import pytest
import torch
from torch import nn

from roberta.optim.averaging import WeightAverage


@pytest.fixture
def parameters() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {"weight": nn.Parameter(torch.randn(3, 2)), "bias": nn.Parameter(torch.randn(3))}


@pytest.mark.parametrize("decay", [0.2, 0.9, 0.9999])
def test_the_average_follows_its_formula(parameters, decay):
    average = WeightAverage(parameters.items(), decay)
    expected = {name: parameter.detach().double() for name, parameter in parameters.items()}
    for update in range(1, 30):
        used = min(decay, (1 + update) / (10 + update))
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter += torch.randn_like(parameter)
                expected[name] = used * expected[name] + (1 - used) * parameter.double()
        average.update(update)
    for name, value in expected.items():
        torch.testing.assert_close(average.values[name].double(), value, atol=1e-5, rtol=1e-5)


def test_applied_it_stands_in_the_place_of_the_weights_and_then_no_longer(parameters):
    average = WeightAverage(parameters.items(), 0.5)
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += 1.0
    current = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def inside() -> None:
        with average.applied():
            assert all(torch.equal(parameter, start[name]) for name, parameter in parameters.items())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inside()
    assert all(torch.equal(parameter, current[name]) for name, parameter in parameters.items())
    assert all(torch.equal(value, start[name]) for name, value in average.values.items())


def test_it_keeps_no_graph_and_shares_no_memory(parameters):
    average = WeightAverage(parameters.items(), 0.5)
    assert not any(value.requires_grad for value in average.values.values())
    with torch.no_grad():
        parameters["bias"].zero_()
    assert average.values["bias"].any()
