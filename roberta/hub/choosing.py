"""Choosing: the right option of a question by a choice head, and what a pronoun stands for by the masked-LM head.

Shapes: B sequences, M masked rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roberta.criterions.wsc import candidate_scores
from roberta.data.examples import ChoiceExample
from roberta.data.noun_phrases import noun_phrases, other_candidates
from roberta.data.pronouns import MarkedSentence, MaskedCandidate, encode_candidates, parse_marks
from roberta.data.questions import NUM_SPECIALS, encode_questions
from roberta.errors import ConfigError, DataError
from roberta.hub.border import Engine, as_texts, as_word_list
from roberta.hub.predicting import batched_logits
from roberta.layout import SequenceLayout
from roberta.models.heads import LM_HEAD


@dataclass(frozen=True)
class Choice:
    """The likeliest option of a question, its index, and the probability of each option in their order."""

    option: str
    index: int
    probabilities: tuple[float, ...]


def as_questions(context: Any, question: Any, options: Any) -> tuple[list[ChoiceExample], bool]:
    """Return questions, and whether it is a single one: then the question is a string.

    One context may serve a list of questions; there is a list of options for each.

    Raises:
        DataError: there are not as many of each, not strings, or fewer than two options, or an empty one.
    """
    questions, single = as_texts(question)
    contexts = [context] * len(questions) if isinstance(context, str) else as_word_list(context, "contexts")
    if not single and not isinstance(options, Iterable):
        raise DataError(f"options are {options!r:.60}; expected a list of options for each question")
    lists = [options] if single else list(options)
    if not len(contexts) == len(questions) == len(lists):
        raise DataError(
            f"{len(contexts)} contexts, {len(questions)} questions and {len(lists)} lists of options; "
            "give as many of each"
        )
    examples = []
    for position, row in enumerate(zip(contexts, questions, lists, strict=True)):
        texts = tuple(as_word_list(row[2], f"options of question {position}"))
        if len(texts) < 2 or not all(text.strip() for text in texts):
            raise DataError(f"options of question {position} are {texts!r:.60}; expected two or more, none empty")
        if not row[0].strip() and not row[1].strip():
            raise DataError(f"question {position} and its context are empty; give one of them")
        examples.append(ChoiceExample(row[0].strip(), row[1].strip(), texts, None, f"question {position}"))
    return examples, single


def choose(engine: Engine, head: str, examples: Sequence[ChoiceExample], *, truncate: bool) -> list[Choice]:
    """Return the likeliest option of each question, in input order.

    Raises:
        ConfigError: the model has no such head, or the head has not one output for a sequence.
        DataError: a sequence is too long.
    """
    config = engine.model.head_config(head)
    if config.rows != "first" or getattr(config, "num_outputs", None) != 1:
        raise ConfigError(f"head {head!r} ({type(config).__name__}) gives no score to a sequence; choose needs one")
    limit = engine.model.config.max_positions if truncate else None
    option_limit = None if limit is None else limit - NUM_SPECIALS  # the option comes last, and must not be cut first
    questions = encode_questions(engine.tokenizer, examples, max_tokens=limit, max_option_tokens=option_limit)
    sequences: list[list[int]] = []
    for question in questions:
        ends = np.cumsum(question.lengths)[:-1]
        sequences += [part.tolist() for part in np.split(np.concatenate(question.pieces()), ends)]
    scores = torch.zeros(len(sequences))
    for indices, logits in batched_logits(engine, head, sequences):
        scores[indices] = logits.squeeze(1).float().cpu()
    counts = [len(example.options) for example in examples]
    return [_choice(example, part) for example, part in zip(examples, scores.split(counts), strict=True)]


def disambiguate(
    engine: Engine, sentences: Sequence[str], candidates: Sequence[Any] | None, *, truncate: bool
) -> list[bool | str]:
    """Return, for each sentence, whether its pronoun stands for its query, or for which candidate without a query.

    Raises:
        ConfigError: no candidates are given, and spaCy is not installed.
        DataError: a sentence is not marked as it should be, is too long, or has no candidates.
    """
    if candidates is not None and (isinstance(candidates, str) or not isinstance(candidates, Sequence)):
        raise DataError(f"candidates are {candidates!r:.60}; expected a list of them for each sentence")
    if candidates is not None and len(candidates) != len(sentences):
        raise DataError(f"{len(candidates)} lists of candidates for {len(sentences)} sentences; give one for each")
    marked = [parse_marks(sentence) for sentence in sentences]
    phrases = [
        _phrases(sentence, None if candidates is None else candidates[position])
        for position, sentence in enumerate(marked)
    ]
    limit = engine.model.config.max_positions if truncate else None
    encoded = [
        encode_candidates(
            engine.tokenizer, sentence.before, sentence.after, found, max_tokens=limit, source=f"sentence {position}"
        )
        for position, (sentence, found) in enumerate(zip(marked, phrases, strict=True))
    ]
    scores = _scores(engine, [candidate for group in encoded for candidate in group])
    offsets = accumulate(map(len, encoded), initial=0)
    answers: list[bool | str] = []
    for sentence, found, (start, end) in zip(marked, phrases, pairwise(offsets), strict=True):
        best = max(range(start, end), key=scores.__getitem__) - start  # the first of equals, so a query wins a tie
        answers.append(found[best] if sentence.query is None else best == 0)
    return answers


def _choice(example: ChoiceExample, scores: torch.Tensor) -> Choice:
    probabilities = scores.double().softmax(dim=0).tolist()
    best = int(scores.argmax())
    return Choice(example.options[best], best, tuple(probabilities))


def _phrases(sentence: MarkedSentence, given: Any) -> list[str]:
    """Return the candidates of a sentence, the query first if it has one."""
    others = _noun_phrases(sentence.text) if given is None else as_word_list(given, "candidates")
    if sentence.query is None:
        if not others:
            raise DataError(f"no candidates for {sentence.text!r:.60}; give some with candidates=[...]")
        return others
    others = other_candidates(others, sentence.query)
    if not others:
        raise DataError(
            f"no candidates beside {sentence.query!r} for {sentence.text!r:.60}; give some with candidates=[...]"
        )
    return [sentence.query, *others]


def _noun_phrases(text: str) -> list[str]:
    try:
        return noun_phrases(text)
    except ConfigError as error:
        raise ConfigError(f"{error}; or give the candidates yourself, with candidates=[...]") from error


def _scores(engine: Engine, candidates: Sequence[MaskedCandidate]) -> list[float]:
    """Return the mean log-probability of each candidate's tokens, in nats."""

    def compute(indices: list[int], tokens: Tensor, layout: SequenceLayout) -> list[float]:
        starts = accumulate(layout.lengths, initial=0)
        batch = [candidates[index] for index in indices]
        rows = [start + candidate.rows for start, candidate in zip(starts, batch, strict=False)]
        select = torch.from_numpy(np.concatenate(rows)).to(tokens.device)
        targets = torch.from_numpy(np.concatenate([candidate.targets for candidate in batch])).to(tokens.device)
        scores: list[float] = candidate_scores(engine.model, LM_HEAD, tokens, layout, select, targets).tolist()
        return scores

    return engine.each([candidate.tokens.tolist() for candidate in candidates], compute)
