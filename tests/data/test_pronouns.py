"""Pronouns and candidates as sequences, and the marks of sentences."""

import pytest

from roberta.data.pronouns import encode_candidates, parse_marks
from roberta.data.tokenizer import Tokenizer
from roberta.errors import DataError


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load()


def encode(tokenizer, before, after, *candidates, max_tokens=512):
    return encode_candidates(tokenizer, before, after, candidates, max_tokens=max_tokens, source="here:1")


def test_a_candidate_is_masked_in_the_place_of_the_pronoun(tokenizer):
    text = ("The trophy is not in the suitcase because ", " was too big.")
    for candidate, encoded in zip(
        ("the trophy", "the suitcase"), encode(tokenizer, *text, "the trophy", "the suitcase"), strict=True
    ):
        filled = tokenizer.encode_sequence(f"{text[0]}{candidate}{text[1]}")
        restored = encoded.tokens.copy()
        assert set(restored[encoded.rows].tolist()) == {tokenizer.dictionary.mask}
        restored[encoded.rows] = encoded.targets
        assert restored.tolist() == filled
        assert tokenizer.decode(encoded.targets.tolist()) == f" {candidate}"


def test_a_candidate_at_the_start_or_behind_a_quote_has_no_space(tokenizer):
    (first,) = encode(tokenizer, "", " fell.", " Ann ")
    assert first.targets.tolist() == tokenizer.encode("Ann")
    assert first.start == 1
    (quoted,) = encode(tokenizer, 'He said: "', ' fell."', "Ann")
    assert quoted.targets.tolist() == tokenizer.encode("Ann")


@pytest.mark.parametrize(
    ("before", "after", "kept_before", "kept_after"),
    [(50, 50, 5, 5), (50, 2, 8, 2), (3, 50, 3, 7), (0, 50, 0, 10), (5, 5, 5, 5)],
)
def test_what_is_farthest_from_the_pronoun_is_cut(tokenizer, before, after, kept_before, kept_after):
    first, last = [" " + " ".join("abcdefghij"[k % 10] for k in range(n)) if n else "" for n in (before, after)]
    candidates = encode(tokenizer, first + " ", last, "Ann", "Eve Smith", max_tokens=14)
    for candidate in candidates:
        end = candidate.start + len(candidate.targets)
        assert candidate.tokens[1 : candidate.start].tolist() == tokenizer.encode(first)[before - kept_before :]
        assert candidate.tokens[end:-1].tolist() == tokenizer.encode(last)[:kept_after]
    assert max(len(candidate.tokens) for candidate in candidates) == 14


def test_a_candidate_that_is_empty_or_too_long_is_refused(tokenizer):
    with pytest.raises(DataError, match="here:1: candidate ' ' is empty"):
        encode(tokenizer, "a ", " b", "Ann", " ")
    with pytest.raises(DataError, match="here:1: a candidate has 9 tokens; expected at most 6"):
        encode(tokenizer, "a ", " b", "a b c d e f g h i", max_tokens=8)
    (fitting,) = encode(tokenizer, "a ", " b", "a b c d e f", max_tokens=8)
    assert len(fitting.tokens) == 8


def test_marks_name_the_pronoun_and_the_query():
    marked = parse_marks("The _trophy_ is not in the snake_case_box because [it] was big.")
    assert marked == ("The trophy is not in the snake_case_box because ", "it", " was big.", "trophy")
    assert marked.text == "The trophy is not in the snake_case_box because it was big."
    later = parse_marks("Because [it] was big, the _brown suitcase_, not the trophy, fell.")
    assert (later.query, later.after) == ("brown suitcase", " was big, the brown suitcase, not the trophy, fell.")
    assert parse_marks("[She] slept.") == ("", "She", " slept.", None)


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("It fell.", "0 pronouns in"),
        ("[It] and [it] fell.", "2 pronouns in"),
        ("The cup, [ ] fell.", "the brackets are empty; put the pronoun into them"),
        ("The _cup_ and the _box_ when [it] fell.", "2 _queries_"),
        ("The _ _ when [it] fell.", "1 _queries_; expected none or one"),
    ],
)
def test_marks_that_are_missing_or_too_many_are_refused(sentence, message):
    with pytest.raises(DataError, match=message):
        parse_marks(sentence)
