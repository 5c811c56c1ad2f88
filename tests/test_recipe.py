"""Recipes: which options a run can be resumed with."""

from pathlib import Path
from typing import Any

import pytest

from roberta.criterions.masked_lm import MaskedLMLossConfig
from roberta.errors import ConfigError
from roberta.models.roberta import RobertaConfig
from roberta.optim.adam import AdamConfig
from roberta.optim.schedules import PolynomialDecayConfig
from roberta.recipe import Recipe, TrainerConfig
from roberta.tasks.masked_lm import MaskedLMTaskConfig

SOURCE = "run/step_0000003"


def make_recipe(optimizer: AdamConfig | None = None, **trainer: Any) -> Recipe:
    return Recipe(
        task=MaskedLMTaskConfig(data=Path("data")),
        model=RobertaConfig(),
        criterion=MaskedLMLossConfig(),
        optimizer=optimizer or AdamConfig(),
        lr_scheduler=PolynomialDecayConfig(lr=1e-3),
        trainer=TrainerConfig(save_dir=Path("run"), max_update=3, batch_size=8, **trainer),
    )


def without(saved: dict[str, Any], part: str, name: str) -> dict[str, Any]:
    """Return options as a version without one of them saved them."""
    return {**saved, part: {key: value for key, value in saved[part].items() if key != name}}


@pytest.mark.parametrize(
    ("part", "name"),
    [("trainer", "nonfinite"), ("trainer", "freeze"), ("optimizer", "adam_betas"), ("lr_scheduler", "power")],
)
def test_an_option_that_is_newer_than_a_checkpoint_had_its_default(part, name):
    recipe = make_recipe()
    saved = recipe.to_json()
    assert name in saved[part]
    recipe.check_resumes(without(saved, part, name), SOURCE)


def test_an_option_that_is_newer_than_a_checkpoint_and_not_at_its_default_is_a_difference():
    recipe = make_recipe(AdamConfig(adam_betas=(0.9, 0.999)), nonfinite="skip")
    saved = without(without(recipe.to_json(), "trainer", "nonfinite"), "optimizer", "adam_betas")
    with pytest.raises(ConfigError) as refused:
        recipe.check_resumes(saved, SOURCE)
    assert "optimizer --adam-betas was [0.9, 0.98], is [0.9, 0.999]; trainer --nonfinite was stop, is skip" in str(
        refused.value
    )


def test_the_share_held_out_may_differ_where_the_data_does_not():
    """As where the data was binarised since, or had been before, when the share said nothing."""
    ours = make_recipe()
    saved = ours.to_json()
    saved["task"]["valid_fraction"] = 0.2
    ours.check_resumes(saved, "run")


def test_the_same_data_may_be_elsewhere():
    """It has a fingerprint."""
    saved = make_recipe().to_json()
    saved["task"] |= {"vocab": "bin0", "valid_data": "v.txt"}
    make_recipe().check_resumes(saved, SOURCE)


def test_another_model_to_begin_from_says_nothing_when_a_run_goes_on(caplog):
    recipe = make_recipe(init_from="b").continuing({"trainer": {"init_from": "a"}})
    assert recipe.trainer.init_from == "a"
    assert "the run began from a; b has no effect any more" in caplog.text
    caplog.clear()
    for given in (None, "a"):
        make_recipe(init_from=given).continuing({"trainer": {"init_from": "a"}})
    assert not caplog.text


@pytest.mark.parametrize("option", ["batch_size", "max_tokens"])
def test_batches_have_a_size_that_can_be_counted(option):
    with pytest.raises(
        ConfigError, match=f"--{option.replace('_', '-')} is 1000000000000000000000; it must lie between"
    ):
        TrainerConfig(save_dir=Path("run"), max_update=3, **({"batch_size": 8} | {option: 10**21}))
