"""The masked-LM loss: cross-entropy of the original token at every masked position (arXiv:1810.04805)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from roberta.errors import ConfigError
from roberta.layout import Batch
from roberta.models.heads import MaskedLMHeadConfig
from roberta.registry import CRITERIONS


@dataclass(frozen=True)
class MaskedLMLossConfig:
    """Options of the masked-LM loss; it has none."""

    def check_fits(self, head: Any) -> None:
        """Refuse the config of a head that predicts no tokens.

        Raises:
            ConfigError: it is another one than that of a masked-LM head.
        """
        if not isinstance(head, MaskedLMHeadConfig):
            raise ConfigError(f"the masked-LM loss is for heads that predict tokens, not for {type(head).__name__}")


@CRITERIONS.register("masked_lm", MaskedLMLossConfig)
class MaskedLMLoss:
    """Sum of the negative log-likelihoods of the targets, in nats."""

    def __init__(self, config: MaskedLMLossConfig, head: str) -> None:
        self.config = config
        self.head = head

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss summed over the batch's targets, and the sums to log (here the same)."""
        if batch.groups is not None:
            raise ConfigError("this loss is for single texts; leave out --criterion, or give that of the task")
        loss = model(batch.tokens, batch.layout, self.head, batch.select, batch.targets)
        return loss, {"loss": loss.detach()}

    def metrics(self, sums: Mapping[str, float], num_targets: int) -> dict[str, float]:
        """Return the loss per target in bits (as fairseq logs it), the same in nats, and the perplexity."""
        nats = sums["loss"] / num_targets
        return {"loss": nats / math.log(2.0), "nats": nats, "ppl": math.exp(min(nats, 700.0))}
