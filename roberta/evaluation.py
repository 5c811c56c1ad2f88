"""Evaluation of a pretrained model on labelled data, through the hub interface.

Shapes: N examples, K outputs of a head.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roberta.criterions.masked_lm import MaskedLMLoss, MaskedLMLossConfig
from roberta.data.examples import EncodedExample, TextExample
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError, VocabError, choices
from roberta.hub import RobertaHubInterface
from roberta.metrics import METRICS, confusion_matrix, wilson_interval
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig, RegressionHeadConfig
from roberta.progress import progress_bar
from roberta.registry import CRITERIONS, HEADS, TASKS
from roberta.tasks.masked_lm import MaskedLMTask
from roberta.tasks.task import Samples, Task
from roberta.validation import check_head, check_lengths, evaluate, measure

logger = logging.getLogger(__name__)

Example = TextExample | EncodedExample


@dataclass(frozen=True)
class Judgement:
    """A head of a model, and how its outputs are to be judged."""

    roberta: RobertaHubInterface
    head: str
    metrics: tuple[str, ...]  # keys of roberta.metrics.METRICS
    labels: tuple[str, ...] = ()  # names of the head's outputs, in order, in place of its own
    labels_of_set: tuple[str, ...] = ()  # the same for a head that has no names of its own
    max_tokens: int = 4096  # of a forward pass
    tokens_per_sample: int | None = None  # longer ones are cut; as many as the model takes if None


def evaluate_masked_lm(
    roberta: RobertaHubInterface, task: MaskedLMTask, split: str, *, max_tokens: int
) -> dict[str, float]:
    """Return the masked-LM loss and perplexity over the samples of a split, with masks that are the same every time.

    Raises:
        ConfigError: the model has no masked-LM head, or the samples are longer than it takes.
        DataError: the split is missing or damaged.
        VocabError: the data was made with another dictionary than the model's.
    """
    if task.tokenizer.dictionary != roberta.tokenizer.dictionary:
        raise VocabError(
            f"{task.config.data}: its dictionary is not the model's; run roberta-preprocess with the model's --vocab"
        )
    criterion = MaskedLMLoss(MaskedLMLossConfig(), task.head)
    check_head(criterion.config, roberta.model.head_config(task.head))
    started = time.perf_counter()
    samples = task.samples(split)
    check_lengths(samples, roberta.max_tokens)
    figures = evaluate(roberta.model, criterion, samples, batch_size=None, max_tokens=max_tokens)
    return {**figures, **_cost(samples, started)}


def evaluate_questions(
    roberta: RobertaHubInterface, task: Task, criterion: Any, split: str, *, max_tokens: int
) -> dict[str, Any]:
    """Return the scores of a task that chooses among options or candidates, accuracy with its 95 % interval.

    task: built with the model's tokenizer. criterion: built with the head to measure, the masked-LM head for pronouns,
    which needs no fine-tuning.

    Raises:
        ConfigError: the model has no such head, or it is not for such questions.
        DataError: the split is missing or damaged, or holds no answers.
    """
    check_head(criterion.config, roberta.model.head_config(criterion.head))
    started = time.perf_counter()
    samples: Any = task.samples(split)
    limit = max(max_tokens, int(samples.sizes.max()))
    figures = evaluate(roberta.model, criterion, samples, batch_size=None, max_tokens=limit)
    total = sum(example.answer is not None for example in samples.examples)
    cost = _cost(samples, started)
    return {
        "head": criterion.head,
        **{name: value for name, value in figures.items() if name != "num_targets"},
        **samples.counts(),
        "accuracy_95": wilson_interval(round(figures["accuracy"] * total), total),
        "num_examples": total,
        **cost,
    }


def evaluate_task(
    roberta: RobertaHubInterface, task: Any, criterion: Any, head: str, split: str, *, max_tokens: int
) -> dict[str, Any]:
    """Return the figures of a split as a validation of training has them, by the configs of a task and its criterion.

    Those of groups, such as types of entities, are beside them.

    Raises:
        ConfigError: the model has no such head, it does not fit the criterion, or samples are longer than it takes.
        DataError: the split is missing or damaged, or its answers are not told.
    """
    head_config = roberta.model.head_config(head)
    check_head(criterion, head_config)
    started = time.perf_counter()
    built: Task = TASKS.build(task, roberta.tokenizer)
    needed_config = built.head_config(roberta.model.config)
    found, needed = (getattr(config, "num_outputs", None) for config in (head_config, needed_config))
    if found != needed:
        raise ConfigError(f"head {head!r} has {found} outputs, and the task of this data needs {needed}")
    samples = built.samples(split)
    check_lengths(samples, roberta.max_tokens)
    limit = max(max_tokens, int(samples.sizes.max(initial=0)))
    loss = CRITERIONS.build(criterion, head)
    figures, outputs = measure(roberta.model, loss, samples, batch_size=None, max_tokens=limit)
    groups = samples.groups(outputs) if outputs else {}
    return {
        "head": head,
        **figures,
        **samples.counts(),
        **({"groups": groups} if groups else {}),
        **_cost(samples, started),
    }


def _cost(samples: Samples, started: float) -> dict[str, float]:
    """Return how long samples took since then, and how many tokens that is a second."""
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens_per_s": int(samples.sizes.sum()) / seconds}


def only_head(roberta: RobertaHubInterface, usual: str | None = None) -> str:
    """Return the name of the model's head that judges texts: the `usual` one, or else that beside its masked-LM head.

    Raises:
        ConfigError: it has no such head, or several of which none is the usual one.
    """
    if usual is not None and usual in roberta.model.head_configs:
        return usual
    heads = [name for name in roberta.model.heads if not _is_masked_lm(roberta, name)]
    if len(heads) != 1:
        found = f"{len(heads)} heads that judge texts: {', '.join(heads)}" if heads else "no head that judges texts"
        raise ConfigError(f"the model has {found}; " + ("name one with --head" if heads else "fine-tune it first"))
    return heads[0]


def evaluate_texts(judgement: Judgement, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the metrics of a head on labelled texts, or their tokens, what they rest on, and the throughput.

    For classes: accuracy with its 95 % interval, accuracy by the examples' `group`, and the confusion matrix with the
    right classes as its rows. Too long texts are cut, and counted in `num_truncated`.

    Raises:
        ConfigError: the model has no such head, or the head does not fit the labels.
        DataError: an example has no label, or one that the head does not know; the message names its line.
    """
    for example in examples:
        if example.label is None:
            raise DataError(f"{example.source}: no label; give a split that has labels")
    result = _EVALUATIONS[type(examples[0].label)](judgement, examples)
    return {"head": judgement.head, **result}


