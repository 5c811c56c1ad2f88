"""What a task is: it says what an example is, and which head it trains. Nothing else.

Batching, shuffling, sharding and resuming need only `sizes`; models and optimizers do not appear here.

Shapes: N samples, K outputs of a head.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roberta.data.batching import order
from roberta.data.tokenizer import Tokenizer
from roberta.layout import Batch

TEST = "test"  # the split whose answers may be secret


@dataclass(frozen=True)
class Prediction:
    """What a model says about an example, beside what is right."""

    id: str
    source: str  # file and line
    text: str
    answer: str | float | None  # the right one, None if not told
    prediction: str | float
    probabilities: dict[str, float] | None  # of the likeliest answers; None where the answer is a number
    error: float | None  # how wrong it is: -log of the probability of what is right, or the distance to it


class Samples(ABC):
    """The samples of one split."""

    sizes: NDArray[np.int64]  # (N,) tokens of each sample
    metric: str = "loss"  # the figure of a validation that tells which checkpoint is the best
    maximise: bool = False  # whether the best is the one with the highest
    chance: float | None = None  # the accuracy of guessing, where the training accuracy can be compared with it

    @property
    def max_seqlen(self) -> int:
        """The tokens of the longest sequence; a sample is one, where it is not said otherwise."""
        return int(self.sizes.max(initial=0))

    @abstractmethod
    def batch(self, sample_ids: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Return these samples packed, as they are in this epoch of a run with this seed."""

    def score(self, outputs: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the figures that need the outputs of the head for all samples; `metric` is among them.

        outputs: for each sample (rows, K), as many rows as `Batch.rows_per_sample` says. Asked for only where `metric`
        is not the loss.
        """
        raise NotImplementedError

    def counts(self) -> dict[str, int]:
        """Return how many samples were cut and the like, for a report."""
        return {}

    def groups(self, outputs: Sequence[NDArray[np.float32]]) -> dict[str, dict[str, float]]:
        """Return the figures of each group that is told apart, such as a type of entity; outputs as `score` takes."""
        return {}

    def predictions(self, outputs: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """Return what the outputs of the head, as `score` takes them, say about each example, for people to read.

        Asked for only where a class has it (`has_predictions`).
        """
        raise NotImplementedError

    @property
    def has_predictions(self) -> bool:
        """Whether outputs of the head can be told as predictions."""
        return type(self).predictions is not Samples.predictions

    def write_predictions(self, folder: Path, outputs: Sequence[NDArray[np.float32]]) -> None:
        """Write the predictions to a folder in the forms that scorers of this data take, where there are such."""
        return

    def order(self, *, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the samples of an epoch in the order in which they are trained on."""
        return order(len(self), seed=seed, epoch=epoch)

    def __len__(self) -> int:
        return len(self.sizes)


class Task(ABC):
    """A source of samples for one kind of training, and the head that learns from them.

    It is built from its config and the tokenizer of the model that training starts from, or None where it starts anew.
    """

    tokenizer: Tokenizer
    head: str  # the name of the head that is trained

    @abstractmethod
    def head_config(self, model_config: Any) -> Any:
        """Return the config of the head that is trained on a model of this config."""

    def test_splits(self) -> tuple[str, ...]:
        """Return the splits that there are beside `train` and `valid`, to be predicted after training."""
        return ()

    @abstractmethod
    def samples(self, split: str) -> Samples:
        """Return the samples of a split such as `train` or `valid`."""
