"""Paired tests: exact chances of small cases, and agreement with sacrebleu's own run."""

from itertools import product

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import PairedTest

from roberta.errors import ConfigError
from roberta.text_metrics.parallel import parallel
from roberta.text_metrics.significance import SignificanceConfig, mean_p_value, surface_p_value
from roberta.text_metrics.surface import SurfaceConfig

TESTS = ("bootstrap", "randomisation")
REFERENCES = [f"the {noun} was {verb} in the {place}" for noun in "ab" for verb in "cd" for place in "efg"]
SYSTEM = [line.replace("was", "is") for line in REFERENCES[:6]] + REFERENCES[6:]
BASELINE = [line.replace("the", "an") for line in REFERENCES]


@pytest.mark.parametrize("test", TESTS)
def test_equal_systems_have_chance_one(test):
    config = SignificanceConfig(test=test, num_samples=50)
    assert mean_p_value([0.1, 0.7, 0.3], [0.1, 0.7, 0.3], config) == 1.0
    assert surface_p_value("chrf", parallel(SYSTEM, [REFERENCES]), SYSTEM, SurfaceConfig(), config) == 1.0


@pytest.mark.parametrize("test", TESTS)
def test_a_difference_at_every_line_is_no_chance_and_one_at_a_single_line_may_be(test):
    config = SignificanceConfig(test=test, num_samples=999)
    rng = np.random.default_rng(0)
    figures = rng.random(30)
    assert mean_p_value(figures + 0.3 + 0.01 * rng.random(30), figures, config) == pytest.approx(0.001)
    single = figures.copy()
    single[7] += 0.3
    assert mean_p_value(single, figures, config) > 0.05


def test_randomisation_approaches_the_exact_chance_over_all_swaps():
    differences = np.array([0.3, -0.1, 0.2, 0.25, 0.05, -0.02, 0.11, 0.4])
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=8)]
    exact = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    config = SignificanceConfig(test="randomisation", num_samples=20_000)
    assert mean_p_value(differences, np.zeros(8), config) == pytest.approx(exact, abs=0.006)  # 3 standard errors


def test_bootstrap_approaches_the_exact_chance_over_all_resamples():
    differences = np.array([0.3, -0.1, 0.2, 0.25, -0.05])
    means = np.array([abs(np.mean(picked)) for picked in product(differences, repeat=5)])
    exact = np.mean(means - means.mean() >= abs(differences.mean()))
    config = SignificanceConfig(num_samples=20_000)
    assert mean_p_value(differences, np.zeros(5), config) == pytest.approx(exact, abs=0.006)


@pytest.mark.parametrize("test", TESTS)
def test_the_same_seed_gives_the_same_chance_and_another_another(test):
    system, baseline = np.random.default_rng(1).random((2, 40))
    config = SignificanceConfig(test=test, num_samples=500)
    assert mean_p_value(system, baseline, config) == mean_p_value(system, baseline, config)
    assert len({mean_p_value(system, baseline, config, seed=seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(("test", "kind"), [("bootstrap", "bs"), ("randomisation", "ar")])
@pytest.mark.parametrize("scorer", [BLEU(), CHRF(), TER()], ids=["bleu", "chrf", "ter"])
def test_chances_are_those_of_sacrebleu(test, kind, scorer):
    """Of a difference that may be chance, so far as 2,000 resamples tell."""
    rng = np.random.default_rng(3)
    words = np.array("the a cat dog sat ran on in mat sun".split())
    references = [" ".join(rng.choice(words, 12)) for _ in range(60)]
    systems = [
        [" ".join(np.where(rng.random(12) < share, rng.choice(words, 12), line.split())) for line in references]
        for share in (0.3, 0.34)
    ]
    _, scores = PairedTest([("b", systems[1]), ("s", systems[0])], {"x": scorer}, [references], kind, 2000)()
    (expected,) = (result[1].p_value for key, result in scores.items() if key != "System")
    name = {"BLEU": "bleu", "CHRF": "chrf", "TER": "ter"}[type(scorer).__name__]
    config = SignificanceConfig(test=test, num_samples=2000)
    found = surface_p_value(name, parallel(systems[0], [references]), systems[1], SurfaceConfig(), config)
    assert 0.01 < expected < 0.9
    assert found == pytest.approx(expected, abs=4 * (2 * expected * (1 - expected) / 2000) ** 0.5)


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_a_difference_in_one_line_alone_says_nothing(name):
    """A swap of that line, or of none, always makes the same difference."""
    other = [SYSTEM[0].replace("the", "that"), *SYSTEM[1:]]
    config = SignificanceConfig(test="randomisation", num_samples=200)
    assert surface_p_value(name, parallel(SYSTEM, [REFERENCES]), other, SurfaceConfig(), config) == 1.0


@pytest.mark.parametrize("test", TESTS)
def test_systems_of_one_score_have_chance_one(test):
    shouted = [line.upper() for line in SYSTEM]
    config = SignificanceConfig(test=test, num_samples=50)
    texts, surface = parallel(SYSTEM, [REFERENCES]), SurfaceConfig(lowercase=True)
    assert surface_p_value("bleu", texts, shouted, surface, config) == 1.0
    assert mean_p_value([0.1, 0.3], [0.3, 0.1], config) == 1.0


@pytest.mark.parametrize("name", ["bleu", "chrf++", "ter"])
def test_every_metric_can_be_tested(name):
    chance = surface_p_value(
        name, parallel(SYSTEM, [REFERENCES]), BASELINE, SurfaceConfig(), SignificanceConfig(num_samples=20)
    )
    assert 0 < chance < 0.2


def test_the_number_of_samples_is_that_of_the_test_if_not_given():
    assert [SignificanceConfig(test=test).samples for test in TESTS] == [1000, 10000]
    with pytest.raises(ConfigError, match="--num-samples is 0; it must be at least 1"):
        SignificanceConfig(num_samples=0)
