"""Texts around a pronoun as token sequences, one for each candidate, whose tokens are masked (arXiv:1905.06290).

A space before the pronoun belongs to the candidate that takes its place. Nothing here knows how likely a candidate is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roberta.data.tokenizer import Tokenizer
from roberta.errors import DataError

_PRONOUN = re.compile(r"\[([^\[\]]*)\]")
_QUERY = re.compile(r"(?<!\w)_([^_]*)_(?!\w)")
_EXAMPLE = "'The _trophy_ would not fit in the suitcase because [it] was too big.'"


class MarkedSentence(NamedTuple):
    """A sentence around its pronoun, without the marks, and the phrase that was marked as the query."""

    before: str
    pronoun: str
    after: str
    query: str | None

    @property
    def text(self) -> str:
        """The sentence without marks."""
        return self.before + self.pronoun + self.after


@dataclass(frozen=True)
class MaskedCandidate:
    """A sequence with masks in place of a candidate, where they begin, and the tokens they stand for."""

    tokens: NDArray[np.int64]  # (S,), `<s>` and `</s>` included
    start: int
    targets: NDArray[np.int64]  # (m,)
    is_cut: bool  # the text around is there only in part

    @property
    def rows(self) -> NDArray[np.int64]:
        """The positions of the masks: (m,)."""
        return np.arange(self.start, self.start + len(self.targets))


def parse_marks(sentence: str) -> MarkedSentence:
    """Return a sentence whose pronoun is in brackets, and maybe a query between underscores.

    Raises:
        DataError: there is not one pronoun, more than one query, or one of them is empty.

    >>> parse_marks("The _trophy_ fell because [it] was big.")
    MarkedSentence(before='The trophy fell because ', pronoun='it', after=' was big.', query='trophy')
    """
    pronouns = _PRONOUN.findall(sentence)
    if len(pronouns) == 1 and not pronouns[0].strip():
        raise DataError(f"{sentence!r:.80}: the brackets are empty; put the pronoun into them, as in {_EXAMPLE}")
    if len(pronouns) != 1:
        raise DataError(f"{sentence!r:.80} has {len(pronouns)} pronouns in [brackets]; expected one, as in {_EXAMPLE}")
    before, _, after = _PRONOUN.split(sentence)
    queries = _QUERY.findall(before) + _QUERY.findall(after)
    if len(queries) > 1 or any(not query.strip() for query in queries):
        raise DataError(f"{sentence!r:.80} has {len(queries)} _queries_; expected none or one, as in {_EXAMPLE}")
    query = queries[0].strip() if queries else None
    return MarkedSentence(_QUERY.sub(r"\1", before), pronouns[0], _QUERY.sub(r"\1", after), query)


def encode_candidates(
    tokenizer: Tokenizer, before: str, after: str, candidates: Sequence[str], *, max_tokens: int | None, source: str
) -> list[MaskedCandidate]:
    """Return the sequence of each candidate; they differ in the number of masks alone.

    Where there are more than `max_tokens` with the longest candidate, what is farthest from the pronoun is cut off for
    all; None is no limit.

    Raises:
        DataError: a candidate is empty, or does not fit into `max_tokens`; the message begins with `source`.
    """
    dictionary = tokenizer.dictionary
    gap = " " if before[-1:].isspace() else ""
    targets = [np.array(tokenizer.encode(gap + candidate.strip()), dtype=np.int64) for candidate in candidates]
    for candidate, tokens in zip(candidates, targets, strict=True):
        if not candidate.strip() or not len(tokens):
            raise DataError(f"{source}: candidate {candidate!r} is empty; give words, or leave it out")
    longest = max(map(len, targets))
    if max_tokens is not None and longest + 2 > max_tokens:
        raise DataError(f"{source}: a candidate has {longest} tokens; expected at most {max_tokens - 2}")
    first, last = tokenizer.encode(before.rstrip()), tokenizer.encode(after)
    room = len(first) + len(last) if max_tokens is None else max_tokens - 2 - longest
    num_first = min(len(first), max(room // 2, room - len(last)))
    head = [dictionary.bos, *first[len(first) - num_first :]]
    tail = [*last[: room - num_first], dictionary.eos]
    is_cut = len(first) + len(last) > room
    return [
        MaskedCandidate(np.array([*head, *[dictionary.mask] * len(tokens), *tail]), len(head), tokens, is_cut)
        for tokens in targets
    ]
