"""The noun phrases of a text, as candidates for what a pronoun stands for; spaCy finds them."""

import functools
import importlib
from collections.abc import Sequence
from typing import Any

from roberta.errors import ConfigError

PIPELINES = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm")  # the first one that is installed is taken


def noun_phrases(text: str) -> list[str]:
    """Return the noun phrases of an English text in order, and the nouns in them, but no pronouns.

    Raises:
        ConfigError: spaCy or its English pipeline is not installed; the message says how to install them.
    """
    document = _pipeline()(text)
    spans = {(chunk.start, chunk.end) for chunk in document.noun_chunks}
    spans.update(_noun_runs([token.pos_ for token in document]))
    chunks = [document[start:end] for start, end in sorted(spans)]
    phrases = [chunk.text for chunk in chunks if any(token.pos_ != "PRON" for token in chunk)]
    return list(dict.fromkeys(phrases))


def other_candidates(phrases: Sequence[str], query: str) -> list[str]:
    """Return the phrases that are alternatives to a query: neither it, nor some words of it, nor a phrase around it.

    >>> other_candidates(["The trophy", "the brown suitcase", "trophy", "the trophies"], "trophy")
    ['the brown suitcase', 'the trophies']
    """
    name = _padded(query)
    return [phrase for phrase in phrases if _padded(phrase) not in name and name not in _padded(phrase)]


def _padded(phrase: str) -> str:
    return f" {' '.join(phrase.lower().split())} "


def _noun_runs(parts_of_speech: Sequence[str]) -> list[tuple[int, int]]:
    """Return the start and end of each longest run of nouns, and of proper nouns."""
    runs = []
    start = 0
    for position in range(1, len(parts_of_speech) + 1):
        if position == len(parts_of_speech) or parts_of_speech[position] != parts_of_speech[start]:
            if parts_of_speech[start] in ("NOUN", "PROPN"):
                runs.append((start, position))
            start = position
    return runs


@functools.cache
def _pipeline() -> Any:
    advice = f"pip install spacy, then python -m spacy download {PIPELINES[-1]}"
    try:
        spacy: Any = importlib.import_module("spacy")
    except ImportError as error:
        raise ConfigError(f"noun phrases are found by spaCy, which is not installed: {advice}") from error
    for name in PIPELINES:
        if spacy.util.is_package(name):
            return spacy.load(name)
    raise ConfigError(f"spaCy has none of its English pipelines ({', '.join(PIPELINES)}): {advice}")
