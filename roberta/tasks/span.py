"""Finding the answer to a question in a passage: SQuAD 1.1, and 2.0, where there may be none.

A sample is a window of a passage with its question; those of one question are scored together.

Shapes: W windows, B windows of a batch, K outputs of the head.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roberta.answers import Answers, write_answers
from roberta.config import option
from roberta.data.readers.split_files import find_split_file, has_split_file
from roberta.data.readers.squad import Question, Version, num_out_of_place, read_squad, with_answers_in_place
from roberta.data.tokenizer import Span, Tokenizer
from roberta.data.windows import MAX_QUESTION_TOKENS, STRIDE, EncodedPassage, Windows, WindowSizes
from roberta.errors import ConfigError, DataError
from roberta.layout import Batch, SequenceLayout
from roberta.metrics import squad1_scores, squad2_scores
from roberta.models.heads import SpanHeadConfig
from roberta.registry import TASKS
from roberta.tasks.task import Prediction, Samples, Task

_SHOWN, _WRITTEN = 5, 20  # answers to a question, for people and in the file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpanTaskConfig:
    """Options of finding answers."""

    data: Path = option(
        help="SQuAD's training file, or a folder with those of both splits, such as train-v1.1.json and dev-v1.1.json"
    )
    dev: Path | None = option(None, help="SQuAD's development file, where the training data is a file")
    version: Version = option("1.1", help="SQuAD 1.1, or 2.0, where questions may have no answer")
    tokens_per_sample: int = option(512, help="tokens of a question and its window of a passage at most")
    doc_stride: int = option(STRIDE, help="tokens from the beginning of a window to that of the next one")
    max_question_length: int = option(MAX_QUESTION_TOKENS, help="tokens of a question at most; the end is cut")
    max_answer_length: int = option(30, help="tokens of a predicted answer at most")
    head_dropout: float = option(0.0, help="dropout before the output layer of the head")

    def __post_init__(self) -> None:
        if self.max_answer_length < 1:
            raise ConfigError(f"--max-answer-length is {self.max_answer_length}; it must be at least 1")
        try:
            self.window_sizes()
        except ConfigError as error:
            raise ConfigError(f"--tokens-per-sample, --max-question-length, --doc-stride: {error}") from error

    def window_sizes(self) -> WindowSizes:
        """Return how questions and passages are cut to sequences."""
        return WindowSizes(self.tokens_per_sample, self.doc_stride, self.max_question_length)


class QuestionWindows(Samples):
    """The windows of questions, each with the rows of its answer: those of `<s>` if it is not in it, or not told.

    Of several gold answers the first one is the target; all of them are scored.
    """

    maximise = True

    def __init__(self, questions: Sequence[Question], tokenizer: Tokenizer, config: SpanTaskConfig) -> None:
        self.questions = questions
        self.config = config
        self.metric = "f1" if config.version == "1.1" else "best_f1"
        self.windows = Windows(
            tokenizer,
            [question.question for question in questions],
            [question.context for question in questions],
            config.window_sizes(),
        )
        self.sizes = self.windows.sizes
        spans = [_gold_span(*pair) for pair in zip(questions, self.windows.passages, strict=True)]
        self.targets = np.column_stack((self.windows.rows(spans), self.windows.prefixes))  # (W, 3)
        self._decoded: tuple[Sequence[NDArray[np.float32]], dict[str, Answers]] | None = None

    def batch(self, sample_ids: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Return these windows; their targets are (B, 3), as the span loss takes them."""
        tokens = np.concatenate([self.windows.tokens(window) for window in sample_ids.tolist()])
        return Batch(
            tokens=torch.from_numpy(tokens),
            layout=SequenceLayout.from_lengths(self.sizes[sample_ids]),
            select=None,
            targets=torch.from_numpy(self.targets[sample_ids]),
            num_targets=len(sample_ids),
            sample_ids=tuple(sample_ids.tolist()),
        )

    def answers(self, outputs: Sequence[NDArray[np.float32]], *, n_best: int) -> dict[str, Answers]:
        """Return the likeliest answers to each question by its id; outputs: (tokens, K) of each window."""
        found = self.windows.answers(outputs, max_answer_tokens=self.config.max_answer_length, n_best=n_best)
        return {question.id: answers for question, answers in zip(self.questions, found, strict=True)}

    def counts(self) -> dict[str, int]:
        """Return how many questions are cut."""
        return {"num_questions_truncated": self.windows.num_cut}

    def score(self, outputs: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the official figures; those of 2.0 with answers given up to the threshold that has the best F1.

        Raises:
            DataError: a question of 1.1 has no gold answer.
        """
        is_decoded = self._decoded is not None and self._decoded[0] is outputs
        answers = self._written(outputs) if is_decoded else self.answers(outputs, n_best=1)
        return score_answers(self.questions, answers, self.config.version)

    def predictions(self, outputs: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """Return the answer to each question, and the probabilities of the likeliest ones."""
        answers = self._written(outputs)
        threshold = self._threshold(answers)
        shown = {name: replace(found, best=found.best[:_SHOWN]) for name, found in answers.items()}
        return [_prediction(question, shown[question.id], threshold) for question in self.questions]

    def write_predictions(self, folder: Path, outputs: Sequence[NDArray[np.float32]]) -> None:
        """Write `predictions.json`, `nbest.json` and `na_prob.json` as SQuAD's official scorers read them.

        With the threshold of the figures, `best_f1_thresh`, those of 2.0 score what `score` says.
        """
        write_answers(folder, self._written(outputs), may_have_none=self.config.version == "2.0")

    def _written(self, outputs: Sequence[NDArray[np.float32]]) -> dict[str, Answers]:
        """Return the answers that go into files; those of the outputs that were given last are kept."""
        if self._decoded is None or self._decoded[0] is not outputs:
            self._decoded = outputs, self.answers(outputs, n_best=_WRITTEN)
        return self._decoded[1]

    def _threshold(self, answers: Mapping[str, Answers]) -> float | None:
        """Return the probability of no answer above which none is given, that of the best F1; None for 1.1."""
        if self.config.version == "1.1":
            return None
        return score_answers(self.questions, answers, self.config.version)["best_f1_thresh"]


@TASKS.register("span", SpanTaskConfig)
class SpanTask(Task):
    """Find the answer to a question in a passage."""

    head = "span"

    def __init__(self, config: SpanTaskConfig, tokenizer: Tokenizer | None = None) -> None:
        self.config = config
        self.tokenizer = tokenizer or Tokenizer.load()

    def head_config(self, model_config: Any) -> SpanHeadConfig:
        """Return the config of a span head; for 2.0 it tells whether there is an answer, too."""
        return SpanHeadConfig(dropout=self.config.head_dropout, answerable=self.config.version == "2.0")

    def samples(self, split: str) -> QuestionWindows:
        """Return the windows of `train` or `valid`; training leaves out answers that are not where they should be.

        Raises:
            DataError: the file is missing, damaged, of the other version, or has nothing to learn from.
        """
        path = _file(self.config, split)
        questions = read_squad(path, self.config.version)
        if split == "train":
            if not any(question.answers or question.is_impossible for question in questions):
                raise DataError(f"{path}: no question has an answer told; training needs answers")
            questions = with_answers_in_place(questions)
            if not questions:
                raise DataError(f"{path}: no question has an answer that stands where it is said to start")
        elif out_of_place := num_out_of_place(questions):
            logger.warning(
                "%s: %d answers do not stand where they are said to start; their texts are compared all the same",
                path,
                out_of_place,
            )
        samples = QuestionWindows(questions, self.tokenizer, self.config)
        logger.info(
            "%s: %d questions in %d windows, %d of them without the answer; %d questions cut to %d tokens",
            split,
            len(questions),
            len(samples),
            int((samples.targets[:, 0] == 0).sum()),
            samples.windows.num_cut,
            self.config.max_question_length,
        )
        return samples


def score_answers(questions: Sequence[Question], answers: Mapping[str, Answers], version: Version) -> dict[str, float]:
    """Return the official figures; those of 2.0 with answers given up to the threshold that has the best F1.

    Raises:
        DataError: a question of 1.1 has no gold answer.
    """
    golds = gold_texts(questions, version)
    predictions = {name: found.text() for name, found in answers.items()}
    if version == "1.1":
        return squad1_scores(golds, predictions)
    na_probs = {name: found.no_answer_probability for name, found in answers.items()}
    threshold = squad2_scores(golds, predictions, na_probs)["best_f1_thresh"]
    return squad2_scores(golds, predictions, na_probs, na_threshold=threshold)


def gold_texts(questions: Sequence[Question], version: Version) -> dict[str, list[str]]:
    """Return the gold answers of each question by its id.

    Raises:
        DataError: a question of 1.1 has none.
    """
    for question in questions:
        if version == "1.1" and not question.answers:
            raise DataError(f"{question.source}: no answer; without gold answers nothing can be scored")
    return {question.id: [text for text, _ in question.answers] for question in questions}


def _prediction(question: Question, answers: Answers, threshold: float | None) -> Prediction:
    golds = {text for text, _ in question.answers} or ({""} if question.is_impossible else set())
    found = answers.ranked(threshold)
    right = [answer.probability for answer in found if answer.text in golds] or [found[-1].probability]  # at most
    return Prediction(
        id=question.id,
        source=question.source,
        text=f"{question.question} {question.context}",
        answer=question.answers[0][0] if question.answers else min(golds, default=None),
        prediction=found[0].text,
        probabilities={answer.text: answer.probability for answer in found},
        error=-log(max(right[0], sys.float_info.min)) if golds else None,
    )


def _gold_span(question: Question, passage: EncodedPassage) -> Span | None:
    """Return the tokens of the first answer that stands where it is said to start."""
    for text, start in question.answers:
        if text and passage.text.startswith(text, start):
            return passage.token_span(start, start + len(text))
    return None


def _file(config: SpanTaskConfig, split: str) -> Path:
    """Return the file of a split."""
    if config.data.is_dir():
        if config.dev is not None:
            raise ConfigError(f"--dev {config.dev}: --data {config.data} is a folder, which holds both files; drop one")
        of_version = (f"-v{config.version}.json", f"_v{config.version}.json")
        kinds = of_version if has_split_file(config.data, split, of_version) else (".json",)
        return find_split_file(config.data, split, kinds, advice="give the training file itself, and --dev")
    if split == "train":
        return config.data
    if config.dev is None:
        raise ConfigError("--dev is missing: the development file, for validation")
    return config.dev
