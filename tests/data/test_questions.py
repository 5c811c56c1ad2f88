"""Questions as sequences, against the tokenizer's own sequences."""

from itertools import pairwise

import numpy as np
import pytest

from roberta.data.examples import ChoiceExample
from roberta.data.questions import encode_questions
from roberta.data.tokenizer import Tokenizer

PASSAGE = "Dogs bark at night, and cats do not. " * 4 + "So."


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load()


def example(question, *options, context=""):
    return ChoiceExample(context, question, options, 0, "here:1")


def sequences(question):
    joined = np.concatenate(question.pieces()).tolist()
    ends = np.cumsum((0, *question.lengths)).tolist()
    assert ends[-1] == len(joined)
    return [joined[start:end] for start, end in pairwise(ends)]


def test_with_a_context_the_option_stands_before_it(tokenizer):
    (question,) = encode_questions(tokenizer, [example("Who barks?", "dogs", "cats", context=PASSAGE)])
    expected = [tokenizer.encode_sequence(f"Who barks? {option}", PASSAGE) for option in ("dogs", "cats")]
    assert sequences(question) == expected
    assert not question.is_cut
    assert not question.options_cut


def test_white_space_is_single_spaces_beside_a_context(tokenizer):
    given = example("Who\tbarks?", "the \u00a0 dogs", "cats", context=PASSAGE.replace(". ", ".\n\n") + "\n")
    (question,) = encode_questions(tokenizer, [given])
    assert sequences(question)[0] == tokenizer.encode_sequence("Who barks? the dogs", PASSAGE)


def test_without_a_context_there_are_question_and_answer(tokenizer):
    (question,) = encode_questions(tokenizer, [example("Where is a fox?", "hen house", "a zoo", "NY")])
    assert sequences(question) == [
        tokenizer.encode_sequence("Q: Where is a fox?", f"A: {option}", separator=False)
        for option in ("hen house", "a zoo", "NY")
    ]


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Cats  _\n.", "Cats do not ."),
        ("__ is what cats do", "do not is what cats do"),
        ("_ and _", "do not and do not"),
        ("What of snake_case?", "What of snake_case? do not"),
        ("", "do not"),
    ],
)
def test_an_option_fills_the_blanks_of_a_question(tokenizer, question, text):
    (encoded,) = encode_questions(tokenizer, [example(question, "do not", "bark", context=PASSAGE)])
    assert sequences(encoded)[0] == tokenizer.encode_sequence(text, PASSAGE)


def test_an_option_is_put_into_a_blank_as_it_is(tokenizer):
    (encoded,) = encode_questions(tokenizer, [example("It is _ .", r"\1 \g<0>", "b", context="c")])
    assert sequences(encoded)[0] == tokenizer.encode_sequence(r"It is \1 \g<0> .", "c")


@pytest.mark.parametrize("limit", [14, 15, 20, 49, 50, 1000])
def test_the_end_of_the_context_is_cut_before_question_and_options(tokenizer, limit):
    options = ("dogs", "cats and no others, ever")
    (question,) = encode_questions(
        tokenizer, [example("Who barks?", *options, context=PASSAGE)], max_tokens=limit, max_option_tokens=10
    )
    context = tokenizer.encode(PASSAGE)
    for option, sequence in zip(options, sequences(question), strict=True):
        start = [0, *tokenizer.encode(f"Who barks? {option}"), 2, 2]
        assert sequence == [*start, *context[: limit - len(start) - 1], 2]
        assert len(sequence) == min(limit, len(start) + len(context) + 1)
    assert question.is_cut == (limit < 1000)
    assert not question.options_cut


def test_the_end_of_the_question_is_cut_where_there_is_no_context(tokenizer):
    (question,) = encode_questions(tokenizer, [example("Who barks? " * 9, "dogs", "cats")], max_tokens=12)
    whole = tokenizer.encode("Q: " + "Who barks? " * 9)
    answer = tokenizer.encode("A: dogs")
    assert sequences(question)[0] == [0, *whole[: 12 - 3 - len(answer)], 2, *answer, 2]
    assert question.is_cut


@pytest.mark.parametrize("context", ["", PASSAGE])
def test_options_have_a_limit_of_their_own(tokenizer, context):
    (question,) = encode_questions(
        tokenizer, [example("Who?", "dogs", "cats " * 30, context=context)], max_tokens=14, max_option_tokens=10
    )
    assert question.options_cut
    assert max(question.lengths) <= 14
    option = tokenizer.encode(("Who? " if context else "A: ") + "cats " * 30)[:10]
    expected = [0, *option, 2, 2] if context else [2, *option, 2]
    sequence = sequences(question)[1]
    assert (sequence[: len(expected)] if context else sequence[-len(expected) :]) == expected


def test_questions_of_one_context_share_its_tokens(tokenizer):
    rows = [example("Who barks?", "a", "b", context=PASSAGE), example("Who does not?", "c", "d", context=PASSAGE)]
    first, second = encode_questions(tokenizer, rows)
    assert first.passage is second.passage
