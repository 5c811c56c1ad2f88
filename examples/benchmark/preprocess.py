"""Measure how fast text is binarised, and that neither the number of processes nor the program changes a byte.

    OMP_NUM_THREADS=1 python examples/benchmark/preprocess.py
    OMP_NUM_THREADS=1 python examples/benchmark/preprocess.py corpus.txt --workers 1 2 8 --json

Without a file the text is that of the package, eight times. Each row is a command run as a user runs it: speed by the
wall counts starting it and its processes; speed by processor time is what a core does, also on a machine that has other
things to do. fairseq is left out where it is not installed: the encoder of its example for RoBERTa, then
fairseq-preprocess.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fairseq_peer
import numpy as np
from measuring import Row, show

from roberta.data.dictionary import FILE_NAME
from roberta.data.encoding import num_cores
from roberta.data.sample import sample_corpus
from roberta.data.tokenizer import Tokenizer

COPIES = 8
Preprocess = Callable[[Path, Path, Path, int], object]  # vocabulary, text, where to, number of processes


def ours(vocab: Path, text: Path, folder: Path, workers: int) -> None:
    """Binarise with roberta-preprocess, which has RoBERTa's vocabulary."""
    run_module("roberta_cli.preprocess", "--trainpref", text, "--destdir", folder, "--workers", workers)


def fairseq(vocab: Path, text: Path, folder: Path, workers: int) -> None:
    """Binarise with fairseq, by way of a text file of BPE symbols."""
    symbols = folder.with_suffix(".bpe")
    run_module(
        "fairseq.examples.roberta.multiprocessing_bpe_encoder",
        *("--encoder-json", vocab / "encoder.json", "--vocab-bpe", vocab / "vocab.bpe"),
        *("--inputs", text, "--outputs", symbols, "--keep-empty", "--workers", workers),
    )
    run_module(
        "fairseq_cli.preprocess",
        *("--only-source", "--srcdict", vocab / FILE_NAME, "--trainpref", symbols),
        *("--destdir", folder, "--workers", workers),
    )


def run_module(module: str, *arguments: object) -> None:
    """Run a module as a program."""
    finished = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        sys.exit(f"{module} failed: {finished.stderr}")


def measure(name: str, work: Preprocess, vocab: Path, text: Path, folder: Path, workers: int) -> tuple[Row, str]:
    """Return a row of the table, and the digest of the files written."""
    wall, processor = time.perf_counter(), _processor_seconds()
    work(vocab, text, folder, workers)
    wall, processor = time.perf_counter() - wall, _processor_seconds() - processor
    size = text.stat().st_size / 1e6
    binary, index = folder / "train.bin", folder / "train.idx"
    tokens = binary.stat().st_size / np.dtype(np.uint16).itemsize / 1e6
    row = {
        "program": name,
        "workers": workers,
        "MB": size,
        "seconds": wall,
        "MB/s": size / wall,
        "MB/s/core": size / processor,
        "M tokens/s/core": tokens / processor,
    }
    return row, hashlib.sha256(binary.read_bytes() + index.read_bytes()).hexdigest()


def _processor_seconds() -> float:
    """Return the processor time of this process and those it has waited for."""
    return sum(os.times()[:4])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?", help="text file; the sample text if not given")
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, num_cores()}), help="numbers of processes")
    parser.add_argument("--json", action="store_true", help="rows as lines of JSON")
    given = parser.parse_args()
    programs: dict[str, Preprocess] = {"roberta": ours}
    if fairseq_peer.is_installed():
        programs[fairseq_peer.NAME] = fairseq
    rows, digests = [], set()
    with tempfile.TemporaryDirectory() as name:
        vocab, text = Path(name) / "vocab", given.text or Path(name) / "sample.txt"
        vocab.mkdir()
        Tokenizer.load().save(vocab)
        if given.text is None:
            text.write_text(sample_corpus("train") * COPIES, encoding="utf-8")
        for program, work in programs.items():
            for workers in given.workers:
                row, digest = measure(program, work, vocab, text, Path(name) / f"{program}{workers}", workers)
                rows.append(row)
                digests.add(digest)
    if len(digests) > 1:
        sys.exit("the files differ, which they must not")
    show(rows, as_json=given.json)


if __name__ == "__main__":
    main()
