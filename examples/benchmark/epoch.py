"""Measure an epoch of fine-tuning on pairs as long as MRPC's: roberta-finetune against the Trainer of transformers.

    python examples/benchmark/epoch.py
    python examples/benchmark/epoch.py --preset roberta.small --pairs 512 --json
    python examples/benchmark/epoch.py --precision bf16

Both begin with the same weights and read the same texts, cut from the sample text of the package, in batches of 16 in
an order of their own; who pads does it to the longest of a batch. Both train with AdamW, warm-up and linear decay. What
counts is the time that each says its training took: starting, reading and saving are left out. transformers needs
accelerate for its Trainer; where one of them is not installed, it is left out.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import Row, Timing, draw_lengths, show

from roberta.checkpoint import hf_format, native
from roberta.data.sample import sample_corpus
from roberta.data.tokenizer import Tokenizer
from roberta.models.roberta import RobertaModel, preset_config

OURS, BASELINE = "roberta-finetune", "Hugging Face Trainer"
BATCH_SIZE, LR, WEIGHT_DECAY, WARMUP = 16, 1e-5, 0.1, 0.06


@dataclass(frozen=True)
class Pair:
    """Two texts and a class."""

    first: str
    second: str
    label: str


def sample_pairs(tokenizer: Tokenizer, count: int) -> list[Pair]:
    """Return pairs whose tokens are about as many as those of MRPC's."""
    tokens, at = tokenizer.encode(sample_corpus("train")), 0
    pairs = []
    for number, length in enumerate(draw_lengths("mrpc", count)):
        half = (length - 4) // 2  # beside <s> and three </s>
        texts = [tokenizer.decode(tokens[at + start : at + start + half]) for start in (0, half)]
        pairs.append(Pair(*(" ".join(text.split()) for text in texts), label=str(number % 2)))
        at += 2 * half
    return pairs


def ours(folder: Path, pairs: list[Pair], precision: str, cpu_engine: str) -> Callable[[], float]:
    """Return what trains an epoch with this project, and returns its seconds."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    for name, members in (("train", pairs), ("valid", pairs[:2])):
        lines = [json.dumps({"a": pair.first, "b": pair.second, "label": pair.label}) for pair in members]
        (data / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = {
        "--init": folder / "native",
        "--batch-size": BATCH_SIZE,
        "--lr": LR,
        "--weight-decay": WEIGHT_DECAY,
        "--warmup-ratio": WARMUP,
        "--max-epoch": 1,
        "--precision": precision,
        "--cpu-engine": cpu_engine,
    }
    given = [str(part) for option in options.items() for part in option]

    def epoch() -> float:
        with tempfile.TemporaryDirectory() as run:
            command = [sys.executable, "-m", "roberta_cli.finetune", "table", str(data), "--quiet"]
            columns = ["--text-columns", "a", "b", "--label-column", "label"]
            result = subprocess.run(
                [*command, *columns, "--save-dir", f"{run}/run", *given], stdout=subprocess.PIPE, check=True
            )
        return float(json.loads(result.stdout)["best"]["seconds"])

    return epoch


def theirs(folder: Path, pairs: list[Pair], precision: str) -> Callable[[], float]:
    """Return what trains an epoch with transformers, and returns its seconds."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "hf")
    samples: Any = [
        {**tokenizer(pair.first, pair.second, truncation=True), "labels": int(pair.label)} for pair in pairs
    ]

    def epoch() -> float:
        model = transformers.RobertaForSequenceClassification.from_pretrained(folder / "hf", num_labels=2)
        options = transformers.TrainingArguments(
            output_dir=str(folder / "trainer"),
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=LR,
            weight_decay=WEIGHT_DECAY,
            warmup_steps=WARMUP,
            num_train_epochs=1,
            bf16=precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            max_grad_norm=0.0,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        collator = transformers.DataCollatorWithPadding(tokenizer)
        trainer = transformers.Trainer(model, options, data_collator=collator, train_dataset=samples)
        trainer.remove_callback(transformers.PrinterCallback)
        return float(trainer.train().metrics["train_runtime"])

    return epoch


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="roberta.base", help="shape of the model (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=96, help="pairs of the epoch (default: %(default)s)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="rows as lines of JSON")
    given = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = Tokenizer.load()
    model = RobertaModel(preset_config(given.preset))
    pairs = sample_pairs(tokenizer, given.pairs)
    num_tokens = sum(len(tokenizer.encode_sequence(pair.first, pair.second)) for pair in pairs)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        native.save(folder / "native", model, tokenizer)
        hf_format.write(folder / "hf", model, tokenizer)
        engines = {OURS: ours(folder, pairs, given.precision, "torch")}
        if given.precision == "fp32":
            engines[f"{OURS} --cpu-engine auto"] = ours(folder, pairs, given.precision, "auto")
        if all(map(importlib.util.find_spec, ("transformers", "accelerate"))):
            engines[BASELINE] = theirs(folder, pairs, given.precision)
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for turn in range(given.repeats):
            for name in list(engines)[:: 1 if turn % 2 == 0 else -1]:
                seconds[name].append(engines[name]())
    timings = {name: Timing(tuple(rounds)) for name, rounds in seconds.items()}
    baseline = timings.get(BASELINE, timings[OURS])
    rows: list[Row] = [
        {
            "engine": name,
            "precision": given.precision,
            "pairs": len(pairs),
            "seconds": timing.median,
            "spread": timing.spread,
            "tokens/s": num_tokens / timing.median,
            "x baseline": timing.times_faster_than(baseline),
        }
        for name, timing in timings.items()
    ]
    show(rows, as_json=given.json)


if __name__ == "__main__":
    main()
