"""The loss scale of fp16 training: small gradients would vanish in fp16, so the loss is multiplied before backward.

As in fairseq it is that of a loss summed over targets.
"""

from dataclasses import dataclass

from roberta.errors import TrainingError

_GROWTH_INTERVAL = 2**14  # clean updates before the scale doubles (fairseq's window on one device)
_SMALLEST = 1e-4


@dataclass
class LossScale:
    """A power of two that halves where a gradient overflows, and doubles after a long time without."""

    scale: float = 128.0
    clean_updates: int = 0

    def update(self, *, is_finite: bool) -> None:
        """Take note of an update's gradient.

        Raises:
            TrainingError: gradients overflow however small the scale is.
        """
        if is_finite:
            self.clean_updates += 1
            if self.clean_updates == _GROWTH_INTERVAL:
                self.scale, self.clean_updates = 2.0 * self.scale, 0
            return
        self.scale, self.clean_updates = 0.5 * self.scale, 0
        if self.scale < _SMALLEST:
            raise TrainingError(
                f"gradients overflow even with a loss scale of {self.scale:g}: the run diverges; start again with a "
                "lower --lr, more --warmup-updates or --clip-norm, or train in bf16"
            )
