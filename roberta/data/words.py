"""Words and tokens: which tokens make up a word, by where both lie in the text; word lists as sequences.

Tokens lie where their bytes are (`Tokenizer.align`), so any word list fits any text: no tokenizer is asked twice, and
quotes, emoji and characters that several tokens share need no rule of their own.

Shapes: S tokens of a sequence, W words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from roberta.data.tokenizer import Span, Tokenizer


@dataclass(frozen=True)
class AlignedWords:
    """A word list as a text, the tokens of it without special ones, and where both lie."""

    text: str  # the words with one space between them
    tokens: list[int]
    character_spans: list[Span]  # of each token in `text`, the space before a word included
    word_spans: list[Span]  # of each word, likewise


@dataclass(frozen=True)
class WordWindow:
    """Some words of a list that follow each other, as one sequence."""

    first_word: int
    tokens: NDArray[np.int64]  # (S,), `<s>` and `</s>` included
    rows: NDArray[np.int64]  # (W,): where in `tokens` each word begins


def align_words(tokenizer: Tokenizer, words: Sequence[str]) -> AlignedWords:
    """Return the tokens of words, none of them empty, as `encode` gives them for the text with a space between any two.

    >>> align_words(Tokenizer.load(), ["Hello", "world", "!"]).word_spans
    [(0, 5), (5, 11), (11, 13)]
    """
    text = " ".join(words)
    aligned = tokenizer.align(text)
    ends = [total - 1 for total in accumulate(len(word) + 1 for word in words)]
    return AlignedWords(text, aligned.tokens, aligned.character_spans, list(pairwise([0, *ends])))


def word_windows(tokenizer: Tokenizer, words: Sequence[str], max_tokens: int) -> list[WordWindow]:
    """Return words as sequences of at most `max_tokens`, at least 3, that part between words: all words, each once.

    A sequence has as many words as fit. The end of a word that alone is longer than a sequence is left out.

    >>> windows = word_windows(Tokenizer.load(), ["Hello", "world", "!"], max_tokens=4)
    >>> [(window.first_word, window.tokens.tolist(), window.rows.tolist()) for window in windows]
    [(0, [0, 31414, 232, 2], [1, 2]), (2, [0, 27785, 2], [1])]
    """
    aligned = align_words(tokenizer, words)
    starts = [first for first, _ in token_ranges(aligned.character_spans, aligned.word_spans)]
    following = [*starts[1:], len(aligned.tokens)]
    ends = [max(end, start + 1) for start, end in zip(starts, following, strict=False)]  # of no words there is none
    bos, eos, room = tokenizer.dictionary.bos, tokenizer.dictionary.eos, max_tokens - 2
    windows, first = [], 0
    while first < len(words):
        after = first + 1
        while after < len(words) and (ends[after] - starts[first] <= room or starts[after] == starts[after - 1]):
            after += 1  # words that share a token, as a symbol with a space in it makes them, stay together
        inner = aligned.tokens[starts[first] : ends[after - 1]][:room]
        rows = np.array(starts[first:after], dtype=np.int64) - starts[first] + 1  # 1: <s>
        windows.append(WordWindow(first, np.array([bos, *inner, eos], dtype=np.int64), rows))
        first = after
    return windows


def word_ids(tokens: Sequence[Span], words: Sequence[Span]) -> list[int | None]:
    """Return the first word that each token touches, by the spans of both in order; None if it touches none."""
    ids: list[int | None] = [None] * len(tokens)
    for word, (first, last) in reversed(list(enumerate(token_ranges(tokens, words)))):
        ids[first:last] = [word] * (last - first)
    return ids


def token_ranges(tokens: Sequence[Span], words: Sequence[Span]) -> list[Span]:
    """Return the range of tokens that each word touches, by the spans of both in order.

    >>> token_ranges([(0, 5), (5, 8), (8, 11)], [(0, 5), (6, 11)])
    [(0, 1), (1, 3)]
    """
    token_spans = np.array(tokens, dtype=np.int64).reshape(-1, 2)
    word_spans = np.array(words, dtype=np.int64).reshape(-1, 2)
    first = np.searchsorted(token_spans[:, 1], word_spans[:, 0], side="right")
    last = np.searchsorted(token_spans[:, 0], word_spans[:, 1], side="left")
    return list(zip(first.tolist(), last.tolist(), strict=True))
