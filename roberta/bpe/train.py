"""Train a byte-level BPE of one's own, with the package `tokenizers`.

The pairs that are merged are those that occur most often within the words of the text (arXiv:1508.07909); what a word
is, GPT-2's pattern says. What comes out is a `GPT2BPE` like any other.
"""

import json
from collections.abc import Iterable
from typing import Any

from roberta.bpe.gpt2 import ALPHABET, GPT2BPE
from roberta.errors import ConfigError, DataError

MIN_SYMBOLS = len(ALPHABET) + 1  # the bytes and <|endoftext|>


def train_bpe(lines: Iterable[str], num_symbols: int) -> GPT2BPE:
    """Return a BPE of `num_symbols` symbols, learned from lines of text.

    Memory grows with the number of different words. The same lines give the same BPE.

    Raises:
        ConfigError: the package tokenizers is missing, or `num_symbols` is below `MIN_SYMBOLS`.
        DataError: the text has too few different words for so many symbols.
    """
    if num_symbols < MIN_SYMBOLS:
        raise ConfigError(f"--train-bpe {num_symbols}; expected at least {MIN_SYMBOLS}: 256 bytes and <|endoftext|>")
    tokenizers = _tokenizers()
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=num_symbols - 1,  # <|endoftext|> is no part of the text
        initial_alphabet=sorted(ALPHABET),
        show_progress=False,
    )
    model.train_from_iterator(lines, trainer)
    merges = _merges(model)
    if len(merges) < num_symbols - MIN_SYMBOLS:
        raise DataError(
            f"--train-bpe {num_symbols}: the text gives only {len(merges) + MIN_SYMBOLS} symbols; "
            "ask for fewer, or give more text"
        )
    return GPT2BPE(merges)


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError("--train-bpe needs a package; pip install tokenizers") from error
    return tokenizers


def _merges(model: Any) -> list[str]:
    """Return the merges, earliest first; of two that make the same token the first one."""
    made: dict[str, str] = {}
    for left, right in json.loads(model.to_str())["model"]["merges"]:
        made.setdefault(left + right, f"{left} {right}")
    return list(made.values())
