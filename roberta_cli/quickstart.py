"""roberta-quickstart: the whole way from text to a model in use, with the text and the model of the package."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roberta.config import add_arguments, flag, from_namespace, option
from roberta.errors import ConfigError
from roberta_cli import evaluate, finetune, preprocess, train
from roberta_cli.entry import Parser, run
from roberta_cli.results import Result, show

DESCRIPTION = """Pretrain a small RoBERTa on the sample text (Jane Austen's novels) and measure it.
Then take roberta.mini, which ships with the package, fill some masks, and teach it which novel a passage is from.
Takes about two minutes on two cores. Every step is a command of its own, and is printed before it runs.
Run it again to go on where it was stopped."""

EXAMPLE = "  roberta-quickstart --folder runs/quickstart"

RUN, CLASSIFIER = "run", "classifier"  # in the folder
MODEL = "roberta.mini"
HEAD = "sentence_classification_head"
TOPK = 3

RECIPE = """--preset roberta.tiny --initialisation local --max-positions 128 --tokens-per-sample 128 --dropout 0
  --attention-dropout 0 --batch-size 16 --optimizer muon --lr 4e-3 --warmup-ratio 0.15 --log-interval 20
  --validate-interval-updates 200 --save-interval-updates 200""".split()

# what Muon has pretrained learns faster with it
CLASSIFIER_RECIPE = ["--optimizer", "muon", "--lr", "2e-3", "--tokens-per-sample", "128"]

MASKED_TEXTS = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want"
    " of a <mask>.",
    "She opened the <mask> and went into the house.",
    "I am very <mask> to see you.",
)

PASSAGE = (
    "Mr. Darcy drew his chair a little towards her, and said, You cannot have a right to such very strong attachment."
)

Step = Callable[[Sequence[str]], Any]


@dataclass(frozen=True)
class QuickstartConfig:
    """Options of roberta-quickstart."""

    folder: Path = option(Path("runs/quickstart"), help="where to put the text, the data, the runs and checkpoints")
    max_update: int = option(300, help="number of updates of the pretraining")
    classifier_updates: int = option(120, help="number of updates of the fine-tuning")

    def __post_init__(self) -> None:
        for name in ("max_update", "classifier_updates"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; it must be at least 1")


def command(argv: Sequence[str]) -> Result | None:
    """Do what the arguments say, telling of each step; with `--json`, return what came of it instead."""
    parser = Parser("roberta-quickstart", "", description=DESCRIPTION, example=EXAMPLE)
    add_arguments(parser, QuickstartConfig, title="quickstart")
    given = parser.parse_args(argv)
    config = from_namespace(QuickstartConfig, given)
    is_told = not (given.quiet or given.json)
    results = {}
    for name, (step, arguments) in _steps(config).items():
        if is_told:
            print(f"\n$ {name} {' '.join(arguments)}", flush=True)
        results[name] = step(arguments)
        if is_told:
            show(results[name], as_json=False)
    from roberta.hub import from_pretrained

    classifier = config.folder / CLASSIFIER
    filled = _fill_masks(from_pretrained(MODEL))
    answer = from_pretrained(classifier).predict(HEAD, PASSAGE)
    told = {"label": answer.label, "probability": answer.probabilities[answer.label]}
    if given.json:
        run_dir = str(config.folder / RUN)
        valid, novels = results["roberta-eval"], results["roberta-finetune"]
        return {"run": run_dir, "valid": valid, "filled": filled, "novels": novels, "passage": told}
    if is_told:
        print(f"\n>>> roberta = roberta.from_pretrained({MODEL!r})")
    _tell(filled)
    if is_told:
        print(
            f"\n>>> roberta = roberta.from_pretrained({str(classifier)!r})\n>>> roberta.predict({HEAD!r}, {PASSAGE!r})"
        )
    print(f"    {told['probability']:.3f} {told['label']}")
    if is_told:
        print(f"\ntext, data, logs and checkpoints are in {config.folder.resolve()}")
    return None


def _steps(config: QuickstartConfig) -> dict[str, tuple[Step, list[str]]]:
    """Return the commands to run, by name, with their arguments; writes the sample text."""
    data, run_dir, classifier = (str(config.folder / name) for name in ("data-bin", RUN, CLASSIFIER))
    texts, passages = _write_sample(config.folder)
    options = ["--save-dir", run_dir, "--max-update", str(config.max_update), *_resume(run_dir), *RECIPE]
    splits = ["--trainpref", texts["train"], "--validpref", texts["valid"], "--vocab", MODEL]
    novels = ["--init", MODEL, "--save-dir", classifier, *_resume(classifier)]
    updates = ["--max-update", str(config.classifier_updates), *CLASSIFIER_RECIPE]
    return {
        "roberta-preprocess": (preprocess.command, [*splits, "--destdir", data]),
        "roberta-train": (train.command, [data, *options]),
        "roberta-eval": (evaluate.command, ["masked_lm", data, "--model", run_dir]),
        "roberta-finetune": (finetune.command, ["table", str(passages), *novels, *updates]),
    }


def _resume(run_dir: str) -> list[str]:
    return ["--resume"] if Path(run_dir).exists() else []


def _write_sample(folder: Path) -> tuple[dict[str, str], Path]:
    """Write the text of each split, and the folder of a table of passages with the novels they are from."""
    from roberta.data.sample import SPLITS, sample_corpus, sample_passages

    novels = folder / "novels"
    novels.mkdir(parents=True, exist_ok=True)
    texts = {split: folder / f"{split}.txt" for split in SPLITS}
    for split, path in texts.items():
        path.write_text(sample_corpus(split), encoding="utf-8")
        rows = [json.dumps({"text": passage, "label": novel}) for passage, novel in sample_passages(split)]
        (novels / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {split: str(path) for split, path in texts.items()}, novels


def _fill_masks(roberta: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the likeliest fillings of each text."""
    return {
        text: [
            {"probability": probability, "token": token, "text": filled}
            for filled, probability, token in roberta.fill_mask(text, topk=TOPK)
        ]
        for text in MASKED_TEXTS
    }


def _tell(filled: dict[str, list[dict[str, Any]]]) -> None:
    for text, fillings in filled.items():
        print(f">>> roberta.fill_mask({text!r}, topk={TOPK})")
        for filling in fillings:
            print(f"    {filling['probability']:.3f} {filling['token']!r:>12}  {filling['text']}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
