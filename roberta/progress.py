"""Progress for people: a tqdm bar on stderr, or a line now and then where stderr is no terminal, and short numbers."""

import logging
import sys
from typing import Any, TextIO

LINE_SECONDS = 30.0  # between lines, and before the first one

_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} gone, {remaining} left, {rate_fmt}"
_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt} {unit}, {elapsed} gone, {rate_fmt}"


def progress_bar(
    *,
    desc: str,
    unit: str,
    total: float | None = None,
    initial: float = 0,
    scale: bool = False,
    enabled: bool = True,
    lines: bool = False,
) -> Any:
    """Return a tqdm bar on stderr.

    Where stderr is no terminal it is silent; with `lines` it then writes a line every `LINE_SECONDS`, so that the log
    of a long job tells how far it is. Where the level of the package's logger lets no warnings through, it is silent.
    """
    from tqdm.auto import tqdm  # imports asyncio: 60 ms that --help can do without

    is_wanted = enabled and logging.getLogger(__package__).isEnabledFor(logging.WARNING)
    options: dict[str, Any] = {
        "desc": desc,
        "unit": unit,
        "total": total,
        "initial": initial,
        "unit_scale": scale,
    }
    bar = tqdm(**options, file=sys.stderr, disable=None if is_wanted else True, dynamic_ncols=True)
    if not (bar.disable and is_wanted and lines):
        return bar
    from tqdm import std

    return std.tqdm(
        **options,
        file=_Lines(sys.stderr),
        bar_format=_LINE_WITHOUT_TOTAL if total is None else _LINE,
        ascii=True,
        delay=LINE_SECONDS,
        mininterval=LINE_SECONDS,
        maxinterval=2 * LINE_SECONDS,
    )


class _Lines:
    """A stream that makes a line of each state of a bar, which begins with a carriage return."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write what a bar shows as a line; what only moves the cursor, not at all."""
        if text.strip():
            self._stream.write(f"{text.strip()}\n")

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


def in_millions(count: int) -> str:
    """Return a number of parameters in millions, to a tenth of one or four digits.

    >>> in_millions(124_696_665), in_millions(17_890)
    ('124.7', '0.01789')
    """
    millions = count / 1e6
    return f"{millions:,.1f}" if millions >= 1 else f"{millions:.4g}"
