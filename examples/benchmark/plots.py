"""Draw the rows of benchmarks as bars: how many times as fast as the baseline each engine is.

    python examples/benchmark/inference.py --json >> rows.jsonl
    python examples/benchmark/training.py --json >> rows.jsonl
    python examples/benchmark/plots.py rows.jsonl --folder examples/benchmark

Each table becomes a panel under the command that made it, each script that made any a file: inference.svg, training.svg
and so on. Needs matplotlib.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measuring import Row

from roberta.errors import DataError

RATIO, BASELINE = "x baseline", "Hugging Face, batches as given"
PARTS = ("engine", "precision", "order")  # of a bar's name
TIMING = ("--json", "--processor-time")
OURS, PEER = "#3465a4", "#b8b8b8"
BAR, HEAD, LINE, WIDTH = 0.22, 0.5, 0.13, 7.5  # inches: of a bar, a panel's axis, a line of its title, the figure
COLUMNS = 90  # of a title
STYLE: Any = {  # the same rows give the same file
    "svg.hashsalt": "roberta",
    "svg.fonttype": "none",
    "font.size": 8,
}


def read_rows(path: Path) -> list[Row]:
    """Return the rows that have a ratio.

    Raises:
        DataError: a line is not a row of a benchmark.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows += [row] if RATIO in row and row["command"] and row["machine"] else []
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: not a row of a benchmark; make them with --json") from error
    return rows


def tables(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each table under its title: machine and command, and the dropout where rows tell of it."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        title = " ".join(word for word in row["command"].split() if word not in TIMING)
        title = fill(title, COLUMNS, break_on_hyphens=False) + f"\n{row['machine']}"
        if "dropout" in row:
            title += f"; dropout {row['dropout']:g}"
        found.setdefault(title, []).append(row)
    return found


def draw(axes: Axes, title: str, rows: Sequence[Row]) -> None:
    """Draw a table as a panel."""
    names = [", ".join(str(row[part]) for part in PARTS if part in row) for row in rows]
    colours = [OURS if row["engine"].startswith("roberta") else PEER for row in rows]
    bars = axes.barh(range(len(rows)), [row[RATIO] for row in rows], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=2)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=0.6)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=7, family="monospace")


def write(path: Path, panels: Mapping[str, Sequence[Row]]) -> None:
    """Write panels, one below the other."""
    heights = [HEAD + LINE * len(title.splitlines()) + BAR * len(rows) for title, rows in panels.items()]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)
        for axes, (title, rows) in zip(grid[:, 0], panels.items(), strict=True):
            draw(axes, title, rows)
        grid[-1, 0].set_xlabel(f"times as fast as {BASELINE}")
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Write a file for each script that made rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="file of the lines that --json printed")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the files go (default: here)")
    given = parser.parse_args()
    scripts: dict[str, dict[str, list[Row]]] = {}
    for title, rows in tables(read_rows(given.rows)).items():
        scripts.setdefault(title.split(".py")[0], {})[title] = rows
    for script, panels in scripts.items():
        write(given.folder / f"{script}.svg", panels)
        print(given.folder / f"{script}.svg")


if __name__ == "__main__":
    main()
