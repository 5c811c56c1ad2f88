"""Measure the time to a target masked-LM loss, against peers on the same batches from the same weights.

    python examples/benchmark/speedrun.py
    python examples/benchmark/speedrun.py --track gpu --data data-bin

The clock runs while a model trains, and stands while it is evaluated, compiled and saved. The loss is the cross-entropy
in nats on the validation text, always with the same 15 % of its tokens masked. All engines go through the same number
of updates, some of the one and then some of the next; there is no early stop. `--json` shows every evaluation.

Track cpu is a tiny model on the sample text of the package; track gpu is RoBERTa base on your data, some minutes for
each engine and seed. Both are exact: RoBERTa's starting point, and Adam as it was trained with. `--open` adds a run
that is free to train otherwise: it starts from `--initialisation local` and takes Muon for the matrices of the layers.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from measuring import add_engine_option, origin, show, synchronise
from training import OURS, Trainee, ours, trainees

from roberta.data.batching import batches
from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.sample import sample_corpus
from roberta.layout import Batch
from roberta.models.heads import MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel, preset_config
from roberta.optim.muon import MuonConfig, muon
from roberta.optim.schedules import PolynomialDecayConfig, polynomial_decay
from roberta.tasks.masked_lm import MaskedBlocks, MaskedLMTask, MaskedLMTaskConfig
from roberta.validation import VALID_EPOCH, VALID_SEED

TRACKS = {
    "cpu": {
        "preset": "roberta.tiny",
        "length": 128,
        "batch_size": 16,
        "updates": 200,
        "lr": 2e-3,
        "dropout": 0.0,
        "target": 6.8,
        "precision": "fp32",
    },
    "gpu": {
        "preset": "roberta.base",
        "length": 128,
        "batch_size": 256,
        "updates": 4000,
        "lr": 5e-4,
        "dropout": 0.1,
        "target": 3.5,
        "precision": "bf16",
    },
}
EVALUATIONS = 10  # of a run
WARMUP = 0.1  # of the updates
VALID_BATCHES = 4  # at most


@dataclasses.dataclass
class Run:
    """One engine on its way with one seed."""

    engine: Trainee
    seed: int
    seconds: float = 0.0
    tokens: int = 0
    losses: list[tuple[int, float, float]] = dataclasses.field(default_factory=list)  # tokens, seconds, nats

    def warm_up(self, batch: Batch) -> None:
        """Compute the gradients of a batch, and forget them: what is compiled, is so before the clock runs."""
        self.engine.model.train()
        self.engine.loss(batch).backward()
        self.engine.optimizer.zero_grad()

    def train(self, part: Sequence[Batch], rates: Sequence[float], clock: Callable[[], float]) -> None:
        """Make an update of each batch, on the clock."""
        synchronise()
        start = clock()
        for batch, rate in zip(part, rates, strict=True):
            for group in self.engine.optimizer.param_groups:
                group["lr"] = rate
            self.engine.epoch([batch])
        synchronise()
        self.seconds += clock() - start
        self.tokens += sum(batch.layout.num_tokens for batch in part)

    @torch.no_grad()
    def evaluate(self, valid: Sequence[Batch]) -> None:
        """Note the loss per target on the validation batches."""
        self.engine.model.eval()
        total = sum(self.engine.loss(batch).item() * batch.num_targets for batch in valid)
        self.engine.model.train()
        self.losses.append((self.tokens, self.seconds, total / sum(batch.num_targets for batch in valid)))

    def to(self, target: float) -> tuple[int, float] | None:
        """Return the tokens and seconds at which the target was reached, between evaluations by a straight line."""
        for (tokens, seconds, before), (more_tokens, more_seconds, after) in pairwise(self.losses):
            if after <= target < before:
                share = (before - target) / (before - after)
                return round(tokens + share * (more_tokens - tokens)), seconds + share * (more_seconds - seconds)
        return None


def make_data(folder: Path) -> Path:
    """Binarise the sample text of the package."""
    for split in ("train", "valid"):
        (folder / f"{split}.txt").write_text(sample_corpus(split), encoding="utf-8")
    config = PreprocessConfig(
        trainpref=(folder / "train.txt",), validpref=(folder / "valid.txt",), destdir=folder / "data-bin"
    )
    preprocess(config)
    return folder / "data-bin"


def epochs(samples: MaskedBlocks, *, batch_size: int, seed: int) -> Iterator[Batch]:
    """Yield batches of whole blocks, epoch after epoch, each with masks of its own."""
    epoch = 1
    while True:
        sample_ids = samples.order(seed=seed, epoch=epoch)
        for start in range(0, len(sample_ids) - batch_size + 1, batch_size):
            yield samples.batch(sample_ids[start : start + batch_size], seed=seed, epoch=epoch)
        epoch += 1


def open_trainee(config: RobertaConfig, seed: int, device: str, given: argparse.Namespace) -> Trainee:
    """Return this library's model as it trains fastest: other starting point, other optimizer, the same function."""
    torch.manual_seed(seed)
    model = RobertaModel(dataclasses.replace(config, initialisation="local"))
    model.register_head("lm", MaskedLMHeadConfig())
    trainee = ours(model.to(device), given.precision, is_lm=True, compiled=given.compile)
    optimizer = muon(MuonConfig(), list(model.named_parameters()))
    return dataclasses.replace(trainee, name=f"{OURS} open", optimizer=optimizer)


