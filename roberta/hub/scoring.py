"""How likely a text is to the model: pseudo-log-likelihood, each token masked in turn (arXiv:1910.14659).

Shapes: T packed tokens, M queries of a batch, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from roberta.data.tokenizer import Tokenizer
from roberta.data.words import word_ids
from roberta.errors import ConfigError
from roberta.hub.alignment import split_words
from roberta.hub.border import Engine
from roberta.layout import SequenceLayout
from roberta.models.heads import LM_HEAD, MaskedLMHeadConfig
from roberta.models.roberta import RobertaModel


def check_lm_head(model: RobertaModel) -> None:
    """Refuse a model that predicts no tokens.

    Raises:
        ConfigError: it has no head of that name, or one for something else.
    """
    config = model.head_config(LM_HEAD)
    if not isinstance(config, MaskedLMHeadConfig):
        raise ConfigError(f"head {LM_HEAD!r} is no masked-LM head but one of {type(config).__name__}")


@dataclass(frozen=True)
class PseudoLikelihood:
    """The log-probability of each token of a text, in nats, given the rest of the text."""

    text: str
    tokens: tuple[str, ...]
    log_probabilities: tuple[float, ...]

    @property
    def score(self) -> float:
        """The pseudo-log-likelihood of the text: the sum over its tokens; 0 for a text without any."""
        return sum(self.log_probabilities)


class Query(NamedTuple):
    """A sequence of token ids, the position whose token is asked for, and where the masks that begin there end."""

    sequence: Sequence[int]
    position: int
    end: int


def pseudo_likelihoods(engine: Engine, texts: Sequence[str], *, within_word: bool) -> list[PseudoLikelihood]:
    """Return the pseudo-log-likelihood of each text, in input order."""
    tokenizer = engine.tokenizer
    sequences = [tokenizer.encode_sequence(text) for text in texts]
    queries = []
    for text, sequence in zip(texts, sequences, strict=True):
        ends = _word_ends(tokenizer, text) if within_word else range(1, len(sequence) - 1)
        queries += [Query(sequence, position, end + 1) for position, end in enumerate(ends, start=1)]
    values = iter(log_probabilities(engine, queries))
    results = []
    for text, sequence in zip(texts, sequences, strict=True):
        tokens = tuple(tokenizer.decode([token]) for token in sequence[1:-1])
        results.append(PseudoLikelihood(text, tokens, tuple(next(values) for _ in tokens)))
    return results


def log_probabilities(engine: Engine, queries: Sequence[Query]) -> list[float]:
    """Return, for each query, the log-probability in nats of the token at its position, with its masks in place."""

    def compute(indices: list[int], tokens: Tensor, layout: SequenceLayout) -> list[float]:
        starts = accumulate(layout.lengths, initial=0)
        cells = [
            range(start + queries[index].position, start + queries[index].end)
            for index, start in zip(indices, starts, strict=False)
        ]
        select = torch.tensor([masked[0] for masked in cells], device=tokens.device)
        targets = tokens[select]
        tokens[torch.tensor([cell for masked in cells for cell in masked], device=tokens.device)] = (
            engine.tokenizer.dictionary.mask
        )
        found = log_softmax(engine.model(tokens, layout, LM_HEAD, select)).gather(1, targets.unsqueeze(1))  # (M, 1)
        values: list[float] = found.squeeze(1).tolist()
        return values

    return engine.each([query.sequence for query in queries], compute)


def log_softmax(logits: Tensor) -> Tensor:
    """Return the log-probabilities of logits (M, V), in single precision at least."""
    return logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _word_ends(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return, for each token of a text, the number of the first token behind its word."""
    ids = word_ids(tokenizer.align(text).character_spans, split_words(text))
    ends = list(range(1, len(ids) + 1))
    for position in reversed(range(len(ids) - 1)):
        if ids[position] is not None and ids[position] == ids[position + 1]:
            ends[position] = ends[position + 1]
    return ends
