"""The losses of finding what a pronoun stands for: the mean log-probability of the right candidate beats the others.

Shapes: Q questions, B sequences, one for each candidate, M masked rows, V vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roberta.config import option
from roberta.errors import ConfigError
from roberta.layout import NO_TARGET, Batch, SequenceLayout
from roberta.models.heads import MaskedLMHeadConfig
from roberta.registry import CRITERIONS


@dataclass(frozen=True)
class WSCLossConfig:
    """Options of the loss over candidates."""

    wsc_cross_entropy: bool = option(False, help="cross-entropy over the candidates instead of the margin loss")
    wsc_margin_alpha: float = option(1.0, help="margin loss: weight of the candidates that come too near")
    wsc_margin_beta: float = option(0.0, help="margin loss: how much better the right candidate must be, in nats")

    def __post_init__(self) -> None:
        if not 0 <= self.wsc_margin_alpha < math.inf:
            raise ConfigError(f"--wsc-margin-alpha is {self.wsc_margin_alpha}; it must be at least 0")
        if not math.isfinite(self.wsc_margin_beta):
            raise ConfigError(f"--wsc-margin-beta is {self.wsc_margin_beta}; it must be finite")

    def check_fits(self, head: Any) -> None:
        """Refuse the config of a head that predicts no tokens.

        Raises:
            ConfigError: it is another one than that of a masked-LM head.
        """
        if not isinstance(head, MaskedLMHeadConfig):
            raise ConfigError(f"pronouns are judged by heads that predict tokens, not by {type(head).__name__}")


@CRITERIONS.register("wsc", WSCLossConfig)
class WSCLoss:
    """Cross-entropy over the candidates' scores; or -q + alpha * max(0, c - q + beta), summed over wrong candidates.

    q is the score of the right candidate, c that of a wrong one (arXiv:1905.06290, arXiv:1907.10641). Targets are
    (Q + M,): the right candidate of each question, -1 where none is known to be right, which counts for nothing; then
    the token of each masked row.
    """

    def __init__(self, config: WSCLossConfig, head: str) -> None:
        self.config = config
        self.head = head

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss summed over the batch's questions, and the sums to log."""
        return self.loss(self.outputs(model, batch), batch)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the score of each candidate, the mean log-probability of its tokens: (B, 1)."""
        if batch.groups is None:
            raise ConfigError("the criterion wsc is for the task wsc; leave out --criterion, or give that of the task")
        assert batch.select is not None, "a batch of pronouns says which rows are masked"
        tokens = batch.targets[batch.groups.num_sequences :]
        return candidate_scores(model, self.head, batch.tokens, batch.layout, batch.select, tokens).unsqueeze(1)

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the summed loss of scores (B, 1), and the sums to log: `loss` and `correct`."""
        assert batch.groups is not None, "a batch of pronouns says how many candidates each has"
        answers = batch.targets[: batch.groups.num_sequences]
        scores = batch.groups.pad(outputs.float().squeeze(1), -torch.inf)  # (Q, most candidates)
        if self.config.wsc_cross_entropy:
            loss = F.cross_entropy(scores, answers, ignore_index=NO_TARGET, reduction="sum")
        else:
            loss = self._margin(scores, answers, batch.groups.is_token)
        return loss, {"loss": loss.detach(), "correct": (scores.argmax(dim=1) == answers).sum()}

    def metrics(self, sums: Mapping[str, float], num_targets: int) -> dict[str, float]:
        """Return the mean loss and the accuracy, of questions with a right candidate; 0 where there are none."""
        count = max(num_targets, 1)
        return {"loss": sums["loss"] / count, "accuracy": sums["correct"] / count}

    def _margin(self, scores: Tensor, answers: Tensor, is_candidate: Tensor) -> Tensor:
        right = scores.gather(1, answers.clamp(min=0).unsqueeze(1))  # (Q, 1)
        columns = torch.arange(scores.shape[1], device=scores.device)
        is_wrong = is_candidate & (columns != answers.unsqueeze(1)) & (answers != NO_TARGET).unsqueeze(1)
        excess = (scores - right + self.config.wsc_margin_beta).clamp(min=0)  # (Q, most candidates)
        return torch.where(is_wrong, self.config.wsc_margin_alpha * excess - right, 0).sum()


def candidate_scores(
    model: nn.Module, head: str, tokens: Tensor, layout: SequenceLayout, select: Tensor, targets: Tensor
) -> Tensor:
    """Return the mean log-probability, in nats, of the tokens `targets` (M,) at each sequence's masked rows: (B,).

    select: (M,) int64, at least one row of each sequence.
    """
    logits = model(tokens, layout, head, select)  # (M, V)
    values = -F.cross_entropy(logits.float(), targets, reduction="none")  # (M,)
    sequences = layout.sequence_ids[select]
    zeros = values.new_zeros(layout.num_sequences)
    sums = zeros.index_add(0, sequences, values)
    return sums / zeros.index_add(0, sequences, torch.ones_like(values))  # (B,)
