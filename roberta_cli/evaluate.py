"""roberta-eval: measure a model."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from roberta.config import add_arguments, flag, from_namespace, option
from roberta.data.readers.glue import GLUE
from roberta.data.readers.table import TableFormat
from roberta.errors import ConfigError
from roberta_cli.entry import Parser, run

DESCRIPTION = f"""Measure a model on a data set and print the result as one line of JSON.

  {", ".join(GLUE)}
             a set of GLUE or SuperGLUE, in the folder of its download or a file of it: the set's metrics,
             accuracy with its 95 % interval, the same by genre, and the confusion matrix
  table      the same on your own .tsv, .csv or .jsonl, or a folder that has one for each split
  folders    the same on texts in SPLIT/LABEL/NAME.txt, as in aclImdb
  masked_lm  loss and perplexity on a split of a folder that roberta-preprocess made"""

EXAMPLE = """  roberta-eval mnli glue_data/MNLI/dev_matched.tsv --model roberta.large.mnli
  roberta-eval table reviews/test.csv --model runs/reviews --text-columns review --label-column stars
  roberta-eval masked_lm data-bin --model runs/small"""

_METRICS = {
    "classification": ("accuracy", "macro_f1", "matthews"),
    "multi_label": ("micro_f1", "exact_match"),
    "regression": ("pearson", "spearman"),
}


@dataclass(frozen=True)
class EvalConfig:
    """Options of roberta-eval."""

    model: str = option(help="name of a released model, or path of a run, checkpoint folder or fairseq checkpoint")
    head: str | None = option(None, help="the head to measure; the only one beside masked LM if not given")
    labels: tuple[str, ...] | None = option(
        None, help="names of the head's outputs, in order; its own if not given, or those of the set"
    )
    split: str = option("valid", help="the split to measure; mnli has valid1 too, the mismatched one")
    tokens_per_sample: int | None = option(
        None, help="tokens of a sample at most, longer texts are cut; as many as the model takes if not given"
    )
    max_tokens: int = option(4096, help="tokens per forward pass, at most")
    device: Literal["auto", "cpu", "cuda"] = option("auto", help="where to compute; auto takes CUDA if there is one")

    def __post_init__(self) -> None:
        for name in ("tokens_per_sample", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{flag(name)} is {value}; it must be at least 1")


@dataclass(frozen=True)
class Request:
    """What is to be measured, and how."""

    task: str
    data: Path
    config: EvalConfig
    table: TableFormat


def _main(argv: Sequence[str]) -> int:
    parser = Parser(description=DESCRIPTION, example=EXAMPLE)
    parser.add_argument("task", choices=EVALUATORS, metavar="TASK", help="what to measure, see above")
    parser.add_argument("data", type=Path, help="the file or folder to measure on")
    add_arguments(parser, EvalConfig, title="evaluation")
    add_arguments(parser, TableFormat, title="table")
    given = parser.parse_args(argv)
    request = Request(given.task, given.data, from_namespace(EvalConfig, given), from_namespace(TableFormat, given))
    result = EVALUATORS[given.task](request)
    print(json.dumps({"task": given.task, "model": request.config.model, **result}))
    return 0


def _glue(request: Request) -> dict[str, Any]:
    from roberta.data.readers.glue import read_glue

    the_set = GLUE[request.task]
    examples = read_glue(request.data, request.task, request.config.split)
    return _texts(request.config, examples, labels=the_set.labels or (), metrics=the_set.metrics)


def _table(request: Request) -> dict[str, Any]:
    from roberta.data.readers.table import find_split, read_table

    path = find_split(request.data, request.config.split) if request.data.is_dir() else request.data
    return _texts(request.config, read_table(path, request.table), metrics=_METRICS[request.table.kind])


def _folders(request: Request) -> dict[str, Any]:
    from roberta.data.readers.folders import read_folders

    examples = read_folders(request.data, request.config.split)
    return _texts(request.config, examples, metrics=_METRICS["classification"])


def _texts(
    config: EvalConfig, examples: Sequence[Any], *, labels: tuple[str, ...] = (), metrics: tuple[str, ...]
) -> dict[str, Any]:
    from roberta.evaluation import Judgement, evaluate_texts, only_head

    roberta = _model(config)
    judgement = Judgement(
        roberta,
        config.head or only_head(roberta),
        metrics,
        labels=config.labels or (),
        labels_of_set=labels,
        max_tokens=config.max_tokens,
        tokens_per_sample=config.tokens_per_sample,
    )
    return evaluate_texts(judgement, examples)


def _masked_lm(request: Request) -> dict[str, Any]:
    from roberta.evaluation import evaluate_masked_lm
    from roberta.tasks.masked_lm import MaskedLMTask, MaskedLMTaskConfig

    config = request.config
    roberta = _model(config)
    length = config.tokens_per_sample or roberta.max_tokens
    task = MaskedLMTask(MaskedLMTaskConfig(data=request.data, tokens_per_sample=length))
    return evaluate_masked_lm(roberta, task, task.samples(config.split), max_tokens=config.max_tokens)


def _model(config: EvalConfig) -> Any:
    from roberta.hub import from_pretrained
    from roberta.validation import choose_device

    device = choose_device(config.device)
    return from_pretrained(config.model).to(device)


EVALUATORS: dict[str, Callable[[Request], dict[str, Any]]] = {
    **dict.fromkeys(GLUE, _glue),
    "table": _table,
    "folders": _folders,
    "masked_lm": _masked_lm,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(_main, argv)


if __name__ == "__main__":
    raise SystemExit(main())
