"""The meter, with a clock that the test winds."""

import pytest
import torch

from roberta.criterions.masked_lm import MaskedLMLoss, MaskedLMLossConfig
from roberta.meter import Meter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_rates_count_real_tokens_and_leave_pauses_out():
    clock = Clock()
    meter = Meter(clock)
    with meter.data_wait():
        clock.now += 1.0
    clock.now += 3.0
    meter.add({"loss": torch.tensor(6.0)}, num_targets=2, num_tokens=100)
    meter.add({"loss": torch.tensor(4.0)}, num_targets=3, num_tokens=60)
    with meter.paused():
        clock.now += 50.0
    record = meter.read(MaskedLMLoss(MaskedLMLossConfig(), "lm"))
    assert record["tokens_per_s"] == pytest.approx(160 / 4)
    assert record["data_wait"] == pytest.approx(0.25)
    assert record["nats"] == pytest.approx(2.0)
    assert record["num_targets"] == 5
    clock.now += 2.0
    meter.add({"loss": torch.tensor(1.0)}, num_targets=1, num_tokens=10)
    assert meter.read(MaskedLMLoss(MaskedLMLossConfig(), "lm"))["tokens_per_s"] == pytest.approx(5.0)


def test_training_seconds_go_on_over_readings_and_leave_pauses_out():
    clock = Clock()
    meter = Meter(clock)
    clock.now += 2.0
    assert meter.training_seconds() == pytest.approx(2.0)
    with meter.paused():
        clock.now += 50.0
    clock.now += 1.0
    meter.add({"loss": torch.tensor(1.0)}, num_targets=1, num_tokens=10)
    meter.read(MaskedLMLoss(MaskedLMLossConfig(), "lm"))
    clock.now += 4.0
    assert meter.training_seconds() == pytest.approx(5.0)


def test_what_was_before_the_beginning_is_no_training():
    clock = Clock()
    meter = Meter(clock)
    clock.now += 50.0
    meter.begin()
    clock.now += 2.0
    meter.add({"loss": torch.tensor(1.0)}, num_targets=1, num_tokens=10)
    assert meter.training_seconds() == pytest.approx(2.0)
    assert meter.read(MaskedLMLoss(MaskedLMLossConfig(), "lm"))["tokens_per_s"] == pytest.approx(5.0)
