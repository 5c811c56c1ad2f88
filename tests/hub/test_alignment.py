"""Words, characters and tokens: which belongs to which."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roberta.data.tokenizer import Tokenizer
from roberta.errors import DataError
from roberta.hub.alignment import encode_words, split_words

WORDS = st.lists(st.text(st.characters(exclude_categories=("Cs", "Z", "Cc")), min_size=1, max_size=8), max_size=8)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


@given(words=WORDS)
def test_encoded_words_are_the_running_text_and_each_word_has_its_tokens(tokenizer, words):
    encoded = encode_words(tokenizer, words)
    assert encoded.tokens.tolist() == tokenizer.encode_sequence(" ".join(words))
    assert encoded.word_ids[0] is None
    assert encoded.word_ids[-1] is None
    inner = encoded.word_ids[1:-1]
    assert None not in inner
    assert list(inner) == sorted(inner)
    for number, word in enumerate(words):
        tokens = [token for token, of in zip(encoded.tokens.tolist(), encoded.word_ids, strict=True) if of == number]
        assert tokenizer.decode(tokens).removeprefix(" ") == word


def test_spans_of_encoded_words_cut_the_text_into_its_tokens(roberta):
    encoded = roberta.encode_words(["It", "isn’t", "“naïve”"])
    assert encoded.text == "It isn’t “naïve”"
    tokens = [roberta.decode(token.unsqueeze(0)) for token in encoded.tokens]
    for token, (start, end) in zip(tokens, encoded.character_spans, strict=True):
        assert "\ufffd" in token or encoded.text[start:end] == token


@pytest.mark.parametrize(
    ("words", "message"), [(["a", ""], "word 1 is ''"), ([3], "words: item 0 is 3"), ("a b", "list of")]
)
def test_words_that_are_none_are_refused(roberta, words, message):
    with pytest.raises(DataError, match=message):
        roberta.encode_words(words)


def test_no_words_are_an_empty_text(roberta):
    assert roberta.encode_words([]).tokens.tolist() == [0, 2]


def test_words_of_a_text_keep_inner_apostrophes_and_part_from_punctuation():
    text = "She’d 'quote' don't, नमस्ते… 😀!"
    assert [text[start:end] for start, end in split_words(text)] == [
        "She’d", "'", "quote", "'", "don't", ",", "नमस्ते", "…", "😀!",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("I don't know.", ["I", "don't", "know", "."]),
        ("I don't know.", ["I", "do", "n't", "know."]),
        ("“Smart” quotes ‘here’", ["“", "Smart", "”", "quotes", "‘here’"]),
        ("a 👩‍👩‍👧‍👦 b", ["a", "👩‍👩‍👧‍👦", "b"]),
        ("\u202bשלום\u202c עולם", ["שלום", "עולם"]),
        ("e\u0301te\u0301", ["e", "\u0301", "te\u0301"]),
        ("tabs\tand\n\nlines", ["tabs", "and", "lines"]),
        ("the the", ["the", "the"]),
        ("unaligned words here", ["words"]),
    ],
)
def test_features_of_a_word_are_the_mean_of_the_tokens_that_touch_it(roberta, sentence, words):
    aligned = roberta.extract_features_aligned_to_words(sentence, words)
    assert aligned.words == tuple(words)
    features = roberta.extract_features(sentence)
    spans = roberta.character_spans(sentence)
    end = 0
    for word, (start, stop), found in zip(words, aligned.character_spans, aligned.features, strict=True):
        assert start >= end
        assert sentence[start:stop] == word
        touching = [row for row, (a, b) in zip(features, spans, strict=True) if a < stop and start < b]
        torch.testing.assert_close(found, torch.stack(touching).mean(dim=0))
        end = stop


def test_words_are_parted_by_white_space_unless_given(roberta):
    sentence = "  Hello,  big\nworld "
    aligned = roberta.extract_features_aligned_to_words(sentence)
    assert aligned.words == ("Hello,", "big", "world")
    assert roberta.extract_features_aligned_to_words("").features.shape == (0, 16)


def test_lists_of_sentences_are_aligned_in_input_order(roberta):
    sentences = ["a", "one two three four", "b c"]
    for words in (None, [["a"], ["two", "four"], ["b", "c"]]):
        together = roberta.extract_features_aligned_to_words(sentences, words)
        for number, aligned in enumerate(together):
            alone = roberta.extract_features_aligned_to_words(sentences[number], words and words[number])
            assert aligned.words == alone.words
            torch.testing.assert_close(aligned.features, alone.features, atol=1e-6, rtol=1e-5)


def test_tokens_of_a_library_stand_for_their_text(roberta):
    class Token:
        def __init__(self, text):
            self.text = text

        def __str__(self):
            return self.text

    assert roberta.extract_features_aligned_to_words("do not", [Token("do"), Token("not")]).words == ("do", "not")


@pytest.mark.parametrize("words", [["not", "there"], ["b", "a"], ["a", ""], ["a", "a"]])
def test_words_that_do_not_stand_there_in_order_are_refused(roberta, words):
    with pytest.raises(DataError, match="word [01], .* is not in the rest of the sentence"):
        roberta.extract_features_aligned_to_words("a not b", words)


def test_a_string_is_no_list_of_words(roberta):
    with pytest.raises(DataError, match="words of a sentence are 'Hi'; expected a list"):
        roberta.extract_features_aligned_to_words(["Hi you", "Yo you"], words=["Hi", "Yo"])


def test_lists_of_words_must_match_the_sentences(roberta):
    with pytest.raises(DataError, match="1 lists of words for 2 sentences"):
        roberta.extract_features_aligned_to_words(["a", "b"], [["a"]])
