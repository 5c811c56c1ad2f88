"""roberta-plot: learning curves of runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roberta.config import add_arguments, from_namespace, option
from roberta_cli.entry import Parser, run
from roberta_cli.results import Result

DESCRIPTION = """Draw the learning curves of one or several runs from their logs: a field of training and validation,
below it the learning rate and the speed. Shows the last values. Needs matplotlib."""

EXAMPLE = """  roberta-plot runs/small
  roberta-plot runs/small runs/other --y nats --log-x --output both.svg"""


@dataclass(frozen=True)
class PlotConfig:
    """Options of roberta-plot."""

    y: str = option("loss", help="field of the log to draw, such as loss, nats, ppl, gnorm or accuracy")
    x: Literal["num_updates", "tokens", "hours"] = option("num_updates", help="what to draw it over")
    output: Path = option(Path("curves.png"), help="file to write: .png, .svg or .pdf")
    log_x: bool = option(False, help="logarithmic x axis")
    log_y: bool = option(False, help="logarithmic y axis")


def command(argv: Sequence[str]) -> Result:
    """Do what the arguments say, and return the last values."""
    parser = Parser("roberta-plot", "RUN...", description=DESCRIPTION, example=EXAMPLE)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run or a sweep, or a log file")
    add_arguments(parser, PlotConfig, title="plot")
    given = parser.parse_args(argv)
    config = from_namespace(PlotConfig, given)
    from roberta.plotting import check_output, plot, read_logs, save

    check_output(config.output)
    logs = read_logs(given.runs)
    save(plot(logs, y=config.y, x=config.x, log_x=config.log_x, log_y=config.log_y), config.output)
    last = {log.name: log.last(config.y) for log in logs}
    values = {name: None if math.isnan(value) else value for name, value in last.items()}
    return {"output": str(config.output), "y": config.y, "last": values}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
