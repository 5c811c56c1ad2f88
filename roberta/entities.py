"""Entities in the labels of words: where they begin and end, and how many of them are found.

A label is `O`, outside, or the place of a word in an entity and, behind a hyphen, the entity's type: `B-PER` begins
one, `I-PER` is inside, `E-PER` ends it, `S-PER` is one alone; `L` and `U` are other names of `E` and `S`. One rule
reads all schemes: a word goes on with the entity of the word before it if it is inside or an end, the word before is
inside or a beginning, and both have the same type; any other word that is not outside begins an entity. So labels
that a scheme does not allow mean something too. For IOB1 and IOB2 it is the rule of conlleval, the scorer of CoNLL's
shared tasks, which knows no others; for IOBES that of seqeval where it is not asked to be strict.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

OUTSIDE = "O"

_LABEL = re.compile(r"(?:O|([BIESLU])(?:-(.*))?)")
_GOES_ON, _MAY_GO_ON = "IEL", "BI"
_TYPELESS = "_"  # the type of a label that is a place alone


@dataclass(frozen=True)
class Entity:
    """Words of a sentence from `start` to `end`, the end excluded, and what they are."""

    type: str
    start: int
    end: int


@dataclass(frozen=True)
class Found:
    """How many entities there are, are predicted, and are both: with the same words and the same type."""

    right: int
    predicted: int
    both: int

    def figures(self) -> dict[str, float]:
        """Return precision, recall and their harmonic mean, each 0 where it has nothing to divide by."""
        total = self.right + self.predicted
        return {
            "precision": self.both / self.predicted if self.predicted else 0.0,
            "recall": self.both / self.right if self.right else 0.0,
            "f1": 2 * self.both / total if total else 0.0,
        }


def are_entity_labels(labels: Collection[str]) -> bool:
    """Return whether labels tell entities, as `B-PER` does, and not parts of speech or the like.

    >>> [are_entity_labels(labels) for labels in (["O", "B-PER"], ["O", "B", "I"], ["NOUN", "VERB"], ["O"])]
    [True, True, False, False]
    """
    has_types = any(label[1:2] == "-" for label in labels)
    return all(map(_LABEL.fullmatch, labels)) and (has_types or {OUTSIDE, "B"} <= set(labels))


def entities_of(labels: Sequence[str]) -> list[Entity]:
    """Return the entities of a sentence by the labels of its words; a label of another form is outside.

    >>> entities_of(["I-PER", "I-PER", "B-PER", "O", "S-LOC"])
    [Entity(type='PER', start=0, end=2), Entity(type='PER', start=2, end=3), Entity(type='LOC', start=4, end=5)]
    """
    found: list[Entity] = []
    before = ("", "")
    for position, label in enumerate(labels):
        match = _LABEL.fullmatch(label)
        place, kind = (match[1] or "", match[2] or _TYPELESS) if match else ("", "")
        if place and place in _GOES_ON and before[0] and before[0] in _MAY_GO_ON and kind == before[1]:
            found[-1] = Entity(kind, found[-1].start, position + 1)
        elif place:
            found.append(Entity(kind, position, position + 1))
        before = (place, kind)
    return found


def count_entities(golds: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, Found]:
    """Return what of the entities of sentences is found, for each type in sorted order; a label for each word."""
    right, predicted = _entities(golds), _entities(predictions)
    counts = [Counter(entity.type for _, entity in some) for some in (right, predicted, right & predicted)]
    return {kind: Found(*(count[kind] for count in counts)) for kind in sorted(set(chain(*counts)))}


def all_types(found: Mapping[str, Found]) -> Found:
    """Return the counts of all types together."""
    return Found(
        sum(each.right for each in found.values()),
        sum(each.predicted for each in found.values()),
        sum(each.both for each in found.values()),
    )


def _entities(sentences: Sequence[Sequence[str]]) -> set[tuple[int, Entity]]:
    return {(number, entity) for number, labels in enumerate(sentences) for entity in entities_of(labels)}
