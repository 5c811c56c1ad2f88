"""Evaluation of a pretrained model on labelled data, through the hub interface."""

import time
from collections.abc import Sequence
from typing import Any

from roberta.criterions.masked_lm import MaskedLMLoss, MaskedLMLossConfig
from roberta.data.readers.glue import ClassificationExample
from roberta.errors import ConfigError, DataError, VocabError
from roberta.hub import RobertaHubInterface
from roberta.models.heads import ClassificationHeadConfig
from roberta.progress import progress_bar
from roberta.registry import HEADS
from roberta.tasks.masked_lm import MaskedLMTask
from roberta.tasks.task import Samples
from roberta.validation import check_lengths, evaluate


def evaluate_masked_lm(
    roberta: RobertaHubInterface, task: MaskedLMTask, samples: Samples, *, max_tokens: int
) -> dict[str, float]:
    """Return the masked-LM loss and perplexity over samples, with masks that are the same every time.

    Raises:
        ConfigError: the model has no masked-LM head, or the samples are longer than it takes.
        VocabError: the data was made with another dictionary than the model's.
    """
    if task.tokenizer.dictionary != roberta.tokenizer.dictionary:
        raise VocabError(
            f"{task.config.data}: its dictionary is not the model's; run roberta-preprocess with the model's --vocab"
        )
    roberta.model.head_config(task.head)
    check_lengths(samples, roberta.max_tokens)
    return evaluate(
        roberta.model, MaskedLMLoss(MaskedLMLossConfig(), task.head), samples, batch_size=None, max_tokens=max_tokens
    )


def evaluate_classification(
    roberta: RobertaHubInterface,
    head: str,
    examples: Sequence[ClassificationExample],
    *,
    labels: Sequence[str],
    max_tokens: int,
) -> dict[str, Any]:
    """Return the accuracy of a head on labelled texts, the number of examples, and the throughput.

    labels: names of the head's outputs, in order; the names that the head itself knows go before them.

    Raises:
        ConfigError: the model has no such head, or the labels do not fit it.
        DataError: an example is longer than the model takes.
    """
    config = roberta.model.head_config(head)
    if not isinstance(config, ClassificationHeadConfig):
        raise ConfigError(
            f"head {head!r} is of kind {HEADS.name_of(type(config))}; accuracy needs a classification head"
        )
    names = config.labels or tuple(labels)
    if len(names) != config.num_classes:
        raise ConfigError(
            f"head {head!r} has {config.num_classes} outputs, but there are labels for {len(names)}: {names}"
        )
    unknown = sorted({example.label for example in examples}.difference(names))
    if unknown:
        raise ConfigError(
            f"head {head!r} knows the labels {', '.join(names)}, but the data has {', '.join(unknown)} too"
        )
    started = time.perf_counter()
    sequences = [roberta.tokenizer.encode_sequence(*example.texts) for example in examples]
    for example, sequence in zip(examples, sequences, strict=True):
        if len(sequence) > roberta.max_tokens:
            raise DataError(
                f"{example.source}: {len(sequence)} tokens; the model takes at most {roberta.max_tokens}: "
                "shorten the texts"
            )
    correct = 0
    with progress_bar(desc="evaluate", unit="example", total=len(examples)) as bar:
        for indices, logits in roberta.predict_batches(head, sequences, max_tokens=max_tokens):
            predictions = logits.argmax(dim=-1).tolist()
            correct += sum(names[best] == examples[i].label for i, best in zip(indices, predictions, strict=True))
            bar.update(len(indices))
    seconds = time.perf_counter() - started
    return {
        "accuracy": correct / len(examples),
        "correct": correct,
        "num_examples": len(examples),
        "tokens_per_s": sum(map(len, sequences)) / seconds,
        "seconds": seconds,
    }
