"""roberta-quickstart: the whole way from text to a model in use, on the sample text that ships with the package."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from roberta.config import add_arguments, from_namespace, option
from roberta_cli import evaluate, preprocess, train
from roberta_cli.entry import Parser, run

DESCRIPTION = """Pretrain a small RoBERTa on the sample text (Jane Austen's novels), measure it, and fill some masks.
Takes about two minutes on two cores. Every step is a command of its own, and is printed before it runs.
Run it again to go on where it was stopped."""

EXAMPLE = "  roberta-quickstart --folder runs/quickstart"

RECIPE = """--preset roberta.tiny --max-positions 128 --tokens-per-sample 128 --dropout 0 --attention-dropout 0
  --batch-size 16 --lr 2e-3 --warmup-updates 40 --log-interval 20 --validate-interval-updates 200
  --save-interval-updates 200""".split()

MASKED_TEXTS = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want"
    " of a <mask>.",
    "Mrs. Bennet said <mask> was very glad to see him.",
    "He had never been so happy in his <mask>.",
)


@dataclass(frozen=True)
class QuickstartConfig:
    """Options of roberta-quickstart."""

    folder: Path = option(Path("runs/quickstart"), help="where to put the text, the data, the run and its checkpoints")
    max_update: int = option(300, help="number of updates to make")


def _main(argv: Sequence[str]) -> int:
    parser = Parser(description=DESCRIPTION, example=EXAMPLE)
    add_arguments(parser, QuickstartConfig, title="quickstart")
    config = from_namespace(QuickstartConfig, parser.parse_args(argv))
    folder = config.folder
    data, run_dir = folder / "data-bin", folder / "run"
    texts = _write_sample(folder)
    steps: tuple[tuple[Callable[[Sequence[str]], int], list[str]], ...] = (
        (preprocess.main, ["--trainpref", texts["train"], "--validpref", texts["valid"], "--destdir", str(data)]),
        (
            train.main,
            [str(data), "--save-dir", str(run_dir), "--max-update", str(config.max_update), "--resume", *RECIPE],
        ),
        (evaluate.main, ["masked_lm", str(data), "--model", str(run_dir)]),
    )
    for main_, arguments in steps:
        name = main_.__module__.rpartition(".")[2].replace("evaluate", "eval")
        print(f"\n$ roberta-{name} {' '.join(arguments)}", flush=True)
        exit_code = main_(arguments)
        if exit_code:
            return exit_code
    _fill_masks(run_dir)
    print(f"\ntext, data, log and checkpoints are in {folder.resolve()}")
    return 0


def _write_sample(folder: Path) -> dict[str, str]:
    from roberta.data.sample import SPLITS, sample_corpus

    folder.mkdir(parents=True, exist_ok=True)
    paths = {split: folder / f"{split}.txt" for split in SPLITS}
    for split, path in paths.items():
        path.write_text(sample_corpus(split), encoding="utf-8")
    return {split: str(path) for split, path in paths.items()}


def _fill_masks(run_dir: Path) -> None:
    from roberta.hub import from_pretrained

    print(f"\n>>> roberta = roberta.from_pretrained({str(run_dir)!r})")
    roberta = from_pretrained(run_dir)
    print(roberta)
    for text in MASKED_TEXTS:
        print(f">>> roberta.fill_mask({text!r}, topk=3)")
        for filled, probability, token in roberta.fill_mask(text, topk=3):
            print(f"    {probability:.3f} {token!r:>12}  {filled}")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(_main, argv)


if __name__ == "__main__":
    raise SystemExit(main())
