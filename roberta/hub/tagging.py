"""What a tagging head says of words: a label for each, and the entities that the labels make up.

Shapes: T packed tokens, S tokens of a sequence, W words, K labels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import category

from torch import Tensor

from roberta.data.tokenizer import Span
from roberta.data.words import word_windows
from roberta.entities import are_entity_labels, entities_of
from roberta.errors import ConfigError
from roberta.hub.alignment import as_full_words, split_words
from roberta.hub.border import Engine
from roberta.hub.predicting import Label
from roberta.layout import SequenceLayout
from roberta.models.heads import TaggingHeadConfig


@dataclass(frozen=True)
class TaggedWord:
    """A word and its likeliest label, which is that of its first token."""

    word: str
    label: Label
    probability: float


@dataclass(frozen=True)
class TextEntity:
    """Part of a text, its characters `start` to `end`, what it is, and the probability of its least likely label."""

    type: str
    text: str
    start: int
    end: int
    probability: float


def as_word_lists(words: Any) -> tuple[list[list[str]], bool]:
    """Return lists of words, and whether it is a single one: an iterable of strings.

    Raises:
        DataError: neither words nor lists of words, or a word is empty.
    """
    items = list(words) if isinstance(words, Iterable) and not isinstance(words, str) else words
    if isinstance(items, list) and items and not any(isinstance(item, str) for item in items):
        return [as_full_words(item) for item in items], False
    return [as_full_words(items)], True


def tag_words(engine: Engine, head: str, sentences: Sequence[Sequence[str]]) -> list[list[TaggedWord]]:
    """Return each word of each sentence with its label; what is longer than the model takes is read in parts.

    Raises:
        ConfigError: the model has no such head, or the head labels no tokens.
    """
    config = _tagging_config(engine, head)
    names: Sequence[Label] = config.labels or range(config.num_classes)
    parts = [word_windows(engine.tokenizer, words, engine.model.config.max_positions) for words in sentences]
    windows = [window for found in parts for window in found]

    def compute(indices: list[int], tokens: Tensor, layout: SequenceLayout) -> list[list[tuple[Label, float]]]:
        logits = engine.model(tokens, layout, head).float().cpu()  # (T, K)
        rows = [part[windows[index].rows] for index, part in zip(indices, logits.split(layout.lengths), strict=True)]
        found = [part.softmax(dim=1).max(dim=1) for part in rows]  # (W,) each
        return [
            [(names[best], value) for best, value in zip(part.indices.tolist(), part.values.tolist(), strict=True)]
            for part in found
        ]

    labelled = iter(engine.each([window.tokens.tolist() for window in windows], compute))
    results = []
    for words, found in zip(sentences, parts, strict=True):
        pairs = [pair for _ in found for pair in next(labelled)]
        results.append([TaggedWord(word, *pair) for word, pair in zip(words, pairs, strict=True)])
    return results


def find_entities(engine: Engine, head: str, texts: Sequence[str]) -> list[list[TextEntity]]:
    """Return the entities in each text, whose words are those of `split_words`, punctuation marks one by one.

    Raises:
        ConfigError: as `tag_words`, or the labels of the head are not those of entities.
    """
    labels = _tagging_config(engine, head).labels
    if not are_entity_labels(labels):
        told = ", ".join(labels) or "without names"
        raise ConfigError(f"head {head!r} tells no entities: its labels are {told}; expected such as B-PER, I-PER, O")
    spans = [[part for span in split_words(text) for part in _single_marks(text, span)] for text in texts]
    words = [[text[start:end] for start, end in places] for text, places in zip(texts, spans, strict=True)]
    results = []
    for text, places, tagged in zip(texts, spans, tag_words(engine, head, words), strict=True):
        found = []
        for entity in entities_of([str(word.label) for word in tagged]):
            start, end = places[entity.start][0], places[entity.end - 1][1]
            least = min(word.probability for word in tagged[entity.start : entity.end])
            found.append(TextEntity(entity.type, text[start:end], start, end, least))
        results.append(found)
    return results


def _single_marks(text: str, span: Span) -> list[Span]:
    """Return the places of punctuation marks that stand together, each a word; other words as they are."""
    start, end = span
    if not all(category(character).startswith("P") for character in text[start:end]):
        return [span]
    return [(place, place + 1) for place in range(start, end)]


def _tagging_config(engine: Engine, head: str) -> TaggingHeadConfig:
    config = engine.model.head_config(head)
    if not isinstance(config, TaggingHeadConfig):
        raise ConfigError(
            f"head {head!r} ({type(config).__name__}) labels no words; roberta-finetune tagging trains one that does"
        )
    return config
