"""What the outputs of a head mean: log-probabilities and scaled values, or labels and numbers for texts.

Shapes: B sequences, T packed tokens, S padded length, M selected rows, K outputs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError
from roberta.hub.border import Engine, PackedGrid, as_ids, as_word_list, inference
from roberta.layout import SequenceLayout
from roberta.models.heads import (
    ChoiceHeadConfig,
    ClassificationHeadConfig,
    MaskedLMHeadConfig,
    RegressionHeadConfig,
    SpanHeadConfig,
    TaggingHeadConfig,
    select_rows,
)
from roberta.models.roberta import RobertaModel

ENTAILMENT = "entailment"
_CONTRADICTION = "contradict"
_MNLI = "mnli"
Label = str | int  # the name of a class, or its number where the head has no names


@dataclass(frozen=True)
class Classification:
    """The likeliest class of a text, the probability of each, and which of them hold.

    Those that hold are the likeliest alone; where several may, those that are likelier than not, and may be none.
    """

    label: Label
    probabilities: dict[Label, float]
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Score:
    """The number that a head gives a text: on its scale for regression, a logit for a choice."""

    value: float


@dataclass(frozen=True)
class Tag:
    """The likeliest class of a token, and the characters that the token touches."""

    start: int
    end: int
    label: Label
    probability: float


def predict_grid(model: RobertaModel, head: str, grid: PackedGrid, *, return_logits: bool) -> Tensor:
    """Return the outputs of a head: (B, K) if it sees the first row of a sequence, (B, S, K) if it sees all.

    Log-probabilities for classification and tagging, over the tokens of a sequence for spans (`-inf` at `<pad>`);
    values on the scale for regression; else, or with `return_logits`, the logits. What `<pad>` has is zero otherwise.
    """
    config = model.head_config(head)
    outputs = model(grid.tokens, grid.layout, head, select_rows(config, grid.layout))  # (M, K)
    if not return_logits:
        outputs = _scaled(config, outputs, grid.layout)
    if config.rows == "first":
        return outputs
    is_span = isinstance(config, SpanHeadConfig) and not return_logits
    return grid.unpack(outputs, -torch.inf if is_span else 0.0)


def batched_logits(engine: Engine, head: str, sequences: Iterable[Any]) -> Iterator[tuple[list[int], Tensor]]:
    """Yield (indices, logits (M, K)) of a head for many sequences of token ids, batch by batch."""
    config = engine.model.head_config(head)
    for indices, tokens, layout in engine.batches(as_ids(sequences, engine.tokenizer.dictionary.pad)):
        with inference(engine.model):  # not across the yield: what the caller does in between is in the model's mode
            logits = engine.model(tokens, layout, head, select_rows(config, layout))
        yield indices, logits


def predict_texts(engine: Engine, head: str, texts: Sequence[tuple[str, ...]], *, truncate: bool) -> list[Any]:
    """Return a Classification, a Score or a tuple of Tags for each item of `texts`, in input order.

    Raises:
        ConfigError: the model has no such head, or the head's outputs mean nothing for a text alone.
        DataError: a sequence is too long, or a head that tags is given pairs.
    """
    config = engine.model.head_config(head)
    if not isinstance(config, ClassificationHeadConfig | RegressionHeadConfig | ChoiceHeadConfig | TaggingHeadConfig):
        raise ConfigError(
            f"head {head!r} ({type(config).__name__}) says nothing of a text alone; "
            "give predict the tokens of encode or encode_batch"
        )

    def compute(indices: list[int], tokens: Tensor, layout: SequenceLayout) -> list[Any]:
        logits = engine.model(tokens, layout, head, select_rows(config, layout)).float()  # (M, K)
        outputs = _scaled(config, logits, layout)
        if isinstance(config, TaggingHeadConfig):
            parts = zip(indices, outputs.split(layout.lengths), strict=True)
            return [_tags(config, engine.tokenizer, texts[index], rows) for index, rows in parts]
        if isinstance(config, ClassificationHeadConfig) and not _gives_a_number(config):
            return [_classification(config, row) for row in outputs.tolist()]
        return [Score(*row) for row in outputs.tolist()]

    return engine.each(engine.encode(texts, truncate=truncate), compute)


def zero_shot(
    engine: Engine,
    head: str | None,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    template: str,
    multi_label: bool,
    truncate: bool,
) -> list[Classification]:
    """Return how much the text entails that each label fits it, by an NLI head, for each text in input order.

    The probabilities are those of transformers' pipeline: a softmax over the labels' logits of entailment; with
    `multi_label`, or a single label, that of entailment against contradiction (arXiv:1909.00161).

    Raises:
        ConfigError: the model has no such head, or several, or the head has no class "entailment".
        DataError: labels are no list, missing or not distinct, the template has no place for them, or a text is too
            long.
    """
    head = _nli_head(engine) if head is None else head
    config = engine.model.head_config(head)
    entailment = _entailment(config)
    if entailment is None:
        raise ConfigError(f"head {head!r} has no class {ENTAILMENT!r}; zero-shot needs an NLI head with label names")
    names, labels = config.labels, as_word_list(labels, "labels")
    if not labels or len(set(labels)) < len(labels):
        raise DataError(f"labels are {labels!r:.60}; expected a list of at least one name, none of them twice")
    if not isinstance(template, str) or "{}" not in template:
        raise DataError(f"template {template!r} has no {{}} for the label; for example: 'This example is {{}}.'")
    pairs = [(text, template.replace("{}", label)) for text in texts for label in labels]
    logits = torch.empty(len(pairs), len(names))
    for indices, found in batched_logits(engine, head, engine.encode(pairs, truncate=truncate)):
        logits[indices] = found.float().cpu()
    entailed = logits[:, names.index(entailment)]
    if multi_label or len(labels) == 1:
        against = [name.startswith(_CONTRADICTION) for name in map(str.lower, names)]
        if not any(against):
            against = [name != entailment for name in names]
        entailed = (entailed - logits[:, torch.tensor(against)].logsumexp(dim=1)).sigmoid()
        shares = entailed.view(len(texts), len(labels))
    else:
        shares = entailed.view(len(texts), len(labels)).softmax(dim=1)
    return [_classified(labels, row, several=multi_label) for row in shares.tolist()]


def _classified(labels: Sequence[Label], probabilities: Sequence[float], *, several: bool = False) -> Classification:
    found = dict(zip(labels, probabilities, strict=True))
    best = labels[int(np.argmax(probabilities))]
    holding = tuple(label for label, probability in found.items() if probability > 0.5) if several else (best,)
    return Classification(best, found, holding)


def _nli_head(engine: Engine) -> str:
    """Return the name of the head that knows entailment; of several the one of MNLI."""
    heads = [name for name, config in engine.model.head_configs.items() if _entailment(config) is not None]
    if _MNLI in heads or len(heads) == 1:
        return _MNLI if _MNLI in heads else heads[0]
    found = f"{len(heads)} heads with one: {', '.join(heads)}; name one" if heads else "no head with one"
    raise ConfigError(f"zero-shot needs an NLI head, with a class {ENTAILMENT!r}, and the model has {found}")


def _entailment(config: Any) -> str | None:
    """Return how the config of a head spells that class; None if it has none, or doesn't tell classes of texts."""
    labels = config.labels if isinstance(config, ClassificationHeadConfig) else ()
    return next((name for name in labels if name.lower() == ENTAILMENT), None)


