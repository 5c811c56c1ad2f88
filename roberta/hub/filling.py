"""Filling `<mask>` in texts: one mask or several, any token or those of given candidates.

White space before `<mask>` is no token of its own: it belongs to the token that fills the mask, as RoBERTa was trained.

Shapes: M queries of a batch, V vocabulary.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp
from numbers import Integral
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from roberta.data.dictionary import MASK
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError, choices
from roberta.hub.border import Engine, as_word_list
from roberta.hub.scoring import Query, log_probabilities, log_softmax
from roberta.layout import SequenceLayout
from roberta.models.heads import LM_HEAD

Joint = Literal["independent", "left_to_right", "beam"]


@dataclass(frozen=True)
class Fill:
    """A text with its masks filled."""

    sequence: str
    probability: float
    tokens: tuple[str, ...]  # in the order of the masks, each with the space it begins with


@dataclass(frozen=True)
class MaskedText:
    """A text with masks, as parts and as tokens."""

    parts: tuple[str, ...]  # what stands around the masks
    tokens: tuple[int, ...]  # `<s>` and `</s>` included
    masks: tuple[int, ...]  # the positions of the masks in `tokens`

    @classmethod
    def encode(cls, tokenizer: Tokenizer, text: str) -> "MaskedText":
        """Return the parts and tokens of a text.

        Raises:
            DataError: the text holds no `<mask>`.
        """
        dictionary = tokenizer.dictionary
        parts = tuple(text.split(MASK))
        if len(parts) == 1:
            raise DataError(
                f"no {MASK} in {text!r:.60}; put one where a token is to be filled in: 'He is a {MASK} guy'"
            )
        tokens, masks = [dictionary.bos], []
        for part in parts:
            masks.append(len(tokens) - 1)
            tokens += [*tokenizer.encode(part.rstrip()), dictionary.mask]
        return cls(parts, (*tokens[:-1], dictionary.eos), tuple(masks[1:]))

    def filled(self, fillings: Sequence[str]) -> str:
        """Return the text with its masks replaced; one space before a mask goes with it."""
        before = [part.removesuffix(" ") + filling for part, filling in zip(self.parts[:-1], fillings, strict=True)]
        return "".join(before) + self.parts[-1]


class _Hypothesis(NamedTuple):
    log_probability: float
    tokens: tuple[int, ...]  # of the whole sequence
    filled: tuple[int, ...]


def fill(engine: Engine, sentences: Sequence[str], *, topk: int, joint: Joint) -> list[list[Fill]]:
    """Return the likeliest fillings of each text, best first, in input order.

    Raises:
        ConfigError: no such way of filling.
        DataError: a text holds no `<mask>` or is too long, or `topk` is not in the vocabulary's range.
    """
    if joint not in get_args(Joint):
        raise ConfigError(f"joint is {joint!r}; {choices(joint, get_args(Joint))}")
    vocab_size = engine.model.config.vocab_size
    if not isinstance(topk, Integral) or isinstance(topk, bool) or not 1 <= topk <= vocab_size:
        raise DataError(f"topk is {topk!r:.60}; expected a whole number between 1 and the vocabulary's {vocab_size}")
    texts = [MaskedText.encode(engine.tokenizer, sentence) for sentence in sentences]
    found = _independent(engine, texts, topk) if joint == "independent" else _beams(engine, texts, topk, joint)
    return [[_fill(engine.tokenizer, text, h) for h in beam] for text, beam in zip(texts, found, strict=True)]


def _independent(engine: Engine, texts: Sequence[MaskedText], topk: int) -> list[list[_Hypothesis]]:
    """Return the likeliest fillings of masks that know nothing of each other: one forward pass for each text."""
    beams = []
    for text, likeliest in zip(
        texts, _likeliest(engine, [(text.tokens, text.masks) for text in texts], topk), strict=True
    ):
        beam = [_Hypothesis(0.0, text.tokens, ())]
        for of_mask in likeliest:
            beam = _best_pairs(beam, of_mask, topk)
        beams.append(beam)
    return beams


def _best_pairs(beam: list[_Hypothesis], likeliest: list[tuple[float, int]], topk: int) -> list[_Hypothesis]:
    """Return the best of all hypotheses with all tokens, both best first, without making all pairs of them."""
    heap, best = [(-beam[0].log_probability - likeliest[0][0], 0, 0)], list[_Hypothesis]()
    while heap and len(best) < topk:
        _, i, j = heapq.heappop(heap)
        value, token = likeliest[j]
        best.append(_Hypothesis(beam[i].log_probability + value, beam[i].tokens, (*beam[i].filled, token)))
        following = [(i, j + 1), *([(i + 1, 0)] if j == 0 else [])]
        for row, column in following:
            if row < len(beam) and column < len(likeliest):
                heapq.heappush(heap, (-beam[row].log_probability - likeliest[column][0], row, column))
    return best


def _beams(engine: Engine, texts: Sequence[MaskedText], topk: int, joint: Joint) -> list[list[_Hypothesis]]:
    """Return the likeliest fillings of masks from left to right, each given those before it."""
    beams = [[_Hypothesis(0.0, text.tokens, ())] for text in texts]
    for step in range(max((len(text.masks) for text in texts), default=0)):
        width = 1 if step > 0 and joint == "left_to_right" else topk
        active = [index for index, text in enumerate(texts) if step < len(text.masks)]
        queries = [(h.tokens, (texts[index].masks[step],)) for index in active for h in beams[index]]
        likeliest = iter(_likeliest(engine, queries, width))
        for index in active:
            grown = [
                _extended(hypothesis, texts[index].masks[step], value, token)
                for hypothesis in beams[index]
                for value, token in next(likeliest)[0]
            ]
            beams[index] = sorted(grown, key=lambda hypothesis: -hypothesis.log_probability)[:topk]
    return beams


def fill_single(engine: Engine, sentences: Sequence[str], *, topk: int) -> list[list[tuple[str, float, str]]]:
    """Return (filled text, probability, token) for the one mask of each text, best first, in input order.

    Raises:
        DataError: a text does not hold one mask, or as `fill`.
    """
    for sentence in sentences:
        if (found := sentence.count(MASK)) != 1:
            raise DataError(
                f"fill_mask takes a text with one {MASK}, not {found}, for example: 'He is a {MASK} guy'; "
                "fill_masks takes several"
            )
    fills = fill(engine, sentences, topk=topk, joint="independent")
    return [[(fill.sequence, fill.probability, fill.tokens[0]) for fill in best] for best in fills]


def fill_candidates(engine: Engine, sentences: Sequence[str], candidates: Sequence[str]) -> list[list[Fill]]:
    """Return each text with its one mask filled by each candidate, likeliest first, in input order.

    Raises:
        DataError: there is not exactly one mask, the candidates are no list, one is empty, or a filled text is too
            long.
    """
    words = as_word_list(candidates, "candidates")
    return [_ranked(engine, sentence, words) for sentence in sentences]


def _ranked(engine: Engine, text: str, candidates: list[str]) -> list[Fill]:
    tokenizer = engine.tokenizer
    masked = MaskedText.encode(tokenizer, text)
    if len(masked.masks) != 1:
        raise DataError(f"candidates fill a text with one {MASK}, not {len(masked.masks)}: {text!r:.60}")
    gap = " " if masked.parts[0].endswith(" ") else ""
    fillings = [gap + candidate.removeprefix(gap) for candidate in candidates]
    pieces = [tokenizer.encode(filling) for filling in fillings]
    start = masked.masks[0]
    queries = []
    for candidate, tokens in zip(candidates, pieces, strict=True):
        if not candidate.strip():
            raise DataError(f"candidate {candidate!r} is empty; give words, or leave it out")
        sequence = (*masked.tokens[:start], *tokens, *masked.tokens[start + 1 :])
        end = start + len(tokens)
        queries += [Query(sequence, position, end) for position in range(start, end)]
    values = log_probabilities(engine, queries)
    offsets = [0]
    for tokens in pieces:
        offsets.append(offsets[-1] + len(tokens))
    fills = [
        Fill(masked.filled([filling]), exp(sum(values[first:last])), tuple(tokenizer.decode([t]) for t in tokens))
        for filling, tokens, (first, last) in zip(fillings, pieces, pairwise(offsets), strict=True)
    ]
    return sorted(fills, key=lambda fill: -fill.probability)


def _likeliest(
    engine: Engine, queries: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], width: int
) -> list[list[list[tuple[float, int]]]]:
    """Return, for each position of each (tokens, positions), the `width` likeliest tokens and log-probabilities."""

    def compute(indices: list[int], tokens: Tensor, layout: SequenceLayout) -> list[list[list[tuple[float, int]]]]:
        positions = [queries[index][1] for index in indices]
        starts = np.cumsum([0, *layout.lengths[:-1]]).tolist()
        rows = [start + position for start, places in zip(starts, positions, strict=True) for position in places]
        logits = engine.model(tokens, layout, LM_HEAD, torch.tensor(rows, device=tokens.device))  # (M, V)
        values, ids = log_softmax(logits).topk(width)  # (M, width)
        found = (list(zip(*row, strict=True)) for row in zip(values.tolist(), ids.tolist(), strict=True))
        return [[next(found) for _ in places] for places in positions]

    return engine.each([query[0] for query in queries], compute)


def _extended(hypothesis: _Hypothesis, position: int, value: float, token: int) -> _Hypothesis:
    tokens = (*hypothesis.tokens[:position], token, *hypothesis.tokens[position + 1 :])
    return _Hypothesis(hypothesis.log_probability + value, tokens, (*hypothesis.filled, token))


def _fill(tokenizer: Tokenizer, text: MaskedText, hypothesis: _Hypothesis) -> Fill:
    tokens = tuple(tokenizer.decode([token]) for token in hypothesis.filled)
    return Fill(text.filled(tokens), exp(hypothesis.log_probability), tokens)
