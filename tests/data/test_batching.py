import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roberta.data.batching import Epochs, batches, order, updates
from roberta.errors import ConfigError, DataError

SIZES = st.lists(st.integers(0, 20), max_size=50)


@given(num_samples=st.integers(0, 200), seed=st.integers(0, 2**31), epoch=st.integers(1, 50))
def test_an_order_holds_every_index_once(num_samples, seed, epoch):
    assert sorted(order(num_samples, seed, epoch).tolist()) == list(range(num_samples))


def test_an_order_depends_on_seed_and_epoch_alone():
    assert np.array_equal(order(100, 7, 1), order(100, 7, 1))
    assert not np.array_equal(order(100, 7, 1), order(100, 7, 2))
    assert not np.array_equal(order(100, 7, 1), order(100, 8, 1))


def test_an_order_stays_what_it_was_in_earlier_versions():
    assert order(8, 1, 1).tolist() == [5, 7, 3, 2, 6, 0, 4, 1]


@given(sizes=SIZES, batch_size=st.none() | st.integers(1, 8), max_tokens=st.none() | st.integers(20, 60))
def test_batches_hold_every_sample_once_and_as_many_as_the_limits_allow(sizes, batch_size, max_tokens):
    if batch_size is None and max_tokens is None:
        return
    offsets = batches(np.array(sizes, dtype=np.int32), batch_size=batch_size, max_tokens=max_tokens)
    assert offsets.dtype == np.int64
    assert offsets[0] == 0
    assert offsets[-1] == len(sizes)

    def fits(start: int, end: int) -> bool:
        within_size = batch_size is None or end - start <= batch_size
        return within_size and (max_tokens is None or sum(sizes[start:end]) <= max_tokens)

    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        assert start < end
        assert fits(start, end)
        assert end == len(sizes) or not fits(start, end + 1)


def test_the_tail_is_kept():
    assert batches(np.full(7, 3), batch_size=3).tolist() == [0, 3, 6, 7]
    assert batches(np.full(7, 3), max_tokens=9).tolist() == [0, 3, 6, 7]


@pytest.mark.parametrize("limits", [{"batch_size": 3}, {"max_tokens": 3}])
def test_no_samples_make_no_batches(limits):
    assert batches(np.empty(0, dtype=np.int32), **limits).tolist() == [0]


def test_a_sample_larger_than_max_tokens_is_refused():
    with pytest.raises(DataError, match="a sample has 10 tokens; --max-tokens allows 9"):
        batches(np.array([3, 10]), max_tokens=9)


@pytest.mark.parametrize("limits", [{}, {"batch_size": 0}, {"max_tokens": -1}, {"max_tokens": 8, "batch_size": 0}])
def test_missing_or_impossible_limits_are_refused(limits):
    with pytest.raises(ConfigError, match=r"--batch-size|--max-tokens"):
        batches(np.array([3]), **limits)


@given(
    num_batches=st.integers(0, 60),
    world_size=st.integers(1, 7),
    update_freq=st.integers(1, 4),
    start=st.integers(0, 60),
)
def test_ranks_share_every_batch_of_an_update_and_none_twice(num_batches, world_size, update_freq, start):
    ranks = [
        list(updates(num_batches, world_size=world_size, rank=rank, update_freq=update_freq, start=start))
        for rank in range(world_size)
    ]
    assert all(len({len(share) for share in update}) == 1 for update in zip(*ranks, strict=True))
    updates_ = zip(*ranks, strict=True)
    seen = [sorted(number for share in update for number in share if number is not None) for update in updates_]
    assert [number for update in seen for number in update] == list(range(start, num_batches))
    assert all(len(update) == update_freq * world_size for update in seen[:-1])


def test_ranks_take_turns_within_an_update():
    shares = [list(updates(10, world_size=3, rank=rank, update_freq=2)) for rank in range(3)]
    assert shares == [[[0, 3], [6, 9]], [[1, 4], [7, None]], [[2, 5], [8, None]]]


def test_one_process_takes_every_batch():
    assert list(updates(5, update_freq=2, start=2)) == [[2, 3], [4]]


def test_an_epoch_resumed_by_half_the_ranks_goes_through_the_same_batches():
    def sequence(world_size: int, update_freq: int, start: int, end: int) -> list[int]:
        ranks = [
            list(updates(end, world_size=world_size, rank=rank, update_freq=update_freq, start=start))
            for rank in range(world_size)
        ]
        return [
            number
            for update in zip(*ranks, strict=True)
            for k in range(update_freq)
            for number in (share[k] for share in update if k < len(share))
            if number is not None
        ]

    assert sequence(8, 1, 0, 40) + sequence(4, 2, 40, 90) == sequence(8, 1, 0, 90) == list(range(90))


def epochs_of(num_samples: int, *update_freq: int, world_size: int = 1, rank: int = 0) -> Epochs:
    return Epochs(
        sizes=np.full(num_samples, 3),
        order=lambda epoch: order(num_samples, 1, epoch),
        batch_size=2,
        max_tokens=None,
        update_freq=update_freq,
        world_size=world_size,
        rank=rank,
    )


@pytest.mark.parametrize("update_freq", [(1,), (3,), (1, 2, 5)])
@pytest.mark.parametrize("num_samples", [1, 2, 9, 20])
def test_an_epoch_has_as_many_updates_as_it_says_from_wherever_it_starts(num_samples, update_freq):
    epochs = epochs_of(num_samples, *update_freq, world_size=2)
    for epoch in (1, 2, 3, 7):
        done = list(epochs.updates(epoch))
        assert epochs.num_updates(epoch) == len(done)
        assert [is_last for _, is_last, _ in done] == [False] * (len(done) - 1) + [True]
        for number, (after, _, _) in enumerate(done, start=1):
            assert epochs.num_updates(epoch, after) == len(done) - number
            assert [start for start, _, _ in epochs.updates(epoch, after)] == [start for start, _, _ in done[number:]]


def test_processes_see_the_samples_of_an_epoch_in_its_order():
    ranks = [epochs_of(9, 2, world_size=2, rank=rank) for rank in range(2)]
    seen = []
    for (after, _, mine), (same, _, others) in zip(*(epochs.updates(2) for epochs in ranks), strict=True):
        assert after == same
        seen += [ids for pair in zip(mine, others, strict=True) for ids in pair if ids is not None]
    assert np.concatenate(seen).tolist() == order(9, 1, 2).tolist()


def test_a_run_ends_at_the_smaller_of_its_limits():
    epochs = epochs_of(9, 1, 2)  # of 5 batches: 5, 3, 3, ... updates
    assert epochs.total_updates(max_update=100, max_epoch=None) == 100
    assert epochs.total_updates(max_update=None, max_epoch=3) == 11
    assert epochs.total_updates(max_update=10, max_epoch=3) == 10
    assert epochs.total_updates(max_update=None, max_epoch=3, epoch=2, start=4) == 1 + 3
    assert epochs.total_updates(max_update=None, max_epoch=3, epoch=3, start=5) == 0
    assert epochs.total_updates(max_update=None, max_epoch=3, epoch=4) == 0
