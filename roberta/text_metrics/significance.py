"""Is a system better than another, or was it luck? Paired tests over the lines of one test set.

`bootstrap` draws as many lines with replacement, again and again, and asks how often the difference strays from its
mean by as much as it was (Koehn 2004, https://aclanthology.org/W04-3250). `randomisation` swaps the two systems at
random lines, and asks how often the difference is as large by that alone (Riezler and Maxwell 2005,
https://aclanthology.org/W05-0908). Both are two-sided, for BLEU, chrF and TER as for figures that are means of lines.
They are those of sacrebleu but for changes that are exactly as large as the difference, as all are between systems that
differ in a single line: here they count, and there such a difference is highly significant.

Shapes: N lines, R resamples or trials.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from roberta.config import option
from roberta.errors import ConfigError
from roberta.randomness import generator
from roberta.text_metrics.parallel import Texts
from roberta.text_metrics.surface import SurfaceConfig, metric

Test = Literal["bootstrap", "randomisation"]

_SAMPLES: dict[Test, int] = {"bootstrap": 1000, "randomisation": 10000}
_CELLS = 2**22  # random numbers that are in memory at once
_ROUNDING = 1e-10  # so near to each other, scores are the same


@dataclass(frozen=True)
class SignificanceConfig:
    """Options of the tests between two systems."""

    test: Test = option("bootstrap", help="paired bootstrap resampling, or approximate randomisation")
    num_samples: int | None = option(
        None, help="resamples or trials; 1000 of bootstrap, 10000 of randomisation if not given"
    )

    def __post_init__(self) -> None:
        if self.num_samples is not None and self.num_samples < 1:
            raise ConfigError(f"--num-samples is {self.num_samples}; it must be at least 1")

    @property
    def samples(self) -> int:
        """How many resamples or trials to make."""
        return self.num_samples or _SAMPLES[self.test]


def surface_p_value(
    name: str,
    texts: Texts,
    baseline: Sequence[str],
    surface: SurfaceConfig,
    test: SignificanceConfig,
    *,
    seed: int = 1,
) -> float:
    """Return how likely a difference in BLEU, chrF or TER as large as that of two systems would be by chance.

    Two systems of one score have 1. The scores of resamples and trials are those of sacrebleu, from the sums of what it
    counts in each line.
    """
    scorer = metric(name, surface)
    ours, theirs = (
        np.array(scorer._extract_corpus_statistics(lines, texts.reference_sets))  # (N, K), K numbers counted
        for lines in (list(texts.hypotheses), list(baseline))
    )

    def score(sums: NDArray[Any]) -> NDArray[np.float64]:
        return np.array([scorer._compute_score_from_stats(row.tolist()).score for row in sums])

    changes = []
    for weights in _weights(len(ours), test, seed):  # (r, N)
        if test.test == "bootstrap":
            changes.append(score(weights @ ours) - score(weights @ theirs))
        else:
            is_kept = weights > 0
            changes.append(score(is_kept @ ours + ~is_kept @ theirs) - score(~is_kept @ ours + is_kept @ theirs))
    (observed,) = score(ours.sum(axis=0)[None]) - score(theirs.sum(axis=0)[None])
    return _p_value(np.concatenate(changes), observed, test)


def mean_p_value(
    system: Sequence[float], baseline: Sequence[float], test: SignificanceConfig, *, seed: int = 1
) -> float:
    """Return how likely a difference of two means as large as that of these figures would be by chance.

    system, baseline: a figure for each line. Two systems of one mean have 1.
    """
    differences = np.subtract(system, baseline)  # (N,)
    count = len(differences)
    changes = [weights @ differences / count for weights in _weights(count, test, seed)]
    return _p_value(np.concatenate(changes), differences.mean(), test)


def _weights(count: int, test: SignificanceConfig, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield, in parts, how often each resample has each line; or for each trial 1, -1 where the systems are swapped."""
    rows = max(1, _CELLS // count)
    for number, start in enumerate(range(0, test.samples, rows)):
        rng = generator(seed, f"paired {test.test}", number)
        size = min(rows, test.samples - start)
        if test.test == "bootstrap":
            yield rng.multinomial(count, np.full(count, 1 / count), size=size)
        else:
            yield rng.integers(2, size=(size, count)) * 2 - 1


def _p_value(changes: NDArray[np.float64], observed: float, test: SignificanceConfig) -> float:
    """Return the share of the changes (R,) that are as large as the observed one, which is counted among them."""
    if abs(observed) < _ROUNDING:
        return 1.0
    sizes = np.abs(changes)
    if test.test == "bootstrap":
        sizes -= sizes.mean()
    as_large = np.count_nonzero(sizes >= abs(observed) * (1 - _ROUNDING))
    return float((as_large + 1) / (len(sizes) + 1))
