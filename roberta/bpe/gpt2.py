"""GPT-2's byte-level BPE: any text <-> BPE ids, without loss and without an unknown token.

A text is split into words, numbers, punctuation and spaces; the UTF-8 bytes of each piece are merged pair by pair, the
earliest merge first. `vocab.bpe` holds the merges, written in an alphabet of 256 printable characters, one per byte.
`encoder.json` maps tokens to BPE ids; without it the ids are GPT-2's: bytes, then merges, then `<|endoftext|>`.
A BPE id is not a token id of the model: the dictionary stands between the two.
"""

import hashlib
import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roberta.errors import VocabError
from roberta.files import write_text
from roberta.registry import BPES

VOCABULARY = Path(__file__).with_name("vocabulary")
MERGES_NAMES = ("vocab.bpe", "merges.txt")
ENCODER_NAMES = ("encoder.json", "vocab.json")

_VERSION = "#version"
_HEADER = "#version: 0.2"
_END_OF_TEXT = "<|endoftext|>"
# GPT-2's own files, as `save` writes them and the package holds them.
_GPT2_SHA256 = frozenset(
    {
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",  # vocab.bpe
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",  # encoder.json
    }
)
_REMEDY = "restore the file, or remove it to use the package's vocabulary"
# Words with the space before them, numbers, punctuation; spaces leave their last one to the word that follows.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
# tiktoken 0.14 panics on 1,000,000 spaces before a word (measured 2026-11-23).
_LONG_RUN = 100_000
_LONG_SPACES = rf"(?<!\s)\s{{{_LONG_RUN},}}+(?=\S)"


_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_ORDER = [*_PRINTABLE, *sorted(set(range(256)).difference(_PRINTABLE))]  # the byte of each of the first 256 BPE ids
ALPHABET = "".join(map(chr, [*_PRINTABLE, *range(256, 512 - len(_PRINTABLE))]))  # its character in the files


@dataclass(frozen=True)
class GPT2BPEConfig:
    """Options of GPT-2's BPE; it has none, as its files tell everything."""


