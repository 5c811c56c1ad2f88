"""Noun phrases, with a stand-in for spaCy: its documents are lists of tagged words with chunks."""

import sys
from types import SimpleNamespace

import pytest

from roberta.data import noun_phrases as module
from roberta.data.noun_phrases import noun_phrases, other_candidates
from roberta.errors import ConfigError

TAGS = {"The": "DET", "dog": "NOUN", "house": "NOUN", "of": "ADP", "Ann": "PROPN", "Lee": "PROPN", "it": "PRON"}


class Span(list):
    """Tagged words of a document."""

    def __init__(self, tokens, start):
        super().__init__(tokens)
        self.start, self.end = start, start + len(tokens)
        self.text = " ".join(token.text for token in tokens)


class Document(list):
    """Tagged words; the chunks are the longest runs of anything but verbs and prepositions."""

    def __getitem__(self, key):
        return Span(super().__getitem__(key), key.start)

    @property
    def noun_chunks(self):
        start = None
        for position, token in enumerate([*self, SimpleNamespace(pos_="END")]):
            if token.pos_ in ("VERB", "ADP", "END"):
                if start is not None:
                    yield self[start:position]
                start = None
            elif start is None:
                start = position


def tagged(text):
    return Document(SimpleNamespace(text=word, pos_=TAGS.get(word, "VERB")) for word in text.split())


@pytest.fixture
def spacy(monkeypatch):
    stand_in = SimpleNamespace(load=lambda name: tagged, util=SimpleNamespace(is_package=lambda name: "sm" in name))
    monkeypatch.setitem(sys.modules, "spacy", stand_in)
    module._pipeline.cache_clear()
    yield stand_in
    module._pipeline.cache_clear()


def test_phrases_are_chunks_and_the_nouns_in_them_but_no_pronouns(spacy):
    found = noun_phrases("The dog house of Ann Lee sees it of dog house")
    assert found == ["The dog house", "dog house", "Ann Lee"]


def test_other_candidates_neither_hold_the_query_nor_stand_in_it():
    phrases = ["The Dog House", "dog", "Ann", "the cat", "a big dog house there"]
    assert other_candidates(phrases, "the dog house") == ["Ann", "the cat", "a big dog house there"]
    assert other_candidates(phrases, "dog") == ["Ann", "the cat"]


def test_the_message_tells_how_to_install_spacy(spacy, monkeypatch):
    advice = "pip install spacy, then python -m spacy download en_core_web_sm$"
    spacy.util.is_package = lambda name: False
    with pytest.raises(ConfigError, match=f"none of its English pipelines .*: {advice}"):
        noun_phrases("x")
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match=f"not installed: {advice}"):
        noun_phrases("x")
