"""Fine-tuning from raw files to scores: training runs, the best one of them, its predictions and a report.

It knows which task, criterion and options a data set needs, and nothing of the command line.
"""

import dataclasses
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from roberta import pretrained
from roberta.checkpoint import native
from roberta.checkpoint.folders import replacing
from roberta.config import option
from roberta.data.readers.choices import QUESTION_SETS
from roberta.data.readers.glue import GLUE
from roberta.data.readers.winograd import PRONOUN_SETS
from roberta.distributed import is_first_process
from roberta.errors import ConfigError, PreemptionError, choices
from roberta.files import as_json, make_folder, write_text
from roberta.interruption import Interruption
from roberta.locking import locked
from roberta.model_card import write_run_cards
from roberta.plotting import plot, plot_confusion, read_logs, save
from roberta.recipe import Recipe
from roberta.report import Report, Run, Split, confusion
from roberta.run_folder import RUN, check_no_data
from roberta.tasks.task import Prediction, Samples
from roberta.trainer import Trainer
from roberta.validation import evaluate, predict

logger = logging.getLogger(__name__)

PREDICTIONS = "predictions"
TEST_ONLY = ("wsc273",)  # has nothing to train on
REPORT = "report"
CURVES = "curves.svg"
MATRIX = "confusion.svg"

_TOKENS_PER_BATCH = 4096  # of predictions, where the recipe has no limit


@dataclass(frozen=True)
class DataSet:
    """What fine-tuning on a data set takes: names of a task and a criterion, and the task's options."""

    task: str
    criterion: str
    options: Mapping[str, Any] = field(default_factory=dict)


DATASETS: dict[str, DataSet] = {
    **{
        name: DataSet("sentence_prediction", "sentence_prediction", {"data_layout": name})
        for name in ("table", "folders", "binarized", *(name for name in GLUE if "train" in GLUE[name].files))
    },
    **{
        name: DataSet("sentence_ranking", "sentence_ranking", options)
        for name, options in {**QUESTION_SETS, "choices": {}}.items()
    },
    "squad": DataSet("span", "span", {"version": "1.1"}),
    "squad2": DataSet("span", "span", {"version": "2.0"}),
    "tagging": DataSet("tagging", "tagging"),
    **{name: DataSet("wsc", "wsc", options) for name, options in PRONOUN_SETS.items() if name not in TEST_ONLY},
}


@dataclass(frozen=True)
class SweepConfig:
    """Options of the runs: one for each combination of a seed and a learning rate."""

    seeds: tuple[int, ...] = option((1,), help="seeds to train with, one run each")
    lr: tuple[float, ...] = option((1e-5,), help="peak learning rates to try, one run each")

    def __post_init__(self) -> None:
        for name, values in (("--seeds", self.seeds), ("--lr", self.lr)):
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name} takes at least one value, and none of them twice, not {values}")


@dataclass(frozen=True)
class RegularisationConfig:
    """Options that may differ from those of the model to start from."""

    dropout: float | None = option(None, help="dropout after embeddings, attention and feed-forward; the model's own")
    attention_dropout: float | None = option(None, help="dropout on the attention probabilities; the model's own")
    activation_dropout: float | None = option(None, help="dropout within the feed-forward part; the model's own")
    encoder_layerdrop: float | None = option(None, help="chance of leaving out a layer; the model's own")

    def applied(self, model: Any) -> Any:
        """Return a model config with the options that are given."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(model, **given)


def data_set(name: str) -> DataSet:
    """Return a row of the table of data sets.

    Raises:
        ConfigError: there is no such set; the message lists those there are.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}; {choices(name, DATASETS)}")
    return DATASETS[name]