class GPT2BPE:
    """A byte-level BPE made of merges and, where the ids are not GPT-2's, an encoder."""

    config = GPT2BPEConfig()

    def __init__(self, merges: Sequence[str], encoder: Mapping[str, int] | None = None) -> None:
        """Take merges such as "h e", earliest first, and BPE ids by token, both in the alphabet of the files.

        The ids of `encoder` must be 0 to n - 1, and hold every byte and merge; `load` checks what files say.
        """
        self.merges = merges
        self._ranked = _ranked_tokens(merges)
        self._ids = None if encoder is None else [encoder[token] for token in self._ranked]
        self._encoder = encoder

    @classmethod
    def load(cls, folder: Path | None = None) -> "GPT2BPE":
        """Return the BPE whose files are in `folder`; the package's if there are none, or no folder is given.

        The files are `vocab.bpe` and, if the ids are not GPT-2's, `encoder.json`; or `merges.txt` and `vocab.json`.

        Raises:
            VocabError: a file is damaged or missing, or they don't fit each other.
        """
        if folder is None:  # unchecked, as checking takes longer than reading; a test seals the file
            return cls(_read_merges(VOCABULARY / "vocab.bpe.xz"))
        if not folder.is_dir():
            raise VocabError(f"{folder}: no such folder; name the one with {MERGES_NAMES[0]} and {ENCODER_NAMES[0]}")
        merges_path, encoder_path = _first(folder, MERGES_NAMES), _first(folder, ENCODER_NAMES)
        if merges_path is None and encoder_path is None:
            return cls.load()
        if merges_path is not None and all(map(_is_gpt2s, filter(None, (merges_path, encoder_path)))):
            return cls.load()  # ten times as fast as reading and checking them
        if merges_path is None:
            raise VocabError(f"{encoder_path}: there is no {' or '.join(MERGES_NAMES)} beside it; add it, or {_REMEDY}")
        merges = _read_merges(merges_path)
        _check_merges(merges, merges_path)
        bpe = cls(merges)
        if encoder_path is None:
            return bpe
        encoder = _read_encoder(encoder_path, merges, merges_path)
        return bpe if encoder == bpe.encoder else cls(merges, encoder)

    def save(self, folder: Path) -> None:
        """Write `vocab.bpe` and `encoder.json` as GPT-2's release has them.

        Raises:
            StorageError: the files can't be written.
        """
        write_text(folder / MERGES_NAMES[0], "\n".join([_HEADER, *self.merges]) + "\n")
        write_text(folder / ENCODER_NAMES[0], json.dumps(self.encoder))

    @cached_property
    def encoder(self) -> dict[str, int]:
        """Return the BPE id of each token, written in the alphabet of the files."""
        if self._encoder is not None:
            return dict(self._encoder)
        return {token: index for index, token in enumerate([*self._ranked, _END_OF_TEXT])}

    @cached_property
    def symbols(self) -> list[str]:
        """Return the dictionary symbol of each BPE id: the id in decimal, as in fairseq."""
        return list(map(str, range(len(self._encoder or self._ranked) + (self._encoder is None))))

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Return the bytes that each BPE id stands for."""
        if self._encoder is None:
            return [*self._ranked_bytes, _END_OF_TEXT.encode()]
        tokens = {token: token.encode() for token in self._encoder}  # right for those that no merge makes
        tokens.update(zip(self._ranked, self._ranked_bytes, strict=True))
        return [tokens[token] for token in sorted(self._encoder, key=self._encoder.__getitem__)]

    @cached_property
    def starts_word(self) -> NDArray[np.bool_]:
        """Return which BPE ids begin with a space, and so a new word."""
        return np.array([token.startswith(b" ") for token in self.token_bytes])

    def encode(self, text: str) -> list[int]:
        """Return the BPE ids of a text; a lone surrogate counts as U+FFFD, `<|endoftext|>` as its characters.

        >>> GPT2BPE.load().encode("Hello world!")
        [15496, 995, 0]
        """
        ranks = self._engine.encode_ordinary(text) if len(text) <= _LONG_RUN else self._encode_long(text)
        return ranks if self._ids is None else [self._ids[rank] for rank in ranks]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the BPE ids of each text.

        A plain loop: two threads of tiktoken's pool took 1.5 to 4 times as long (2-core CPU, 2026-11-23).
        """
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes that BPE ids stand for; any ids, so they need not be UTF-8.

        >>> GPT2BPE.load().decode_bytes([15496, 995, 0])
        b'Hello world!'
        """
        return b"".join([self.token_bytes[index] for index in ids])

    @cached_property
    def _ranked_bytes(self) -> list[bytes]:
        return _to_bytes(self._ranked)

    @cached_property
    def _engine(self) -> Any:
        import tiktoken  # slow: 50 ms

        ranks = {token: rank for rank, token in enumerate(self._ranked_bytes)}
        return tiktoken.Encoding("roberta-gpt2", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def _encode_long(self, text: str) -> list[int]:
        """Return the merge ranks of a text, with long runs of spaces encoded apart; the ids are the same."""
        import regex

        ranks: list[int] = []
        start = 0
        for spaces in regex.finditer(_LONG_SPACES, text):
            for end in (spaces.start(), spaces.end() - 1):  # the last space belongs to what follows
                ranks += self._engine.encode_ordinary(text[start:end])
                start = end
        return ranks + self._engine.encode_ordinary(text[start:])


@BPES.register("gpt2", GPT2BPEConfig)
def gpt2_bpe(config: GPT2BPEConfig, folder: Path | None = None) -> GPT2BPE:
    """Return the BPE whose files are in a folder; the package's if none is given.

    Raises:
        VocabError: as `GPT2BPE.load`.
    """
    return GPT2BPE.load(folder)


def read_text(path: Path) -> str:
    """Return a vocabulary file as text, unpacked if its name ends in .xz, with line ends as line feeds.

    Raises:
        VocabError: the file can't be read, is a damaged archive or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".xz":
            raw = lzma.decompress(raw)
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError as error:
        raise VocabError(f"{path}: there is no such file; put it there, or give the folder that has it") from error
    except (OSError, lzma.LZMAError) as error:
        raise VocabError(f"{path}: can't be read: {error}; {_REMEDY}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise VocabError(f"{path}:{line}: 0x{error.object[error.start]:02x} is not valid UTF-8; {_REMEDY}") from error


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _is_gpt2s(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() in _GPT2_SHA256


def _read_merges(path: Path) -> list[str]:
    """Return the merges of a file, earliest first."""
    lines = read_text(path).removesuffix("\n").split("\n")
    return lines[1:] if lines[0].startswith(_VERSION) else lines


def _check_merges(merges: Sequence[str], path: Path) -> None:
    """Raise a VocabError unless each merge joins two known tokens into a new one."""
    known = set(ALPHABET)
    for position, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        fault = ""
        if left not in known or right not in known:
            fault = "expected two tokens that lines above made, or single bytes"
        elif left + right in known:
            fault = "that token is made by a line above already"
        if fault:
            raise VocabError(f"{path}:{_line_number(path, position)}: {merge!r}: {fault}; {_REMEDY}")
        known.add(left + right)


def _line_number(path: Path, position: int) -> int:
    """Return the line of a merge in its file."""
    return position + 1 + read_text(path).startswith(_VERSION)


def _ranked_tokens(merges: Sequence[str]) -> list[str]:
    """Return the tokens that text can become, by rank: bytes, then what each merge makes."""
    return "\n".join([*ALPHABET, *merges]).replace(" ", "").split("\n")


def _read_encoder(path: Path, merges: Sequence[str], merges_path: Path) -> dict[str, int]:
    """Return the BPE ids by token, checked to be gapless and to fit the merges."""
    text = read_text(path)
    try:
        encoder = json.loads(text)
    except json.JSONDecodeError as error:
        raise VocabError(f"{path}:{error.lineno}: not JSON: {error.msg}; {_REMEDY}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets without end
        raise VocabError(f"{path}: can't be read: {error}; {_REMEDY}") from error
    if not isinstance(encoder, dict) or any(type(index) is not int for index in encoder.values()):
        raise VocabError(f"{path}: expected an object of token: id; {_REMEDY}")
    if sorted(encoder.values()) != list(range(len(encoder))):
        raise VocabError(f"{path}: the ids of {len(encoder)} tokens are not 0 to {len(encoder) - 1}; {_REMEDY}")
    made = set(_ranked_tokens(merges))
    if missing := made - encoder.keys():
        raise VocabError(f"{path}: no id for {min(missing)!r}, which {merges_path.name} makes; {_REMEDY}")
    if unmade := [token for token in encoder.keys() - made if not _is_special(token)]:
        raise VocabError(
            f"{merges_path}: no merge makes {min(unmade)!r} of {path.name}, nor {len(unmade) - 1} more of its tokens; "
            f"the file may be cut short; {_REMEDY}"
        )
    return encoder


def _is_special(token: str) -> bool:
    return (token[:1] + token[-1:]) in ("<>", "[]") or token.startswith("madeupword")


def _to_bytes(tokens: Sequence[str]) -> list[bytes]:
    """Return tokens in the alphabet of the files as bytes."""
    byte_of = {ord(character): byte for character, byte in zip(ALPHABET, BYTE_ORDER, strict=True)}
    return [token.translate(byte_of).encode("latin-1") for token in tokens]
