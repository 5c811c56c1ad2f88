"""Words and their labels, and the entities of texts, from a random head."""

import pytest
import torch

from roberta.errors import ConfigError, DataError
from roberta.hub import RobertaHubInterface
from roberta.models.heads import TaggingHeadConfig

LABELS = ("O", "B-PER", "I-PER")
SENTENCES = [
    ["Mr.", "Knightley", "didn’t", "walk", "."],
    [],
    ["Emma"],
    "Unquestionably incomprehensibilities notwithstanding , he whispered 🙂 to “ her ” .".split(),
]


@pytest.fixture(scope="module")
def tagger(roberta) -> RobertaHubInterface:
    """Return a model whose labels differ from word to word."""
    torch.manual_seed(3)
    roberta.register_head("tagging", TaggingHeadConfig(num_classes=3, labels=LABELS, dropout=0.5))
    roberta.register_head("nameless", TaggingHeadConfig(num_classes=2))
    with torch.no_grad():
        roberta.model.heads["tagging"].out_proj.weight.normal_()
    return roberta


def test_the_label_of_a_word_is_that_of_its_first_token(tagger):
    for words in SENTENCES:
        found = tagger.tag_words("tagging", words)
        assert [tagged.word for tagged in found] == words
        encoded = tagger.encode_words(words)
        rows = tagger.predict("tagging", encoded.tokens)[0].exp() if words else None  # (S, K)
        for number, tagged in enumerate(found):
            likely = rows[encoded.word_ids.index(number)]
            assert tagged.label == LABELS[int(likely.argmax())]
            assert tagged.probability == pytest.approx(likely.max().item(), abs=1e-5)
    assert len({tagged.label for words in SENTENCES for tagged in tagger.tag_words("tagging", words)}) > 1


def test_lists_of_words_give_lists_in_their_order(tagger):
    together = tagger.tag_words("tagging", SENTENCES)
    assert len(together) == len(SENTENCES)
    for words, found in zip(SENTENCES, together, strict=True):
        alone = tagger.tag_words("tagging", words)
        assert [(tagged.word, tagged.label) for tagged in found] == [(tagged.word, tagged.label) for tagged in alone]
    assert tagger.tag_words("tagging", []) == []


def test_more_words_than_the_model_takes_are_read_in_parts(tagger):
    words = [f"word{number}" for number in range(60)]
    assert tagger.encode_words(words).tokens.numel() > tagger.max_tokens
    assert [tagged.word for tagged in tagger.tag_words("tagging", words)] == words


def test_a_head_without_names_gives_numbers(tagger):
    assert {tagged.label for tagged in tagger.tag_words("nameless", ["a", "b"])} <= {0, 1}


def test_answers_do_not_depend_on_the_mode(tagger):
    calm = tagger.tag_words("tagging", SENTENCES[0])
    tagger.train()
    try:
        assert tagger.tag_words("tagging", SENTENCES[0]) == calm
        assert tagger.model.training
    finally:
        tagger.eval()


def test_entities_lie_where_they_stand_in_the_text(tagger, monkeypatch):
    text = "“Ann Bee”,  she said; don’t call Cy!"
    labels = {"Ann": 1, "Bee": 2, "Cy": 1}

    def pretend(engine, head, sentences):
        from roberta.hub.tagging import TaggedWord

        return [
            [TaggedWord(word, LABELS[labels.get(word, 0)], 0.5 if word == "Bee" else 0.9) for word in words]
            for words in sentences
        ]

    monkeypatch.setattr("roberta.hub.tagging.tag_words", pretend)
    first, second = tagger.entities("tagging", text)
    assert (first.type, first.text, first.probability) == ("PER", "Ann Bee", 0.5)
    assert text[first.start : first.end] == "Ann Bee"
    assert (second.text, second.start) == ("Cy", text.index("Cy"))
    assert [len(found) for found in tagger.entities("tagging", [text, "", "Ann"])] == [2, 0, 1]


def test_entities_of_a_model_are_made_of_the_labels_of_its_words(tagger):
    text = " ".join(word for words in SENTENCES for word in words)
    found = tagger.entities("tagging", text)
    assert found
    assert all(entity.type == "PER" and text[entity.start : entity.end] == entity.text for entity in found)


@pytest.mark.parametrize(
    ("head", "words", "error", "message"),
    [
        ("mnli", ["a"], ConfigError, r"head 'mnli' \(ClassificationHeadConfig\) labels no words"),
        ("nosuch", ["a"], ConfigError, "nosuch"),
        ("tagging", "a text", DataError, "words are 'a text'; expected a list of strings"),
        ("tagging", [["a"], "b"], DataError, r"item 0 is \['a'\]; expected a string"),
        ("tagging", [["a", ""]], DataError, "word 1 is ''; leave it out"),
        ("tagging", 3, DataError, "words are 3; expected a list"),
    ],
)
def test_what_can_not_be_labelled_is_refused(tagger, head, words, error, message):
    with pytest.raises(error, match=message):
        tagger.tag_words(head, words)


def test_a_head_of_other_labels_finds_no_entities(tagger):
    with pytest.raises(ConfigError, match="head 'nameless' tells no entities: its labels are without names; expected"):
        tagger.entities("nameless", "a")
