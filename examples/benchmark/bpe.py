"""Measure how fast text becomes BPE ids, against other implementations of GPT-2's BPE, on one thread.

    OMP_NUM_THREADS=1 python examples/benchmark/bpe.py
    OMP_NUM_THREADS=1 python examples/benchmark/bpe.py wiki.train.raw --megabytes 8 --json

Without a file the text is that of the package. All must give the same ids before they are timed. `encode` is ours line
by line, as the hub calls it; `corpora` is what binarises files, and by then remembers the words of the text: that is
its speed after many megabytes of a corpus.
Hugging Face's package tokenizers and fairseq are left out where they are not installed.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import fairseq_peer
import tiktoken
from measuring import add_timing_options, interleaved, show
from tiktoken_ext import openai_public

from roberta.bpe import GPT2BPE
from roberta.bpe.lines import LineEncoder
from roberta.data.sample import sample_corpus
from roberta.data.text import read_lines

Encode = Callable[[list[str]], list[int]]  # the ids of all lines


def encoders(bpe: GPT2BPE) -> dict[str, Encode]:
    """Return what encodes lines, by name."""
    ranks = {token: index for index, token in enumerate(bpe.token_bytes[:-1])}
    peer = tiktoken.Encoding("gpt2", pat_str=openai_public.r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    encode_lines = LineEncoder(bpe)
    found: dict[str, Encode] = {
        "roberta corpora": lambda lines: encode_lines(lines)[0].tolist(),
        "roberta encode": lambda lines: [index for line in lines for index in bpe.encode(line)],
        "tiktoken": lambda lines: [index for line in lines for index in peer.encode_ordinary(line)],
    }
    if importlib.util.find_spec("tokenizers") is not None:
        import tokenizers

        with tempfile.TemporaryDirectory() as folder:
            bpe.save(Path(folder))
            model = tokenizers.models.BPE.from_file(f"{folder}/encoder.json", f"{folder}/vocab.bpe")
        theirs = tokenizers.Tokenizer(model)
        theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        found["tokenizers"] = lambda lines: [index for line in lines for index in theirs.encode(line).ids]
        found["tokenizers batch"] = lambda lines: [
            index for encoding in theirs.encode_batch(lines) for index in encoding.ids
        ]
    if fairseq_peer.is_installed():
        found[fairseq_peer.NAME] = fairseq_peer.encoder(bpe)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?", help="text file; the sample text if not given")
    parser.add_argument("--megabytes", type=float, default=1.0, help="how much of it (default: %(default)s)")
    add_timing_options(parser)
    given = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = "1"  # of tokenizers
    source = sample_corpus("train").splitlines() if given.text is None else read_lines(given.text)
    lines: list[str] = []
    size = 0
    for line in source:
        if size >= given.megabytes * 1e6:
            break
        lines.append(line.strip())
        size += len(lines[-1].encode())
    found = encoders(GPT2BPE.load())
    expected = found["tiktoken"](lines)
    for name, encode in found.items():
        if encode(lines) != expected:
            sys.exit(f"{name} gives other ids than tiktoken")
    timings = interleaved(
        {name: lambda encode=encode: encode(lines) for name, encode in found.items()},
        repeats=given.repeats,
        processor_time=given.processor_time,
    )
    show(
        [
            {
                "encoder": name,
                "MB/s": size / timing.median / 1e6,
                "M tokens/s": len(expected) / timing.median / 1e6,
                "spread": timing.spread,
                "x tiktoken": timing.times_faster_than(timings["tiktoken"]),
            }
            for name, timing in timings.items()
        ],
        as_json=given.json,
    )


if __name__ == "__main__":
    main()
