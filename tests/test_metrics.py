"""The figures against scikit-learn and scipy, against literals, and where they are undefined."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from roberta.metrics import (
    METRICS,
    accuracy,
    confusion_matrix,
    exact_match,
    f1,
    is_at_chance,
    macro_f1,
    matthews,
    micro_f1,
    pearson,
    ranks,
    spearman,
    wilson_interval,
)


def drawn_classes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and targets of a random size, number of classes and agreement."""
    rng = np.random.default_rng(seed)
    size, num_classes = rng.integers(1, 200), rng.integers(2, 6)
    targets = rng.integers(num_classes, size=size)
    return np.where(rng.random(size) < rng.random(), targets, rng.integers(num_classes, size=size)), targets


def drawn_numbers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return correlated numbers, half of the time rounded so that there are ties."""
    rng = np.random.default_rng(seed)
    targets = rng.uniform(0, 5, size=rng.integers(5, 200))
    predictions = targets * rng.uniform(-1, 1) + rng.normal(size=len(targets))
    return (np.round(predictions), np.round(targets)) if seed % 2 else (predictions, targets)


@pytest.mark.parametrize("seed", range(60))
def test_figures_of_classes_equal_scikit_learns(seed):
    predictions, targets = drawn_classes(seed)
    assert accuracy(predictions, targets) == sklearn.metrics.accuracy_score(targets, predictions)
    is_one = {"y_true": targets == 1, "y_pred": predictions == 1}
    assert f1(predictions, targets) == pytest.approx(sklearn.metrics.f1_score(**is_one, zero_division=0.0), abs=1e-14)
    expected = sklearn.metrics.f1_score(targets, predictions, average="macro", zero_division=0.0)
    assert macro_f1(predictions, targets) == pytest.approx(expected, abs=1e-14)
    if len(np.union1d(targets, predictions)) > 1:  # of a single class scikit-learn warns
        expected = sklearn.metrics.matthews_corrcoef(targets, predictions)
        assert matthews(predictions, targets) == pytest.approx(expected, abs=1e-12)
    expected = sklearn.metrics.confusion_matrix(targets, predictions, labels=range(7))
    assert confusion_matrix(predictions, targets, 7).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(60))
def test_correlations_equal_scipys(seed):
    predictions, targets = drawn_numbers(seed)
    assert ranks(targets).tolist() == scipy.stats.rankdata(targets).tolist()
    assert pearson(predictions, targets) == pytest.approx(
        scipy.stats.pearsonr(predictions, targets).statistic, abs=1e-12
    )
    assert spearman(predictions, targets) == pytest.approx(
        scipy.stats.spearmanr(predictions, targets).statistic, abs=1e-12
    )


@pytest.mark.parametrize("seed", range(30))
def test_figures_of_several_labels_equal_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    targets = rng.random((rng.integers(1, 50), rng.integers(2, 6))) < rng.random()
    predictions = targets ^ (rng.random(targets.shape) < 0.2)
    expected = sklearn.metrics.f1_score(targets, predictions, average="micro", zero_division=0.0)
    assert micro_f1(predictions, targets) == pytest.approx(expected, abs=1e-14)
    assert exact_match(predictions, targets) == sklearn.metrics.accuracy_score(targets, predictions)


def test_figures_worked_by_hand():
    predictions, targets = np.array([1, 1, 1, 0, 0, 0]), np.array([1, 1, 0, 1, 0, 0])
    assert confusion_matrix(predictions, targets).tolist() == [[2, 1], [1, 2]]
    assert accuracy(predictions, targets) == 4 / 6
    assert f1(predictions, targets) == 2 / 3
    assert f1(predictions, targets, positive=0) == 2 / 3
    assert matthews(predictions, targets) == pytest.approx(1 / 3)
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])) == pytest.approx(0.5)
    assert pearson(np.array([1.0, 2.0, 3.0]), np.array([-1.0, -2.0, -3.0])) == pytest.approx(-1)


def test_f1_is_that_of_the_positive_class_alone():
    predictions, targets = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    assert f1(predictions, targets) == 0
    assert f1(predictions, targets, positive=0) == pytest.approx(6 / 7)
    assert macro_f1(predictions, targets) == pytest.approx(3 / 7)


@pytest.mark.parametrize("one_class", [0, 1])
def test_matthews_of_constant_predictions_or_targets_is_0(one_class):
    constant, varied = np.full(4, one_class), np.array([0, 1, 0, 1])
    assert matthews(constant, varied) == matthews(varied, constant) == matthews(constant, constant) == 0.0


@pytest.mark.parametrize("value", [0.0, 0.1, 1e300])
def test_correlations_with_a_constant_are_0(value):
    constant, varied = np.full(3, value), np.array([0.1, 0.2, 0.4])
    for correlation in (pearson, spearman):
        assert correlation(constant, varied) == correlation(varied, constant) == 0.0


def test_correlations_of_float32_and_of_huge_numbers_do_not_overflow():
    numbers = np.array([1e30, 2e30, 4e30], dtype=np.float32)
    assert pearson(numbers, np.array([1.0, 2.0, 4.0])) == pytest.approx(1, abs=1e-6)
    assert pearson(np.array([1e300, 2e300, 4e300]), np.array([1e-300, 2e-300, 4e-300])) == pytest.approx(1)


def test_f1_of_a_class_that_is_nowhere_is_0():
    nowhere = np.array([0, 0])
    assert f1(nowhere, nowhere) == 0.0
    assert micro_f1(np.zeros((2, 3), dtype=bool), np.zeros((2, 3), dtype=bool)) == 0.0


def test_large_counts_do_not_overflow():
    targets = np.repeat([0, 1], 1_000_000)
    predictions = np.concatenate([targets[:-1], [0]])
    assert matthews(predictions, targets) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("correct", "total"), [(0, 1), (1, 1), (0, 20), (5, 9), (886, 1000), (9815, 9815)])
def test_the_wilson_interval_equals_scipys(correct, total):
    expected = scipy.stats.binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(correct, total) == pytest.approx((expected.low, expected.high), abs=1e-12)
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= correct / total <= high <= 1


@pytest.mark.parametrize(("chance", "total"), [(0.5, 10), (0.625, 60), (1 / 3, 9815)])
def test_an_accuracy_at_chance_is_within_two_standard_errors_of_it(chance, total):
    guesses = np.random.default_rng(0).binomial(total, chance, size=10_000) / total
    share = np.mean([is_at_chance(accuracy, chance, total) for accuracy in guesses.tolist()])
    assert share == pytest.approx(scipy.stats.norm.cdf(2), abs=0.02)
    assert is_at_chance(0.0, chance, total)
    assert not is_at_chance(1.0, chance, total)


def test_the_table_names_every_metric_by_its_function():
    assert all(METRICS[name].__name__ == name for name in METRICS)


def test_predictions_and_targets_of_different_sizes_are_a_mistake_of_the_caller():
    with pytest.raises(AssertionError, match="predictions"):
        accuracy(np.array([1, 2]), np.array([1]))
    with pytest.raises(AssertionError, match="no examples"):
        accuracy(np.array([]), np.array([]))
