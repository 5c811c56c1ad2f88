"""The loss of choosing among options: cross-entropy over the scores of a question's options.

Shapes: Q questions, B sequences, one for each option of each question.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roberta.errors import ConfigError
from roberta.layout import NO_TARGET, Batch
from roberta.registry import CRITERIONS


@dataclass(frozen=True)
class SentenceRankingLossConfig:
    """Options of the sentence-ranking loss; it has none."""

    def check_fits(self, head: Any) -> None:
        """Refuse the config of a head that doesn't score sequences.

        Raises:
            ConfigError: the head has not one output for a sequence.
        """
        if head.rows != "first" or getattr(head, "num_outputs", None) != 1:
            raise ConfigError(f"this loss is for heads with one output for a sequence, not {type(head).__name__}")


@CRITERIONS.register("sentence_ranking", SentenceRankingLossConfig)
class SentenceRankingLoss:
    """Sum of the negative log-likelihoods of the right options.

    Targets are the indices of these: (Q,); -1 is a question whose answer is not told, which counts for nothing.
    """

    def __init__(self, config: SentenceRankingLossConfig, head: str) -> None:
        self.config = config
        self.head = head

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss summed over the batch's questions, and the sums to log."""
        return self.loss(self.outputs(model, batch), batch)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the score of each option: (B, 1)."""
        if batch.groups is None:
            raise ConfigError(
                "this criterion is for tasks that choose; leave out --criterion, or give that of the task"
            )
        scores: Tensor = model(batch.tokens, batch.layout, self.head, batch.select)
        return scores

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the summed loss of scores (B, 1), and the sums to log: `loss` and `correct`."""
        assert batch.groups is not None, "a batch of questions says how many options each has"
        scores = batch.groups.pad(outputs.float().squeeze(1), -torch.inf)  # (Q, most options)
        loss = F.cross_entropy(scores, batch.targets, ignore_index=NO_TARGET, reduction="sum")
        return loss, {"loss": loss.detach(), "correct": (scores.argmax(dim=1) == batch.targets).sum()}

    def metrics(self, sums: Mapping[str, float], num_targets: int) -> dict[str, float]:
        """Return the mean loss in nats and the accuracy, of questions with an answer; 0 where there are none."""
        count = max(num_targets, 1)
        return {"loss": sums["loss"] / count, "accuracy": sums["correct"] / count}