def _evaluate_classes(judgement: Judgement, examples: Sequence[Example]) -> dict[str, Any]:
    names = _class_names(judgement)
    targets = np.array([_class_of(example.label, names, judgement, example.source) for example in examples])
    outputs, cost = _outputs(judgement, examples)
    predictions = outputs.argmax(axis=1)
    correct = int((predictions == targets).sum())
    return {
        "accuracy": correct / len(targets),
        "accuracy_95": wilson_interval(correct, len(targets)),
        **_figures(judgement.metrics, predictions, targets),
        "correct": correct,
        **_by_group("accuracy", predictions, targets, examples),
        "labels": names,
        "confusion": confusion_matrix(predictions, targets, len(names)).tolist(),
        **cost,
    }


def _evaluate_numbers(judgement: Judgement, examples: Sequence[Example]) -> dict[str, Any]:
    config = judgement.roberta.model.head_config(judgement.head)
    if getattr(config, "num_outputs", None) != 1 or config.rows != "first":
        raise ConfigError(f"head {judgement.head!r} gives no single number; the data has numbers for labels")
    outputs, cost = _outputs(judgement, examples)
    predictions, targets = outputs[:, 0], np.array([example.label for example in examples], dtype=np.float64)
    error = {}
    if isinstance(config, RegressionHeadConfig):  # others don't tell their scale
        predictions = config.minimum + (config.maximum - config.minimum) * predictions
        error = {"mean_squared_error": float(np.mean((predictions - targets) ** 2))}
    return {
        **_figures(judgement.metrics, predictions, targets),
        **error,
        **_by_group(judgement.metrics[0], predictions, targets, examples),
        **cost,
    }


def _evaluate_several_classes(judgement: Judgement, examples: Sequence[Example]) -> dict[str, Any]:
    """Judge each class alone: it is predicted where its output is positive, that is where it is likelier than not."""
    names = _class_names(judgement)
    if not judgement.roberta.model.head_config(judgement.head).multi_label:
        raise ConfigError(
            f"head {judgement.head!r} was trained to choose one class, and the data has several at once; "
            "train one with roberta-finetune table --kind multi_label"
        )
    targets = np.zeros((len(examples), len(names)), dtype=np.bool_)
    for row, example in enumerate(examples):
        assert isinstance(example.label, tuple), f"{example.source}: labels of different kinds"
        for label in example.label:
            targets[row, _class_of(label, names, judgement, example.source)] = True
    outputs, cost = _outputs(judgement, examples)
    return {**_figures(judgement.metrics, outputs > 0, targets), "labels": names, **cost}


