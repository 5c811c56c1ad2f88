"""Measure whole training steps, forward, backward and update, against peers with the same weights and batches.

    python examples/benchmark/training.py
    python examples/benchmark/training.py --preset roberta.base --case pretraining --length 512 --sequences 4
    python examples/benchmark/training.py --preset roberta.base --case finetuning --sequences 32

Pretraining takes blocks of one length with 15 % of the tokens masked, fine-tuning pairs with the lengths of MRPC in
the order of a shuffled epoch. In evaluation mode all must compute the same loss before a step is timed. Peers that are
not installed are left out: transformers, fairseq. `floor` is the time of the matrix products alone at the best rate
found for the shapes of this model.
"""

import argparse
import copy
import dataclasses
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fairseq_peer
import numpy as np
import torch
from measuring import (
    Row,
    add_engine_option,
    add_timing_options,
    draw_lengths,
    forward_gflops,
    interleaved,
    layer_products,
    random_sequences,
    show,
    synchronise,
    working_memory,
)
from torch import Tensor, nn

from roberta.checkpoint import hf_format
from roberta.criterions.masked_lm import MaskedLMLoss, MaskedLMLossConfig
from roberta.criterions.sentence_prediction import SentencePredictionLoss, SentencePredictionLossConfig
from roberta.data.tokenizer import Tokenizer
from roberta.devices import autocast
from roberta.distributed import SINGLE, parallelise
from roberta.estimates import peak_flops
from roberta.layout import Batch, SequenceLayout
from roberta.models.attention import kernels
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel, preset_config
from roberta.optim.adam import AdamConfig, adam

OURS, BASELINE, FLOOR = "roberta", "Hugging Face", "floor"
MASK_PROB, PAD, IGNORED = 0.15, 1, -100
SHORTEST = 0.8  # of the longest block, where sentences stay whole
LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # of the mean loss, between engines
LR = 1e-5


@dataclass(frozen=True)
class Trainee:
    """A model of one engine, and its mean loss on a batch."""

    name: str
    model: nn.Module
    loss: Callable[[Batch], Tensor]
    optimizer: torch.optim.Optimizer

    def epoch(self, batches: Sequence[Batch]) -> None:
        """Make a step of each batch."""
        for batch in batches:
            self.loss(batch).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def pretraining_batches(config: RobertaConfig, given: argparse.Namespace) -> list[Batch]:
    """Return batches of blocks with a static number of masked positions; they are of one length, if not `uneven`."""
    rng = np.random.default_rng(0)
    shortest = given.length * (SHORTEST if given.uneven else 1.0)
    lengths = rng.permutation(np.linspace(shortest, given.length, given.sequences).astype(int)).tolist()
    num_tokens = sum(lengths)
    tokens = np.concatenate(random_sequences(lengths, vocab_size=config.vocab_size))
    select = np.sort(rng.choice(num_tokens, size=round(MASK_PROB * num_tokens), replace=False))
    targets = tokens[select]
    return [
        Batch(
            torch.from_numpy(tokens),
            SequenceLayout.from_lengths(lengths),
            torch.from_numpy(select),
            torch.from_numpy(targets),
            len(select),
            tuple(range(len(lengths))),
        )
    ]


def finetuning_batches(config: RobertaConfig, given: argparse.Namespace) -> list[Batch]:
    """Return an epoch of pairs in batches of 16, each pair with one of two classes."""
    sequences = random_sequences(draw_lengths("mrpc", given.sequences), vocab_size=config.vocab_size)
    batches = []
    for start in range(0, len(sequences), given.batch_size):
        members = sequences[start : start + given.batch_size]
        layout = SequenceLayout.from_lengths([len(sequence) for sequence in members])
        tokens = torch.from_numpy(np.concatenate(members))
        targets = torch.arange(len(members)) % 2
        sample_ids = tuple(range(start, start + len(members)))
        batches.append(Batch(tokens, layout, layout.first, targets, len(members), sample_ids))
    return batches


