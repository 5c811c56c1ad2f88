"""Text <-> token ids: the one composition of a BPE and a dictionary, used by preprocessing, tasks and the hub.

`encode` gives the tokens of a text alone. `encode_sequence` adds the special tokens of RoBERTa's input,
`<s> a </s>` or `<s> a </s></s> b </s>`. `align` says where each token lies in its text. Nothing here knows of tensors.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roberta.bpe import BPE, GPT2BPE, GPT2BPEConfig
from roberta.bpe.gpt2 import ENCODER_NAMES, MERGES_NAMES
from roberta.data.dictionary import FILE_NAME, SPECIALS, Dictionary, is_made_up
from roberta.errors import ConfigError, DataError, VocabError
from roberta.files import read_json, write_text
from roberta.registry import BPES

logger = logging.getLogger(__name__)

BPE_FILE = "bpe.json"  # what the BPE is, if it is not GPT-2's
_FILES = (FILE_NAME, *MERGES_NAMES, *ENCODER_NAMES, BPE_FILE)

_MOST = 0.5  # of a BPE's tokens: a dictionary that has fewer is probably of another one
_HIGH, _LOW = 0xD800, 0xDC00  # where the two halves of a surrogate pair begin; each half has 1024 values

Span = tuple[int, int]  # start and end, the end excluded


@dataclass(frozen=True)
class AlignedTokens:
    """The tokens of a text without special ones, and where each lies in it, the space it begins with included."""

    tokens: list[int]
    byte_spans: list[Span]  # in the UTF-8 text; they follow each other without gaps
    character_spans: list[Span]  # a character that several tokens share is in the span of each


class Tokenizer:
    """A BPE and the dictionary that numbers its symbols.

    Symbols after `<mask>` that are no BPE ids, as `with_symbols` adds them, are found in texts as they stand there,
    the longest first; `added_symbols` holds them in the order of their ids.
    """

    def __init__(self, bpe: BPE, dictionary: Dictionary) -> None:
        self.bpe = bpe
        self.dictionary = dictionary
        self._token_of = dictionary.indices(bpe.symbols)  # by BPE id
        self.added_symbols = _added_symbols(dictionary, self._token_of)
        self._added = _pattern_of_added(self.added_symbols)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tokenizer":
        """Return self: nothing in a tokenizer changes, and to build one takes a second."""
        return self

    @classmethod
    def load(cls, folder: Path | None = None) -> "Tokenizer":
        """Return the tokenizer whose files are in `folder`; those of the package stand in for missing ones.

        A folder in Hugging Face's form (`merges.txt`, a `vocab.json` that numbers the tokens of the model, no
        `dict.txt`) is read too. A BPE other than GPT-2's is named in `bpe.json`.

        Raises:
            VocabError: a file is damaged, or the files don't fit each other, or none of a vocabulary is there.
        """
        if folder is None:
            return cls(GPT2BPE.load(), Dictionary.load_packaged())
        folder = Path(folder)
        bpe, path = BPES.build(_bpe_config(folder), folder), folder / FILE_NAME
        if path.exists():
            dictionary = _matching(bpe, Dictionary.load(path), path)
            _warn_of_unknown(bpe, dictionary, path)
            return cls(bpe, dictionary)
        if SPECIALS[0] in bpe.encoder:
            return _from_token_numbers(bpe, folder)
        if bpe.token_bytes != GPT2BPE.load().token_bytes:
            raise VocabError(
                f"{folder}: its BPE is not GPT-2's, so the package's dictionary does not fit; add its {FILE_NAME}"
            )
        return cls(bpe, Dictionary.load_packaged())

    def save(self, folder: Path) -> None:
        """Write the dictionary and the files of the BPE, which `load` reads back.

        Raises:
            ConfigError: the BPE is not one of the registry.
            StorageError: a file can't be written.
        """
        if not isinstance(self.bpe, GPT2BPE):
            write_text(folder / BPE_FILE, json.dumps(BPES.describe(self.bpe.config)))
        self.dictionary.save(folder / FILE_NAME)
        self.bpe.save(folder)

    @cached_property
    def starts_word(self) -> NDArray[np.bool_]:
        """Return which tokens begin a word, for whole-word masking: (V,); whatever is not BPE is a word of its own."""
        starts = np.ones(len(self.dictionary), dtype=bool)
        starts[self._token_of] = self.bpe.starts_word
        starts[self.dictionary.unk] = True
        return starts

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without special ones; names of special tokens in the text are characters.

        >>> Tokenizer.load().encode("Hello world!")
        [31414, 232, 328]
        """
        if self._added is None:
            return [self._token_of[index] for index in self.bpe.encode(text)]
        return [token for token, _ in self._encode(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, without special ones."""
        if self._added is not None:
            return [self.encode(text) for text in texts]
        return [[self._token_of[index] for index in ids] for ids in self.bpe.encode_batch(texts)]

    def encode_sequence(self, *texts: str, separator: bool = True, max_tokens: int | None = None) -> list[int]:
        """Return `<s> a </s>` for one text; each further text adds `</s> b </s>`, or `b </s>` without the separator.

        With `max_tokens` the ends of the longest texts are cut off until the sequence has no more tokens than that.

        Raises:
            DataError: `max_tokens` leaves no room beside the special tokens.

        >>> Tokenizer.load().encode_sequence("Hello", " world")
        [0, 31414, 2, 2, 232, 2]
        >>> Tokenizer.load().encode_sequence("Hello world! Hello", " world", max_tokens=8)
        [0, 31414, 232, 328, 2, 2, 232, 2]
        """
        return self.join([self.encode(text) for text in texts], separator=separator, max_tokens=max_tokens)

    def join(
        self, pieces: Sequence[Sequence[int]], *, separator: bool = True, max_tokens: int | None = None
    ) -> list[int]:
        """Return the sequence of texts that are tokens already, as `encode_sequence` makes it.

        Raises:
            DataError: `max_tokens` leaves no room beside the special tokens.
        """
        bos, eos = self.dictionary.bos, self.dictionary.eos
        if max_tokens is not None:
            num_specials = 1 + len(pieces) + (len(pieces) - 1) * separator
            pieces = _cut(pieces, max_tokens - num_specials)
        tokens = [bos]
        for position, ids in enumerate(pieces):
            if position > 0 and separator:
                tokens.append(eos)
            tokens += [*ids, eos]
        return tokens

    def align(self, text: str) -> AlignedTokens:
        """Return the tokens of a text, as `encode` does, with their spans of bytes and characters.

        >>> Tokenizer.load().align("Hello world!").character_spans
        [(0, 5), (5, 11), (11, 12)]
        """
        pairs = list(self._encode(text))
        ends = np.cumsum([size for _, size in pairs], dtype=np.int64)
        byte_spans = list(pairwise([0, *ends.tolist()]))
        return AlignedTokens([token for token, _ in pairs], byte_spans, character_spans(text, byte_spans))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens.

        `<s>`, `</s>` and `<pad>` vanish; other tokens outside the BPE (`<mask>`, `<unk>`, made-up words) appear as
        their symbols. Bytes that are not UTF-8 become U+FFFD.

        Raises:
            DataError: a token is not in the dictionary.
        """
        if len(tokens) > 0 and not 0 <= min(tokens) <= max(tokens) < len(self.dictionary):
            raise DataError(f"tokens from {min(tokens)} to {max(tokens)}; allowed: 0 to {len(self.dictionary) - 1}")
        return b"".join([self._pieces[token] for token in tokens]).decode("utf-8", errors="replace")

    def decode_sequence(self, tokens: Sequence[int]) -> str | list[str]:
        """Return the text of one sequence, or its texts if it has several: they part where two `</s>` meet.

        As in fairseq, one leading `<s>` is dropped, and texts joined without a separator come back as one.

        Raises:
            DataError: a token is not in the dictionary.
        """
        bos, eos = self.dictionary.bos, self.dictionary.eos
        ids = list(tokens[1:] if len(tokens) > 0 and tokens[0] == bos else tokens)
        splits = [position for position, pair in enumerate(pairwise(ids), start=1) if pair == (eos, eos)]
        texts = [self.decode(ids[start:end]) for start, end in pairwise([0, *splits, len(ids)])]
        return texts[0] if len(texts) == 1 else texts

    def with_symbols(self, symbols: Sequence[str]) -> "Tokenizer":
        """Return a tokenizer that has new symbols after all others; the tokens of the old ones stay.

        Raises:
            VocabError: a symbol is there already, or can't stand in a dictionary.
        """
        if not symbols:
            return self
        dictionary = self.dictionary
        taken = set(dictionary.symbols)
        for symbol in symbols:
            if symbol in taken:
                raise VocabError(f"symbol {symbol!r} is already in the dictionary; leave it out")
            if not symbol.isprintable() or symbol != symbol.strip() or not symbol or symbol.isdecimal():
                raise VocabError(
                    f"symbol {symbol!r} can't stand in a dictionary; expected printable characters, "
                    "with no space at either end, and not digits alone"
                )
            taken.add(symbol)
        first = len(SPECIALS)
        counts = [*dictionary.counts[first:], *(0 for _ in symbols)]
        return Tokenizer(self.bpe, Dictionary([*dictionary.symbols[first:], *symbols], counts))

    def _encode(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield each token of a text and its bytes in it."""
        parts = [text] if self._added is None else self._added.split(text)  # every second part is an added symbol
        for position, part in enumerate(parts):
            if position % 2:
                yield self.dictionary.index(part), len(part.encode())
            else:
                for index in self.bpe.encode(part):
                    yield self._token_of[index], len(self.bpe.token_bytes[index])

    @cached_property
    def _pieces(self) -> list[bytes]:
        """The bytes that each token decodes to."""
        dictionary = self.dictionary
        pieces = [symbol.encode() for symbol in dictionary.symbols]
        for token, raw in zip(self._token_of, self.bpe.token_bytes, strict=True):
            if token != dictionary.unk:
                pieces[token] = raw
        for special in (dictionary.bos, dictionary.pad, dictionary.eos):
            pieces[special] = b""
        return pieces


def character_spans(text: str, byte_spans: Sequence[Span]) -> list[Span]:
    """Return the characters that each span of bytes of the UTF-8 text touches, as spans; in O(text + spans).

    Lone surrogates count as the three bytes of U+FFFD, and a pair of them as the character that it stands for.

    >>> character_spans("aé", [(0, 2), (2, 3)])
    [(0, 2), (1, 2)]
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    sizes = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    is_pair = (codes[:-1] - _HIGH < 1024) & (codes[1:] - _LOW < 1024)  # unsigned: below the range is far above it
    sizes[:-1][is_pair], sizes[1:][is_pair] = 4, 0
    ends = np.cumsum(sizes)
    starts = ends - sizes
    starts[1:][is_pair] = starts[:-1][is_pair]
    spans = np.array(byte_spans, dtype=np.int64).reshape(-1, 2)
    first = np.searchsorted(ends, spans[:, 0], side="right")
    last = np.searchsorted(starts, spans[:, 1], side="left")
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _added_symbols(dictionary: Dictionary, tokens_of_bpe: Sequence[int]) -> tuple[str, ...]:
    """Return the symbols after `<mask>` that are neither BPE ids nor made-up words, by their ids."""
    tokens = sorted(set(range(dictionary.mask + 1, len(dictionary))).difference(tokens_of_bpe))
    return tuple(symbol for symbol in map(dictionary.symbols.__getitem__, tokens) if not is_made_up(symbol))


def _pattern_of_added(symbols: Sequence[str]) -> re.Pattern[str] | None:
    """Return what finds the symbols in a text, the longest first; None without any."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(symbols, key=len, reverse=True)))})") if symbols else None


def _cut(parts: Sequence[Sequence[int]], room: int) -> list[Sequence[int]]:
    """Return the parts with the ends of the longest cut off, so that all of them together fit into `room` tokens."""
    if room < 0:
        raise DataError(f"max_tokens is {-room} too small to hold the special tokens of {len(parts)} texts; raise it")
    kept = list(parts)
    left = len(parts)
    for position in sorted(range(len(parts)), key=lambda i: len(parts[i])):
        kept[position] = parts[position][: room // left]
        room -= len(kept[position])
        left -= 1
    return kept


def has_vocabulary(folder: Path) -> bool:
    """Return whether a folder has a file of a vocabulary."""
    return any((folder / name).exists() for name in _FILES)


def _bpe_config(folder: Path) -> Any:
    """Return the config of the BPE whose files are in a folder.

    Raises:
        VocabError: there are none, or they are of a BPE that is not registered.
    """
    if not folder.is_dir():
        raise VocabError(f"{folder}: no such folder; name the one with {FILE_NAME} and the files of the BPE")
    if not has_vocabulary(folder):
        raise VocabError(
            f"{folder}: none of {', '.join(_FILES)} is there; of a run give a checkpoint, its folder best or step_...; "
            "for RoBERTa's own vocabulary name no folder"
        )
    if not (folder / BPE_FILE).exists():
        return GPT2BPEConfig()
    try:
        return BPES.described(read_json(folder / BPE_FILE, VocabError, missing="it was there"), str(folder / BPE_FILE))
    except (ConfigError, KeyError) as error:
        raise VocabError(f"{folder / BPE_FILE}: names no BPE that is known: {error}") from error


def _matching(bpe: BPE, dictionary: Dictionary, path: Path) -> Dictionary:
    """Return the dictionary, checked to name no BPE id that the BPE lacks."""
    unknown = [symbol for symbol in set(dictionary.symbols).difference(bpe.symbols) if symbol.isdecimal()]
    if unknown:
        raise VocabError(
            f"{path}: symbol {max(unknown, key=int)} is no BPE id; expected 0 to {len(bpe.symbols) - 1}; "
            "put the vocab.bpe, encoder.json and dict.txt of the same model into the folder"
        )
    return dictionary


def _warn_of_unknown(bpe: BPE, dictionary: Dictionary, path: Path) -> None:
    """Say so where a dictionary lacks many of the BPE's tokens, as one does whose own BPE files are missing."""
    known = len(set(dictionary.symbols).intersection(bpe.symbols))
    if known < _MOST * len(bpe.symbols):
        logger.warning(
            "%s has %d of the %d tokens of the BPE, all others are %s; if it is of another BPE, put its vocab.bpe and "
            "encoder.json beside it",
            path,
            known,
            len(bpe.symbols),
            SPECIALS[3],
        )


def _from_token_numbers(bpe: GPT2BPE, folder: Path) -> Tokenizer:
    """Return the tokenizer of an encoder that numbers the model's tokens, not BPE ids: its order is the dictionary."""
    by_rank = GPT2BPE(bpe.merges)
    tokens = sorted(bpe.encoder, key=bpe.encoder.__getitem__)
    if tuple(tokens[: len(SPECIALS)]) != SPECIALS:
        raise VocabError(
            f"{folder}: the first tokens are {tokens[: len(SPECIALS)]}; expected {list(SPECIALS)}; add its dict.txt"
        )
    symbols = [str(by_rank.encoder.get(token, token)) for token in tokens[len(SPECIALS) :]]
    return Tokenizer(by_rank, Dictionary(symbols, [0] * len(symbols)))
