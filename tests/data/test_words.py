"""Words and tokens: which belongs to which, and long lists of words in several sequences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roberta.data.tokenizer import Tokenizer
from roberta.data.words import token_ranges, word_ids, word_windows

WORDS = st.lists(st.text(st.characters(exclude_categories=("Cs", "Z", "Cc")), min_size=1, max_size=8), max_size=12)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


def test_a_word_starts_with_the_token_that_touches_it_first():
    tokens = [(0, 3), (3, 4), (4, 7), (7, 9), (9, 12)]
    assert word_ids(tokens, [(0, 2), (2, 3), (5, 8)]) == [0, None, 2, 2, None]
    assert token_ranges(tokens, [(0, 2), (2, 3), (5, 8)]) == [(0, 1), (0, 1), (2, 4)]


@given(words=WORDS, max_tokens=st.integers(3, 20))
def test_windows_have_all_words_once_with_the_tokens_of_the_running_text(tokenizer, words, max_tokens):
    windows = word_windows(tokenizer, words, max_tokens)
    assert [window.first_word + row for window in windows for row in range(len(window.rows))] == list(range(len(words)))
    for window in windows:
        assert (window.tokens[0], window.tokens[-1]) == (0, 2)
        assert len(window.tokens) <= max_tokens
        ends = [*window.rows[1:].tolist(), len(window.tokens) - 1]
        for number, (row, end) in enumerate(zip(window.rows.tolist(), ends, strict=True), start=window.first_word):
            found = window.tokens[row:end].tolist()
            alone = tokenizer.encode(" " * (number > 0) + words[number])
            assert found == alone if len(alone) <= max_tokens - 2 else found == alone[: max_tokens - 2]


def test_a_window_has_as_many_words_as_fit(tokenizer):
    words = ["one", "two", "three", "unbelievablest", "four"]
    sizes = [len(tokenizer.encode(" " * (number > 0) + word)) for number, word in enumerate(words)]
    assert sizes == [1, 1, 1, 3, 1]
    for max_tokens, firsts in ((9, [0]), (8, [0, 4]), (7, [0, 3]), (5, [0, 3, 4]), (4, [0, 2, 3, 4])):
        assert [window.first_word for window in word_windows(tokenizer, words, max_tokens)] == firsts, max_tokens


def test_words_of_one_symbol_stay_together(tokenizer):
    added = tokenizer.with_symbols(["New York"])
    symbol = len(added.dictionary) - 1
    windows = word_windows(added, ["to", "New", "York", "now"], max_tokens=4)
    assert [window.tokens.tolist()[1:-1].count(symbol) for window in windows if symbol in window.tokens] == [1]
    (window,) = (window for window in windows if symbol in window.tokens)
    rows = window.rows.tolist()
    assert len(rows) >= 2
    assert all(0 < row < len(window.tokens) - 1 for row in rows)
    assert sum(len(window.rows) for window in windows) == 4


def test_words_of_white_space_at_the_end_of_a_window_have_a_token_of_their_own(tokenizer):
    for words in (["a"] * 4 + ["\u00a0"] * 2 + ["b"], ["\u00a0"], ["a", "\u00a0", "\u00a0", "\u00a0"]):
        windows = word_windows(tokenizer, words, 6)
        assert sum(len(window.rows) for window in windows) == len(words)
        assert all(window.rows.max() < len(window.tokens) - 1 for window in windows), words
