"""The loss of sentence classification and regression, with an optional smoothing of the function that is learnt.

Shapes: B samples, K outputs of the head.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roberta.config import option
from roberta.distributed import drops_layers_together
from roberta.errors import ConfigError
from roberta.layout import Batch
from roberta.models.heads import ClassificationHeadConfig, RegressionHeadConfig
from roberta.registry import CRITERIONS


@dataclass(frozen=True)
class SentencePredictionLossConfig:
    """Options of the sentence-prediction loss."""

    class_weights: tuple[float, ...] | None = option(
        None, help="weight of each class in the loss, in the order of the labels; equal where not given"
    )
    r3f_lambda: float = option(0.0, help="weight of R3F: how like the outputs of a noised input must be; 0 is off")
    r3f_noise: Literal["uniform", "normal"] = option("uniform", help="R3F: distribution of the noise")
    r3f_eps: float = option(1e-5, help="R3F: bound (uniform) or standard deviation (normal) of the noise")

    def __post_init__(self) -> None:
        for name in ("r3f_lambda", "r3f_eps"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 0")
        if self.class_weights is not None and not all(0.0 <= weight < math.inf for weight in self.class_weights):
            raise ConfigError(f"--class-weights are {self.class_weights}; none may be below 0")

    def check_fits(self, head: Any) -> None:
        """Refuse the config of a head that tells neither classes nor numbers, or that the options do not fit.

        Raises:
            ConfigError: it is of another kind, there is not one weight for each class, or an option is for classes and
                the head's are numbers.
        """
        if not isinstance(head, ClassificationHeadConfig | RegressionHeadConfig):
            raise ConfigError(f"this loss is for heads that tell classes or a number, not {type(head).__name__}")
        if isinstance(head, RegressionHeadConfig):
            if self.class_weights is not None:
                raise ConfigError("--class-weights are for classes, and the labels are numbers; leave them out")
            if self.r3f_lambda:
                raise ConfigError("--r3f-lambda compares distributions over classes; leave it out for this data")
        elif self.r3f_lambda and head.multi_label:
            raise ConfigError(
                "--r3f-lambda compares distributions, and several of these classes may hold; leave it out"
            )
        elif self.class_weights is not None and len(self.class_weights) != head.num_classes:
            names = f": {', '.join(head.labels)}" if head.labels else ""
            raise ConfigError(
                f"--class-weights has {len(self.class_weights)} numbers for {head.num_classes} classes; give one each, "
                f"in the order of the labels{names}"
            )


@CRITERIONS.register("sentence_prediction", SentencePredictionLossConfig)
class SentencePredictionLoss:
    """What is lost depends on the targets: cross-entropy of classes, squared error of values, binary ones of several.

    Targets are (B,) int64 classes, (B,) floats, or (B, K) floats that are 1 where a class holds and else 0. Several
    classes at once count as one target: their K cross-entropies are summed.
    """

    def __init__(self, config: SentencePredictionLossConfig, head: str) -> None:
        self.config = config
        self.head = head

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss summed over the batch's targets, and the sums to log."""
        logits = self.outputs(model, batch)
        loss, sums = self.loss(logits, batch)
        if self.config.r3f_lambda and model.training:
            loss = loss + self.config.r3f_lambda * self._divergence(model, batch, logits)
        return loss, sums

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the outputs of the head: (B, K)."""
        logits: Tensor = model(batch.tokens, batch.layout, self.head, batch.select)
        return logits

    def loss(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the summed loss of outputs (B, K), and the sums to log: `loss`, and of single classes `correct`."""
        outputs, targets = outputs.float(), batch.targets
        if targets.is_floating_point():
            if targets.ndim == 2:
                loss = F.binary_cross_entropy_with_logits(outputs, targets, self._weights(outputs), reduction="sum")
            else:
                loss = F.mse_loss(outputs.squeeze(1), targets, reduction="sum")
            return loss, {"loss": loss.detach()}
        loss = F.cross_entropy(outputs, targets, self._weights(outputs), reduction="sum")
        return loss, {"loss": loss.detach(), "correct": (outputs.argmax(dim=1) == targets).sum()}

    def metrics(self, sums: Mapping[str, float], num_targets: int) -> dict[str, float]:
        """Return the mean loss (nats, or squared error on the scale 0 to 1), and the accuracy of single classes."""
        accuracy = {"accuracy": sums["correct"] / num_targets} if "correct" in sums else {}
        return {"loss": sums["loss"] / num_targets, **accuracy}

    def _weights(self, outputs: Tensor) -> Tensor | None:
        weights = self.config.class_weights
        return None if weights is None else outputs.new_tensor(weights)

    def _divergence(self, model: nn.Module, batch: Batch, logits: Tensor) -> Tensor:
        """Return the symmetric KL divergence to the outputs of noised embeddings, summed (arXiv:2008.03156)."""
        if drops_layers_together(model):
            raise ConfigError(
                "--r3f-lambda computes each batch twice, and several processes can't drop other layers each time; "
                "leave it out, or add --encoder-layerdrop 0"
            )
        noised = model(batch.tokens, batch.layout, self.head, batch.select, perturb=self._noised)
        p, q = logits.float().log_softmax(dim=1), noised.float().log_softmax(dim=1)
        return ((p.exp() - q.exp()) * (p - q)).sum()

    def _noised(self, embeddings: Tensor) -> Tensor:
        noise = torch.empty_like(embeddings)
        if self.config.r3f_noise == "uniform":
            return embeddings + noise.uniform_(-self.config.r3f_eps, self.config.r3f_eps)
        return embeddings + noise.normal_(std=self.config.r3f_eps)