def races(data: Path, given: argparse.Namespace, folder: Path) -> Iterator[Run]:
    """Yield the finished runs of all engines and seeds."""
    task = MaskedLMTask(MaskedLMTaskConfig(data=data, tokens_per_sample=given.length))
    train, held_out = task.samples("train"), task.samples("valid")
    offsets = batches(held_out.sizes, batch_size=given.batch_size)[: VALID_BATCHES + 1]
    indices = torch.arange(len(held_out)).numpy()
    valid = [held_out.batch(indices[a:b], seed=VALID_SEED, epoch=VALID_EPOCH) for a, b in pairwise(offsets.tolist())]
    schedule = polynomial_decay(
        PolynomialDecayConfig(lr=given.lr, warmup_updates=round(WARMUP * given.updates)), given.updates
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock = time.process_time if given.processor_time else time.perf_counter
    for seed in given.seeds:
        torch.manual_seed(seed)
        config = dataclasses.replace(
            preset_config(given.preset),
            vocab_size=len(task.tokenizer.dictionary),
            dropout=given.dropout,
            attention_dropout=given.dropout,
        )
        model = RobertaModel(config)
        model.register_head("lm", MaskedLMHeadConfig())
        engines = trainees(model.to(device), given, given.precision, folder / str(seed))
        engines = [engine for engine in engines if engine.name.endswith("compiled") == given.compile]
        if given.open:
            engines.append(open_trainee(model.config, seed, device, given))
        runs = [Run(engine, seed) for engine in engines]
        stream = epochs(train, batch_size=given.batch_size, seed=seed)
        for run in runs:
            run.warm_up(valid[0])
            run.evaluate(valid)
        step = -(-given.updates // EVALUATIONS)
        for start in range(0, given.updates, step):
            rates = [schedule(update) for update in range(start, min(start + step, given.updates))]
            part = [next(stream) for _ in rates]
            for run in runs:
                run.train(part, rates, clock)
                run.evaluate(valid)
                report(run, given)
        yield from runs


def report(run: Run, given: argparse.Namespace) -> None:
    """Write the newest evaluation of a run as a line of JSON, if that is asked for."""
    if given.json:
        tokens, seconds, nats = run.losses[-1]
        row = {"engine": run.engine.name, "seed": run.seed, "tokens": tokens, "seconds": seconds, "nats": nats}
        sys.stdout.write(json.dumps(row | origin()) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--track", choices=TRACKS, default="cpu", help="what the other options are where not given")
    parser.add_argument("--data", type=Path, help="folder that roberta-preprocess made; the sample text if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one run of each engine for each")
    parser.add_argument("--ours", action="store_true", help="this library alone")
    parser.add_argument("--compile", action="store_true", help="compile the models; fairseq's is left out then")
    parser.add_argument("--open", action="store_true", help="a row of the open track too")
    parser.add_argument("--json", action="store_true", help="every evaluation as a line of JSON")
    parser.add_argument("--processor-time", action="store_true", help="time by the processor, for a busy machine")
    add_engine_option(parser, default=["torch"])
    for name, value in TRACKS["cpu"].items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), dest=name)
    given = parser.parse_args()
    for name, value in TRACKS[given.track].items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    given.case = "pretraining"
    with tempfile.TemporaryDirectory() as name:
        data = given.data or make_data(Path(name))
        finished = list(races(data, given, Path(name)))
    rows = []
    for engine in dict.fromkeys(run.engine.name for run in finished):
        mine = [run for run in finished if run.engine.name == engine]
        reached = [point for run in mine if (point := run.to(given.target)) is not None]
        rows.append(
            {
                "engine": engine,
                "runs": len(mine),
                "reached": len(reached),
                "seconds to target": statistics.mean(seconds for _, seconds in reached) if reached else None,
                "M tokens to target": statistics.mean(tokens for tokens, _ in reached) / 1e6 if reached else None,
                "seconds in all": statistics.mean(run.seconds for run in mine),
                "nats at the end": statistics.mean(run.losses[-1][2] for run in mine),
            }
        )
    show(rows, as_json=given.json)


if __name__ == "__main__":
    main()
