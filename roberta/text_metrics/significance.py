"""Is a system better than another, or was it luck? Paired tests over the lines of one test set.

`bootstrap` draws as many lines with replacement, again and again, and asks how often the difference strays from its
mean by as much as it was (Koehn 2004, https://aclanthology.org/W04-3250). `randomisation` swaps the two systems at
random lines, and asks how often the difference is as large by that alone (Riezler and Maxwell 2005,
https://aclanthology.org/W05-0908). BLEU, chrF and TER are tested by sacrebleu; figures that are means of lines here, in
the same way. Both are two-sided.

Shapes: N lines, R resamples or trials.
"""

from collections.abc import Sequence
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

_SACREBLEU: dict[Test, str] = {"bootstrap": "bs", "randomisation": "ar"}
_SAMPLES: dict[Test, int] = {"bootstrap": 1000, "randomisation": 10000}
_CELLS = 2**22  # random numbers that are in memory at once
_ROUNDING = 1e-12  # of means: so near to each other they are the same


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
    name: str, texts: Texts, baseline: Sequence[str], surface: SurfaceConfig, test: SignificanceConfig
) -> float:
    """Return how likely a difference in BLEU, chrF or TER as large as that of two systems would be by chance.

    Two equal systems have 1.
    """
    from sacrebleu.significance import PairedTest

    if tuple(baseline) == texts.hypotheses:
        return 1.0  # sacrebleu says the opposite: no difference is as large as none
    systems: list[tuple[str, Sequence[str]]] = [("baseline", list(baseline)), ("system", list(texts.hypotheses))]
    references: Any = texts.reference_sets  # sacrebleu takes None where there is none, and does not say so in its types
    paired = PairedTest(systems, {name: metric(name, surface)}, references, _SACREBLEU[test.test], test.samples)
    _, scores = paired()
    ((_, (_, result)),) = ((key, value) for key, value in scores.items() if key != "System")
    assert not isinstance(result, str)
    assert result.p_value is not None
    return float(result.p_value)


def mean_p_value(
    system: Sequence[float], baseline: Sequence[float], test: SignificanceConfig, *, seed: int = 1
) -> float:
    """Return how likely a difference of two means as large as that of these figures would be by chance.

    system, baseline: a figure for each line. Two equal systems have 1.
    """
    differences = np.subtract(system, baseline)  # (N,)
    observed = abs(differences.mean())
    changes = np.abs(np.concatenate(_resampled(differences, test, seed)))  # (R,)
    if test.test == "bootstrap":
        changes -= changes.mean()
    as_large = np.count_nonzero(changes >= observed * (1 - _ROUNDING))
    return float((as_large + 1) / (len(changes) + 1))


def _resampled(differences: NDArray[np.float64], test: SignificanceConfig, seed: int) -> list[NDArray[np.float64]]:
    """Return the mean difference of each resample or trial, in parts."""
    count = len(differences)
    rows = max(1, _CELLS // count)
    parts = []
    for number, start in enumerate(range(0, test.samples, rows)):
        rng = generator(seed, f"paired {test.test}", number)
        shape = (min(rows, test.samples - start), count)
        if test.test == "bootstrap":
            parts.append(differences[rng.integers(count, size=shape)].mean(axis=1))
        else:
            parts.append((rng.choice((-1.0, 1.0), size=shape) * differences).mean(axis=1))
    return parts