_EVALUATIONS: dict[type, Callable[[Judgement, Sequence[Example]], dict[str, Any]]] = {
    str: _evaluate_classes,
    float: _evaluate_numbers,
    tuple: _evaluate_several_classes,
}


def _is_masked_lm(roberta: RobertaHubInterface, head: str) -> bool:
    return isinstance(roberta.model.head_config(head), MaskedLMHeadConfig)


def _class_names(judgement: Judgement) -> tuple[str, ...]:
    """Return the names of the classes in the order of the outputs."""
    config = judgement.roberta.model.head_config(judgement.head)
    if not isinstance(config, ClassificationHeadConfig):
        raise ConfigError(
            f"head {judgement.head!r} is of kind {HEADS.name_of(type(config))}; "
            "the data has classes for labels, and needs a classification head"
        )
    names = judgement.labels or config.labels or judgement.labels_of_set
    if len(names) != config.num_classes:
        raise ConfigError(
            f"head {judgement.head!r} has {config.num_classes} outputs, but the labels are {len(names)}: "
            f"{', '.join(names) or 'none'}; name the outputs in their order with --labels"
        )
    return names


def _class_of(label: object, names: Sequence[str], judgement: Judgement, source: str) -> int:
    """Return the number of a label's class, whose name may differ in the case of letters, as ENTAILMENT does."""
    if label in names:
        return names.index(str(label))
    alike = [index for index, name in enumerate(names) if name.lower() == str(label).lower()]
    if len(alike) != 1:
        raise DataError(f"{source}: label {label!r} is unknown to head {judgement.head!r}; {choices(label, names)}")
    return alike[0]


def _outputs(judgement: Judgement, examples: Sequence[Example]) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Return the outputs of the head for all examples (N, K), and what they took."""
    roberta = judgement.roberta
    limit = min(roberta.max_tokens, judgement.tokens_per_sample or roberta.max_tokens)
    started = time.perf_counter()
    sequences = [_sequence(roberta.tokenizer, example) for example in examples]
    too_long = [index for index, sequence in enumerate(sequences) if len(sequence) > limit]
    for index in too_long:
        sequences[index] = _sequence(roberta.tokenizer, examples[index], limit)
    if too_long:
        logger.warning(
            "%d of %d examples are longer than %d tokens, and are cut; the first one is %s",
            len(too_long),
            len(examples),
            limit,
            examples[too_long[0]].source,
        )
    rows: list[Any] = [None] * len(examples)
    with progress_bar(desc="evaluate", unit="example", total=len(examples), lines=True) as bar:
        for indices, logits in roberta.predict_batches(judgement.head, sequences, max_tokens=judgement.max_tokens):
            for index, row in zip(indices, logits.float().cpu().numpy(), strict=True):
                rows[index] = row
            bar.update(len(indices))
    seconds = time.perf_counter() - started
    return np.stack(rows), {
        "num_examples": len(examples),
        "num_truncated": len(too_long),
        "examples_per_s": len(examples) / seconds,
        "tokens_per_s": sum(map(len, sequences)) / seconds,
        "seconds": seconds,
    }


def _sequence(tokenizer: Tokenizer, example: Example, max_tokens: int | None = None) -> list[int]:
    if isinstance(example, EncodedExample):
        return tokenizer.join([piece.tolist() for piece in example.pieces], max_tokens=max_tokens)
    return tokenizer.encode_sequence(*example.texts, max_tokens=max_tokens)


def _figures(names: Sequence[str], predictions: NDArray, targets: NDArray) -> dict[str, float]:
    return {name: METRICS[name](predictions, targets) for name in names}


def _by_group(
    metric: str, predictions: NDArray, targets: NDArray, examples: Sequence[Example]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return a metric and the number of examples for each group; nothing where the examples have no groups."""
    groups = np.array([getattr(example, "group", "") for example in examples])
    if not any(groups):
        return {}
    table = {}
    for group in sorted(set(groups.tolist())):
        rows = groups == group
        table[group] = {**_figures((metric,), predictions[rows], targets[rows]), "num_examples": int(rows.sum())}
    return {"groups": table}
