"""The options of roberta-eval: which there are for which task, and which have no effect."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from roberta.config import flag, option
from roberta.data.questions import MAX_OPTION_TOKENS
from roberta.data.readers.choices import QUESTION_SETS, ChoiceFields
from roberta.data.readers.glue import GLUE
from roberta.data.readers.race import is_race_split
from roberta.data.readers.table import TableFormat
from roberta.errors import ConfigError

WINDOW_OPTIONS = ("doc_stride", "max_question_length", "max_answer_length")
MODEL_OPTIONS = (*WINDOW_OPTIONS, "head", "tokens_per_sample", "max_tokens", "precision", "cpu_engine")


@dataclass(frozen=True)
class EvalConfig:
    """Options of roberta-eval."""

    model: str | None = option(
        None, help="name of a released model, or path of a run, checkpoint folder or fairseq checkpoint"
    )
    head: str | None = option(None, help="the head to measure; the only one beside masked LM if not given")
    split: str = option("valid", help="the split to measure; mnli has valid1 too, the mismatched one")
    tokens_per_sample: int | None = option(
        None,
        help="tokens of a sample at most, longer texts are cut; if not given, as the model was trained on such a task, "
        "or else as many as it takes",
    )
    max_tokens: int = option(4096, help="tokens per forward pass, at most")
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", help="where to compute; auto takes CUDA if there is one, but for int8"
    )
    precision: Literal["fp32", "bf16", "fp16", "int8"] = option(
        "fp32",
        help="number format; others are faster and a little off: bf16 on GPUs and on CPUs that have it, fp16 on GPUs, "
        "int8, of the matrices alone, on CPUs",
    )
    cpu_engine: Literal["auto", "torch", "numpy", "onednn"] = option(
        "torch",
        help="what multiplies matrices on a CPU, in fp32 or (not numpy) bf16; auto measures which is the fastest",
    )

    def __post_init__(self) -> None:
        if self.precision == "int8" and self.device == "cuda":
            raise ConfigError("--precision int8 is for CPUs; leave it out, or give --device cpu")
        if self.precision in ("bf16", "fp16") and self.cpu_engine == "numpy":
            raise ConfigError(f"--cpu-engine numpy multiplies in fp32; leave out it, or --precision {self.precision}")
        if self.precision == "int8" and self.cpu_engine != "torch":
            raise ConfigError(
                f"--cpu-engine {self.cpu_engine} doesn't multiply in int8; leave out it, or --precision int8"
            )
        for name in ("tokens_per_sample", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{flag(name)} is {value}; it must be at least 1")


@dataclass(frozen=True)
class LabelOptions:
    """Options of roberta-eval for sets of labelled texts."""

    labels: tuple[str, ...] | None = option(
        None, help="names of the head's outputs, in order; its own if not given, or those of the set"
    )


@dataclass(frozen=True)
class ChoiceOptions:
    """Options of roberta-eval for sets of questions with options."""

    max_option_length: int | None = option(
        None,
        help="tokens of an option at most, with its question where there is a context too; if not given, as the model "
        f"was trained, or else {MAX_OPTION_TOKENS}",
    )


@dataclass(frozen=True)
class PronounOptions:
    """Options of roberta-eval wsc."""

    wsc_candidates: Literal["noun_phrases", "spans"] = option(
        "noun_phrases", help="what else a pronoun may stand for; as in roberta-finetune"
    )


@dataclass(frozen=True)
class SquadOptions:
    """Options of roberta-eval squad."""

    predictions: Path | None = option(None, help="score these answers, {id: text}, in the place of a model's")
    na_prob: Path | None = option(None, help="2.0: how likely no answer is, {id: number}, beside --predictions")
    na_prob_thresh: float | None = option(
        None, help="2.0: no answer is predicted where it is likelier, beside --na-prob; 1 if not given"
    )
    save_answers: Path | None = option(
        None,
        help="folder to write predictions.json, nbest.json and na_prob.json of a model to; they score the same with "
        "--na-prob and the best_f1_thresh that is printed as --na-prob-thresh",
    )
    doc_stride: int | None = option(None, help="tokens between windows; that of the model's training if not given")
    max_question_length: int | None = option(None, help="tokens of a question at most; likewise")
    max_answer_length: int | None = option(None, help="tokens of an answer at most; likewise")

    def __post_init__(self) -> None:
        if self.na_prob is not None and self.predictions is None:
            raise ConfigError("--na-prob goes with --predictions; give both, or neither and a model")
        if self.na_prob_thresh is not None and self.na_prob is None:
            raise ConfigError("--na-prob-thresh is one of --na-prob; give both, or neither")
        if self.predictions is not None and self.save_answers is not None:
            raise ConfigError("--save-answers writes those of a model; leave it out, or --predictions")


@dataclass(frozen=True)
class Request:
    """What is to be measured, and how."""

    task: str
    data: Path
    config: EvalConfig
    labels: LabelOptions
    table: TableFormat
    squad: SquadOptions
    fields: ChoiceFields
    choices: ChoiceOptions
    pronouns: PronounOptions
    given: argparse.Namespace  # all options that were given, those of a task of roberta-finetune among them


# the options that only some tasks have, by their title in the help
OPTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "labelled texts": (LabelOptions, (*GLUE, "table", "folders", "binarized")),
    "table": (TableFormat, ("table",)),
    "choices": (ChoiceFields, ("choices",)),
    "options of questions": (ChoiceOptions, (*QUESTION_SETS, "choices")),
    "wsc": (PronounOptions, ("wsc",)),
    "squad": (SquadOptions, ("squad", "squad2")),
}

# options of the other tasks that have no effect on one, and why
_IDLE: dict[str, dict[str, str]] = {
    "masked_lm": {"head": "whose head is that of masked LM"},
    **{name: {"split": "whose data is one file"} for name in ("squad", "squad2")},
}


def check_options(given: argparse.Namespace) -> None:
    """Refuse options that have no effect with this task, which is one of its own, or beside the other options."""
    for title, (options, tasks) in OPTIONS.items():
        for field in fields(options):
            if given.task not in tasks and hasattr(given, field.name):
                raise ConfigError(f"{flag(field.name)} is an option of {title}, not of {given.task}: leave it out")
    for name, reason in _IDLE.get(given.task, {}).items():
        if hasattr(given, name):
            raise ConfigError(f"{flag(name)} has no effect on {given.task}, {reason}: leave it out")
    check_split(given)
    if hasattr(given, "split") and given.task == "race" and is_race_split(given.data):
        raise ConfigError(f"--split chooses a folder of RACE, and {given.data} is one of them: leave it out")
    for name in MODEL_OPTIONS:
        if hasattr(given, "predictions") and hasattr(given, name):
            raise ConfigError(f"{flag(name)} says how a model reads, and --predictions has been read: leave it out")


def check_split(given: argparse.Namespace) -> None:
    """Refuse the name of a split beside a file, which is one."""
    if hasattr(given, "split") and given.data.is_file():
        raise ConfigError(f"--split chooses a file of a folder, and {given.data} is a file: leave it out")
