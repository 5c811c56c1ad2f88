"""Vocabularies made and told apart: a BPE learned from text with a dictionary in fairseq's order, and fingerprints."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from roberta.bpe import GPT2BPE
from roberta.bpe.train import train_bpe
from roberta.data.dictionary import SPECIALS, Dictionary, made_up
from roberta.data.encoding import Workers
from roberta.data.text import read_lines, read_pieces
from roberta.data.tokenizer import Tokenizer

_PADDING_FACTOR = 8  # the number of symbols before <mask> is a multiple of this, as in fairseq


def train_tokenizer(paths: Sequence[Path], num_symbols: int, workers: int | None = None) -> Tokenizer:
    """Return a tokenizer whose BPE of `num_symbols` symbols is learned from text files, and whose counts are theirs.

    The files are read twice. `workers`: processes that count, None for one per core.

    Raises:
        ConfigError, DataError: as `train_bpe` and `read_pieces`.
    """
    bpe = train_bpe((line.strip() for path in paths for line in read_lines(path)), num_symbols)
    counts = _count(bpe, paths, workers)
    by_count = sorted(zip(bpe.symbols, counts.tolist(), strict=True), key=lambda item: (-item[1], item[0]))
    padding = -(len(SPECIALS) + len(by_count)) % _PADDING_FACTOR
    rows = [*by_count, *((made_up(i), 0) for i in range(padding))]
    return Tokenizer(bpe, Dictionary([symbol for symbol, _ in rows], [count for _, count in rows]))


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return a hexadecimal number that tells vocabularies apart, whatever their counts."""
    digest = hashlib.sha256("\n".join(tokenizer.dictionary.symbols).encode())
    for token in tokenizer.bpe.token_bytes:
        digest.update(len(token).to_bytes(4, "little") + token)
    return digest.hexdigest()


def _count(bpe: GPT2BPE, paths: Sequence[Path], workers: int | None) -> NDArray[np.int64]:
    """Return how often each BPE id occurs in the files."""
    by_id = Tokenizer(bpe, Dictionary(bpe.symbols, [0] * len(bpe.symbols)))
    counts = np.zeros(len(by_id.dictionary), dtype=np.int64)
    with TemporaryDirectory() as folder:
        by_id.save(Path(folder))
        with Workers(workers, by_id, Path(folder)) as encoders:
            for piece in encoders.encode(piece for path in paths for piece in read_pieces(path)):
                counts += np.bincount(piece.tokens, minlength=len(counts))
    return counts[len(SPECIALS) : len(SPECIALS) + len(bpe.symbols)]
