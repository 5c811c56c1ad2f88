"""Choosing among options: RACE, CommonsenseQA, and any multiple-choice set in JSONL.

All sequences of a question, one for each option, are one sample.

Shapes: Q questions, B sequences, T packed tokens.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import exp
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from roberta.config import option, refuse_idle
from roberta.data.examples import ChoiceExample
from roberta.data.questions import MAX_OPTION_TOKENS, NUM_SPECIALS, encode_questions
from roberta.data.readers.choices import ChoiceFields, read_choices
from roberta.data.readers.race import find_race_split, read_race
from roberta.data.readers.split_files import has_split_file
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError
from roberta.layout import NO_TARGET, Batch, SequenceLayout
from roberta.models.heads import ChoiceHeadConfig
from roberta.registry import TASKS
from roberta.tasks.choosing import Questions, check_answers, find_question_file, numbered
from roberta.tasks.task import TEST, Prediction, Task

_KINDS = (".jsonl",)
_FILE_OPTIONS = ("train_file", "valid_file")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SentenceRankingTaskConfig(ChoiceFields):
    """Options of choosing; the names of fields among them are for JSONL."""

    data: Path = option(help="folder of the data set")
    data_layout: Literal["jsonl", "race"] = option(
        "jsonl", help="jsonl: a file for each split, such as train.jsonl and dev.jsonl; race: RACE's folders"
    )
    train_file: Path | None = option(None, help="jsonl: file of the train split in the folder, if no name tells")
    valid_file: Path | None = option(None, help="jsonl: file of the valid split in the folder, if no name tells")
    tokens_per_sample: int = option(512, help="tokens of an option's sequence at most; the end of the context is cut")
    max_option_length: int = option(
        MAX_OPTION_TOKENS, help="tokens of an option at most, with its question where there is a context too"
    )

    def __post_init__(self) -> None:
        if self.data_layout == "race":
            names = (*(field.name for field in fields(ChoiceFields)), *_FILE_OPTIONS)
            refuse_idle(self, names, "is for .jsonl, not for RACE's folders")
        super().__post_init__()
        if self.max_option_length < 1:
            raise ConfigError(f"--max-option-length is {self.max_option_length}; it must be at least 1")
        if self.tokens_per_sample <= NUM_SPECIALS:
            raise ConfigError(
                f"--tokens-per-sample is {self.tokens_per_sample}; {NUM_SPECIALS} special tokens and an option need "
                f"at least {NUM_SPECIALS + 1}"
            )


class RankedQuestions(Questions):
    """Questions, each with a sequence for every option."""

    examples: Sequence[ChoiceExample]

    def __init__(
        self, examples: Sequence[ChoiceExample], tokenizer: Tokenizer, config: SentenceRankingTaskConfig
    ) -> None:
        self.max_option_tokens = min(config.max_option_length, config.tokens_per_sample - NUM_SPECIALS)
        self.questions = encode_questions(
            tokenizer, examples, max_tokens=config.tokens_per_sample, max_option_tokens=self.max_option_tokens
        )
        super().__init__(examples, [question.lengths for question in self.questions])

    def counts(self) -> dict[str, int]:
        """Return how many questions lost the end of their context, and how many some of an option."""
        return {
            "num_truncated": sum(question.is_cut for question in self.questions),
            "num_options_truncated": sum(question.options_cut for question in self.questions),
        }

    def batch(self, sample_ids: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Return the sequences of these questions, those of a question one after another."""
        questions = [self.questions[index] for index in sample_ids.tolist()]
        tokens = np.concatenate([piece for question in questions for piece in question.pieces()]).astype(np.int64)
        layout = SequenceLayout.from_lengths([length for question in questions for length in question.lengths])
        answers = self.answers[sample_ids]
        return Batch(
            tokens=torch.from_numpy(tokens),
            layout=layout,
            select=layout.first,
            targets=torch.from_numpy(answers),
            num_targets=int((answers != NO_TARGET).sum()),
            sample_ids=tuple(sample_ids.tolist()),
            groups=SequenceLayout.from_lengths([len(question.lengths) for question in questions]),
        )

    def score(self, outputs: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the accuracy, and that of each group of questions, such as RACE's middle and high.

        Raises:
            DataError: no question has an answer.
        """
        told = self.are_told()
        is_right = np.array([rows.argmax() for rows in outputs]) == self.answers
        groups = np.array([example.group for example in self.examples])
        by_group = {f"accuracy_{name}": groups == name for name in sorted(set(groups.tolist()) - {""})}
        figures = {"accuracy": told, **{name: told & members for name, members in by_group.items()}}
        return {name: float(is_right[members].mean()) for name, members in figures.items() if members.any()}

    def predictions(self, outputs: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """Return the option chosen for each question, and the probability of each option."""
        return [_prediction(*pair) for pair in zip(self.examples, outputs, strict=True)]


@TASKS.register("sentence_ranking", SentenceRankingTaskConfig)
class SentenceRankingTask(Task):
    """Choose the right one of a question's options."""

    head = "choice"

    def __init__(self, config: SentenceRankingTaskConfig, tokenizer: Tokenizer | None = None) -> None:
        self.config = config
        self.tokenizer = tokenizer or Tokenizer.load()

    def head_config(self, model_config: Any) -> ChoiceHeadConfig:
        """Return the config of a choice head: one score for each option."""
        return ChoiceHeadConfig()

    def test_splits(self) -> tuple[str, ...]:
        """Return `test` where the data has such a split."""
        is_race, data = self.config.data_layout == "race", self.config.data
        has_test = (data / TEST).is_dir() if is_race else has_split_file(data, TEST, _KINDS)
        return (TEST,) if has_test else ()

    def samples(self, split: str) -> RankedQuestions:
        """Return the questions of a split; those of a test split may lack answers.

        What is cut is counted in the log.

        Raises:
            DataError: the split is missing, or damaged, or an answer is missing from another split than test.
        """
        examples = self._read(split)
        check_answers(examples, split)
        samples = RankedQuestions(examples, self.tokenizer, self.config)
        self._report(samples, split)
        return samples

    def _read(self, split: str) -> list[ChoiceExample]:
        config = self.config
        if config.data_layout == "race":
            return read_race(find_race_split(config.data, split))
        path = find_question_file(
            config.data, split, kinds=_KINDS, train_file=config.train_file, valid_file=config.valid_file
        )
        return read_choices(path, config)

    def _report(self, samples: RankedQuestions, split: str) -> None:
        counts = samples.counts()
        logger.info(
            "%s: %d questions; %d with a context cut to fit %d tokens, %d with options cut to %d tokens",
            split,
            len(samples),
            counts["num_truncated"],
            self.config.tokens_per_sample,
            counts["num_options_truncated"],
            samples.max_option_tokens,
        )


def _prediction(example: ChoiceExample, output: NDArray[np.float32]) -> Prediction:
    names = numbered(example.options)
    log_probabilities = torch.from_numpy(output[:, 0]).double().log_softmax(dim=0).tolist()
    best = max(range(len(names)), key=log_probabilities.__getitem__)
    return Prediction(
        id=example.id,
        source=example.source,
        text=" | ".join(filter(None, (example.question, example.context))),
        answer=None if example.answer is None else names[example.answer],
        prediction=names[best],
        probabilities=dict(zip(names, map(exp, log_probabilities), strict=True)),
        error=None if example.answer is None else -log_probabilities[example.answer],
    )
