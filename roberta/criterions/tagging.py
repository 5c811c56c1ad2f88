"""The loss of labelling words: cross-entropy at the first token of each.

Shapes: T packed tokens, K outputs of the head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from roberta.errors import ConfigError
from roberta.layout import NO_TARGET, Batch
from roberta.models.heads import TaggingHeadConfig
from roberta.registry import CRITERIONS


@dataclass(frozen=True)
class TaggingLossConfig:
    """Options of the tagging loss; it has none."""

    def check_fits(self, head: Any) -> None:
        """Refuse the config of a head that labels no tokens.

        Raises:
            ConfigError: it is another one than that of a tagging head.
        """
        if not isinstance(head, TaggingHeadConfig):
            raise ConfigError(f"the tagging loss is for heads that label tokens, not for {type(head).__name__}")


@CRITERIONS.register("tagging", TaggingLossConfig)
class TaggingLoss:
    """Sum over words of the cross-entropy of their labels; targets are (T,) classes, NO_TARGET where no word begins."""

    def __init__(self, config: TaggingLossConfig, head: str) -> None:
        self.config = config
        self.head = head

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss summed over the batch's words, and the sums to log."""
        return self.loss(self.outputs(model, batch), batch)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the outputs of the head for all tokens: (T, K)."""
        outputs: Tensor = model(batch.tokens, batch.layout, self.head, batch.select)
        return outputs

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the summed loss of outputs (T, K), and the sums to log; `correct` counts words."""
        loss = F.cross_entropy(outputs.float(), batch.targets, ignore_index=NO_TARGET, reduction="sum")
        return loss, {"loss": loss.detach(), "correct": (outputs.argmax(dim=1) == batch.targets).sum()}

    def metrics(self, sums: Mapping[str, float], num_targets: int) -> dict[str, float]:
        """Return the mean loss of a word in nats, and how many words are right; 0 where no label is told."""
        num_targets = max(num_targets, 1)
        return {"loss": sums["loss"] / num_targets, "accuracy": sums["correct"] / num_targets}
