"""Learning-rate schedules."""

import json
import math

import pytest

from roberta.errors import ConfigError
from roberta.optim.schedules import (
    CosineConfig,
    FixedConfig,
    InverseSqrtConfig,
    PolynomialDecayConfig,
    WarmupStableDecayConfig,
    cosine,
    fixed,
    inverse_sqrt,
    polynomial_decay,
    warmup_stable_decay,
)
from roberta.registry import SCHEDULES


def test_the_rate_rises_to_the_peak_and_falls_to_the_end():
    lr = polynomial_decay(PolynomialDecayConfig(lr=1.0, warmup_updates=4, end_learning_rate=0.2), 12)
    assert [lr(n) for n in (0, 1, 4, 8, 12, 100)] == pytest.approx([0.0, 0.25, 1.0, 0.6, 0.2, 0.2])


def test_without_warmup_the_first_update_has_the_peak_rate():
    assert polynomial_decay(PolynomialDecayConfig(lr=0.5), 10)(0) == 0.5


def test_power_bends_the_decay():
    assert polynomial_decay(PolynomialDecayConfig(lr=1.0, power=2.0), 10)(5) == pytest.approx(0.25)


def test_a_warmup_longer_than_the_schedule_is_refused():
    with pytest.raises(ConfigError, match="--warmup-updates 20 is more than the 10 updates"):
        polynomial_decay(PolynomialDecayConfig(warmup_updates=20), 10)


def test_a_warmup_as_long_as_the_schedule_reaches_the_peak():
    lr = polynomial_decay(PolynomialDecayConfig(lr=1.0, warmup_updates=4), 4)
    assert [lr(n) for n in (3, 4, 5)] == [0.75, 0.0, 0.0]


def test_cosine_falls_to_its_minimum_and_stays():
    lr = cosine(CosineConfig(lr=1.0, warmup_updates=2, min_lr=0.2), 10)
    assert [lr(n) for n in (0, 1, 2, 6, 10, 50)] == pytest.approx([0.0, 0.5, 1.0, 0.6, 0.2, 0.2])


def test_inverse_sqrt_halves_at_four_times_the_warmup():
    lr = inverse_sqrt(InverseSqrtConfig(lr=1.0, warmup_updates=10, warmup_init_lr=0.5), 0)
    assert [lr(n) for n in (0, 5, 10, 40)] == pytest.approx([0.5, 0.75, 1.0, 0.5])


def test_inverse_sqrt_needs_a_warmup():
    with pytest.raises(ConfigError, match="give --warmup-updates"):
        inverse_sqrt(InverseSqrtConfig(), 10)


@pytest.mark.parametrize(
    ("config", "options", "said"),
    [
        (CosineConfig, {"min_lr": -1.0}, "--min-lr is -1.0; it must lie between 0 and --lr 0.5"),
        (CosineConfig, {"min_lr": 1.0}, "--min-lr is 1.0"),
        (CosineConfig, {"min_lr": math.nan}, "--min-lr is nan"),
        (InverseSqrtConfig, {"warmup_init_lr": -1.0}, "--warmup-init-lr is -1.0; it must be at least 0"),
        (InverseSqrtConfig, {"warmup_init_lr": math.inf}, "--warmup-init-lr is inf"),
        (PolynomialDecayConfig, {"end_learning_rate": 0.6}, "--end-learning-rate is 0.6"),
        (FixedConfig, {"warmup_ratio": 1.5}, "--warmup-ratio is 1.5"),
        (PolynomialDecayConfig, {"total_num_update": 0}, "--total-num-update is 0; it must be at least 1"),
        (CosineConfig, {"total_num_update": -5}, "--total-num-update is -5"),
        (FixedConfig, {"warmup_ratio": 0.5, "warmup_updates": 3}, "contradict each other"),
    ],
)
def test_rates_that_make_no_sense_are_refused(config, options, said):
    with pytest.raises(ConfigError, match=said):
        config(lr=0.5, **options)


def test_a_fixed_rate_stays():
    lr = fixed(FixedConfig(lr=1.0, warmup_updates=2), 10)
    assert [lr(n) for n in (0, 1, 2, 1000)] == [0.0, 0.5, 1.0, 1.0]


def test_wsd_is_stable_and_decays_at_the_end():
    lr = warmup_stable_decay(WarmupStableDecayConfig(lr=1.0, warmup_updates=2, decay_updates=4), 10)
    assert [lr(n) for n in (1, 2, 6, 8, 10, 11)] == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0, 0.0])


def test_wsd_must_fit_into_the_run():
    with pytest.raises(ConfigError, match="do not fit into the 10 updates"):
        warmup_stable_decay(WarmupStableDecayConfig(warmup_updates=7, decay_updates=4), 10)


OPTIONS = {
    "--lr": ("lr", float),
    "--warmup-updates": ("warmup_updates", int),
    "--total-num-update": ("total_num_update", int),
    "--end-learning-rate": ("end_learning_rate", float),
    "--power": ("power", float),
    "--warmup-init-lr": ("warmup_init_lr", float),
}


@pytest.mark.parametrize("name", ["polynomial_decay", "inverse_sqrt"])
def test_rates_equal_fairseqs_table(shared, name):
    tables = json.loads((shared / "golden/losses/lr_schedules.json").read_text())
    compared = 0
    for table in tables:
        arguments = dict(zip(table["args"][::2], table["args"][1::2], strict=True))
        if arguments.pop("--lr-scheduler") != name:
            continue
        options = {OPTIONS[flag][0]: OPTIONS[flag][1](text) for flag, text in arguments.items()}
        lr = SCHEDULES.build(SCHEDULES.config_class(name)(**options), 10**9)
        rates = table["lr_used_by_update_(index+1)"]
        assert [lr(n) for n in range(len(rates))] == pytest.approx(rates, rel=1e-12, abs=1e-18)
        compared += 1
    assert compared >= 1
