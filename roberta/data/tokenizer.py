"""Text <-> token ids: the one composition of a BPE and a dictionary, used by preprocessing, tasks and the hub.

`encode` gives the tokens of a text alone. `encode_sequence` adds the special tokens of RoBERTa's input,
`<s> a </s>` or `<s> a </s></s> b </s>`. Nothing here knows of tensors.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roberta.bpe import BPE, GPT2BPE
from roberta.data.dictionary import FILE_NAME, SPECIALS, Dictionary
from roberta.errors import DataError, VocabError


class Tokenizer:
    """A BPE and the dictionary that numbers its symbols."""

    def __init__(self, bpe: BPE, dictionary: Dictionary) -> None:
        self.bpe = bpe
        self.dictionary = dictionary
        self._token_of = list(map(dictionary.index, bpe.symbols))  # by BPE id

    @classmethod
    def load(cls, folder: Path | None = None) -> "Tokenizer":
        """Return the tokenizer whose files are in `folder`; those of the package stand in for missing ones.

        A folder in Hugging Face's form (`merges.txt`, a `vocab.json` that numbers the tokens of the model, no
        `dict.txt`) is read too.

        Raises:
            VocabError: a file is damaged, or the files don't fit each other.
        """
        if folder is None:
            return cls(GPT2BPE.load(), Dictionary.load_packaged())
        bpe, path = GPT2BPE.load(folder), folder / FILE_NAME
        if path.exists():
            return cls(bpe, _matching(bpe, Dictionary.load(path), path))
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
            StorageError: a file can't be written.
        """
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
        return [self._token_of[index] for index in self.bpe.encode(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, without special ones."""
        return [[self._token_of[index] for index in ids] for ids in self.bpe.encode_batch(texts)]

    def encode_sequence(self, *texts: str, separator: bool = True) -> list[int]:
        """Return `<s> a </s>` for one text; each further text adds `</s> b </s>`, or `b </s>` without the separator.

        >>> Tokenizer.load().encode_sequence("Hello", " world")
        [0, 31414, 2, 2, 232, 2]
        """
        bos, eos = self.dictionary.bos, self.dictionary.eos
        tokens = [bos]
        for position, text in enumerate(texts):
            if position > 0 and separator:
                tokens.append(eos)
            tokens += [*self.encode(text), eos]
        return tokens

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


def _matching(bpe: BPE, dictionary: Dictionary, path: Path) -> Dictionary:
    """Return the dictionary, checked to name no BPE id that the BPE lacks."""
    unknown = [symbol for symbol in set(dictionary.symbols).difference(bpe.symbols) if symbol.isdecimal()]
    if unknown:
        raise VocabError(
            f"{path}: symbol {max(unknown, key=int)} is no BPE id; expected 0 to {len(bpe.symbols) - 1}; "
            "put the vocab.bpe, encoder.json and dict.txt of the same model into the folder"
        )
    return dictionary


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
