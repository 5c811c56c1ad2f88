"""What a task is: it says what an example is, and which head it trains. Nothing else.

Batching, shuffling, sharding and resuming need only `sizes`; models and optimizers do not appear here.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roberta.data.tokenizer import Tokenizer
from roberta.layout import Batch


class Samples(ABC):
    """The samples of one split."""

    sizes: NDArray[np.int64]  # (N,) tokens of each sample

    @abstractmethod
    def batch(self, sample_ids: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Return these samples packed, as they are in this epoch of a run with this seed."""

    def __len__(self) -> int:
        return len(self.sizes)


class Task(ABC):
    """A source of samples for one kind of training, and the head that learns from them."""

    tokenizer: Tokenizer
    head: str  # the name of the head that is trained

    @abstractmethod
    def head_config(self, model: Any) -> Any:
        """Return the config of the head that is trained on a model of this config."""

    @abstractmethod
    def samples(self, split: str) -> Samples:
        """Return the samples of a split such as `train` or `valid`."""
