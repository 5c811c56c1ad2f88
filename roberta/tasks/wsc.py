"""What a pronoun stands for: SuperGLUE's WSC, WinoGrande, and the text files of WSC273 and DPR.

Each candidate is put in the place of the pronoun and masked there; all sequences of a question are one sample, and the
masked-LM head says how likely each candidate is.

Shapes: Q questions, B sequences, T packed tokens, M masked rows.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import log
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from roberta.config import option
from roberta.data.examples import REJECTED, PronounExample
from roberta.data.noun_phrases import noun_phrases, other_candidates
from roberta.data.pronouns import encode_candidates
from roberta.data.readers.split_files import has_split_file
from roberta.data.readers.winograd import read_winograd_text, read_winogrande, read_wsc
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError
from roberta.files import write_text
from roberta.layout import NO_TARGET, Batch, SequenceLayout
from roberta.models.heads import LM_HEAD, MaskedLMHeadConfig
from roberta.registry import TASKS
from roberta.tasks.choosing import Questions, check_answers, find_question_file, numbered
from roberta.tasks.task import TEST, Prediction, Task

_CANDIDATES: Literal["noun_phrases"] = "noun_phrases"
_SMALLEST = 1e-300  # probability, so that the log of 0 is finite
_KINDS = {"wsc": (".jsonl",), "winogrande": (".jsonl",), "text": (".txt",)}

logger = logging.getLogger(__name__)


class _Submission(NamedTuple):
    name: str  # of the file
    line: Callable[[PronounExample, int], str]  # of an example and the number of the candidate that is best


# of SuperGLUE's and of WinoGrande's leaderboard
_SUBMISSIONS = {
    "wsc": _Submission(
        "WSC.jsonl", lambda example, best: json.dumps({"idx": int(example.id), "label": str(best == 0)})
    ),
    "winogrande": _Submission("predictions.lst", lambda _, best: str(best + 1)),
}


@dataclass(frozen=True)
class WSCTaskConfig:
    """Options of finding what a pronoun stands for."""

    data: Path = option(help="folder of the data set")
    data_layout: Literal["wsc", "winogrande", "text"] = option(
        "wsc", help="wsc: SuperGLUE's WSC; winogrande; text: the text files of WSC273 and DPR"
    )
    train_file: Path | None = option(None, help="file of the train split in the folder, if no name tells")
    valid_file: Path | None = option(None, help="file of the valid split in the folder, if no name tells")
    wsc_candidates: Literal["noun_phrases", "spans"] = option(
        _CANDIDATES,
        help="wsc: what else a pronoun may stand for: the noun phrases of its text, which spaCy finds, or the phrases "
        "that other questions ask about in its place",
    )
    tokens_per_sample: int = option(512, help="tokens of a candidate's sequence at most; both ends of a text are cut")

    def __post_init__(self) -> None:
        if self.tokens_per_sample < 3:
            raise ConfigError(f"--tokens-per-sample is {self.tokens_per_sample}; <s>, a mask and </s> need 3")
        if self.data_layout != "wsc" and self.wsc_candidates != _CANDIDATES:
            raise ConfigError(
                "--wsc-candidates is for SuperGLUE's WSC; the other sets name their candidates: leave it out"
            )


class PronounQuestions(Questions):
    """Questions, each with a sequence for every candidate."""

    examples: Sequence[PronounExample]

    def __init__(
        self,
        examples: Sequence[PronounExample],
        tokenizer: Tokenizer,
        max_tokens: int,
        submission: _Submission | None = None,
    ) -> None:
        self.submission = submission
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
        super().__init__(examples, [[len(candidate.tokens) for candidate in question] for question in self.questions])

    def counts(self) -> dict[str, int]:
        """Return how many questions lost some of their text, and how many have but one candidate, which then wins."""
        return {
            "num_truncated": sum(candidates[0].is_cut for candidates in self.questions),
            "num_single_candidates": sum(len(candidates) == 1 for candidates in self.questions),
        }

    def batch(self, sample_ids: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Return the sequences of these questions, those of a question one after another."""
        questions = [self.questions[index] for index in sample_ids.tolist()]
        candidates = [candidate for question in questions for candidate in question]
        lengths = [len(candidate.tokens) for candidate in candidates]
        starts = accumulate(lengths, initial=0)
        select = [start + candidate.rows for start, candidate in zip(starts, candidates, strict=False)]
        answers = self.answers[sample_ids]
        targets = np.concatenate([answers, *(candidate.targets for candidate in candidates)])
        counts = [len(question) for question in questions]
        return Batch(
            tokens=torch.from_numpy(np.concatenate([candidate.tokens for candidate in candidates])),
            layout=SequenceLayout.from_lengths(lengths),
            select=torch.from_numpy(np.concatenate(select)),
            targets=torch.from_numpy(targets),
            num_targets=int((answers != NO_TARGET).sum()),
            sample_ids=tuple(sample_ids.tolist()),
            groups=SequenceLayout.from_lengths(counts),
            output_rows=tuple(counts),  # a score for each candidate
        )

    def score(self, outputs: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the accuracy; a query that is to be rejected is so where another candidate has a better score.

        Raises:
            DataError: no question has an answer.
        """
        is_right = [
            _is_right(int(rows.argmax()), example) for rows, example in zip(outputs, self.examples, strict=True)
        ]
        return {"accuracy": float(np.mean(np.array(is_right)[self.are_told()]))}

    def predictions(self, outputs: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """Return the candidate chosen for each pronoun, and the share of each candidate's score in a softmax."""
        return [_prediction(*pair) for pair in zip(self.examples, outputs, strict=True)]

    def write_predictions(self, folder: Path, outputs: Sequence[NDArray[np.float32]]) -> None:
        """Write the file that the set's leaderboard takes, of a test split for which there is one."""
        if self.submission is not None:
            pairs = zip(self.examples, outputs, strict=True)
            lines = [self.submission.line(example, int(rows.argmax())) for example, rows in pairs]
            write_text(folder / self.submission.name, "".join(f"{line}\n" for line in lines), escape=True)


@TASKS.register("wsc", WSCTaskConfig)
class WSCTask(Task):
    """Find what a pronoun stands for."""

    head = LM_HEAD

    def __init__(self, config: WSCTaskConfig, tokenizer: Tokenizer | None = None) -> None:
        self.config = config
        self.tokenizer = tokenizer or Tokenizer.load()

    def head_config(self, model_config: Any) -> MaskedLMHeadConfig:
        """Return the config of the masked-LM head, which has the activation of the model."""
        return MaskedLMHeadConfig(activation_fn=model_config.activation_fn)

    def test_splits(self) -> tuple[str, ...]:
        """Return `test` where the data has such a split, and it is not the one for validation."""
        has_test = has_split_file(self.config.data, TEST, _KINDS[self.config.data_layout])
        return (TEST,) if has_test and self._path(TEST) != self._path("valid") else ()

    def samples(self, split: str) -> PronounQuestions:
        """Return the questions of a split; those of a test split may lack answers.

        Of the train split the questions whose query is to be rejected are left out: they have no right candidate to
        learn from; and those with nothing beside the query, which is then sure to win. Other splits keep the latter:
        the query is the answer. The log counts them, and the texts that are cut.

        Raises:
            ConfigError: noun phrases are asked for, and spaCy is not installed.
            DataError: the split is missing, or damaged, or an answer is missing from another split than test.
        """
        examples = self._read(split)
        check_answers(examples, split)
        if self.config.data_layout == "wsc":
            examples = self._with_candidates(examples)
        if split == "train":
            examples = self._learnable(examples)
        submission = _SUBMISSIONS.get(self.config.data_layout) if split == TEST else None
        samples = PronounQuestions(examples, self.tokenizer, self.config.tokens_per_sample, submission)
        counts = samples.counts()
        logger.info(
            "%s: %d questions; %d of them cut to fit %d tokens",
            split,
            len(samples),
            counts["num_truncated"],
            self.config.tokens_per_sample,
        )
        if counts["num_single_candidates"]:
            logger.info(
                "%s: %d questions with nothing to compare the query with; it is taken for the answer",
                split,
                counts["num_single_candidates"],
            )
        return samples

    def _learnable(self, examples: Sequence[PronounExample]) -> list[PronounExample]:
        """Return the questions of a train split that teach something."""
        answered = [example for example in examples if example.answer != REJECTED]
        if rejected := len(examples) - len(answered):
            logger.info("train: %d questions without a right candidate to learn from are left out", rejected)
        kept = [example for example in answered if len(example.candidates) > 1]
        if single := len(answered) - len(kept):
            logger.info("train: %d questions with nothing to compare the query with are left out", single)
        if not kept:
            raise DataError(
                f"{self.config.data}: no question of the train split has a right candidate and another one to "
                "compare it with; nothing can be learnt from it"
            )
        return kept

    def _read(self, split: str) -> list[PronounExample]:
        path = self._path(split)
        if self.config.data_layout == "wsc":
            return read_wsc(path)
        if self.config.data_layout == "text":
            return read_winograd_text(path)
        labels = path.with_name(f"{path.name.partition('.')[0]}-labels.lst")
        return read_winogrande(path, labels if labels.is_file() else None)

    def _path(self, split: str) -> Path:
        config = self.config
        kinds = _KINDS[config.data_layout]
        return find_question_file(
            config.data, split, kinds=kinds, train_file=config.train_file, valid_file=config.valid_file
        )

    def _with_candidates(self, examples: Sequence[PronounExample]) -> list[PronounExample]:
        """Return questions about one phrase with more phrases to compare it with."""
        phrases: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for example in examples:
            key = (example.before, example.pronoun, example.after)
            if self.config.wsc_candidates == "spans":
                phrases[key] += example.candidates
            elif key not in phrases:
                phrases[key] = _noun_phrases("".join(key))
        results = []
        for example in examples:
            (query,) = example.candidates
            others = other_candidates(phrases[example.before, example.pronoun, example.after], query)
            results.append(replace(example, candidates=(query, *dict.fromkeys(others))))
        return results


def _noun_phrases(text: str) -> list[str]:
    try:
        return noun_phrases(text)
    except ConfigError as error:
        raise ConfigError(f"{error}; or do without it: --wsc-candidates spans") from error


def _is_right(best: int, example: PronounExample) -> bool:
    return best != 0 if example.answer == REJECTED else best == example.answer


def _prediction(example: PronounExample, output: NDArray[np.float32]) -> Prediction:
    names = numbered(example.candidates)
    shares = torch.from_numpy(output[:, 0]).double().softmax(dim=0).tolist()
    right, answer = None, None
    if example.answer == REJECTED:
        right, answer = 1.0 - shares[0], f"not {names[0]}"
    elif example.answer is not None:
        right, answer = shares[example.answer], names[example.answer]
    return Prediction(
        id=example.id,
        source=example.source,
        text=f"{example.before}[{example.pronoun}]{example.after}",
        answer=answer,
        prediction=names[int(output.argmax())],
        probabilities=dict(zip(names, shares, strict=True)),
        error=None if right is None else -log(max(right, _SMALLEST)),
    )
