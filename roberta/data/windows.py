"""Questions and the passages that may answer them, as sequences that a model takes.

A sequence is `<s> question </s></s> piece of the passage </s>`. A passage that is too long is read in several windows,
which overlap; each of its tokens belongs to the window that sees most around it. Passages are encoded once, however
many questions they have.

Shapes: W windows, N tokens of a passage, S tokens of a sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from roberta.answers import Answers, WindowOutputs, find_answers
from roberta.data.tokenizer import Span, Tokenizer
from roberta.errors import ConfigError

STRIDE, MAX_QUESTION_TOKENS = 128, 64  # of sequences as long as RoBERTa takes

_NUM_SPECIALS = 4  # <s> before the question, </s></s> behind it, </s> at the end
_LENGTH_WEIGHT = 0.01  # of two windows that see as much around a token, the longer one has it


@dataclass(frozen=True)
class WindowSizes:
    """How questions and passages are cut to sequences, in tokens."""

    max_tokens: int  # of a sequence
    stride: int  # from the beginning of a window to that of the next one
    max_question_tokens: int  # the rest of a question is cut off

    def __post_init__(self) -> None:
        room = self.max_tokens - self.max_question_tokens - _NUM_SPECIALS
        if self.max_question_tokens < 1 or not 1 <= self.stride <= room:
            raise ConfigError(
                f"sequences of {self.max_tokens} tokens with questions of up to {self.max_question_tokens} leave "
                f"{max(room, 0)} for the passage, and windows are {self.stride} apart; "
                "all must be at least 1, and windows no further apart than that, or tokens would be lost"
            )


def fitting_sizes(max_tokens: int, *, stride: int | None = None, max_question_tokens: int | None = None) -> WindowSizes:
    """Return sizes for sequences of `max_tokens`; what is not given is as in training, or less where they are short.

    Raises:
        ConfigError: what is given leaves too little room for the passage.
    """
    if stride is None:
        stride = min(STRIDE, max_tokens // 4)
    if max_question_tokens is None:
        max_question_tokens = min(MAX_QUESTION_TOKENS, max_tokens // 2)
    return WindowSizes(max_tokens, stride, max_question_tokens)


@dataclass(frozen=True)
class EncodedPassage:
    """The tokens of a passage, and the characters that each touches."""

    text: str
    tokens: NDArray[np.int64]  # (N,)
    character_spans: NDArray[np.int64]  # (N, 2)

    def token_span(self, start: int, end: int) -> Span:
        """Return the first and the last token that a range of characters touches."""
        first = np.searchsorted(self.character_spans[:, 1], start, side="right")
        last = np.searchsorted(self.character_spans[:, 0], end, side="left") - 1
        return int(first), int(last)


class Windows:
    """The windows of some questions, in their order; the arrays have a row for each window."""

    def __init__(
        self, tokenizer: Tokenizer, questions: Sequence[str], contexts: Sequence[str], sizes: WindowSizes
    ) -> None:
        """Encode questions and the passage of each; one that has several questions is best given as the same string."""
        self._specials = np.array([tokenizer.dictionary.bos, *[tokenizer.dictionary.eos] * 3])
        encoded = tokenizer.encode_batch([question.strip() for question in questions])
        self._questions = [np.array(tokens[: sizes.max_question_tokens], dtype=np.int64) for tokens in encoded]
        self.num_cut = sum(len(tokens) > sizes.max_question_tokens for tokens in encoded)
        by_text = {context: _encode(tokenizer, context) for context in dict.fromkeys(contexts)}
        self.passages = [by_text[context] for context in contexts]
        question_sizes = np.array(list(map(len, self._questions)), dtype=np.int64)
        passage_sizes = np.array([len(passage.tokens) for passage in self.passages], dtype=np.int64)
        room = sizes.max_tokens - question_sizes - _NUM_SPECIALS
        counts = 1 + -(-np.maximum(passage_sizes - room, 0) // sizes.stride)
        self.offsets = np.concatenate(([0], np.cumsum(counts)))  # of the first window of each question, then W
        self.question_ids = np.repeat(np.arange(len(questions)), counts)  # (W,)
        self.firsts = (np.arange(self.offsets[-1]) - self.offsets[self.question_ids]) * sizes.stride  # (W,)
        self.lengths = np.minimum(room[self.question_ids], passage_sizes[self.question_ids] - self.firsts)  # (W,)
        self.prefixes = question_sizes[self.question_ids] + _NUM_SPECIALS - 1  # (W,) the row of the first passage token
        self.sizes = self.prefixes + self.lengths + 1  # (W,) tokens of each sequence

    def __len__(self) -> int:
        return len(self.sizes)

    def tokens(self, window: int) -> NDArray[np.int64]:
        """Return the tokens of a window: (S,)."""
        question = self.question_ids[window]
        first = self.firsts[window]
        piece = self.passages[question].tokens[first : first + self.lengths[window]]
        bos, eos = self._specials[:1], self._specials[1:]
        return np.concatenate((bos, self._questions[question], eos[:2], piece, eos[2:]))

    def rows(self, spans: Sequence[Span | None]) -> NDArray[np.int64]:
        """Return the rows of the first and the last token of an answer in each window, `<s>` where it is not whole.

        spans: for each question the first and the last token of its answer in the passage, or None for no answer.
        Result: (W, 2).
        """
        tokens = np.array([span or (-1, -1) for span in spans], dtype=np.int64).reshape(-1, 2)[self.question_ids]
        ends = self.firsts + self.lengths
        is_inside = (tokens[:, 0] >= self.firsts) & (tokens[:, 1] < ends)
        return np.where(is_inside[:, None], tokens + (self.prefixes - self.firsts)[:, None], 0)

    @cached_property
    def owned(self) -> NDArray[np.int64]:
        """Return the tokens of its passage that each window sees most around, of all windows: (W, 2), end excluded."""
        owned = np.stack((self.firsts, self.firsts + self.lengths), axis=1)
        for question in np.flatnonzero(np.diff(self.offsets) > 1):
            some = slice(self.offsets[question], self.offsets[question + 1])
            owned[some] = _owned(self.firsts[some], self.lengths[some])
        return owned

    def outputs(self, window: int, rows: NDArray[np.floating]) -> WindowOutputs:
        """Return what the rows (S, K) of a span head say of the passage in a window.

        Two columns are the logits of the first and the last token; a third one is at `<s>` that of an answer there.
        """
        first, prefix = int(self.firsts[window]), int(self.prefixes[window])
        piece = rows[prefix : prefix + self.lengths[window]]
        start, end = self.owned[window] - first
        starts = np.full(len(piece), -np.inf, dtype=rows.dtype)
        starts[start:end] = piece[start:end, 0]
        answerable = float(rows[0, 2]) if rows.shape[1] > 2 else None
        return WindowOutputs(first, starts, piece[:, 1], float(rows[0, 0]) + float(rows[0, 1]), answerable)

    def answers(self, outputs: Sequence[NDArray[np.floating]], *, max_answer_tokens: int, n_best: int) -> list[Answers]:
        """Return the likeliest answers to each question from the rows (S, K) of a span head for each window."""
        return [
            find_answers(
                passage.text,
                passage.character_spans,
                (self.outputs(window, outputs[window]) for window in range(*self.offsets[question : question + 2])),
                max_answer_tokens=max_answer_tokens,
                n_best=n_best,
            )
            for question, passage in enumerate(self.passages)
        ]


def _encode(tokenizer: Tokenizer, text: str) -> EncodedPassage:
    aligned = tokenizer.align(text)
    spans = np.array(aligned.character_spans, dtype=np.int64).reshape(-1, 2)
    return EncodedPassage(text, np.array(aligned.tokens, dtype=np.int64), spans)


def _owned(firsts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the range of tokens of each window of one passage in which no other sees more around a token."""
    best = np.full(firsts[-1] + lengths[-1], -np.inf)  # (N,)
    owner = np.zeros(len(best), dtype=np.int64)  # the first of the best; it never goes back as tokens go on
    for number, (first, length) in enumerate(zip(firsts.tolist(), lengths.tolist(), strict=True)):
        before = np.arange(length)
        context = np.minimum(before, before[::-1]) + _LENGTH_WEIGHT * length
        seen = slice(first, first + length)
        owner[seen] = np.where(context > best[seen], number, owner[seen])
        best[seen] = np.maximum(context, best[seen])
    numbers = np.arange(len(firsts))
    return np.stack((np.searchsorted(owner, numbers), np.searchsorted(owner, numbers, side="right")), axis=1)
