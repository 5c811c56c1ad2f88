"""The loss of finding a span: cross-entropy of its first and of its last token over the rows that may be either.

Shapes: B sequences, T packed tokens, S longest sequence, K outputs of the head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roberta.errors import ConfigError
from roberta.layout import Batch
from roberta.models.heads import SpanHeadConfig
from roberta.registry import CRITERIONS


@dataclass(frozen=True)
class SpanLossConfig:
    """Options of the span loss; it has none."""

    def check_fits(self, head: Any) -> None:
        """Refuse the config of a head that finds no spans.

        Raises:
            ConfigError: it is another one than that of a span head.
        """
        if not isinstance(head, SpanHeadConfig):
            raise ConfigError(f"the span loss is for heads that find spans, not for {type(head).__name__}")


@CRITERIONS.register("span", SpanLossConfig)
class SpanLoss:
    """Sum over sequences of the mean of both cross-entropies, and of the answerability's loss if the head tells it.

    Targets are (B, 3) rows of each sequence: the first and the last one of the span, both 0, `<s>`, if it has none; and
    the first row that may be in a span. The span ends before the `</s>` at the end. A third output of the head is
    trained to tell whether there is a span, from the row of `<s>` (arXiv:1907.11692 section 5.2).
    """

    def __init__(self, config: SpanLossConfig, head: str) -> None:
        self.config = config
        self.head = head

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss summed over the batch's sequences, and the sums to log."""
        return self.loss(self.outputs(model, batch), batch)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the outputs of the head for all tokens: (T, K)."""
        outputs: Tensor = model(batch.tokens, batch.layout, self.head, batch.select)
        return outputs

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the summed loss of outputs (T, K), and the sums to log; `correct` counts spans that win."""
        outputs, rows = outputs.float(), batch.targets[:, :2]
        allowed = _may_be_answers(batch).unsqueeze(1)  # (T, 1)
        scores = batch.layout.pad(outputs[:, :2].masked_fill(~allowed, -torch.inf), -torch.inf)  # (B, S, 2)
        loss = F.cross_entropy(scores, rows, reduction="sum") / 2
        sums = {"correct": (scores.argmax(dim=1) == rows).all(dim=1).sum()}
        if outputs.shape[1] > 2:
            sums["span_loss"] = loss.detach()
            logits, has_span = outputs[batch.layout.first, 2], (rows[:, 0] > 0).float()  # (B,)
            answerability = F.binary_cross_entropy_with_logits(logits, has_span, reduction="sum")
            sums["answerability_loss"] = answerability.detach()
            loss = loss + answerability
        return loss, {"loss": loss.detach(), **sums}

    def metrics(self, sums: Mapping[str, float], num_targets: int) -> dict[str, float]:
        """Return the mean losses of a sequence in nats, and how many of the spans are right on both ends."""
        means = {name: value / num_targets for name, value in sums.items()}
        return {"span_accuracy" if name == "correct" else name: value for name, value in means.items()}


def _may_be_answers(batch: Batch) -> Tensor:
    """Return which tokens may be ends of a span: those of the passage, and `<s>`, which stands for none: (T,) bool."""
    layout = batch.layout
    first_row, last_row = batch.targets[:, 2], layout.cu_seqlens.diff() - 2  # (B,)
    positions, sequences = layout.positions, layout.sequence_ids  # (T,)
    return (positions == 0) | ((positions >= first_row[sequences]) & (positions <= last_row[sequences]))
