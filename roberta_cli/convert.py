"""roberta-convert: a checkpoint in another format, or the mean of several."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from roberta.config import add_arguments, from_namespace, option
from roberta_cli.entry import Parser, add_user_module, load_user_modules, run
from roberta_cli.results import Result

DESCRIPTION = """Write a model in another format, open the result, and compare what both compute on a fixed batch.

  native   our own folder of safetensors, with its tokenizer and all heads
  hf       a folder that Hugging Face transformers opens unchanged, with one head of any kind
  fairseq  model.pt and dict.txt as fairseq writes them since 2021, with all classification heads

Of several sources, checkpoints of one model, the mean of their weights is written.

Shows the largest difference. Above 1e-4 the target is removed, and the exit code is 3."""

EXAMPLE = """  roberta-convert roberta.large.mnli mnli-hf --to hf --head mnli
  roberta-convert hf:FacebookAI/roberta-base roberta.base --to fairseq
  roberta-convert runs/large/step_* runs/large-mean --to native"""


@dataclass(frozen=True)
class ConvertConfig:
    """Options of roberta-convert."""

    to: Literal["native", "hf", "fairseq"] = option(help="format of the target")
    head: str | None = option(None, help="hf: the head that goes with the model, if it has several")


def command(argv: Sequence[str]) -> Result:
    """Do what the arguments say, and return how much outputs differ."""
    parser = Parser("roberta-convert", "SOURCE... TARGET", description=DESCRIPTION, example=EXAMPLE)
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="name of a released model, hf:owner/name, or path of a checkpoint in any format",
    )
    parser.add_argument("target", type=Path, metavar="TARGET", help="folder to write; must not exist")
    add_arguments(parser, ConvertConfig, title="conversion")
    add_user_module(parser)
    given = parser.parse_args(argv)
    load_user_modules(given.user_module)
    config = from_namespace(ConvertConfig, given)
    from roberta.conversion import convert

    source = given.source[0] if len(given.source) == 1 else given.source
    conversion = convert(source, given.target, to=config.to, head=config.head)
    return {"source": source, "target": str(given.target), "to": config.to, **asdict(conversion)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