def ours(model: RobertaModel, precision: Any, *, is_lm: bool, compiled: bool = False) -> Trainee:
    """Return this library's model, ready to train."""
    name = OURS + " compiled" * compiled + f" by {model.cpu_engine}" * (model.cpu_engine != "torch")
    device = model.encoder.embed_tokens.weight.device
    forward = parallelise(model, model.encoder, SINGLE, "ddp", compiled=compiled)
    criterion: Any = (
        MaskedLMLoss(MaskedLMLossConfig(), "lm")
        if is_lm
        else SentencePredictionLoss(SentencePredictionLossConfig(), "topic")
    )

    def loss(batch: Batch) -> Tensor:
        with autocast(device, precision):
            return criterion(forward, batch.to(device))[0] / batch.num_targets

    optimizer = adam(AdamConfig(), list(model.named_parameters()))
    for group in optimizer.param_groups:
        group["lr"] = LR
    return Trainee(name, model, loss, optimizer)


def hugging_face(folder: Path, precision: Any, device: torch.device, *, is_lm: bool, compiled: bool) -> Trainee:
    """Return transformers' model, ready to train with the optimizer of its trainer."""
    import transformers

    kind = transformers.RobertaForMaskedLM if is_lm else transformers.RobertaForSequenceClassification
    model = kind.from_pretrained(folder).to(device)
    forward: Any = torch.compile(model) if compiled else model
    rate = model.config.attention_probs_dropout_prob

    def loss(batch: Batch) -> Tensor:
        layout = batch.layout
        grid = {"input_ids": layout.pad(batch.tokens, PAD)}
        if not layout.is_uniform:  # without a mask it takes its fastest kernels
            grid["attention_mask"] = layout.is_token.long()
        labels = batch.targets
        if is_lm:
            labels = layout.pad(torch.full_like(batch.tokens, IGNORED).index_copy(0, batch.select, labels), IGNORED)
        with autocast(device, precision), kernels(device, dropout_p=rate):  # which would round the rate otherwise
            return forward(**{name: value.to(device) for name, value in grid.items()}, labels=labels.to(device)).loss

    return Trainee(
        BASELINE + " compiled" * compiled, model, loss, torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    )


def fairseq(model: RobertaModel, precision: Any, *, is_lm: bool) -> Trainee:
    """Return fairseq's model, ready to train with its own criterion and optimizer; in bf16 as with its --amp."""
    device = next(model.parameters()).device
    theirs, task = fairseq_peer.twin(model)
    mean_loss = fairseq_peer.mean_loss(theirs.to(device), task, is_lm=is_lm)

    def loss(batch: Batch) -> Tensor:
        with autocast(device, precision):
            return mean_loss(batch.to(device))

    return Trainee(fairseq_peer.NAME, theirs, loss, fairseq_peer.adam(theirs, LR))


def trainees(model: RobertaModel, given: argparse.Namespace, precision: str, folder: Path) -> list[Trainee]:
    """Return the engines that are installed, all with the weights of `model`."""
    device = next(model.parameters()).device
    is_lm = given.case == "pretraining"
    ways = [False, True] if given.compile else [False]

    cpu_engines = given.cpu_engine if precision == "fp32" else ["torch"]
    twins = [copy.deepcopy(model).set_cpu_engine(engine) for engine in cpu_engines]
    found = [ours(twin, precision, is_lm=is_lm) for twin in {twin.cpu_engine: twin for twin in twins}.values()]
    if given.compile:
        found.append(ours(copy.deepcopy(model), precision, is_lm=is_lm, compiled=True))
    if given.ours:
        return found
    if importlib.util.find_spec("transformers") is not None:
        hf_format.write(folder, model, Tokenizer.load())
        found += [hugging_face(folder, precision, device, is_lm=is_lm, compiled=compiled) for compiled in ways]
    if fairseq_peer.is_installed():
        found.append(fairseq(model, precision, is_lm=is_lm))
    return found


@torch.no_grad()
def check_agreement(engines: Sequence[Trainee], batches: Sequence[Batch], tolerance: float) -> None:
    """Refuse engines that do not compute the first one's loss in evaluation mode."""
    losses = {}
    for engine in engines:
        engine.model.eval()
        losses[engine.name] = sum(engine.loss(batch).item() for batch in batches) / len(batches)
        engine.model.train()
    first = next(iter(losses.values()))
    for name, loss in losses.items():
        if not abs(loss - first) <= tolerance:
            sys.exit(f"{name} computes something else: a loss of {loss:.6f}, not {first:.6f}")


