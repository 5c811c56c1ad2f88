"""Text to binarised corpora: what roberta-preprocess does.

A line becomes its tokens and an end-of-sentence token. An empty line becomes an end-of-sentence token alone, which is
how a document ends. White space around a line is dropped, as fairseq does. Files are read once, in pieces.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roberta.config import option
from roberta.data.indexed import IndexedWriter
from roberta.data.text import read_lines, text_size
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError
from roberta.progress import progress_bar

Progress = Callable[[int], object]  # called with the bytes of text done since the last call

_PIECE_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class PreprocessConfig:
    """What to binarise, with which vocabulary, and where to."""

    trainpref: tuple[Path, ...] | None = option(None, help="text files of the training split, plain, .gz or .xz")
    validpref: tuple[Path, ...] | None = option(None, help="text files of the validation split")
    testpref: tuple[Path, ...] | None = option(None, help="text files of the test split")
    destdir: Path = option(Path("data-bin"), help="folder for the binarised splits, the dictionary and the BPE files")
    vocab: Path | None = option(None, help="folder of dict.txt, encoder.json and vocab.bpe; RoBERTa's own if not given")
    valid_fraction: float = option(
        0.0, help="share of the training documents that become the validation split, evenly spread; 0 for none"
    )

    def __post_init__(self) -> None:
        if not (self.trainpref or self.validpref or self.testpref):
            raise ConfigError("nothing to do; give --trainpref, --validpref or --testpref")
        if not 0 <= self.valid_fraction < 1:
            raise ConfigError(f"--valid-fraction {self.valid_fraction}; expected from 0 to below 1")
        if self.valid_fraction and (self.validpref or not self.trainpref):
            raise ConfigError("--valid-fraction splits the text of --trainpref; give it, and leave out --validpref")


@dataclass(frozen=True)
class Counts:
    """How much a split holds."""

    lines: int
    documents: int
    tokens: int
    text_bytes: int


def preprocess(config: PreprocessConfig) -> dict[str, Counts]:
    """Binarise every split into the folder, beside its vocabulary; all of them appear at the end, or none.

    Raises:
        DataError: an input is missing, empty or not UTF-8.
        VocabError: the vocabulary is damaged.
        StorageError: the folder can't be written.
    """
    inputs = {"train": config.trainpref or (), "valid": config.validpref or (), "test": config.testpref or ()}
    sizes = [text_size(path) for paths in inputs.values() for path in paths]
    known = [size for size in sizes if size is not None]
    total = sum(known) if len(known) == len(sizes) else None
    tokenizer = Tokenizer.load(config.vocab)
    splits: dict[str, _Split] = {}
    with progress_bar(desc="binarise", unit="B", total=total, scale=True) as bar, ExitStack() as stack:
        for name in inputs:
            if inputs[name] or (name == "valid" and config.valid_fraction):
                writer = IndexedWriter(config.destdir / name, len(tokenizer.dictionary))
                splits[name] = _Split(stack.enter_context(writer), tokenizer)
        for name, paths in inputs.items():
            if name == "train" and config.valid_fraction:
                _fill_both(splits["train"], splits["valid"], paths, config.valid_fraction, bar.update)
            elif paths:
                _fill(splits[name], paths, bar.update)
        tokenizer.save(config.destdir)
    return {name: split.counts for name, split in splits.items()}


def binarize(
    inputs: Sequence[Path], prefix: Path, tokenizer: Tokenizer, *, progress: Progress = lambda size: None
) -> Counts:
    """Write the text of `inputs`, one file after another, to PREFIX.bin and PREFIX.idx. A file ends a document.

    Raises:
        DataError: an input is missing, empty or not UTF-8.
        StorageError: the files can't be written.
    """
    for path in inputs:
        text_size(path)
    with IndexedWriter(prefix, len(tokenizer.dictionary)) as writer:
        split = _Split(writer, tokenizer)
        _fill(split, inputs, progress)
    return split.counts


class _Split:
    """A split while it is written."""

    def __init__(self, writer: IndexedWriter, tokenizer: Tokenizer) -> None:
        self.writer = writer
        self._tokenizer = tokenizer
        self._lines = self._documents = self._text_bytes = 0
        self._in_document = False

    @property
    def counts(self) -> Counts:
        return Counts(self._lines, self._documents, self.writer.num_tokens, self._text_bytes)

    def add(self, lines: Sequence[str]) -> int:
        """Append lines and return their size in bytes."""
        eos = self._tokenizer.dictionary.eos
        tokens: list[int] = []
        sizes = np.empty(len(lines), dtype=np.int64)
        for i, sentence in enumerate(self._tokenizer.encode_batch(lines)):
            tokens.extend(sentence)
            tokens.append(eos)
            sizes[i] = len(sentence) + 1
        self.writer.add_many(np.array(tokens, dtype=np.int64), sizes)
        for line in lines:
            self._documents += line != "" and not self._in_document
            self._in_document = line != ""
        size = sum(len(line.encode()) + 1 for line in lines)
        self._lines += len(lines)
        self._text_bytes += size
        return size


def _fill(split: _Split, inputs: Sequence[Path], progress: Progress) -> None:
    for piece in _pieces(inputs):
        progress(split.add([line for _, line in piece]))
    if split.counts.documents == 0:
        raise DataError(f"{', '.join(map(str, inputs))}: no text, only empty lines; expected lines of UTF-8 text")


def _fill_both(train: _Split, valid: _Split, inputs: Sequence[Path], valid_fraction: float, progress: Progress) -> None:
    """Send every 1 / valid_fraction-th document to `valid`, the others to `train`."""
    for piece in _pieces(inputs):
        kept = [line for document, line in piece if not _is_held_out(document, valid_fraction)]
        held_out = [line for document, line in piece if _is_held_out(document, valid_fraction)]
        progress(train.add(kept) + valid.add(held_out))
    if not (train.counts.documents and valid.counts.documents):
        raise DataError(
            f"{train.counts.documents + valid.counts.documents} documents can't give a validation split of "
            f"--valid-fraction {valid_fraction}; part documents by empty lines, raise it, or give --validpref"
        )


def _is_held_out(document: int, fraction: float) -> bool:
    return int((document + 1) * fraction) > int(document * fraction)


def _pieces(inputs: Sequence[Path]) -> Iterator[list[tuple[int, str]]]:
    """Yield the numbered lines in lists of about a million characters."""
    piece: list[tuple[int, str]] = []
    size = 0
    for item in _numbered_lines(inputs):
        piece.append(item)
        size += len(item[1]) + 1
        if size >= _PIECE_CHARACTERS:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _numbered_lines(inputs: Sequence[Path]) -> Iterator[tuple[int, str]]:
    """Yield (document, line): stripped lines with the index of their document. Empty lines belong to the one before.

    Where a file other than the last one ends without an empty line, one is put there.
    """
    document, in_document = -1, False
    for path in inputs:
        if in_document:
            yield document, ""
            in_document = False
        for raw in read_lines(path):
            line = raw.strip()
            document += line != "" and not in_document
            in_document = line != ""
            yield max(document, 0), line
