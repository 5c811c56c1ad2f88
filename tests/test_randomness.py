"""Keyed randomness."""

import numpy as np
import torch

from roberta.randomness import generator, hashed, seed_torch, stream_key, uniform


def test_the_same_key_gives_the_same_draw_and_others_differ():
    assert generator(1, "order", 2).random() == generator(1, "order", 2).random()
    keys = [stream_key(*key) for key in [(1, "a"), (2, "a"), (1, "b"), (1, "a", 0), (1, "a", 1), (1, "a", 0, 1)]]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)


def test_torchs_draws_are_those_of_its_own_way_to_seed():
    torch.manual_seed(stream_key(1, "dropout"))
    expected = torch.rand(5)
    torch.rand(3)
    seed_torch(stream_key(1, "dropout"), torch.device("cpu"))
    assert torch.equal(torch.rand(5), expected)


def test_a_hashed_number_depends_on_its_row_and_column_alone():
    rows, columns = np.divmod(np.arange(12), 4)
    whole = hashed(5, rows, columns)
    assert np.array_equal(whole[6:8], hashed(5, rows[6:8], columns[6:8]))
    assert len(set(whole.tolist())) == 12


def test_uniform_numbers_are_uniform():
    rows, columns = np.divmod(np.arange(200_000), 512)
    draws = uniform(hashed(stream_key(1, "test"), rows, columns))
    assert 0 <= draws.min() < draws.max() < 1
    counts = np.histogram(draws, bins=50, range=(0, 1))[0]
    chi_square = ((counts - 4000) ** 2 / 4000).sum()
    assert chi_square < 100  # 49 degrees of freedom: 5 sigma
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / np.sqrt(200_000)
    assert abs(np.corrcoef(draws[:-512], draws[512:])[0, 1]) < 5 / np.sqrt(200_000)
