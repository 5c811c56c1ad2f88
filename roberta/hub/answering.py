"""Answers to questions from passages of any length, by a span head.

Shapes: S tokens of a window, K outputs of the head.
"""

from collections.abc import Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from roberta.data.windows import Windows, fitting_sizes
from roberta.errors import ConfigError, DataError
from roberta.hub.border import Engine, as_texts
from roberta.layout import SequenceLayout
from roberta.models.heads import SpanHeadConfig

NO_ANSWER_THRESHOLD = 0.5  # where the head tells whether there is an answer, and none is given


def as_pairs(questions: str | Sequence[str], contexts: str | Sequence[str]) -> tuple[list[tuple[str, str]], bool]:
    """Return each question with its context, and whether it is a single one; one context serves all questions.

    Raises:
        DataError: neither is a text or a list of texts, or there is not one context for each question.
    """
    asked, single = as_texts(questions)
    given, is_shared = as_texts(contexts)
    if is_shared:
        given = given * len(asked)
    if len(given) != len(asked):
        raise DataError(f"{len(asked)} questions and {len(given)} contexts; give one context for each, or one for all")
    return list(zip(asked, given, strict=True)), single and is_shared


def answer(
    engine: Engine,
    pairs: Sequence[tuple[str, str]],
    *,
    head: str,
    topk: int,
    threshold: float | None,
    max_answer_tokens: int,
    stride: int | None,
) -> list[Any]:
    """Return the `topk` likeliest answers to each question from its context, in input order; for 1 without a list.

    Raises:
        ConfigError: the model has no such head, it is no span head, or the windows would lose tokens.
        DataError: `topk` or `max_answer_tokens` is below 1, or a question is too long.
    """
    config = engine.model.head_config(head)
    if not isinstance(config, SpanHeadConfig):
        raise ConfigError(
            f"head {head!r} ({type(config).__name__}) finds no spans; train one with roberta-finetune squad"
        )
    for name, value in (("topk", topk), ("max_answer_tokens", max_answer_tokens), ("stride", stride or 1)):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise DataError(f"{name} is {value!r:.60}; expected a whole number")
        if value < 1 and name != "stride":
            raise DataError(f"{name} is {value}; it must be at least 1")
    if threshold is not None and not (isinstance(threshold, Real) and isfinite(threshold)):
        raise DataError(f"threshold is {threshold!r:.60}; expected a probability, or None")
    windows = _windows(engine, pairs, stride)
    sequences = [windows.tokens(window).tolist() for window in range(len(windows))]

    def compute(_: list[int], tokens: Tensor, layout: SequenceLayout) -> list[NDArray[np.float32]]:
        rows = engine.model(tokens, layout, head).float().cpu().split(layout.lengths)
        return [part.numpy() for part in rows]

    outputs = engine.each(sequences, compute)
    if threshold is None and config.answerable:
        threshold = NO_ANSWER_THRESHOLD
    found = windows.answers(outputs, max_answer_tokens=max_answer_tokens, n_best=topk)
    best = [answers.ranked(threshold)[:topk] for answers in found]
    return best if topk > 1 else [answers[0] for answers in best]


def _windows(engine: Engine, pairs: Sequence[tuple[str, str]], stride: int | None) -> Windows:
    max_tokens = engine.model.config.max_positions
    sizes = fitting_sizes(max_tokens, stride=stride, max_question_tokens=max_tokens // 2)
    windows = Windows(engine.tokenizer, [question for question, _ in pairs], [context for _, context in pairs], sizes)
    if windows.num_cut:
        raise DataError(
            f"{windows.num_cut} of the questions have more than {sizes.max_question_tokens} tokens; "
            "no room is left for the context: shorten them"
        )
    return windows