def finetune(name: str, recipe: Recipe, sweep: SweepConfig, source: pretrained.Pretrained) -> Report | None:
    """Train on a data set with every seed and learning rate, predict with the best model, and write a report.

    name: that of the data set in the report. The recipe's `save_dir` gets the folder of each run (of a single run it is
    the folder itself), `best`, `predictions`, `report.md` and `report.json`. Under torchrun only the first process
    returns the report; others None.

    Raises:
        ConfigError: the folder holds other runs, or the options of one of the runs make no sense.
        PreemptionError: SIGTERM or Ctrl-C came; what was trained was saved, and the next run was not begun.
        RobertaError: as the trainer and the readers of the data do.
    """
    save_dir = recipe.trainer.save_dir
    combinations = list(product(sweep.lr, sweep.seeds))
    folders = [save_dir / f"lr{lr:g}_seed{seed}" for lr, seed in combinations] if len(combinations) > 1 else [save_dir]
    if len(set(folders)) < len(folders):
        raise ConfigError(
            f"--lr {' '.join(map(repr, sweep.lr))}: two of them are the same to six digits; leave one out"
        )
    _check_predictions(save_dir)
    variants = [_variant(recipe, *values, folder) for values, folder in zip(combinations, folders, strict=True)]
    with _alone(save_dir, resume=recipe.trainer.resume) if len(variants) > 1 else nullcontext():
        return _sweep(name, recipe, variants, source)


def _sweep(name: str, recipe: Recipe, variants: Sequence[Recipe], source: pretrained.Pretrained) -> Report | None:
    """Train all variants of a recipe, and report on the best."""
    save_dir, runs = recipe.trainer.save_dir, []
    tests: dict[str, Samples] | None = None
    for variant in variants:
        trainer = Trainer(variant, source)
        if tests is None:  # read before training, so that damage in them is found before and not after it
            tests = {split: trainer.task.samples(split) for split in trainer.task.test_splits()}
        if len(variants) > 1 and trainer.world.is_main:
            logger.info("lr %g, seed %d", variant.lr_scheduler.lr, variant.trainer.seed)
        metrics = _train(trainer)
        runs.append(_described(trainer, metrics))
    if not trainer.world.is_main:
        return None
    best_run = best_of(runs, maximise=trainer.valid_samples.maximise)
    assert tests is not None
    if len(runs) > 1:
        _take_over(native.model_folder(best_run.save_dir), save_dir / native.BEST)
    splits = _predict(save_dir, trainer, {"valid": trainer.valid_samples, **tests})
    report = Report(
        name=name,
        data=str(recipe.task.data),
        init_from=str(trainer.config.init_from),
        metric=trainer.valid_samples.metric,
        runs=tuple(runs),
        best=best_run,
        splits=splits,
    )
    write_text(save_dir / f"{REPORT}.json", report.to_json() + "\n", escape=True)
    write_text(save_dir / f"{REPORT}.md", report.to_markdown(*_draw(save_dir, report)), escape=True)
    write_run_cards(save_dir)
    return report


@contextmanager
def _alone(save_dir: Path, *, resume: bool) -> Iterator[None]:
    """Keep other sweeps out of the folder of this one.

    Raises:
        ConfigError: it is that of a single run, or of several that are not to be gone on with.
        StorageError: another sweep is at work there, or the folder can't be made.
    """
    if not is_first_process():
        yield
        return
    make_folder(save_dir, "--save-dir")
    with locked(save_dir):
        _check_is_free(save_dir, resume=resume)
        yield


def _check_is_free(save_dir: Path, *, resume: bool) -> None:
    if not any(save_dir.glob("lr*_seed*")):
        check_no_data(save_dir)
    if native.steps(save_dir) or (save_dir / RUN).is_file():
        raise ConfigError(f"{save_dir} holds a single run; choose another --save-dir for several")
    has_ended = any((save_dir / name).exists() for name in (native.BEST, f"{REPORT}.json"))
    if not resume and (has_ended or any(save_dir.glob("lr*_seed*"))):
        raise ConfigError(
            f"{save_dir} already holds runs; add --resume to go on with them, or choose another --save-dir"
        )


def _check_predictions(save_dir: Path) -> None:
    """Refuse a folder whose predictions are not those of a run, and would be replaced."""
    is_ours = any((save_dir / name).exists() for name in (RUN, f"{REPORT}.json")) or any(save_dir.glob("lr*_seed*"))
    if (save_dir / PREDICTIONS).exists() and not (is_ours and (save_dir / PREDICTIONS).is_dir()):
        raise ConfigError(f"{save_dir / PREDICTIONS} is not of a run, and would be replaced; choose another --save-dir")


def _described(trainer: Trainer, last: dict[str, float]) -> Run:
    """Return what came of a run: the figure and the update of the model it leaves, the best or the last validated.

    last: the metrics of its last validation.
    """
    config, position = trainer.config, trainer.position
    update, value = position.num_updates, last[trainer.valid_samples.metric]
    if position.best is not None and (config.save_dir / native.BEST).is_dir():
        update, value = position.best_update, position.best
    return Run(trainer.recipe.lr_scheduler.lr, config.seed, config.save_dir, update, value, position.seconds)


