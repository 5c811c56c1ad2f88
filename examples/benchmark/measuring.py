"""What the benchmarks share: interleaved timing, memory, agreement, lengths of real data, the floor, and tables.

Machines are shared and noisy, so everything that is compared runs in turns, round after round, and a ratio is the
median over rounds of the ratio within a round. Tokens are real ones: padding is never counted.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F

from roberta.models.linear import CpuEngineChoice, numpy_product
from roberta.models.roberta import RobertaConfig
from roberta_cli.entry import HUGE_PAGES

Row = dict[str, Any]

# Quantiles 0, 1/32, ..., 1 of the tokens of a sample with its specials: premise and hypothesis of 5,000 training pairs
# of MNLI, both sentences of MRPC's training set, and windows of SQuAD 1.1 (384 tokens, 128 apart, question included).
QUANTILES = {
    "mnli": "8 16 18 20 22 23 25 26 28 29 30 32 33 34 36 37 38 39 41 42 44 45 47 49 51 53 55 58 61 64 70 78 185",
    "mrpc": "20 32 35 37 39 40 42 43 45 46 47 48 49 51 52 53 54 55 56 58 59 60 61 62 63 65 66 67 69 71 74 77 104",
    "squad": "43 72 88 96 111 118 124 130 136 139 142 146 150 154 157 161 166 171 177 181 186 192 198 206 215 222 228 "
    "238 254 267 289 321 384",
}
MIXES = (*QUANTILES, "normal", "fixed")  # normal(256, 64), and 512 tokens each
LONGEST = 512


@dataclass(frozen=True)
class Timing:
    """How long the rounds of one piece of work took, in seconds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half the range between the quartiles, as a share of the median; 0 for a single round."""
        if len(self.rounds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return (third - first) / 2 / self.median

    def times_faster_than(self, other: "Timing") -> float:
        """Return the median over rounds of the other's time by this one's."""
        return statistics.median(theirs / ours for ours, theirs in zip(self.rounds, other.rounds, strict=True))


def interleaved(
    works: Mapping[Any, Callable[[], object]], *, repeats: int, processor_time: bool = False
) -> dict[Any, Timing]:
    """Time all works in turns, each after one call that doesn't count; the turn that comes first changes.

    processor_time: count the seconds that the threads of this process computed, not those on the wall: with one thread
    the same on a quiet machine, and on a core that has other things to do what the work itself takes.
    """
    clock = time.process_time if processor_time else time.perf_counter
    for work in works.values():
        work()
    synchronise()
    rounds: dict[Any, list[float]] = {name: [] for name in works}
    names = list(works)
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            works[name]()
            synchronise()
            rounds[name].append(clock() - start)
    return {name: Timing(tuple(seconds)) for name, seconds in rounds.items()}


def add_timing_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of how works are timed and shown."""
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--processor-time", action="store_true", help="time by the processor, for a busy machine and one thread"
    )
    parser.add_argument("--json", action="store_true", help="rows as lines of JSON")


def add_engine_option(parser: argparse.ArgumentParser, default: Sequence[str] = ("torch", "auto")) -> None:
    """Add the option of what multiplies this library's matrices on a CPU."""
    parser.add_argument(
        "--cpu-engine",
        nargs="+",
        choices=get_args(CpuEngineChoice),
        default=default,
        help="what multiplies our matrices in fp32 on a CPU, a row each where they differ "
        f"(default: {' '.join(default)})",
    )


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def working_memory(work: Callable[[], object]) -> float:
    """Return the MB that a call holds at its peak beyond what was held before; nan where that can't be told."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        synchronise()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.exists() and os.access(reset, os.W_OK)):
        return float("nan")
    reset.write_text("5", encoding="ascii")  # the peak of the resident memory begins anew
    before = _kilobytes(status, "VmRSS")
    work()
    return (_kilobytes(status, "VmHWM") - before) / 1e3


def _kilobytes(status: Path, name: str) -> int:
    return int(status.read_text(encoding="ascii").split(f"{name}:")[1].split()[0])


def draw_lengths(mix: str, count: int, *, seed: int = 0) -> list[int]:
    """Return the tokens of `count` sequences of a mix, in random order; the mix itself is met as well as can be."""
    rng = np.random.default_rng(seed)
    shares = (np.arange(count) + 0.5) / count
    if mix == "fixed":
        return [LONGEST] * count
    if mix == "normal":
        deviate = statistics.NormalDist(256, 64)
        lengths = np.clip([deviate.inv_cdf(share) for share in shares], 8, LONGEST)
    else:
        quantiles = [int(quantile) for quantile in QUANTILES[mix].split()]
        lengths = np.interp(shares, np.linspace(0, 1, len(quantiles)), quantiles)
    return rng.permutation(np.rint(lengths).astype(np.int64)).tolist()


def random_sequences(lengths: Iterable[int], *, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Return token ids of sequences with these lengths, from `<s>` to `</s>`."""
    rng = np.random.default_rng(seed)
    return [[0, *rng.integers(4, vocab_size - 1, size=length - 2).tolist(), 2] for length in lengths]


