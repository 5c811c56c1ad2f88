"""Measure how fast masked-LM batches are made, and whether the data pipeline carries past this machine.

    python examples/benchmark/loader.py
    python examples/benchmark/loader.py --lines 1000000000 --shards 10 --folder /scratch

The first table is the whole way of a training batch: gather blocks of the mapped stream, mask, pack. The second is
about an index of `--lines` lines that is made for it (12 bytes a line; the tokens are a hole in a file), in `--shards`
that are one file under several names. The third divides an epoch among simulated ranks and resumes it with half of
them.
"""

import argparse
import resource
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from roberta.data.batching import batches, order, updates
from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.blocks import blocks
from roberta.data.indexed import bin_path, idx_path
from roberta.data.sample import sample_corpus
from roberta.data.stream import open_split, shard_name
from roberta.tasks.masked_lm import MaskedLMTask, MaskedLMTaskConfig

TOKENS_PER_BATCH = 16384
REPEATS = 5
CHUNK = 1 << 22
MASKING = {
    "tokens": {},
    "whole words": {"mask_whole_words": True},
    "spans of 3": {"mask_multiple_length": 3, "mask_stdev": 1.0},
}


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure_batches(folder: Path) -> None:
    """Print tokens per second and core of making batches."""
    text = folder / "train.txt"
    text.write_text(sample_corpus("train"), encoding="utf-8")
    preprocess(PreprocessConfig(trainpref=(text,), destdir=folder / "data-bin", workers=1))
    print(f"\n{'batches of ' + str(TOKENS_PER_BATCH) + ' tokens':<36}{'M tokens/s/core':>16}{'ms/batch':>10}")
    for tokens_per_sample in (512, 128):
        for name, options in MASKING.items():
            config = MaskedLMTaskConfig(data=folder / "data-bin", tokens_per_sample=tokens_per_sample, **options)
            samples = MaskedLMTask(config).samples("train")
            sample_ids = order(len(samples), seed=1, epoch=1)
            offsets = batches(samples.sizes[sample_ids], max_tokens=TOKENS_PER_BATCH)

            def epoch(samples=samples, sample_ids=sample_ids, offsets=offsets) -> None:
                for start, end in pairwise(offsets.tolist()):
                    samples.batch(sample_ids[start:end], seed=1, epoch=1)

            taken = statistics.median(seconds(epoch) for _ in range(REPEATS))
            rate, each = samples.sizes.sum() / taken / 1e6, taken / (len(offsets) - 1) * 1e3
            print(f"{f'{tokens_per_sample} tokens a sample, {name}':<36}{rate:>16.1f}{each:>10.2f}")


def make_index(prefix: Path, lines: int) -> None:
    """Write an index of many lines of 40 tokens in the mean, and a .bin of the right size that takes no disk."""
    rng = np.random.default_rng(0)
    num_tokens = 0
    with idx_path(prefix).open("wb") as idx, tempfile.TemporaryFile() as starts:
        idx.write(struct.pack("<9sQBQ", b"MMIDIDX", 1, 8, lines))
        for first in range(0, lines, CHUNK):
            sizes = np.minimum(rng.geometric(1 / 40, size=min(CHUNK, lines - first)), 600)
            ends = num_tokens + np.cumsum(sizes)
            idx.write(sizes.astype("<i4").data)
            starts.write(((ends - sizes) * 2).astype("<i8").data)
            num_tokens = int(ends[-1])
        starts.seek(0)
        shutil.copyfileobj(starts, idx, CHUNK)
    with bin_path(prefix).open("wb") as file:
        file.truncate(2 * num_tokens)


def own_memory() -> float:
    """Return the memory of this process in MB, the pages of mapped files left out."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) / 1e3


def measure_index(folder: Path, lines: int, shards: int) -> int:
    """Print what a large index costs, and return the number of its blocks."""
    make_index(folder / "train", lines // shards)
    for number in range(1, shards):
        for path in (idx_path, bin_path):
            path(folder / shard_name("train", number)).hardlink_to(path(folder / "train"))
    before, start = own_memory(), time.perf_counter()

    def row(what: str) -> None:
        nonlocal before, start
        print(f"{what:<36}{time.perf_counter() - start:>10.2f}{own_memory() - before:>10.0f}")
        before, start = own_memory(), time.perf_counter()

    print(f"\n{f'index of {lines:,} lines':<36}{'seconds':>10}{'MB':>10}")
    stream = open_split([folder], "train")
    row(f"open and check, {stream.num_tokens / 1e9:.2f} G tokens")
    parts = zip(stream.parts, stream.offsets, strict=False)
    ranges = np.concatenate([blocks(part.sizes, "complete", 511) + offset for part, offset in parts])
    row(f"cut into {len(ranges):,} blocks")
    sample_ids = order(len(ranges), seed=1, epoch=1)
    row("draw the order of an epoch")
    offsets = batches((ranges[:, 1] - ranges[:, 0] + 1)[sample_ids], batch_size=32)
    row(f"make {len(offsets) - 1:,} batches")
    size = idx_path(folder / "train").stat().st_size * shards
    print(f"{'bytes a line on disk':<36}{size / lines:>10.1f}")
    print(
        f"{'most memory, mapped pages included':<36}{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:>20.0f}"
    )
    return len(ranges)


def simulate_ranks(num_samples: int, world_size: int) -> None:
    """Print whether ranks see every sample of an epoch once, also when half of them go on in the middle."""
    offsets = batches(np.full(num_samples, 512), batch_size=8)
    sample_ids = order(num_samples, seed=1, epoch=1)
    num_batches, update_freq = len(offsets) - 1, 2
    middle = num_batches // (2 * world_size * update_freq) * world_size * update_freq
    halves = ((world_size, 0, middle), (world_size // 2, middle, num_batches))
    whole = _global_order(world_size, update_freq, 0, num_batches)
    resumed = np.concatenate([_global_order(world, update_freq, start, end) for world, start, end in halves])
    seen = np.bincount(np.concatenate([sample_ids[offsets[i] : offsets[i + 1]] for i in resumed]))
    print(f"\n{world_size} ranks, {num_samples:,} samples")
    print(f"  every sample once: {bool((seen == 1).all() and len(seen) == num_samples)}")
    print(f"  resumed by {world_size // 2} ranks in the same order: {bool(np.array_equal(whole, resumed))}")


def _global_order(world_size: int, update_freq: int, start: int, end: int) -> np.ndarray:
    """Return the batches that the ranks compute, update by update, micro-batch by micro-batch, rank by rank."""
    ranks = [
        list(updates(end, world_size=world_size, rank=rank, update_freq=update_freq, start=start))
        for rank in range(world_size)
    ]
    return np.array(
        [
            of_rank[k]
            for update in zip(*ranks, strict=True)
            for k in range(update_freq)
            for of_rank in update
            if k < len(of_rank) and of_rank[k] is not None
        ]
    )


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=10_000_000, help="lines of the index (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=1, help="shards of the index (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=1024, help="simulated ranks (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the index is made; a temporary folder if not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        measure_batches(Path(name))
        num_samples = measure_index(Path(name), given.lines, given.shards)
    simulate_ranks(min(num_samples, 1_000_000), given.ranks)


if __name__ == "__main__":
    main()