def step_gflops(config: RobertaConfig, batches: Sequence[Batch], *, is_lm: bool) -> float:
    """Return the operations of a pass over all batches, forward and backward, with the LM head on masked rows."""
    head = 0.0
    if is_lm:
        head = 6 * config.embed_dim * (config.embed_dim + config.vocab_size) * sum(b.num_targets for b in batches) / 1e9
    return head + 3 * sum(forward_gflops(config, batch.layout.lengths) for batch in batches)


def utilisation(gflops_per_second: float) -> float | None:
    """Return what share of the half-precision peak of a GPU that is; None without a GPU whose peak is known."""
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return None if peak is None else gflops_per_second * 1e9 / peak


def measure(model: RobertaModel, given: argparse.Namespace, precision: str) -> list[Row]:
    """Return a row for each engine at one precision."""
    config, is_lm = model.config, given.case == "pretraining"
    batches = (pretraining_batches if is_lm else finetuning_batches)(config, given) * given.steps
    num_tokens = sum(batch.layout.num_tokens for batch in batches)
    device = next(model.parameters()).device
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rows, times = num_tokens // len(batches), config.encoder_layers * len(batches)
    floor = layer_products(config, rows=rows, dtype=dtype, device=device.type, times=times)
    with tempfile.TemporaryDirectory() as folder:
        engines = trainees(model, given, precision, Path(folder))
    check_agreement(engines, batches[: len(batches) // given.steps], LOSS_TOLERANCE[precision])
    works = {engine.name: lambda engine=engine: engine.epoch(batches) for engine in engines}
    memory = {}
    for name, work in works.items():
        work()  # the optimizer's state is made in the first step
        synchronise()
        memory[name] = working_memory(work)
    timings = interleaved({**works, FLOOR: floor}, repeats=given.repeats, processor_time=given.processor_time)
    floor_timing = timings.pop(FLOOR)
    baseline = timings.get(BASELINE, timings[engines[0].name])
    gflops = step_gflops(config, batches, is_lm=is_lm)
    return [
        {
            "engine": name,
            "precision": precision,
            "dropout": config.dropout,
            "tokens/s": num_tokens / timing.median,
            "spread": timing.spread,
            "x baseline": timing.times_faster_than(baseline),
            "of floor": floor.share(floor_timing, gflops, timing),
            "MFU": utilisation(gflops / timing.median),
            "MB": memory[name],
        }
        for name, timing in timings.items()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="roberta.small", help="shape of the model (default: %(default)s)")
    parser.add_argument("--case", choices=["pretraining", "finetuning"], default="pretraining")
    parser.add_argument("--length", type=int, default=128, help="tokens of a block (default: %(default)s)")
    parser.add_argument("--uneven", action="store_true", help=f"blocks of {SHORTEST:g} of that length and more")
    parser.add_argument("--sequences", type=int, default=16, help="blocks of a step, or pairs of an epoch")
    parser.add_argument("--steps", type=int, default=1, help="how often a round goes through the batches")
    parser.add_argument("--batch-size", type=int, default=16, help="pairs of a step of fine-tuning")
    parser.add_argument("--precision", nargs="+", choices=LOSS_TOLERANCE, default=["fp32"])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.1], help="rates (default: 0.1)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compiled forms of ours and transformers' too",
    )
    parser.add_argument("--ours", action="store_true", help="this library alone")
    add_engine_option(parser)
    add_timing_options(parser)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for dropout in given.dropout:
        torch.manual_seed(0)
        config = dataclasses.replace(preset_config(given.preset), dropout=dropout, attention_dropout=dropout)
        model = RobertaModel(config)
        if given.case == "pretraining":
            model.register_head("lm", MaskedLMHeadConfig())
        else:
            model.register_head("topic", ClassificationHeadConfig(num_classes=2, dropout=dropout))
        for precision in given.precision:
            found = measure(model.to(device), given, precision)
            rows += found
            if given.json:  # at once, for a run that may be cut short
                show(found, as_json=True)
    if not given.json:
        show(rows, as_json=False)


if __name__ == "__main__":
    main()
