"""roberta-eval: measure a model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from roberta.config import add_arguments, flag, from_namespace, option
from roberta.errors import ConfigError
from roberta_cli.entry import Parser, run

DESCRIPTION = """Measure a model on a data set and print the result as one line of JSON.

  mnli       accuracy of a classification head on an MNLI file in GLUE's layout (dev_matched.tsv)
  masked_lm  loss and perplexity on a split of a folder that roberta-preprocess made"""

EXAMPLE = """  roberta-eval mnli glue_data/MNLI/dev_matched.tsv --model roberta.large.mnli
  roberta-eval masked_lm data-bin --model runs/small"""


@dataclass(frozen=True)
class EvalConfig:
    """Options of roberta-eval."""

    model: str = option(help="name of a released model, or path of a run, checkpoint folder or fairseq checkpoint")
    head: str = option("mnli", help="mnli: the classification head to measure")
    split: str = option("valid", help="masked_lm: the split to measure")
    tokens_per_sample: int | None = option(
        None, help="masked_lm: tokens of a sample at most; as the model takes if not given"
    )
    max_tokens: int = option(4096, help="tokens per forward pass, at most")
    device: Literal["auto", "cpu", "cuda"] = option("auto", help="where to compute; auto takes CUDA if there is one")

    def __post_init__(self) -> None:
        for name in ("tokens_per_sample", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{flag(name)} is {value}; it must be at least 1")


def _main(argv: Sequence[str]) -> int:
    parser = Parser(description=DESCRIPTION, example=EXAMPLE)
    parser.add_argument("task", choices=("mnli", "masked_lm"), help="what to measure")
    parser.add_argument("data", type=Path, help="the file or folder to measure on")
    add_arguments(parser, EvalConfig, title="evaluation")
    given = parser.parse_args(argv)
    config = from_namespace(EvalConfig, given)
    measure = _mnli if given.task == "mnli" else _masked_lm
    print(json.dumps({"task": given.task, "model": config.model, **measure(config, given.data)}))
    return 0


def _mnli(config: EvalConfig, data: Path) -> dict[str, Any]:
    from roberta.data.readers.glue import MNLI_LABELS, read_mnli
    from roberta.evaluation import evaluate_classification
    from roberta.hub import from_pretrained
    from roberta.validation import choose_device

    examples = read_mnli(data)
    device = choose_device(config.device)
    roberta = from_pretrained(config.model).to(device)
    return evaluate_classification(roberta, config.head, examples, labels=MNLI_LABELS, max_tokens=config.max_tokens)


def _masked_lm(config: EvalConfig, data: Path) -> dict[str, Any]:
    from roberta.evaluation import evaluate_masked_lm
    from roberta.hub import from_pretrained
    from roberta.tasks.masked_lm import MaskedLMTask, MaskedLMTaskConfig
    from roberta.validation import choose_device

    roberta = from_pretrained(config.model).to(choose_device(config.device))
    task = MaskedLMTask(MaskedLMTaskConfig(data=data, tokens_per_sample=config.tokens_per_sample or roberta.max_tokens))
    samples = task.samples(config.split)
    return evaluate_masked_lm(roberta, task, samples, max_tokens=config.max_tokens)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(_main, argv)


if __name__ == "__main__":
    raise SystemExit(main())
