"""Languages in other proportions than they are there: small ones oftener, large ones less often.

A language with share p of the samples gets a share in proportion to p^alpha (arXiv:1901.07291 section 3.1): alpha 1
leaves it, alpha 0 makes all equal. An epoch has as many samples as there are, up to rounding.

A sample that is seen several times in an epoch has as many indices, so that each time it is masked anew. How often the
samples of one language are seen in an epoch differs by one at most.

Shapes: L languages.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roberta.randomness import generator


@dataclass(frozen=True)
class Resampling:
    """How often an epoch goes through the samples of each language."""

    counts: NDArray[np.int64]  # (L,) samples that there are
    quotas: NDArray[np.int64]  # (L,) samples of an epoch

    @classmethod
    def of(cls, counts: NDArray[np.int64], alpha: float) -> "Resampling":
        """Return the resampling of languages with that many samples; each that has any keeps at least one."""
        if not counts.any():
            return cls(counts, counts)
        weights = np.where(counts > 0, (counts / counts.sum()) ** alpha, 0.0)
        quotas = np.rint(weights / weights.sum() * counts.sum()).astype(np.int64)
        return cls(counts, np.maximum(quotas, np.minimum(counts, 1)))

    @property
    def copies(self) -> NDArray[np.int64]:
        """Return how many indices each sample of a language has: (L,)."""
        return -(-self.quotas // np.maximum(self.counts, 1))

    def originals(self) -> NDArray[np.int64]:
        """Return the sample that each index stands for: language by language, copy by copy."""
        starts = np.cumsum(self.counts) - self.counts
        languages = zip(starts.tolist(), self.counts.tolist(), self.copies.tolist(), strict=True)
        return np.concatenate([np.tile(np.arange(start, start + count), copies) for start, count, copies in languages])

    def indices(self, *, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the indices of an epoch, language by language: all copies but the last one, and a part of that."""
        offset, parts = 0, []
        for language, (count, quota, copies) in enumerate(
            zip(self.counts.tolist(), self.quotas.tolist(), self.copies.tolist(), strict=True)
        ):
            whole = quota // count * count if count else 0
            rest = generator(seed, "languages", epoch, language).permutation(count)[: quota - whole]
            parts += [offset + np.arange(whole), offset + whole + np.sort(rest)]
            offset += count * copies
        return np.concatenate(parts)
