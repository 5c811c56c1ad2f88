"""What came out of fine-tuning, for people (Markdown) and for machines (JSON)."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roberta.files import as_json
from roberta.markdown import table
from roberta.metrics import wilson_interval
from roberta.tasks.task import Prediction

_HARDEST = 10
_MOST_CLASSES = 20  # of a confusion matrix that people still read
_TEXT = 160  # characters of an example's text
_SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True)
class Run:
    """One training run: its learning rate and seed, and its best validation."""

    lr: float
    seed: int
    save_dir: Path
    update: int  # of the best validation
    best: float  # of the metric that selects checkpoints
    seconds: float  # of training


@dataclass(frozen=True)
class Split:
    """The figures of a split, none where its answers are not told, its predictions, and how many samples were cut.

    groups: the figures of each group that is told apart, such as a type of entity. num_samples: how many there are,
    where a task has no predictions.
    """

    figures: Mapping[str, float]
    predictions: Sequence[Prediction]
    counts: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    num_samples: int = 0

    @property
    def num_examples(self) -> int:
        """How many predictions there are, or else samples."""
        return len(self.predictions) or self.num_samples


@dataclass(frozen=True)
class Report:
    """All runs on a data set, and what the best of them predicts."""

    name: str
    data: str
    init_from: str
    metric: str
    runs: tuple[Run, ...]
    best: Run
    splits: Mapping[str, Split]

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain values: those of the splits, and for each learning rate those of its runs."""
        by_lr = {
            lr: [run.best for run in self.runs if run.lr == lr] for lr in dict.fromkeys(run.lr for run in self.runs)
        }
        groups = {name: dict(split.groups) for name, split in self.splits.items() if split.groups}
        return {
            "data_set": self.name,
            "data": self.data,
            "init_from": self.init_from,
            "metric": self.metric,
            "best": _described(self.best),
            "runs": [_described(run) for run in self.runs],
            "learning_rates": [{"lr": lr, "runs": len(values), **_spread(values)} for lr, values in by_lr.items()],
            "splits": {
                name: {"examples": split.num_examples, **split.figures, **split.counts}
                for name, split in self.splits.items()
            },
            **({"groups": groups} if groups else {}),
        }

    def to_json(self) -> str:
        """Return the summary as indented JSON; figures that are not finite are null."""
        return as_json(self.summary(), indent=2)

    def to_markdown(self, curves: str | None = None, matrix: str | None = None) -> str:
        """Return the report as Markdown; the files of two pictures may stand beside it.

        curves: that of the learning curves. matrix: that of the confusion matrix, which stands as a table too.
        """
        valid = self.splits["valid"]
        parts = [
            f"# {self.name}\n\nFine-tuned from `{self.init_from}` on `{self.data}`. The best of {len(self.runs)} "
            f"run{'s' * (len(self.runs) > 1)}, by {self.metric}: lr {self.best.lr:g}, seed {self.best.seed}, "
            f"after update {self.best.update}.",
            _figures(self.splits),
            _groups(self.splits),
            _runs(self),
            "" if curves is None else f"## Learning curves\n\n![learning curves]({curves})",
            _confusion(confusion(valid.predictions), matrix),
            _hardest(valid.predictions),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"


@dataclass(frozen=True)
class Confusion:
    """How often a class was predicted where another was right: a row per right one, a column per predicted one."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def confusion(predictions: Sequence[Prediction]) -> Confusion | None:
    """Return the confusion matrix of the classes that appear; None where predictions are no single classes.

    None too where there are more than people still read.
    """
    pairs = Counter((p.answer, p.prediction) for p in predictions if isinstance(p.answer, str))
    names = sorted({str(name) for pair in pairs for name in pair})
    classes = {tuple(p.probabilities or ()) for p in predictions}
    if len(classes) > 1 or not set(names) <= set(*classes) or not 1 < len(names) <= _MOST_CLASSES:
        return None  # numbers, several classes at once, or answers that each example has for itself
    return Confusion(tuple(names), tuple(tuple(pairs[right, found] for found in names) for right in names))


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return median, ends and deviation of the figures of some runs; none of them if a run went astray."""
    if not all(map(math.isfinite, values)):
        return {"median": math.nan, "min": math.nan, "max": math.nan, "stdev": None}
    stdev = statistics.stdev(values) if len(values) > 1 else None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "stdev": stdev}


