"""SQuAD measured: the official figures of predictions, from files in the official formats or from a model."""

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roberta.answers import Answers
from roberta.config import from_json
from roberta.criterions.span import SpanLoss, SpanLossConfig
from roberta.data.readers.json_lines import read_value
from roberta.data.readers.squad import Question, Version, version_of
from roberta.data.windows import fitting_sizes
from roberta.errors import ConfigError, DataError
from roberta.hub import RobertaHubInterface
from roberta.metrics import squad1_scores, squad2_scores
from roberta.models.heads import SpanHeadConfig
from roberta.tasks.span import QuestionWindows, SpanTaskConfig, gold_texts, score_answers
from roberta.validation import predict

# how it is found that a question has no answer: by the version of the data, and whether the head has a classifier
_NO_ANSWER = {
    ("1.1", False): "never",
    ("1.1", True): "never",
    ("2.0", False): "<s>",
    ("2.0", True): "classifier",
}
_MISFITS = {
    ("1.1", True): "the head is for SQuAD 2.0, the data of 1.1: its best answers count, whatever its classifier says",
    ("2.0", False): "the head is for SQuAD 1.1, the data of 2.0: <s> against the best span tells how likely no answer "
    "is, which the head was not trained to tell; train one with roberta-finetune squad2",
}
_LENGTHS = ("tokens_per_sample", "doc_stride", "max_question_length", "max_answer_length")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """A span head of a model, and how it reads passages."""

    roberta: RobertaHubInterface
    head: str
    max_tokens: int = 4096  # of a forward pass
    n_best: int = 20


def read_predictions(path: Path) -> dict[str, str]:
    """Return the predicted answer to each question by its id, as SQuAD's scorers read them.

    Raises:
        DataError: the file can't be read, or holds something else.
    """
    return _read_object(path, str, "the text of an answer")


def read_na_probs(path: Path) -> dict[str, float]:
    """Return the probability that a question has no answer, by its id; any finite numbers will do.

    Raises:
        DataError: the file can't be read, or holds something else.
    """
    values = _read_object(path, (int, float), "a number")
    for name, value in values.items():
        if not math.isfinite(value):
            raise DataError(f"{path}: {name!r} is {value}; expected a finite number")
    return values


def score_predictions(
    questions: Sequence[Question],
    predictions: Mapping[str, str],
    na_probs: Mapping[str, float] | None = None,
    *,
    na_threshold: float = 1.0,
) -> dict[str, float]:
    """Return the official figures of predictions for a development set of either version.

    Raises:
        ConfigError: there are probabilities for 1.1, where every question has an answer.
        DataError: no question has a prediction, a predicted one no probability, or one of 1.1 no gold answer.
    """
    version = version_of(questions)
    golds = gold_texts(questions, version)
    if version == "2.0":
        return squad2_scores(golds, predictions, na_probs, na_threshold=na_threshold)
    if na_probs is not None:
        raise ConfigError(
            "--na-prob is for SQuAD 2.0; in this file, of 1.1, every question has an answer: leave it out"
        )
    return squad1_scores(golds, predictions)


def span_options(
    data: Path, version: Version, *, max_tokens: int, trained: Mapping[str, Any], given: Mapping[str, Any]
) -> SpanTaskConfig:
    """Return how a model reads passages: as it did in training, or else by default, so far as it takes that.

    max_tokens: of a sequence, where training does not say. trained: the options of the task that it was trained on.
    given: options that stand above those.

    Raises:
        ConfigError: the options leave too little room for the passage.
    """
    options = dict(trained)
    if options.pop("type", None) == "span":
        config = from_json(SpanTaskConfig, options, source="the options of the model's training")
        return dataclasses.replace(config, data=data, dev=None, version=version, **given)
    length = given.get("tokens_per_sample", max_tokens)
    sizes = fitting_sizes(length)
    config = SpanTaskConfig(
        data=data,
        version=version,
        tokens_per_sample=length,
        doc_stride=sizes.stride,
        max_question_length=sizes.max_question_tokens,
    )
    return dataclasses.replace(config, **given)


def answer_questions(
    reading: Reading, questions: Sequence[Question], config: SpanTaskConfig
) -> tuple[dict[str, Answers], dict[str, Any]]:
    """Return the likeliest answers of a model by the id of the question, and the figures of them and of the throughput.

    Raises:
        ConfigError: the model has no such head, it is no span head, or the sequences are longer than it takes.
        DataError: a question of 1.1 has no gold answer.
    """
    roberta = reading.roberta
    head = roberta.model.head_config(reading.head)
    if not isinstance(head, SpanHeadConfig):
        raise ConfigError(f"head {reading.head!r} finds no spans; train one with roberta-finetune squad")
    if config.tokens_per_sample > roberta.max_tokens:
        raise ConfigError(
            f"--tokens-per-sample {config.tokens_per_sample}; the model takes {roberta.max_tokens} at most"
        )
    kind = config.version, head.answerable
    if kind in _MISFITS:
        logger.warning(_MISFITS[kind])
    started = time.perf_counter()
    samples = QuestionWindows(questions, roberta.tokenizer, config)
    encoded = time.perf_counter()
    limit = max(reading.max_tokens, samples.max_seqlen)
    outputs = predict(roberta.model, SpanLoss(SpanLossConfig(), reading.head), samples, max_tokens=limit)
    answers = samples.answers(outputs, n_best=reading.n_best)
    seconds = time.perf_counter() - started
    figures = score_answers(questions, answers, config.version)
    if samples.windows.num_cut:
        logger.info("%d questions cut to %d tokens", samples.windows.num_cut, config.max_question_length)
    reading_of = {
        "no_answer": _NO_ANSWER[kind],
        **{name: getattr(config, name) for name in _LENGTHS},
        **samples.counts(),
    }
    throughput = {
        "num_windows": len(samples),
        "encoding_seconds": encoded - started,
        "questions_per_s": len(questions) / seconds,
        "tokens_per_s": int(samples.sizes.sum()) / seconds,
        "seconds": seconds,
    }
    return answers, {"head": reading.head, **figures, **reading_of, **throughput}


def _read_object(path: Path, kind: Any, what: str) -> Any:
    """Return a JSON object whose values are all of a kind; no key is there twice."""
    values = read_value(path, unique_keys=True)
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected an object with {what} for each id, found {type(values).__name__}")
    for name, value in values.items():
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"{path}: {name!r} is {value!r:.40}; expected {what}")
    return values