def _gives_a_number(config: Any) -> bool:
    """Return whether a head has the one output of a regression or a choice, as fairseq's files have it."""
    return isinstance(config, ClassificationHeadConfig) and config.num_classes == 1 and not config.multi_label


def _scaled(config: Any, logits: Tensor, layout: SequenceLayout) -> Tensor:
    """Return what logits (M, K) say in the terms of their head: (M, K)."""
    if isinstance(config, RegressionHeadConfig):
        return config.minimum + (config.maximum - config.minimum) * logits
    if isinstance(config, ClassificationHeadConfig) and config.multi_label:
        return F.logsigmoid(logits)
    if isinstance(config, SpanHeadConfig):
        spans = logits[:, :2]  # without the answerability; `answer` makes use of it
        return layout.pack(layout.pad(spans, -torch.inf).log_softmax(dim=1))  # over the tokens of a sequence
    classes = ClassificationHeadConfig | TaggingHeadConfig | MaskedLMHeadConfig
    is_class = isinstance(config, classes) and not _gives_a_number(config)
    return logits.log_softmax(dim=-1) if is_class else logits


def _classification(config: Any, log_probabilities: list[float]) -> Classification:
    labels = config.labels or range(config.num_classes)
    return _classified(labels, list(map(exp, log_probabilities)), several=config.multi_label)


def _tags(
    config: TaggingHeadConfig, tokenizer: Tokenizer, texts: tuple[str, ...], log_probabilities: Tensor
) -> tuple[Tag, ...]:
    """Return the tag of each token of a text, without `<s>` and `</s>`; those that truncation cut off have none."""
    if len(texts) > 1:
        raise DataError(f"a tagging head takes one text at a time, not {len(texts)} together; give them as a list")
    names: Sequence[Label] = config.labels or range(config.num_classes)
    values, classes = log_probabilities[1:-1].max(dim=1)
    spans = tokenizer.align(texts[0]).character_spans
    return tuple(
        Tag(start, end, names[best], exp(value))
        for (start, end), best, value in zip(spans, classes.tolist(), values.tolist(), strict=False)
    )