def _train(trainer: Trainer) -> dict[str, float]:
    """Train, and return the metrics of the last validation; a signal during the last update or after it counts too."""
    with Interruption() as interruption:
        metrics = trainer.train()
        if trainer.world.total([float(interruption.requested)])[0]:
            raise PreemptionError(f"stopped after the run {trainer.config.save_dir}, and saved; go on with --resume")
    return metrics


def _variant(recipe: Recipe, lr: float, seed: int, folder: Path) -> Recipe:
    schedule, logdir = dataclasses.replace(recipe.lr_scheduler, lr=lr), recipe.trainer.tensorboard_logdir
    if logdir is not None and folder != recipe.trainer.save_dir:
        logdir = logdir / folder.name
    trainer = dataclasses.replace(recipe.trainer, seed=seed, save_dir=folder, tensorboard_logdir=logdir)
    return dataclasses.replace(recipe, lr_scheduler=schedule, trainer=trainer)


def _take_over(source: Path, target: Path) -> None:
    """Make a folder of links to the files of another one, of copies where the file system has no links."""
    with replacing(target, native.MANIFEST) as temporary:
        for path in source.iterdir():
            try:
                os.link(path, temporary / path.name)
            except OSError:
                shutil.copy2(path, temporary / path.name)


def best_of(runs: Sequence[Run], *, maximise: bool) -> Run:
    """Return the run with the best figure, the first of equals; one that is not finite is worse than any other."""
    sign = 1.0 if maximise else -1.0
    return max(runs, key=lambda run: sign * run.best if math.isfinite(run.best) else -math.inf)


def _predict(save_dir: Path, trainer: Trainer, samples_of: Mapping[str, Samples]) -> dict[str, Split]:
    """Predict splits with the best model, and write the predictions; where a task has none, measure the splits."""
    model = pretrained.load(save_dir).model.to(trainer.world.device).requires_grad_(False)
    model.set_cpu_engine(trainer.model.cpu_engine)
    folder = save_dir / PREDICTIONS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    splits = {}
    for split, samples in samples_of.items():
        limit = max(trainer.config.max_tokens or _TOKENS_PER_BATCH, int(samples.sizes.max()))
        options: dict[str, Any] = {"max_tokens": limit, "precision": trainer.config.precision}
        predictions: list[Prediction] = []
        if samples.has_predictions:
            outputs = predict(model, trainer.criterion, samples, **options)
            predictions = samples.predictions(outputs)
            _write(folder, split, predictions)
            samples.write_predictions(folder, outputs)
        else:
            logger.info("%s: the task has no predictions; none are written", split)
        split_of = partial(Split, predictions=predictions, counts=samples.counts(), num_samples=len(samples))
        if any(prediction.answer is None for prediction in predictions):
            splits[split] = split_of({})
        elif not predictions or samples.metric == "loss":
            splits[split] = split_of(evaluate(model, trainer.criterion, samples, batch_size=None, **options))
        else:
            splits[split] = split_of(samples.score(outputs), groups=samples.groups(outputs))
    return splits


def _write(folder: Path, split: str, predictions: Sequence[Prediction]) -> None:
    lines = [as_json(dataclasses.asdict(prediction), ensure_ascii=False) for prediction in predictions]
    write_text(folder / f"{split}.jsonl", "".join(f"{line}\n" for line in lines), escape=True)


def _draw(save_dir: Path, report: Report) -> tuple[str | None, str | None]:
    """Draw the learning curves of the runs and the confusion matrix of the best, and return the names of the files.

    None stands for what is not there to be drawn; without matplotlib that is both, and the log says so.
    """
    if find_spec("matplotlib") is None:
        logger.info("no pictures in the report, for want of matplotlib: pip install 'roberta[plot]'")
        return None, None
    save(plot(read_logs([run.save_dir for run in report.runs])), save_dir / CURVES)
    found = confusion(report.splits["valid"].predictions)
    if found is None:
        return CURVES, None
    save(plot_confusion(found.names, found.counts), save_dir / MATRIX)
    return CURVES, MATRIX
