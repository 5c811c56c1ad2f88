"""The sample text of the package: Jane Austen's six novels, for tests, benchmarks and a first run without downloads.

A novel is a text of paragraphs, one a line, with an empty line between chapters. Chapters are the documents: every
twentieth of a novel is in the split "valid", the others in "train". See NOTICE for the source.
"""

import bz2
import json
from collections.abc import Iterator
from pathlib import Path

from roberta.errors import DataError, choices

NOVELS = Path(__file__).with_name("corpus") / "novels.json.bz2"
SPLITS = ("train", "valid")
MIN_PASSAGE, MAX_PASSAGE = 40, 120  # words

_VALID_EVERY = 20
_VALID_FIRST = 9  # so that every novel has a valid chapter


def sample_text() -> dict[str, str]:
    """Return each novel's text by its title."""
    novels: dict[str, str] = json.loads(bz2.decompress(NOVELS.read_bytes()))
    return novels


def sample_corpus(split: str) -> str:
    """Return the chapters of a split as text for pretraining: a paragraph a line, an empty line between documents.

    Raises:
        DataError: no such split.
    """
    return "\n\n".join(chapter for _, chapter in _chapters(split)) + "\n"


def sample_passages(split: str) -> list[tuple[str, str]]:
    """Return (passage, title of its novel) pairs, a labelled set for classification.

    A passage is one or more paragraphs of a chapter, at least MIN_PASSAGE words, cut after MAX_PASSAGE words.

    Raises:
        DataError: no such split.
    """
    return [(passage, title) for title, chapter in _chapters(split) for passage in _passages(chapter)]


def _chapters(split: str) -> Iterator[tuple[str, str]]:
    """Yield (title, chapter) of a split."""
    if split not in SPLITS:
        raise DataError(f"no split {split!r} of the sample text; {choices(split, SPLITS)}")
    for title, text in sample_text().items():
        for position, chapter in enumerate(text.split("\n\n")):
            is_valid = position % _VALID_EVERY == _VALID_FIRST
            if is_valid == (split == "valid"):
                yield title, chapter


def _passages(chapter: str) -> Iterator[str]:
    words: list[str] = []
    for paragraph in chapter.split("\n"):
        words += paragraph.split(" ")
        if len(words) >= MIN_PASSAGE:
            yield " ".join(words[:MAX_PASSAGE])
            words = []
