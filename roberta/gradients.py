"""The gradients of a run: scaled, clipped, and checked, so that numbers that are not finite end in no checkpoint."""

import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from roberta.checkpoint import native
from roberta.distributed import whole
from roberta.errors import TrainingError, listed
from roberta.optim.scaling import LossScale
from roberta.recipe import TrainerConfig
from roberta.timetable import Position

logger = logging.getLogger(__name__)

_HOPELESS = 25  # updates in a row that had to be skipped; a loss scale for fp16 is found within twenty


class Gradients:
    """What becomes of the gradient of each update, and the norms since the last log record with their samples.

    A norm stays on its device until it is read, so that training does not wait for it. With a loss scale, or where
    updates may be skipped, it is read at once.

    rank: that of this process, whose samples the messages name.
    """

    def __init__(self, config: TrainerConfig, rank: int) -> None:
        self.loss_scale = LossScale() if config.precision == "fp16" else None
        self._config = config
        self._rank = rank
        self._norms: list[tuple[Tensor, tuple[int, ...]]] = []
        self._skipped_in_a_row = 0

    def weight(self, num_targets: float) -> float:
        """Return by what the summed loss of an update is to be multiplied before `backward`.

        That makes it the mean over the targets; but in fp16, where the gradients of a mean over many would vanish, the
        sum is scaled, and `take` makes the mean of it.
        """
        return 1.0 / num_targets if self.loss_scale is None else self.loss_scale.scale

    def take(
        self,
        parameters: Iterable[nn.Parameter],
        sample_ids: tuple[int, ...],
        position: Position,
        *,
        num_targets: float,
    ) -> bool:
        """Scale back and clip the gradients of the update after `position`; return whether they are fit for it.

        An update that is not fit is counted there as skipped. num_targets: those of all ranks, as for `weight`.

        Raises:
            TrainingError: too many updates in a row are not fit.
        """
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        if self.loss_scale is not None:
            torch._foreach_mul_(gradients, 1.0 / (self.loss_scale.scale * num_targets))
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        if self._config.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(trained, self._config.clip_norm, norm)
        self._norms.append((norm, sample_ids))
        return self._is_fit(norm, sample_ids, position)

    def check(self, num_updates: int) -> None:
        """Check the gradients since the last log record, up to update `num_updates`; this waits for the device.

        Raises:
            TrainingError: one of them is not finite.
        """
        for update, (norm, sample_ids) in enumerate(self._norms, start=num_updates - len(self._norms) + 1):
            if not math.isfinite(norm.item()):
                raise TrainingError(f"{self._described(norm, update, sample_ids)}: {self._way_out}")

    def read(self, num_updates: int) -> float | None:
        """Check as `check` does, return the last norm, None if all updates were skipped, and begin anew."""
        self.check(num_updates)
        norm = self._norms[-1][0].item() if self._norms else None
        self._norms.clear()
        return norm

    def check_weights(self, weights: Iterable[Tensor], num_updates: int) -> None:
        """Check the gradients as `check` does, and then the weights after update `num_updates`.

        Raises:
            TrainingError: one of them is not finite.
        """
        self.check(num_updates)
        if any(not torch.isfinite(tensor).all() for tensor in weights):
            raise TrainingError(
                f"weights are not finite after update {num_updates}; they were not saved: {self._way_out}"
            )

    def state(self) -> dict[str, Any] | None:
        """Return the state of the loss scale, None without one."""
        return None if self.loss_scale is None else dataclasses.asdict(self.loss_scale)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the loss scale of `state`, in fp16."""
        if self.loss_scale is not None:
            self.loss_scale = LossScale(**state)

    def _is_fit(self, norm: Tensor, sample_ids: tuple[int, ...], position: Position) -> bool:
        """Return whether a gradient is fit for its update; asking waits for the device, so it is done where it must."""
        if self._config.nonfinite == "stop" and self.loss_scale is None:
            return True
        is_finite = math.isfinite(norm.item())
        if self.loss_scale is not None:
            self.loss_scale.update(is_finite=is_finite)
        self._skipped_in_a_row = 0 if is_finite else self._skipped_in_a_row + 1
        if not is_finite:
            self._norms.pop()
            position.num_skipped += 1
            found = self._described(norm, position.num_updates + 1, sample_ids)
            if self._skipped_in_a_row >= _HOPELESS:
                raise TrainingError(f"{found}, as in the {_HOPELESS - 1} updates before: {self._way_out}")
            logger.warning("%s: skipped", found)
        return is_finite

    def _described(self, norm: Tensor, update: int, sample_ids: tuple[int, ...]) -> str:
        return f"gradient norm {norm.item()} at update {update}, on samples {listed(sample_ids)} of rank {self._rank}"

    @property
    def _way_out(self) -> str:
        """What to do about numbers that are not finite."""
        folders = native.steps(self._config.save_dir)
        start = f"start again from {folders[-1]}, its newest checkpoint," if folders else "start again"
        skip = "" if self._config.nonfinite == "skip" else " or --nonfinite skip"
        return f"{start} in another --save-dir with a lower --lr, more --warmup-updates, --clip-norm{skip}"
