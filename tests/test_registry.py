"""Registries: names, config classes, errors."""

from dataclasses import dataclass

import pytest

from roberta.errors import ConfigError
from roberta.registry import BPES, CRITERIONS, HEADS, MODELS, OPTIMIZERS, SCHEDULES, TASKS, Registry


@dataclass(frozen=True)
class AppleConfig:
    weight: int = 1


@dataclass(frozen=True)
class PearConfig:
    pass


@pytest.fixture
def fruits() -> Registry:
    registry = Registry("fruit", "roberta")

    @registry.register("apple", AppleConfig)
    class Apple:
        def __init__(self, config: AppleConfig, colour: str) -> None:
            self.config, self.colour = config, colour

    return registry


def test_a_component_is_built_from_its_config(fruits):
    apple = fruits.build(AppleConfig(weight=3), "red")
    assert (apple.config.weight, apple.colour) == (3, "red")


def test_names_and_config_classes_lead_to_each_other(fruits):
    assert fruits.config_class("apple") is AppleConfig
    assert fruits.name_of(AppleConfig) == "apple"
    assert list(fruits) == ["apple"]


def test_an_unknown_name_is_refused_with_the_nearest(fruits):
    with pytest.raises(ConfigError, match="unknown fruit 'aple'; allowed: apple; did you mean apple"):
        fruits.config_class("aple")


def test_names_and_config_classes_can_not_be_taken_twice(fruits):
    with pytest.raises(ConfigError, match="registered twice"):
        fruits.register("apple", PearConfig)
    with pytest.raises(ConfigError, match="already identifies fruit 'apple'"):
        fruits.register("pear", AppleConfig)


def test_a_foreign_config_is_refused(fruits):
    with pytest.raises(ConfigError, match="PearConfig is not the config of a fruit"):
        fruits.build(PearConfig())


@pytest.mark.parametrize(
    ("registry", "names"),
    [
        (MODELS, {"roberta"}),
        (HEADS, {"classification", "masked_lm"}),
        (TASKS, {"masked_lm"}),
        (CRITERIONS, {"masked_lm"}),
        (BPES, {"gpt2"}),
        (OPTIMIZERS, {"adam"}),
        (SCHEDULES, {"polynomial_decay"}),
    ],
)
def test_the_packages_own_components_are_there_without_an_import(registry, names):
    assert names <= set(registry)
