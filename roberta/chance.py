"""A word of warning where training has not brought the accuracy above guessing."""

import logging
from collections.abc import Mapping

from roberta.metrics import is_at_chance

logger = logging.getLogger(__name__)

_HOPEFUL = 0.25  # of a run: later, a training accuracy at chance is suspicious


class ChanceWatch:
    """Looks at log records of training, and warns once.

    chance: the accuracy of guessing, None where there is none to compare with.
    """

    def __init__(self, chance: float | None) -> None:
        self._chance = chance
        self._has_warned = False

    def look(self, record: Mapping[str, float], *, num_updates: int, last_update: int) -> None:
        """Warn if a good part of the run is over, and the accuracy of its last updates is no better than chance."""
        is_late = num_updates >= _HOPEFUL * last_update
        if self._chance is None or "accuracy" not in record or not is_late or self._has_warned:
            return
        if is_at_chance(record["accuracy"], self._chance, int(record["num_targets"])):
            self._has_warned = True
            logger.warning(
                "update %d of %d: the training accuracy of %.3f on %d targets can't be told from chance (%.3f); if it "
                "stays there, start again with another --seed, a lower --lr or a longer warm-up",
                num_updates,
                last_update,
                record["accuracy"],
                record["num_targets"],
                self._chance,
            )
