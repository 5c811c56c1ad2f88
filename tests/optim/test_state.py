"""What a checkpoint keeps of an optimizer: all of it comes back, and what is not that of the run is refused."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roberta.errors import CheckpointError
from roberta.optim.adam import AdamConfig, AdamWConfig
from roberta.optim.averaging import WeightAverage
from roberta.optim.muon import MuonConfig
from roberta.optim.state import gather, group_options, restore
from roberta.registry import OPTIMIZERS


class Model(nn.Module):
    """A matrix with the name of one of a layer, one that has a gradient at times, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([nn.Linear(3, 2)])
        self.rare = nn.Linear(2, 1)
        self.frozen = nn.Linear(2, 1).requires_grad_(False)

    def forward(self, *, rare: bool) -> Tensor:
        (layer,) = self.encoder.layers
        rows = layer(torch.ones(1, 3))
        return (self.rare(rows) if rare else rows).sum()


class Training:
    """A model, its optimizer and its average, as many steps on."""

    def __init__(self, config: Any, *, steps: int = 0, rare: bool = True, averaged: bool = False) -> None:
        torch.manual_seed(steps)
        self.model = Model()
        self.optimizer = OPTIMIZERS.build(config, self.model.named_parameters())
        self.average = WeightAverage(self.model.named_parameters(), 0.9) if averaged else None
        for _ in range(steps):
            self.step(rare=rare)

    def step(self, *, rare: bool) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = 0.1
        self.model(rare=rare).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(1)

    def saved(self) -> dict[str, Any]:
        return {
            "weights": copy.deepcopy(self.model.state_dict()),
            "tensors": copy.deepcopy(gather(self.model, self.optimizer, self.average)),
            "groups": copy.deepcopy(group_options(self.optimizer)),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        restore(self.model, self.optimizer, self.average, source="run/step_0000001", **saved)


@pytest.mark.parametrize("config", [AdamConfig(), AdamWConfig(), MuonConfig()])
@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize(("steps", "rare"), [(0, True), (2, False), (2, True)])
def test_what_was_saved_comes_back_and_goes_on_bit_for_bit(config, averaged, steps, rare):
    """Also without any step yet, and without a gradient yet of some parameters."""
    first = Training(config, steps=steps, rare=rare, averaged=averaged)
    second = Training(config, averaged=averaged)
    second.restore(first.saved())
    for _ in range(2):
        first.step(rare=True)
        second.step(rare=True)
    ours, theirs = first.saved(), second.saved()
    assert ours["groups"] == theirs["groups"]
    for kind in ("weights", "tensors"):
        assert ours[kind].keys() == theirs[kind].keys()
        assert all(torch.equal(tensor, theirs[kind][name]) for name, tensor in ours[kind].items())


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (AdamConfig(), "exp_avg.rare.weight"),
        (AdamConfig(), "step.encoder.layers.0.bias"),
        (AdamConfig(), "average.frozen.bias"),
        (MuonConfig(), "momentum_buffer.encoder.layers.0.weight"),
    ],
)
@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_what_is_missing_unknown_or_of_another_shape_is_refused_by_name(config, name, change):
    saved = Training(config, steps=2, averaged=True).saved()
    tensors = saved["tensors"]
    if change == "missing":
        said = "state instead of" if config == MuonConfig() else f"{name} is missing"
        del tensors[name]
    elif change == "unknown":
        said = f"{name}s is unknown"
        tensors[f"{name}s"] = tensors[name]
    else:
        said = rf"{name} has the shape \(7,\) instead of \("
        tensors[name] = torch.zeros(7)
    with pytest.raises(CheckpointError, match=said):
        Training(config, averaged=True).restore(saved)


def test_all_state_of_a_parameter_that_had_some_is_missed():
    saved = Training(AdamConfig(), steps=2).saved()
    saved["tensors"] = {name: value for name, value in saved["tensors"].items() if "rare.bias" not in name}
    with pytest.raises(CheckpointError, match=r"of 4 parameters 3 have state instead of 4, rare\.bias have not"):
        Training(AdamConfig()).restore(saved)


@pytest.mark.parametrize("averaged", [False, True])
def test_an_average_where_there_is_none_and_none_where_there_is_one_are_refused(averaged):
    saved = Training(AdamConfig(), steps=2, averaged=not averaged).saved()
    with pytest.raises(CheckpointError, match=f"average.frozen.bias is {'missing' if averaged else 'unknown'}"):
        Training(AdamConfig(), averaged=averaged).restore(saved)


def test_the_state_of_a_frozen_parameter_is_unknown():
    saved = Training(AdamConfig(), steps=2).saved()
    saved["tensors"]["exp_avg.frozen.bias"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"exp_avg\.frozen\.bias is unknown"):
        Training(AdamConfig()).restore(saved)


def test_weights_and_groups_of_another_model_are_refused():
    saved = Training(AdamConfig(), steps=2).saved()
    saved["weights"]["rare.weight"] = torch.zeros(1, 1)
    saved["groups"].append({})
    with pytest.raises(CheckpointError) as refused:
        Training(AdamConfig()).restore(saved)
    assert "rare.weight has the shape (1, 1) instead of (1, 2)" in str(refused.value)
    assert "it has 2 groups of parameters instead of 1" in str(refused.value)


def test_a_checkpoint_that_does_not_count_is_restored_as_far_as_it_goes():
    """Those of versions before the count."""
    first, second = Training(AdamConfig(), steps=2), Training(AdamConfig())
    saved = first.saved()
    for group in saved["groups"]:
        del group["num_remembered"]
    second.restore(saved)
    assert gather(second.model, second.optimizer, None).keys() == saved["tensors"].keys()


def test_an_error_lists_no_more_than_can_be_read():
    saved = Training(AdamConfig(), steps=2).saved()
    saved["tensors"] |= {f"exp_avg.other{number}": torch.zeros(1) for number in range(20)}
    with pytest.raises(CheckpointError, match="other15 is unknown and 12 more; restore it"):
        Training(AdamConfig()).restore(saved)
