"""The dictionary: symbols <-> token ids, in fairseq's file format.

A file holds one `SYMBOL COUNT` a line. The special symbols are not stored: `<s>`, `<pad>`, `</s>` and `<unk>` come
before the symbols of the file, `<mask>` after them. In RoBERTa's dictionary a symbol is a BPE id in decimal.
"""

import re
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

from roberta.bpe.gpt2 import VOCABULARY, read_text
from roberta.errors import VocabError
from roberta.files import write_text

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
FILE_NAME = "dict.txt"

_MADE_UP = re.compile(r"madeupword\d+")  # what fills a dictionary up to a multiple, as fairseq does
_OVERWRITE = "#fairseq:overwrite"
_MAX_DIGITS = 18  # a count fits 64 bits


def made_up(number: int) -> str:
    """Return a symbol that stands for nothing, and fills a dictionary up."""
    return f"madeupword{number:04}"


def is_made_up(symbol: str) -> bool:
    """Return whether a symbol stands for nothing."""
    return _MADE_UP.fullmatch(symbol) is not None


class Dictionary:
    """Symbols in the order of their ids, and how often each was counted."""

    bos, pad, eos, unk = range(len(SPECIALS))

    def __init__(self, symbols: Sequence[str], counts: Sequence[int]) -> None:
        """Take the symbols between the specials and `<mask>`; of equal symbols the last one is found by `index`.

        A `<mask>` among the symbols keeps its place, and none is appended.
        """
        assert len(symbols) == len(counts), f"{len(symbols)} symbols, but {len(counts)} counts"
        masks = [] if MASK in symbols else [MASK]
        self.symbols = [*SPECIALS, *symbols, *masks]
        self.counts = [*(1 for _ in SPECIALS), *counts, *(1 for _ in masks)]  # 1 for specials, as fairseq counts them
        self._index = {symbol: index for index, symbol in enumerate(self.symbols)}
        self.mask = self._index[MASK]

    @classmethod
    def load(cls, path: Path) -> "Dictionary":
        """Return the dictionary of a file.

        A symbol that is already there, a special one included, must be followed by `#fairseq:overwrite` after its
        count; it then takes a new id.

        Raises:
            VocabError: the file can't be read, a line is not `SYMBOL COUNT`, or a symbol stands there twice.
        """
        text = read_text(path)
        return cls(*(_plain_fields(text) or _checked_fields(text, path)))

    @classmethod
    def load_packaged(cls) -> "Dictionary":
        """Return RoBERTa's dictionary; its counts are not public in the sources used here, and are 0."""
        fields = read_text(VOCABULARY / f"{FILE_NAME}.xz").split()  # unchecked, for speed; a test seals the file
        return cls(fields[::2], list(map(int, fields[1::2])))

    def save(self, path: Path) -> None:
        """Write the dictionary in fairseq's form, which `load` reads back to the same ids.

        Raises:
            StorageError: the file can't be written.
        """
        end = len(self) - 1 if self.mask == len(self) - 1 else len(self)
        known = set(SPECIALS)
        lines = []
        for symbol, count in zip(self.symbols[len(SPECIALS) : end], self.counts[len(SPECIALS) : end], strict=True):
            lines.append(f"{symbol} {count} {_OVERWRITE}\n" if symbol in known else f"{symbol} {count}\n")
            known.add(symbol)
        write_text(path, "".join(lines))

    def index(self, symbol: str) -> int:
        """Return the id of a symbol, or that of `<unk>`."""
        return self._index.get(symbol, self.unk)

    def indices(self, symbols: Sequence[str]) -> list[int]:
        """Return the id of each symbol, or that of `<unk>`."""
        return list(map(self._index.get, symbols, repeat(self.unk)))

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        """Dictionaries are equal if they give the same symbols the same ids, whatever their counts."""
        return isinstance(other, Dictionary) and self.symbols == other.symbols


def _plain_fields(text: str) -> tuple[list[str], list[int]] | None:
    """Return the symbols and counts of a file without a fault or an overwritten symbol, and None of any other.

    It takes a third of the time of `_checked_fields`, which tells the faults.
    """
    fields = text.split()
    symbols, counts = fields[::2], fields[1::2]
    if not set(symbols).isdisjoint(SPECIALS) or len(set(symbols)) != len(symbols):
        return None
    if not "".join(counts).isdecimal() or max(map(len, counts)) > _MAX_DIGITS:
        return None
    if text != "".join([f"{symbol} {count}\n" for symbol, count in zip(symbols, counts, strict=False)]):
        return None
    return symbols, list(map(int, counts))


def _checked_fields(text: str, path: Path) -> tuple[list[str], list[int]]:
    """Return the symbols and counts of a file.

    Raises:
        VocabError: as `Dictionary.load`.
    """
    symbols: list[str] = []
    counts = []
    known = set(SPECIALS)
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        symbol, _, count = line.rstrip().rpartition(" ")
        overwrites = count == _OVERWRITE
        if overwrites:
            symbol, _, count = symbol.rpartition(" ")
        if not symbol or not count.isdecimal() or len(count) > _MAX_DIGITS:
            raise VocabError(
                f"{path}:{number}: {line!r}; expected SYMBOL COUNT, such as '13 850314647'; restore the file"
            )
        if symbol in known and not overwrites:
            raise VocabError(
                f"{path}:{number}: symbol {symbol!r} is already there; remove the line, "
                f"or end it with {_OVERWRITE} to give the symbol a new id"
            )
        known.add(symbol)
        symbols.append(symbol)
        counts.append(int(count))
    return symbols, counts