def forward_gflops(config: RobertaConfig, lengths: Sequence[int]) -> float:
    """Return the floating-point operations of the encoder for sequences of these lengths, in 10^9."""
    per_token = 4 * config.embed_dim**2 + 2 * config.embed_dim * config.ffn_embed_dim  # multiplications of a layer
    products = per_token * sum(lengths) + 2 * config.embed_dim * sum(length**2 for length in lengths)
    return 2 * config.encoder_layers * products / 1e9


@dataclass(frozen=True)
class Products:
    """The four linear maps of a layer on some tokens, each computed in the fastest way there is: the floor.

    times: how often, so that a round takes as long as the rounds it is compared with, and what an engine leaves
    behind, such as threads that still spin, weighs as little.
    """

    gflops: float
    works: tuple[Callable[[], object], ...]
    times: int

    def __call__(self) -> None:
        """Compute them."""
        with torch.inference_mode():
            for _ in range(self.times):
                for work in self.works:
                    work()

    def share(self, floor: Timing, gflops: float, timing: Timing) -> float:
        """Return how long `gflops` take at the rate of these products, as a share of what was timed.

        floor: of these products, in the same rounds.
        """
        shares = (ours / theirs for ours, theirs in zip(floor.rounds, timing.rounds, strict=True))
        return statistics.median(shares) * gflops / self.gflops


@torch.inference_mode()
def layer_products(config: RobertaConfig, *, rows: int, dtype: torch.dtype, device: str, times: int) -> Products:
    """Return the linear maps of a layer on `rows` tokens, computed `times` over.

    On a CPU each is the best of torch's own product, with one thread numpy's, whose threads would wait for torch's
    otherwise, and oneDNN's with weights it has laid out beforehand.
    """
    width, inner = config.embed_dim, config.ffn_embed_dim
    fastest = []
    for inputs, outputs in ((width, 3 * width), (width, width), (width, inner), (inner, width)):
        x = torch.randn(rows, inputs, dtype=dtype, device=device)
        weight = torch.randn(outputs, inputs, dtype=dtype, device=device)
        works: dict[str, Callable[[], object]] = {"plain": partial(F.linear, x, weight)}
        if device == "cpu" and dtype == torch.float32 and torch.get_num_threads() == 1:
            works["numpy"] = partial(numpy_product, x, weight.t())
        if device == "cpu" and torch.backends.mkldnn.is_available():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            works["packed"] = partial(torch.ops.mkldnn._linear_pointwise, x, packed, None, "none", [], "")
        timings = interleaved(works, repeats=5)
        fastest.append(works[min(timings, key=lambda name, timings=timings: min(timings[name].rounds))])
    gflops = 2 * rows * (4 * width**2 + 2 * width * inner) * times / 1e9
    return Products(gflops, tuple(fastest), times)


def machine() -> str:
    """Return what the figures were measured on, in a line."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    pages = ", huge pages" * (os.environ.get(HUGE_PAGES) == "1")
    return f"{platform.machine()} {capability}, {torch.get_num_threads()} threads{pages}, torch {torch.__version__}"


def origin() -> Row:
    """Return where a row comes from."""
    command = " ".join((Path(sys.argv[0]).name, *sys.argv[1:]))
    return {"machine": machine(), "date": datetime.now(UTC).date().isoformat(), "command": command}


def show(rows: Sequence[Row], *, as_json: bool) -> None:
    """Print rows of equal columns as a table, or each as a line of JSON with machine, day and command beside it."""
    if as_json:
        sys.stdout.writelines(json.dumps(row | origin()) + "\n" for row in rows)
        sys.stdout.flush()
        return
    cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_text = [isinstance(value, str) for value in rows[0].values()]
    for line in cells:
        pieces = zip(line, widths, is_text, strict=True)
        print("  ".join(cell.ljust(width) if text else cell.rjust(width) for cell, width, text in pieces).rstrip())
    sys.stdout.flush()


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
