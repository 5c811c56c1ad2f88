"""Measure how fast text is binarised, and that the number of processes changes no byte.

    OMP_NUM_THREADS=1 python examples/benchmark/preprocess.py
    OMP_NUM_THREADS=1 python examples/benchmark/preprocess.py corpus.txt --workers 1 2 8

Without a file the text is that of the package, eight times. Speed by the wall counts starting the processes and loading
the vocabulary in each; speed by processor time is what a core does, also on a machine that has other things to do.
"""

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path

from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.encoding import num_cores
from roberta.data.sample import sample_corpus

COPIES = 8


def measure(text: Path, folder: Path, workers: int) -> str:
    """Print a row of the table, and return the digest of the files written."""
    wall, processor = time.perf_counter(), _processor_seconds()
    counts = preprocess(PreprocessConfig(trainpref=(text,), destdir=folder, workers=workers))["train"]
    wall, processor = time.perf_counter() - wall, _processor_seconds() - processor
    size = counts.text_bytes / 1e6
    print(
        f"{workers:>7}{size:>8.1f}{wall:>10.2f}{size / wall:>10.1f}{size / processor:>12.1f}"
        f"{counts.tokens / processor / 1e6:>18.2f}"
    )
    return hashlib.sha256((folder / "train.bin").read_bytes() + (folder / "train.idx").read_bytes()).hexdigest()


def _processor_seconds() -> float:
    """Return the processor time of this process and those it has waited for."""
    return sum(os.times()[:4])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?", help="text file; the sample text if not given")
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, num_cores()}), help="numbers of processes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        text = given.text or Path(name) / "sample.txt"
        if given.text is None:
            text.write_text(sample_corpus("train") * COPIES, encoding="utf-8")
        print(f"{'workers':>7}{'MB':>8}{'seconds':>10}{'MB/s':>10}{'MB/s/core':>12}{'M tokens/s/core':>18}")
        digests = {measure(text, Path(name) / str(workers), workers) for workers in given.workers}
    print(f"same bytes: {len(digests) == 1}")


if __name__ == "__main__":
    main()
