"""Learning curves of one or several runs, drawn from their logs with matplotlib, and confusion matrices.

The library draws into a file and needs no screen; matplotlib's global state stays as it was.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from roberta.errors import ConfigError, DataError, choices
from roberta.files import whole_file
from roberta.logs import LOG, parsed

FORMATS = (".svg", ".png", ".pdf")
UPDATE = "num_updates"
XAxis = Literal["num_updates", "tokens", "hours"]

Series = Mapping[str, NDArray[np.float64]]

_X_LABELS: Mapping[XAxis, str] = {"num_updates": "updates", "tokens": "tokens", "hours": "hours of training"}
_PANELS = {"lr": "learning rate", "tokens_per_s": "tokens/s"}
_COLOURS = (
    "#3465a4",
    "#c4473a",
    "#4c9a2a",
    "#8e5bb0",
    "#d98b1f",
    "#2a9d9d",
    "#c25a93",
    "#7a6a58",
)  # told apart in grey
_INK, _GREY, _FAINT = "#2b2b2b", "#777777", "#d8d8d8"
_TRAINING: Mapping[str, Any] = {"linewidth": 1.0, "alpha": 0.55}
_VALIDATION: Mapping[str, Any] = {
    "linewidth": 1.8,
    "marker": "o",
    "markersize": 4,
    "markerfacecolor": "white",
    "markeredgewidth": 1.4,
}
_MOST_DOTS = 40
_DPI = 160
_CELL, _MARGIN, _BAR, _WIDEST = 0.55, 1.6, 1.1, 11.0  # inches of a confusion matrix
_NAME, _SHORT_NAME = 24, 6  # characters of a class's name; those that still fit beside each other
_DARK = 0.55  # share from which numbers on it are white


@dataclass(frozen=True)
class RunLog:
    """The log of a run: of its train and of its valid records, each field as an array.

    A number is NaN where a record lacks it, and where it was not finite when it was written.
    """

    name: str
    train: Series
    valid: Series

    def x(self, part: Series, axis: XAxis) -> NDArray[np.float64]:
        """Return where the records of `train` or `valid` stand on an axis; between train records, in proportion.

        A run begins at 0.
        """
        if axis in part and not np.isnan(part[axis]).any():
            return part[axis]
        return np.interp(part[UPDATE], np.append(0.0, self.train[UPDATE]), np.append(0.0, self.train[axis]))

    def last(self, field: str) -> float:
        """Return the last value of a field in a validation, or else in training; NaN if there is none."""
        for part in (self.valid, self.train):
            values = part.get(field, np.empty(0))
            values = values[~np.isnan(values)]
            if len(values):
                return float(values[-1])
        return math.nan


def read_log(path: Path) -> RunLog:
    """Return the log of a run folder, or of a log file.

    Raises:
        DataError: it is missing, empty or damaged; the message names file and line.
    """
    file = path / LOG if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: can't be read: {error}; name the folder of a run") from error
    records: dict[str, list[dict[str, float]]] = {"train": [], "valid": []}
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            continue  # a run that is at work has begun to write it
        kind, record = _record(line, f"{file}:{number}")
        records[kind].append(record)
    if not (records["train"] or records["valid"]):
        raise DataError(f"{file}: no records yet; wait for the first, or lower --log-interval")
    name = (path if path.is_dir() else file.parent).absolute().name
    return RunLog(name, _series(records["train"]), _series(records["valid"]))


def read_logs(paths: Sequence[Path]) -> list[RunLog]:
    """Return the logs of several runs, named by as much of their paths as tells them apart.

    The folder of a sweep stands for those of its runs.

    Raises:
        ConfigError: a run is given twice.
        DataError: as `read_log`.
    """
    paths = [run for path in paths for run in _runs_in(path)]
    files = [(path / LOG if path.is_dir() else path).absolute() for path in paths]
    if twice := sorted({str(file) for file in files if files.count(file) > 1}):
        raise ConfigError(f"a run is given twice: {', '.join(twice)}; name each once, a sweep's by its folder alone")
    places = [file.parent for file in files]
    if len(set(places)) < len(places):  # several logs of one folder
        places = files
    for count in range(1, max(len(place.parts) for place in places) + 1):
        names = [os.path.join(*place.parts[-count:]) for place in places]
        if len(set(names)) == len(names):
            break
    logs = [read_log(path) for path in paths]
    return [RunLog(name, log.train, log.valid) for name, log in zip(names, logs, strict=True)]


def _runs_in(path: Path) -> list[Path]:
    """Return the folders of the runs of a sweep; a path that is none as it is."""
    runs = [] if (path / LOG).exists() else sorted(log.parent for log in path.glob(f"lr*_seed*/{LOG}"))
    return runs or [path]


def plot(
    runs: Sequence[RunLog], *, y: str = "loss", x: XAxis = "num_updates", log_x: bool = False, log_y: bool = False
) -> Any:
    """Return a matplotlib Figure: field `y` of training and validation, below it learning rate and speed.

    Raises:
        ConfigError: matplotlib is not installed, or a run's log lacks `y` or `x`.
    """
    figure_type = figure_class()
    for run in runs:
        _check_fields(run, y, x)
    panels = [field for field in _PANELS if any(field in run.train for run in runs)]
    figure = figure_type(figsize=(8, 6 if panels else 4.2), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # inches around each axes
    grid = figure.add_gridspec(2 if panels else 1, max(len(panels), 1), height_ratios=[2.6, 1] if panels else [1])
    main = figure.add_subplot(grid[0, :])
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        _draw_run(main, run, y, x, colour)
    _finish(main, x_label=_X_LABELS[x], y_label=y, log_x=log_x, log_y=log_y)
    _add_legend(main, runs, y)
    for column, field in enumerate(panels):
        axes = figure.add_subplot(grid[1, column])
        for run, colour in zip(runs, _colours(len(runs)), strict=True):
            if field in run.train:
                axes.plot(run.x(run.train, x), run.train[field], color=colour, linewidth=1.1)
        _finish(axes, x_label=_X_LABELS[x], y_label=_PANELS[field], log_x=log_x, log_y=False)
        axes.set_ylim(bottom=0)
        axes.set_xlim(main.get_xlim())
        if not log_x:
            axes.locator_params(axis="x", nbins=5)
    return figure


def plot_confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Any:
    """Return a matplotlib Figure of a confusion matrix: the number is a count, the shade its share of the row.

    names: the classes. counts: a row for each right one, a column for each predicted one.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    side = min(_WIDEST, _MARGIN + _CELL * len(names))
    figure = figure_class()(figsize=(side + _BAR, side), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    numbers = np.array(counts, dtype=float)
    totals = numbers.sum(axis=1, keepdims=True)
    shares = np.divide(numbers, totals, out=np.zeros_like(numbers), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    size = max(7.0, 11.0 - 0.2 * len(names))
    for row, column in np.ndindex(*numbers.shape):
        colour = "white" if shares[row, column] > _DARK else _INK
        text = f"{int(numbers[row, column])}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    labels = [literal(shortened(name, _NAME)) for name in names]
    is_long = max(map(len, labels)) > _SHORT_NAME
    axes.set_xticks(range(len(names)), labels=labels, rotation=90 if is_long else 0)
    axes.set_yticks(range(len(names)), labels=labels)
    axes.tick_params(length=0, labelcolor=_INK, labelsize=9)
    axes.set_xlabel("predicted", color=_INK)
    axes.set_ylabel("right", color=_INK)
    axes.spines[:].set_color("#999999")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=(0.0, 0.5, 1.0))
    bar.set_label("share of the right class", color=_INK, fontsize=9)
    bar.ax.tick_params(length=0, labelcolor=_INK, labelsize=9)
    bar.outline.set_visible(False)
    return figure


def literal(text: str) -> str:
    """Return a text that matplotlib can draw, and does not take for mathematics.

    >>> print(literal("$5"))
    \\$5
    """
    return text.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")


def shortened(text: str, length: int) -> str:
    """Return a text of at most `length` characters, the last one dots where it was cut.

    >>> shortened("contradiction", 8)
    'contrad…'
    """
    return text if len(text) <= length else text[: length - 1] + "…"


def save(figure: Any, output: Path) -> None:
    """Write a figure to a file, whole or not at all; equal figures give equal bytes.

    Raises:
        ConfigError: the name does not end in one of `FORMATS`.
        StorageError: the file can't be written.
    """
    import matplotlib

    check_output(output)
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(output.suffix, {})
    with matplotlib.rc_context({"svg.hashsalt": "roberta"}), whole_file(output) as part:
        figure.savefig(part, format=output.suffix[1:], metadata=metadata)


def check_output(output: Path) -> None:
    """Refuse a file name whose format can't be drawn.

    Raises:
        ConfigError: it does not end in one of `FORMATS`.
    """
    if output.suffix not in FORMATS:
        raise ConfigError(f"--output {output}: the name must end in {', '.join(FORMATS)}")


def figure_class() -> Any:
    """Return matplotlib's Figure, which draws without a screen.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib; pip install 'roberta[plot]'") from error
    return Figure


def _record(line: str, place: str) -> tuple[str, dict[str, float]]:
    """Return the kind of a log line and its numbers, of which `num_updates` is one."""
    refusal = f"{place}: expected a train or valid record with {UPDATE}, found {line.strip()[:80]!r}; mend or remove it"
    found = parsed(line)
    if found is None or found[0] not in ("train", "valid"):
        raise DataError(refusal)
    kind, values = found
    try:
        return kind, {name: _number(value) for name, value in values.items() if isinstance(value, int | float | None)}
    except OverflowError as error:
        raise DataError(refusal) from error


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _series(records: Sequence[Mapping[str, float]]) -> Series:
    """Return the numbers of the records by field, NaN where one lacks it."""
    fields = {name for record in records for name in record}
    return {name: np.array([record.get(name, math.nan) for record in records], dtype=float) for name in fields}


def _check_fields(run: RunLog, y: str, x: XAxis) -> None:
    known = {*run.train, *run.valid}
    if y not in known:
        raise ConfigError(f"--y {y}: not in the log of {run.name}; {choices(y, known - {UPDATE})}")
    parts = [part for part in (run.train, run.valid) if y in part]
    if x not in run.train and any(x not in part for part in parts):
        raise ConfigError(f"--x {x}: not in the log of {run.name}, which was written without it; use --x {UPDATE}")


def _colours(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


def _draw_run(axes: Any, run: RunLog, y: str, x: XAxis, colour: str) -> None:
    """Draw training as a thin pale line, validation as a strong one with a dot at each."""
    if y in run.train:
        axes.plot(run.x(run.train, x), run.train[y], color=colour, **_TRAINING)
    if y in run.valid:
        style = _VALIDATION if len(run.valid[UPDATE]) <= _MOST_DOTS else {"linewidth": _VALIDATION["linewidth"]}
        axes.plot(run.x(run.valid, x), run.valid[y], color=colour, **style)


def _add_legend(axes: Any, runs: Sequence[RunLog], y: str) -> None:
    """Name the runs with their last values, and say which line is training, which validation."""
    from matplotlib import lines

    line: Any = lines.Line2D
    handles = [
        line([], [], color=colour, linewidth=2.5, label=f"{literal(run.name)}  {run.last(y):.4g}")
        for run, colour in zip(runs, _colours(len(runs)), strict=True)
    ]
    if any(y in run.train for run in runs):
        handles.append(line([], [], color=_GREY, label="training", **_TRAINING))
    if any(y in run.valid for run in runs):
        handles.append(line([], [], color=_GREY, label="validation", **_VALIDATION))
    axes.legend(handles=handles, frameon=False, fontsize=9, labelcolor=_INK, handlelength=1.6)


def _finish(axes: Any, *, x_label: str, y_label: str, log_x: bool, log_y: bool) -> None:
    """Give axes their labels and scales, a pale grid, and no frame on top and right."""
    from matplotlib.ticker import EngFormatter, LogFormatter, MaxNLocator

    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    if x_label != _X_LABELS["hours"]:
        if not log_x:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if y_label == _PANELS["tokens_per_s"]:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(x_label, color=_INK)
    axes.set_ylabel(y_label, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(which="both", labelcolor=_INK, labelsize=9, color="#999999")
    axes.grid(which="both" if log_y else "major", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
