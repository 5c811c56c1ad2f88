from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roberta.data.resampling import Resampling

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6)


def resampled(counts: list[int], alpha: float) -> Resampling:
    return Resampling.of(np.array(counts), alpha)


def seen(resampling: Resampling, epoch: int) -> Counter:
    """Return how often an epoch goes through each sample."""
    indices = resampling.indices(seed=1, epoch=epoch)
    return Counter(resampling.originals()[indices].tolist())


@pytest.mark.parametrize(
    ("counts", "alpha", "quotas"),
    [
        ([900, 100], 1.0, [900, 100]),
        ([900, 100], 0.0, [500, 500]),
        ([900, 100], 0.5, [750, 250]),  # 30 : 10
        ([640, 270, 90], 2.0, [835, 149, 17]),  # 4096 : 729 : 81
        ([999, 1, 0], 5.0, [1000, 1, 0]),
        ([0, 0], 0.5, [0, 0]),
    ],
)
def test_shares_are_those_of_the_formula(counts, alpha, quotas):
    assert resampled(counts, alpha).quotas.tolist() == quotas


@given(counts=COUNTS, alpha=st.floats(0, 3), epoch=st.integers(1, 5))
def test_an_epoch_goes_through_a_language_as_often_as_its_quota_says_and_evenly(counts, alpha, epoch):
    resampling = resampled(counts, alpha)
    indices = resampling.indices(seed=1, epoch=epoch)
    assert len(set(indices.tolist())) == len(indices) == resampling.quotas.sum()
    assert len(resampling.originals()) >= indices.max(initial=-1) + 1
    times, start = seen(resampling, epoch), 0
    for count, quota in zip(counts, resampling.quotas.tolist(), strict=True):
        of_language = [times[sample] for sample in range(start, start + count)]
        assert sum(of_language) == quota
        assert max(of_language, default=0) - min(of_language, default=0) <= 1
        start += count


def test_with_alpha_1_every_sample_is_seen_once():
    resampling = resampled([5, 0, 3], 1.0)
    assert resampling.indices(seed=1, epoch=1).tolist() == list(range(8)) == resampling.originals().tolist()


def test_the_part_that_is_left_out_changes_with_epoch_and_seed():
    resampling = resampled([90, 10], 0.0)
    assert np.array_equal(resampling.indices(seed=1, epoch=1), resampling.indices(seed=1, epoch=1))
    assert seen(resampling, 1) != seen(resampling, 2)
    assert not np.array_equal(resampling.indices(seed=1, epoch=1), resampling.indices(seed=2, epoch=1))