def _described(run: Run) -> dict[str, Any]:
    return {
        "lr": run.lr,
        "seed": run.seed,
        "save_dir": str(run.save_dir),
        "update": run.update,
        "value": run.best,
        "seconds": run.seconds,
    }


def _figures(splits: Mapping[str, Split]) -> str:
    names = list(dict.fromkeys(name for split in splits.values() for name in split.figures))
    counts = list(dict.fromkeys(name for split in splits.values() for name in split.counts))
    rows = []
    for name, split in splits.items():
        cells = [f"{split.figures[figure]:.4f}" if figure in split.figures else "" for figure in names]
        cells += [_interval(split), *(str(split.counts.get(count, "")) for count in counts)]
        rows.append([name, str(split.num_examples), *cells])
    shown = [count.removeprefix("num_").replace("_", " ") for count in counts]
    return "## Figures\n\n" + table(["split", "examples", *names, "95 % of accuracy", *shown], rows)


def _groups(splits: Mapping[str, Split]) -> str:
    """Return the figures of the groups of each split."""
    pairs = [(name, group, figures) for name, split in splits.items() for group, figures in split.groups.items()]
    if not pairs:
        return ""
    names = list(dict.fromkeys(figure for _, _, figures in pairs for figure in figures))
    rows = [[name, _cell(group), *(_figure(figures.get(figure)) for figure in names)] for name, group, figures in pairs]
    shown = [figure.removeprefix("num_").replace("_", " ") for figure in names]
    return "## Groups\n\n" + table(["split", "group", *shown], rows)


def _figure(value: float | None) -> str:
    """Return a count as it is, another number with four decimals."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def _interval(split: Split) -> str:
    if "accuracy" not in split.figures or not split.predictions:
        return ""
    total = len(split.predictions)
    low, high = wilson_interval(round(split.figures["accuracy"] * total), total)
    return f"{low:.4f} to {high:.4f}"


def _runs(report: Report) -> str:
    rows = [
        [f"{run.lr:g}", str(run.seed), f"{run.best:.4f}", str(run.update), f"{run.seconds / _SECONDS_PER_MINUTE:.1f}"]
        for run in report.runs
    ]
    runs = table(["lr", "seed", report.metric, "best update", "minutes"], rows)
    if len(report.runs) == 1:
        return f"## Run\n\n{runs}"
    spread = [
        [
            f"{row['lr']:g}",
            str(row["runs"]),
            *(f"{row[name]:.4f}" for name in ("median", "min", "max")),
            _number(row["stdev"]),
        ]
        for row in report.summary()["learning_rates"]
    ]
    return f"## Runs\n\n{runs}\n\n" + table(["lr", "runs", "median", "min", "max", "stdev"], spread)


def _confusion(found: Confusion | None, picture: str | None) -> str:
    if found is None:
        return ""
    rows = [[f"**{name}**", *map(str, counts)] for name, counts in zip(found.names, found.counts, strict=True)]
    shown = "" if picture is None else f"![confusion matrix]({picture})\n\n"
    told = "Rows are the right answers, columns the predicted ones."
    return f"## Confusion\n\n{told}\n\n{shown}{table(['', *found.names], rows)}"


def _hardest(predictions: Sequence[Prediction]) -> str:
    """Return the examples that the model is most wrong about."""
    told = [prediction for prediction in predictions if prediction.error is not None]
    worst = sorted(told, key=lambda prediction: -(prediction.error or 0.0))[:_HARDEST]
    if not worst:
        return ""
    rows = [
        [_cell(p.source), _cell(_number(p.answer)), _cell(_number(p.prediction)), f"{p.error:.2f}", _cell(p.text)]
        for p in worst
    ]
    return "## Hardest examples\n\n" + table(["where", "right", "predicted", "error", "text"], rows)


def _number(value: str | float | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.4f}"


def _cell(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _TEXT else flat[: _TEXT - 1] + "…"
