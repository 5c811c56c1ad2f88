"""Questions with options as token sequences, one for each option, the same way for training and for the hub.

With a context: `<s> question option </s></s> context </s>`, the form in which RoBERTa was trained on RACE
(arXiv:1907.11692 section 5.3); a blank `_` in the question is filled by the option. All white space is single spaces,
as it was there: line feeds were no part of the text of pretraining. Without one: `<s> Q: question </s> A: option </s>`,
the form for CommonsenseQA. What is too long is cut at the end of the context, or of the question where there is no
context; options (with their question, where there is a context) have a limit of their own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from roberta.data.examples import ChoiceExample
from roberta.data.tokenizer import Tokenizer

MAX_OPTION_TOKENS = 128  # arXiv:1907.11692 section 5.3
NUM_SPECIALS = 4  # of a sequence, at most

_BLANK = re.compile(r"(?<![^\W_])_+(?![^\W_])")  # an underscore within a word, as in snake_case, is no blank

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class EncodedQuestion:
    """The parts of a question's sequences; questions about one context share its tokens.

    The sequence of option k is `before[k]`, what `kept[k]` says of `passage`, and `after[k]`.
    """

    before: tuple[Tokens, ...]
    passage: Tokens  # what is cut where there is too much: the context, or the question without one
    after: tuple[Tokens, ...]
    kept: tuple[int, ...]  # tokens of the passage, by option
    options_cut: bool  # some of the options lost tokens

    @property
    def is_cut(self) -> bool:
        """Whether some of the sequences hold the passage only in part."""
        return min(self.kept) < len(self.passage)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens of each option's sequence."""
        parts = zip(self.before, self.kept, self.after, strict=True)
        return tuple(len(before) + kept + len(after) for before, kept, after in parts)

    def pieces(self) -> list[Tokens]:
        """Return the parts of all sequences in order; joined, they are the sequences one after another."""
        rows = zip(self.before, self.kept, self.after, strict=True)
        return [piece for before, kept, after in rows for piece in (before, self.passage[:kept], after)]


def encode_questions(
    tokenizer: Tokenizer,
    examples: Sequence[ChoiceExample],
    *,
    max_tokens: int | None = None,
    max_option_tokens: int | None = None,
) -> list[EncodedQuestion]:
    """Return questions in tokens, no sequence longer than `max_tokens`; None is no limit.

    `max_tokens` is at least `max_option_tokens` and NUM_SPECIALS.
    """
    texts = list(dict.fromkeys(text for example in examples for text in (_passage(example), *_options(example))))
    tokens_of = {
        text: np.array(tokens, dtype=np.int32)
        for text, tokens in zip(texts, tokenizer.encode_batch(texts), strict=True)
    }
    return [_encoded(tokenizer, example, tokens_of, max_tokens, max_option_tokens) for example in examples]


def _encoded(
    tokenizer: Tokenizer,
    example: ChoiceExample,
    tokens_of: dict[str, Tokens],
    max_tokens: int | None,
    max_option_tokens: int | None,
) -> EncodedQuestion:
    bos, eos = np.array([tokenizer.dictionary.bos], np.int32), np.array([tokenizer.dictionary.eos], np.int32)
    whole = [tokens_of[text] for text in _options(example)]
    options = [tokens[:max_option_tokens] for tokens in whole]
    if example.context:
        before = tuple(np.concatenate((bos, option, eos, eos)) for option in options)
        after = (eos,) * len(options)
    else:
        before = (bos,) * len(options)
        after = tuple(np.concatenate((eos, option, eos)) for option in options)
    passage = tokens_of[_passage(example)]
    kept = tuple(
        len(passage) if max_tokens is None else min(len(passage), max_tokens - len(first) - len(last))
        for first, last in zip(before, after, strict=True)
    )
    return EncodedQuestion(before, passage, after, kept, any(map(_is_shorter, options, whole)))


def _passage(example: ChoiceExample) -> str:
    return " ".join(example.context.split()) if example.context else f"Q: {example.question}"


def _options(example: ChoiceExample) -> list[str]:
    """Return the text of each option's own part of its sequence."""
    if not example.context:
        return [f"A: {option}" for option in example.options]
    parts = _BLANK.split(example.question)
    texts = [option.join(parts) if len(parts) > 1 else f"{example.question} {option}" for option in example.options]
    return [" ".join(text.split()) for text in texts]


def _is_shorter(cut: Tokens, whole: Tokens) -> bool:
    return len(cut) < len(whole)
