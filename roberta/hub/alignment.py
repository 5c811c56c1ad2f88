"""Words of sentences: a word list as tokens, where words lie in a text, and a feature row for each.

Shapes: S tokens of a sequence, W words, C embed_dim.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roberta.data.tokenizer import Span, Tokenizer
from roberta.data.words import align_words, token_ranges, word_ids
from roberta.errors import DataError
from roberta.hub.border import as_word_list

# Letters, digits and marks with single apostrophes between them; or what is neither those nor white space.
_WORD = r"[\p{L}\p{M}\p{N}]+(?:['’][\p{L}\p{M}\p{N}]+)*+|[^\s\p{L}\p{M}\p{N}]+"


@dataclass(frozen=True)
class EncodedWords:
    """A word list as one sequence of tokens."""

    text: str  # the words with one space between them
    tokens: Tensor  # (S,) int64, `<s>` and `</s>` included
    word_ids: tuple[int | None, ...]  # the word of each token; None for `<s>` and `</s>`
    character_spans: tuple[Span, ...]  # of each token in `text`, the space before a word included


@dataclass(frozen=True)
class WordFeatures:
    """Words of a sentence, where they lie in it, and their features."""

    words: tuple[str, ...]
    character_spans: tuple[Span, ...]
    features: Tensor  # (W, C)


def encode_words(tokenizer: Tokenizer, words: Sequence[str]) -> EncodedWords:
    """Return the tokens of words, as `encode` gives them for the text that has a space between any two.

    Raises:
        DataError: not a list of strings, or a word is empty.
    """
    words = as_full_words(words)
    aligned, dictionary = align_words(tokenizer, words), tokenizer.dictionary
    end = len(aligned.text)
    return EncodedWords(
        aligned.text,
        torch.tensor([dictionary.bos, *aligned.tokens, dictionary.eos]),
        (None, *word_ids(aligned.character_spans, aligned.word_spans), None),
        ((0, 0), *aligned.character_spans, (end, end)),
    )


def as_full_words(words: Sequence[str]) -> list[str]:
    """Return words as a list.

    Raises:
        DataError: not a list of strings, or a word is empty.
    """
    words = as_word_list(words, "words")
    if "" in words:
        raise DataError(f"word {words.index('')} is ''; leave it out")
    return words


def find_words(sentences: Sequence[str], word_lists: Sequence[Iterable[object] | None] | None) -> list[list[Span]]:
    """Return where the words of each sentence lie in it; each word is looked for behind the one before it.

    Words are strings, or objects such as spaCy tokens whose `str()` is the word; None means the parts between white
    space, of a sentence or of all.

    Raises:
        DataError: words are a string, a word is empty or not in the rest of its sentence, or there is not one list for
            each sentence.
    """
    if word_lists is None:
        word_lists = [None] * len(sentences)
    if len(word_lists) != len(sentences):
        raise DataError(f"{len(word_lists)} lists of words for {len(sentences)} sentences; give one list for each")
    return [_find(text, words) for text, words in zip(sentences, word_lists, strict=True)]


def _find(sentence: str, words: Iterable[object] | None) -> list[Span]:
    if words is not None and (isinstance(words, str) or not isinstance(words, Iterable)):
        raise DataError(f"the words of a sentence are {words!r:.60}; expected a list of them")
    spans = []
    end = 0
    for position, word in enumerate(sentence.split() if words is None else map(str, words)):
        start = sentence.find(word, end)
        if start < 0 or not word:
            raise DataError(
                f"word {position}, {word!r}, is not in the rest of the sentence, {sentence[end : end + 40]!r}; "
                "give the words as they stand there, in order"
            )
        end = start + len(word)
        spans.append((start, end))
    return spans


def split_words(text: str) -> list[Span]:
    """Return the spans of words, such as "don't", and of punctuation in a text.

    >>> split_words("I don't!")
    [(0, 1), (2, 7), (7, 8)]
    """
    import regex

    return [match.span() for match in regex.finditer(_WORD, text)]


def word_features(
    tokenizer: Tokenizer, sentences: Sequence[str], spans: Sequence[Sequence[Span]], rows: Sequence[Tensor]
) -> list[WordFeatures]:
    """Return, for each sentence, the mean of the feature rows (S, C) of the tokens that each of its words touches."""
    results = []
    for sentence, places, features in zip(sentences, spans, rows, strict=True):
        ranges = token_ranges(tokenizer.align(sentence).character_spans, places)
        means = [features[1 + first : 1 + last].mean(dim=0) for first, last in ranges]  # 1: <s>
        pooled = torch.stack(means) if means else features.new_empty((0, features.shape[1]))
        words = tuple(sentence[start:end] for start, end in places)
        results.append(WordFeatures(words, tuple(places), pooled))
    return results
