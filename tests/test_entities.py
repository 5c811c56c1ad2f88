"""Entities in labels, against the scorer's own table of transitions and, where it is installed, against seqeval."""

import random

import pytest

from roberta.entities import Entity, Found, all_types, are_entity_labels, count_entities, entities_of

SCHEMES = {"IOB": "BIO", "IOBES": "BIOES"}


def by_transitions(labels: list[str]) -> list[tuple[str, int, int]]:
    """Return (type, first, last word) as conlleval finds chunks: by what may end and begin between two words."""
    found, begin = [], 0
    before, kind_before = "O", ""
    for position, label in enumerate([*labels, "O"]):
        place, kind = label[0], label[2:] or "_"
        ends = (
            before in "ES"
            or (before in "BI" and place in "BSO")
            or (before != "O" and kind_before != kind)
        )  # fmt: skip
        begins = place in "BS" or (before in "ESO" and place in "EI") or (place != "O" and kind_before != kind)
        if before != "O" and ends:
            found.append((kind_before, begin, position - 1))
        if begins:
            begin = position
        before, kind_before = place, kind
    return found


def sentences(places: str, seed: int, count: int = 300) -> list[list[str]]:
    rng = random.Random(seed)
    labels = ["O", "O", *(f"{place}-{kind}" for place in places if place != "O" for kind in ("PER", "LOC"))]
    return [rng.choices(labels, k=rng.randrange(12)) for _ in range(count)]


@pytest.mark.parametrize("places", SCHEMES.values(), ids=SCHEMES)
def test_entities_are_those_of_the_scorers_table(places):
    for labels in sentences(places, seed=1):
        found = [(entity.type, entity.start, entity.end - 1) for entity in entities_of(labels)]
        assert found == by_transitions(labels), labels


@pytest.mark.parametrize("places", SCHEMES.values(), ids=SCHEMES)
def test_entities_and_figures_are_those_of_seqeval(places):
    seqeval = pytest.importorskip("seqeval.metrics.sequence_labeling", reason="compares with seqeval")
    golds = sentences(places, seed=2)
    rng = random.Random(3)
    predictions = [[rng.choice((label, label, "O", "B-PER")) for label in labels] for labels in golds]
    for labels in golds:
        assert [(e.type, e.start, e.end - 1) for e in entities_of(labels)] == seqeval.get_entities(labels)
    figures = all_types(count_entities(golds, predictions)).figures()
    for name, value in figures.items():
        expected = getattr(seqeval, f"{name}_score")(golds, predictions)
        assert value == pytest.approx(expected, abs=1e-12), name
        assert 0.0 < value < 1.0


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("", []),
        ("O O", []),
        ("I-PER I-PER O I-PER", [("PER", 0, 2), ("PER", 3, 4)]),  # IOB1
        ("I-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("B-PER I-PER E-PER S-PER", [("PER", 0, 3), ("PER", 3, 4)]),  # IOBES
        ("B-PER L-PER U-LOC", [("PER", 0, 2), ("LOC", 2, 3)]),  # BILOU
        ("E-PER E-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER E-PER I-PER", [("PER", 0, 2), ("PER", 2, 3)]),
        ("B I O", [("_", 0, 2)]),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
        ("NOUN VERB", []),
    ],
)
def test_an_entity_goes_on_where_the_word_before_allows_it(labels, expected):
    assert entities_of(labels.split()) == [Entity(*entity) for entity in expected]


def test_figures_of_types_are_those_of_exact_spans():
    golds = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC"], ["O"]]
    predictions = [["B-PER", "O", "O", "B-LOC"], ["B-PER"], ["O"]]
    found = count_entities(golds, predictions)
    assert found == {"LOC": Found(right=2, predicted=1, both=1), "PER": Found(right=1, predicted=2, both=0)}
    assert found["LOC"].figures() == {"precision": 1.0, "recall": 0.5, "f1": 2 / 3}
    assert all_types(found).figures() == {"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3}


def test_the_same_words_of_two_sentences_are_two_entities():
    assert all_types(count_entities([["B-PER"], ["B-PER"]], [["B-PER"], ["O"]])) == Found(2, 1, 1)


def test_figures_of_nothing_are_zero():
    assert all_types(count_entities([["O"]], [["O"]])).figures() == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert Found(right=1, predicted=0, both=0).figures() == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["O", "B-PER", "I-PER"], True),
        (["O", "I-PER"], True),
        (["S-PER", "B-PER"], True),
        (["NN", "VB", "-LRB-"], False),
        (["O", "B-PER", "X-PER"], False),
        (["O", "B"], True),
        (["O", "I"], False),
        ([], False),
    ],
)
def test_labels_tell_entities_if_all_of_them_are_places(labels, expected):
    assert are_entity_labels(labels) is expected
