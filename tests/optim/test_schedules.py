"""Learning-rate schedules."""

import json

import pytest

from roberta.errors import ConfigError
from roberta.optim.schedules import PolynomialDecayConfig, polynomial_decay


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


def test_rates_equal_fairseqs_table(shared):
    options = {
        "--lr": ("lr", float),
        "--warmup-updates": ("warmup_updates", int),
        "--total-num-update": ("total_num_update", int),
        "--end-learning-rate": ("end_learning_rate", float),
        "--power": ("power", float),
    }
    checked = 0
    for table in json.loads((shared / "golden/losses/lr_schedules.json").read_text()):
        arguments = dict(zip(table["args"][::2], table["args"][1::2], strict=True))
        if arguments.pop("--lr-scheduler") != "polynomial_decay":
            continue
        config = PolynomialDecayConfig(**{options[flag][0]: options[flag][1](text) for flag, text in arguments.items()})
        lr = polynomial_decay(config, 10**9)
        rates = table["lr_used_by_update_(index+1)"]
        assert [lr(n) for n in range(len(rates))] == pytest.approx(rates, rel=1e-12, abs=1e-18)
        checked += 1
    assert checked >= 2
