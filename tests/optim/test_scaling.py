"""The loss scale of fp16: when it halves, when it doubles, when it gives up."""

import pytest

from roberta.errors import TrainingError
from roberta.optim.scaling import LossScale


def test_the_scale_halves_at_each_overflow():
    scale = LossScale()
    assert scale.scale == 128.0
    for _ in range(3):
        scale.update(is_finite=False)
    assert scale.scale == 16.0


def test_the_scale_doubles_after_a_long_time_without_overflow():
    scale = LossScale()
    for _ in range(2**14 - 1):
        scale.update(is_finite=True)
    assert (scale.scale, scale.clean_updates) == (128.0, 2**14 - 1)
    scale.update(is_finite=True)
    assert (scale.scale, scale.clean_updates) == (256.0, 0)


def test_an_overflow_makes_the_time_begin_anew():
    scale = LossScale(scale=4.0, clean_updates=2**14 - 1)
    scale.update(is_finite=False)
    scale.update(is_finite=True)
    assert (scale.scale, scale.clean_updates) == (2.0, 1)


def test_a_scale_that_has_to_vanish_ends_the_run():
    scale = LossScale(scale=1.5e-4)
    with pytest.raises(TrainingError, match="overflow even with a loss scale of 7.5e-05: .* lower --lr"):
        scale.update(is_finite=False)
