"""roberta-inspect: a page that shows what a model looks at in a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roberta.config import add_arguments, from_namespace, option
from roberta_cli.entry import Parser, add_user_module, check_output, load_user_modules, opened, run
from roberta_cli.results import Result

DESCRIPTION = """Show a text as a model sees it: the attention of every head, and at each <mask>, or for a
classification head, which tokens speak for the answer and which against it (gradient x input). Writes a web page that
needs no network, or a picture, and shows the answers."""

EXAMPLE = """  roberta-inspect "The capital of France is <mask>." --model roberta.base
  roberta-inspect "What a waste of time." --model runs/sst2 --head sentence_classification_head --output waste.png"""


@dataclass(frozen=True)
class InspectConfig:
    """Options of roberta-inspect."""

    model: str = option(help="name of a released model, or path of a run or checkpoint")
    output: Path = option(Path("page.html"), help="file to write: .html, or .png, .svg, .pdf (those need matplotlib)")
    head: str | None = option(None, help="explain the class that this head chooses, in the place of masks")
    topk: int = option(5, help="answers to show")


def command(argv: Sequence[str]) -> Result:
    """Do what the arguments say, and return the answers."""
    parser = Parser("roberta-inspect", "TEXT", description=DESCRIPTION, example=EXAMPLE)
    parser.add_argument("text", metavar="TEXT", help="the text, in quotes; @@ for an @ that it begins with")
    add_arguments(parser, InspectConfig, title="inspection")
    add_user_module(parser)
    given = parser.parse_args(argv)
    load_user_modules(given.user_module)
    config = from_namespace(InspectConfig, given)
    from roberta.inspection import check_output as check_format
    from roberta.inspection import inspect, write

    check_format(config.output)
    check_output("--output", config.output)
    inspection = inspect(opened(config.model), given.text, head=config.head, topk=config.topk)
    write(inspection, config.output)
    answers = [{"place": answer.place, "likeliest": answer.likeliest} for answer in inspection.answers]
    return {"output": str(config.output), "tokens": len(inspection.tokens), "answers": answers}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
