"""A slow GPT-2 BPE to read: cut the text into pieces, then merge pairs of neighbours until no merge applies."""

from collections.abc import Iterable
from itertools import pairwise

import regex

CONTRACTION = "'s|'t|'re|'ve|'m|'ll|'d"
WORD, NUMBER, PUNCTUATION = r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+"
SPACES_BUT_THE_LAST, SPACES = r"\s+(?!\S)", r"\s+"
PIECE = regex.compile("|".join([CONTRACTION, WORD, NUMBER, PUNCTUATION, SPACES_BUT_THE_LAST, SPACES]))


def slow_characters() -> dict[int, str]:
    """Return the character that stands for each byte: itself if it shows on paper, else the next one from U+0100."""
    shows = [byte for byte in range(256) if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174]
    characters = {byte: chr(byte) for byte in shows}
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(256 + len(characters) - len(shows))
    return characters


def slow_encoder(merges: Iterable[str]) -> dict[str, int]:
    """Return GPT-2's id of each token: bytes, what the merges make, the end of text."""
    tokens = [*slow_characters().values(), *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}


class SlowBPE:
    """Merges such as "h e", earliest first, and the id of each token."""

    def __init__(self, merges: Iterable[str], encoder: dict[str, int]) -> None:
        self.priority = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self.encoder = encoder
        self.characters = slow_characters()

    def encode(self, text: str) -> list[int]:
        """Return the BPE ids of a text."""
        ids = []
        for piece in PIECE.findall(text):
            tokens = [self.characters[byte] for byte in piece.encode()]
            while pairs := [pair for pair in pairwise(tokens) if pair in self.priority]:
                tokens = _merge(tokens, min(pairs, key=self.priority.__getitem__))
            ids += [self.encoder[token] for token in tokens]
        return ids


def _merge(tokens: list[str], pair: tuple[str, ...]) -> list[str]:
    merged: list[str] = []
    position = 0
    while position < len(tokens):
        width = 2 if tuple(tokens[position : position + 2]) == pair else 1
        merged.append("".join(tokens[position : position + width]))
        position += width
    return merged
