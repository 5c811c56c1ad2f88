"""Progress for people: a tqdm bar on stderr."""

import sys
from typing import Any

from tqdm.auto import tqdm


def progress_bar(
    *, desc: str, unit: str, total: float | None = None, initial: float = 0, scale: bool = False, enabled: bool = True
) -> Any:
    """Return a tqdm bar on stderr; it stays silent where stderr is not a terminal."""
    return tqdm(
        desc=desc,
        unit=unit,
        total=total,
        initial=initial,
        unit_scale=scale,
        file=sys.stderr,
        disable=None if enabled else True,
        dynamic_ncols=True,
    )
