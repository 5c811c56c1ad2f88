"""What a pronoun stands for: SuperGLUE's WSC, WinoGrande, and the text files of WSC273 and DPR.

Each candidate is put in the place of the pronoun and masked there; all sequences of a question are one sample, and the
masked-LM head says how likely each candidate is.

Shapes: Q questions, B sequences, T packed tokens, M masked rows.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from roberta.config import option
from roberta.data.examples import REJECTED, PronounExample
from roberta.data.noun_phrases import noun_phrases, other_candidates
from roberta.data.pronouns import encode_candidates
from roberta.data.readers.split_files import find_split_file
from roberta.data.readers.winograd import read_winograd_text, read_winogrande, read_wsc
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError
from roberta.layout import Batch, SequenceLayout
from roberta.models.heads import MaskedLMHeadConfig
from roberta.registry import TASKS
from roberta.tasks.task import Samples, Task

_NO_ANSWER = REJECTED  # the target where no candidate is known to be right; the criterion passes over it
_WITHOUT_ANSWERS = ("test",)  # splits whose answers may be secret
_KINDS = {"wsc": ".jsonl", "winogrande": ".jsonl", "text": ".txt"}

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class WSCTaskConfig:
    """Options of finding what a pronoun stands for."""

    data: Path = option(help="folder of the data set")
    data_layout: Literal["wsc", "winogrande", "text"] = option(
        "wsc", help="wsc: SuperGLUE's WSC; winogrande; text: the text files of WSC273 and DPR"
    )
    train_file: Path | None = option(None, help="file of the train split in the folder, if its name does not tell")
    valid_file: Path | None = option(None, help="file of the valid split in the folder, if its name does not tell")
    wsc_candidates: Literal["noun_phrases", "spans"] = option(
        "noun_phrases",
        help="wsc: what else a pronoun may stand for: the noun phrases of its text, which spaCy finds, or the phrases "
        "that other questions ask about in its place",
    )
    tokens_per_sample: int = option(512, help="tokens of a candidate's sequence at most; both ends of a text are cut")

    def __post_init__(self) -> None:
        if self.tokens_per_sample < 3:
            raise ConfigError(f"--tokens-per-sample is {self.tokens_per_sample}; <s>, a mask and </s> need 3")


class PronounQuestions(Samples):
    """Questions, each with a sequence for every candidate."""

    metric = "accuracy"
    maximise = True

    def __init__(self, examples: Sequence[PronounExample], tokenizer: Tokenizer, max_tokens: int) -> None:
        self.examples = examples
        self.questions = [
            encode_candidates(
                tokenizer,
                example.before,
                example.after,
                example.candidates,
                max_tokens=max_tokens,
                source=example.source,
            )
            for example in examples
        ]
        lengths = [[len(candidate.tokens) for candidate in question] for question in self.questions]
        self.sizes = np.array(list(map(sum, lengths)), dtype=np.int64)
        self.max_seqlen = max(map(max, lengths))
        self.answers = np.array([_NO_ANSWER if example.answer is None else example.answer for example in examples])

    def batch(self, sample_ids: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Return the sequences of these questions, those of a question one after another."""
        questions = [self.questions[index] for index in sample_ids.tolist()]
        candidates = [candidate for question in questions for candidate in question]
        lengths = [len(candidate.tokens) for candidate in candidates]
        starts = accumulate(lengths, initial=0)
        select = [start + candidate.rows for start, candidate in zip(starts, candidates, strict=False)]
        answers = self.answers[sample_ids]
        targets = np.concatenate([answers, *(candidate.targets for candidate in candidates)])
        return Batch(
            tokens=torch.from_numpy(np.concatenate([candidate.tokens for candidate in candidates])),
            layout=SequenceLayout.from_lengths(lengths),
            select=torch.from_numpy(np.concatenate(select)),
            targets=torch.from_numpy(targets),
            num_targets=int((answers != _NO_ANSWER).sum()),
            sample_ids=tuple(sample_ids.tolist()),
            groups=SequenceLayout.from_lengths([len(question) for question in questions]),
        )

    def score(self, outputs: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the accuracy; a query that is to be rejected is so where another candidate has a better score.

        Raises:
            DataError: no question has an answer.
        """
        is_right = [
            _is_right(int(rows.argmax()), example.answer)
            for rows, example in zip(outputs, self.examples, strict=True)
            if example.answer is not None
        ]
        if not is_right:
            raise DataError(f"{self.examples[0].source}: neither this question nor another one has an answer to score")
        return {"accuracy": float(np.mean(is_right))}


@TASKS.register("wsc", WSCTaskConfig)
class WSCTask(Task):
    """Find what a pronoun stands for."""

    head = "lm"

    def __init__(self, config: WSCTaskConfig, tokenizer: Tokenizer | None = None) -> None:
        self.config = config
        self.tokenizer = tokenizer or Tokenizer.load()

    def head_config(self, model: Any) -> MaskedLMHeadConfig:
        """Return the config of the masked-LM head, which has the activation of the model."""
        return MaskedLMHeadConfig(activation_fn=model.activation_fn)

    def samples(self, split: str) -> PronounQuestions:
        """Return the questions of a split; those of a test split may lack answers.

        Of the train split the questions whose query is to be rejected are left out: they have no right candidate to
        learn from. The log counts them, and the texts that are cut.

        Raises:
            ConfigError: noun phrases are asked for, and spaCy is not installed.
            DataError: the split is missing, or damaged, or an answer is missing from another split than test.
        """
        examples = self._read(split)
        untold = next((example for example in examples if example.answer is None), None)
        if untold is not None and split not in _WITHOUT_ANSWERS:
            raise DataError(f"{untold.source}: no answer, and the {split} split needs them; leave the question out")
        if self.config.data_layout == "wsc":
            examples = self._with_candidates(examples)
        rejected = sum(example.answer == REJECTED for example in examples)
        if split == "train" and rejected:
            examples = [example for example in examples if example.answer != REJECTED]
            _LOGGER.info("%s: %d questions without a right candidate to learn from are left out", split, rejected)
        if not examples:
            raise DataError(f"{self.config.data}: no question of the {split} split has a right candidate")
        samples = PronounQuestions(examples, self.tokenizer, self.config.tokens_per_sample)
        cut = sum(candidates[0].is_cut for candidates in samples.questions)
        _LOGGER.info(
            "%s: %d questions; %d of them cut to fit %d tokens", split, len(samples), cut, self.config.tokens_per_sample
        )
        return samples

    def _read(self, split: str) -> list[PronounExample]:
        config = self.config
        named = {"train": config.train_file, "valid": config.valid_file}.get(split)
        path = config.data / named if named else find_split_file(config.data, split, _KINDS[config.data_layout])
        if config.data_layout == "wsc":
            return read_wsc(path)
        if config.data_layout == "text":
            return read_winograd_text(path)
        labels = path.with_name(f"{path.name.partition('.')[0]}-labels.lst")
        return read_winogrande(path, labels if labels.is_file() else None)

    def _with_candidates(self, examples: Sequence[PronounExample]) -> list[PronounExample]:
        """Return questions about one phrase with more phrases to compare it with."""
        phrases: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for example in examples:
            key = (example.before, example.pronoun, example.after)
            if self.config.wsc_candidates == "spans":
                phrases[key] += example.candidates
            elif key not in phrases:
                phrases[key] = noun_phrases("".join(key))
        results = []
        for example in examples:
            (query,) = example.candidates
            others = other_candidates(phrases[example.before, example.pronoun, example.after], query)
            results.append(replace(example, candidates=(query, *dict.fromkeys(others))))
        return results


def _is_right(best: int, answer: int) -> bool:
    return best != 0 if answer == REJECTED else best == answer
