"""Byte pair encodings: text <-> BPE ids. What a BPE id is called in a dictionary is for `roberta.data.tokenizer`.

One is registered in `BPES` with its config, and built from that and the folder of its files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roberta.bpe.gpt2 import GPT2BPE, GPT2BPEConfig

__all__ = ["BPE", "GPT2BPE", "GPT2BPEConfig"]


class BPE(Protocol):
    """What every byte pair encoding offers; BPE ids count from 0 without gaps."""

    config: Any  # of the registry BPES

    @property
    def symbols(self) -> list[str]:
        """Return the dictionary symbol of each BPE id."""

    @property
    def token_bytes(self) -> list[bytes]:
        """Return the bytes that each BPE id stands for."""

    @property
    def starts_word(self) -> NDArray[np.bool_]:
        """Return which BPE ids begin a new word after a space."""

    def encode(self, text: str) -> list[int]:
        """Return the BPE ids of a text."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the BPE ids of each text."""

    def save(self, folder: Path) -> None:
        """Write the files that the BPE of the same config reads."""
