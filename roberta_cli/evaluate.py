"""roberta-eval: measure a model."""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from roberta.config import add_arguments, flag, from_namespace, option
from roberta.data.questions import MAX_OPTION_TOKENS
from roberta.data.readers.choices import QUESTION_SETS, ChoiceFields
from roberta.data.readers.glue import GLUE
from roberta.data.readers.race import is_race_split
from roberta.data.readers.table import TableFormat
from roberta.data.readers.winograd import PRONOUN_SETS
from roberta.errors import ConfigError, VocabError
from roberta.metrics import METRICS_OF_KIND
from roberta_cli.entry import Parser, add_user_module, check_exists, load_user_modules, opened, run
from roberta_cli.results import Result

logger = logging.getLogger("roberta")  # whose level --quiet sets

DESCRIPTION = f"""Measure a model on a data set.

  {", ".join(GLUE)}
             a set of GLUE or SuperGLUE, in the folder of its download or a file of it: the set's metrics,
             accuracy with its 95 % interval, the same by genre, and the confusion matrix
  table      the same on your own .tsv, .csv or .jsonl, or a folder that has one for each split
  folders    the same on texts in SPLIT/LABEL/NAME.txt, as in aclImdb
  binarized  the same on a folder that fairseq-preprocess made of input0, input1 and label
  squad      SQuAD's official figures, of either version, for a development file: of predictions in files, or of the
             answers of a model, which --save-answers writes as such files
  {", ".join(QUESTION_SETS)}, choices
             choosing among options: accuracy, for RACE that of middle and high too; choices is your own .jsonl
  {", ".join(PRONOUN_SETS)}
             what a pronoun stands for, by the masked-LM head: accuracy; no fine-tuning is needed
  masked_lm  loss and perplexity on a split of a folder that roberta-preprocess made"""

EXAMPLE = """  roberta-eval mnli glue_data/MNLI/dev_matched.tsv --model roberta.large.mnli
  roberta-eval table reviews/test.csv --model runs/reviews --text-columns review --label-column stars
  roberta-eval squad dev-v2.0.json --predictions predictions.json --na-prob na_prob.json
  roberta-eval squad dev-v1.1.json --model runs/squad
  roberta-eval winogrande winogrande_1.1/dev.jsonl --model roberta.large
  roberta-eval masked_lm data-bin --model runs/small"""

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
    precision: Literal["fp32", "int8"] = option(
        "fp32", help="number format of the matrices; int8 is for CPUs, faster and a little off"
    )
    cpu_engine: Literal["auto", "torch", "numpy", "onednn"] = option(
        "torch", help="what multiplies matrices in fp32 on a CPU; auto measures which is the fastest"
    )

    def __post_init__(self) -> None:
        if self.precision == "int8" and self.device == "cuda":
            raise ConfigError("--precision int8 is for CPUs; leave it out, or give --device cpu")
        if self.precision == "int8" and self.cpu_engine != "torch":
            raise ConfigError(f"--cpu-engine {self.cpu_engine} multiplies in fp32; leave out it, or --precision int8")
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


# the options that only some tasks have, by their title in the help
_OPTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "labelled texts": (LabelOptions, (*GLUE, "table", "folders", "binarized")),
    "table": (TableFormat, ("table",)),
    "choices": (ChoiceFields, ("choices",)),
    "options of questions": (ChoiceOptions, (*QUESTION_SETS, "choices")),
    "wsc": (PronounOptions, ("wsc",)),
    "squad": (SquadOptions, ("squad",)),
}

# options of the other tasks that have no effect on one, and why
_IDLE: dict[str, dict[str, str]] = {
    "masked_lm": {"head": "whose head is that of masked LM"},
    "squad": {"split": "whose data is one file"},
}


def command(argv: Sequence[str]) -> Result:
    """Do what the arguments say, and return the figures."""
    parser = Parser("roberta-eval", "TASK DATA", description=DESCRIPTION, example=EXAMPLE)
    parser.add_argument("task", choices=EVALUATORS, metavar="TASK", help="what to measure, see above")
    parser.add_argument("data", type=Path, metavar="DATA", help="the file or folder to measure on")
    add_arguments(parser, EvalConfig, title="evaluation")
    for title, (options, _) in _OPTIONS.items():
        add_arguments(parser, options, title=title)
    add_user_module(parser)
    given = parser.parse_args(argv)
    load_user_modules(given.user_module)
    _check_options(given)
    check_exists(given.data)
    request = Request(
        task=given.task,
        data=given.data,
        config=from_namespace(EvalConfig, given),
        labels=from_namespace(LabelOptions, given),
        table=from_namespace(TableFormat, given),
        squad=from_namespace(SquadOptions, given),
        fields=from_namespace(ChoiceFields, given),
        choices=from_namespace(ChoiceOptions, given),
        pronouns=from_namespace(PronounOptions, given),
    )
    return {"task": given.task, "model": request.config.model, **EVALUATORS[given.task](request)}


def _check_options(given: argparse.Namespace) -> None:
    """Refuse options that have no effect with this task, or beside the other options."""
    for title, (options, tasks) in _OPTIONS.items():
        for field in fields(options):
            if given.task not in tasks and hasattr(given, field.name):
                raise ConfigError(f"{flag(field.name)} is an option of {title}, not of {given.task}: leave it out")
    for name, reason in _IDLE.get(given.task, {}).items():
        if hasattr(given, name):
            raise ConfigError(f"{flag(name)} has no effect on {given.task}, {reason}: leave it out")
    if hasattr(given, "split") and given.data.is_file():
        raise ConfigError(f"--split chooses a file of a folder, and {given.data} is a file: leave it out")
    if hasattr(given, "split") and given.task == "race" and is_race_split(given.data):
        raise ConfigError(f"--split chooses a folder of RACE, and {given.data} is one of them: leave it out")
    for name in MODEL_OPTIONS:
        if hasattr(given, "predictions") and hasattr(given, name):
            raise ConfigError(f"{flag(name)} says how a model reads, and --predictions has been read: leave it out")


def _glue(request: Request) -> dict[str, Any]:
    from roberta.data.readers.glue import read_glue

    the_set = GLUE[request.task]
    examples = read_glue(request.data, request.task, request.config.split)
    return _texts(request, examples, labels=the_set.labels or (), metrics=the_set.metrics)


def _table(request: Request) -> dict[str, Any]:
    from roberta.data.readers.split_files import find_split_file
    from roberta.data.readers.table import KINDS, read_table

    path = find_split_file(request.data, request.config.split, KINDS) if request.data.is_dir() else request.data
    return _texts(request, read_table(path, request.table), metrics=METRICS_OF_KIND[request.table.kind])


def _folders(request: Request) -> dict[str, Any]:
    from roberta.data.readers.folders import read_folders

    examples = read_folders(request.data, request.config.split)
    return _texts(request, examples, metrics=METRICS_OF_KIND["classification"])


def _binarized(request: Request) -> dict[str, Any]:
    from roberta.data.readers.binarized import binarized_dictionary, binarized_labels, read_binarized

    dictionary = binarized_dictionary(request.data)
    examples = read_binarized(request.data, request.config.split)
    kind = "regression" if isinstance(examples[0].label, float) else "classification"
    labels = binarized_labels(request.data)
    return _texts(request, examples, labels=labels, metrics=METRICS_OF_KIND[kind], dictionary=dictionary)


def _texts(
    request: Request,
    examples: Sequence[Any],
    *,
    labels: tuple[str, ...] = (),
    metrics: tuple[str, ...],
    dictionary: Any = None,
) -> dict[str, Any]:
    from roberta.evaluation import Judgement, evaluate_texts, only_head

    config = request.config
    roberta = _model(config)
    if dictionary is not None and dictionary != roberta.tokenizer.dictionary:
        raise VocabError(f"{request.data}: its dictionary is not the model's; binarise with the model's dict.txt")
    judgement = Judgement(
        roberta,
        config.head or only_head(roberta),
        metrics,
        labels=request.labels.labels or (),
        labels_of_set=labels,
        max_tokens=config.max_tokens,
        **_reading(request, roberta, "sentence_prediction"),
    )
    return evaluate_texts(judgement, examples)


def _squad(request: Request) -> dict[str, Any]:
    from roberta.data.readers.squad import read_squad
    from roberta.question_answering import read_na_probs, read_predictions, score_predictions

    options = request.squad
    questions = read_squad(request.data)
    if options.predictions is None:
        return _answers(request, questions)
    if request.config.model is not None:
        raise ConfigError("--model and --predictions: the one gives answers, the other has them; leave one out")
    na_probs = None if options.na_prob is None else read_na_probs(options.na_prob)
    predictions = read_predictions(options.predictions)
    threshold = 1.0 if options.na_prob_thresh is None else options.na_prob_thresh
    return score_predictions(questions, predictions, na_probs, na_threshold=threshold)


def _answers(request: Request, questions: Sequence[Any]) -> dict[str, Any]:
    from roberta.answers import write_answers
    from roberta.data.readers.squad import version_of
    from roberta.evaluation import only_head
    from roberta.pretrained import training_options
    from roberta.question_answering import Reading, answer_questions, span_options
    from roberta.tasks.span import SpanTask

    config, options = request.config, request.squad
    roberta = _model(config)
    reading = Reading(roberta, config.head or only_head(roberta, SpanTask.head), max_tokens=config.max_tokens)
    lengths = {"tokens_per_sample": config.tokens_per_sample} | {
        name: getattr(options, name) for name in WINDOW_OPTIONS
    }
    assert config.model is not None
    version = version_of(questions)
    task = span_options(
        request.data,
        version,
        max_tokens=roberta.max_tokens,
        trained=training_options(config.model).get("task", {}),
        given={name: value for name, value in lengths.items() if value is not None},
    )
    answers, figures = answer_questions(reading, questions, task)
    if options.save_answers is not None:
        write_answers(options.save_answers, answers, may_have_none=version == "2.0")
    return figures


def _questions(request: Request) -> dict[str, Any]:
    from roberta.criterions.sentence_ranking import SentenceRankingLoss, SentenceRankingLossConfig
    from roberta.evaluation import evaluate_questions, only_head
    from roberta.tasks.sentence_ranking import SentenceRankingTask, SentenceRankingTaskConfig

    config = request.config
    roberta = _model(config)
    options = QUESTION_SETS[request.task] if request.task in QUESTION_SETS else asdict(request.fields)
    reading = _reading(request, roberta, "sentence_ranking", "max_option_length")
    place, split = _place(request), config.split
    if options.get("data_layout") == "race":
        place, split = _race_place(request)
    task_config = SentenceRankingTaskConfig(**options | place | reading)
    head = config.head or only_head(roberta, SentenceRankingTask.head)
    criterion = SentenceRankingLoss(SentenceRankingLossConfig(), head)
    task = SentenceRankingTask(task_config, roberta.tokenizer)
    return evaluate_questions(roberta, task, criterion, split, max_tokens=config.max_tokens)


def _pronouns(request: Request) -> dict[str, Any]:
    from roberta.criterions.wsc import WSCLoss, WSCLossConfig
    from roberta.evaluation import evaluate_questions
    from roberta.tasks.wsc import WSCTask, WSCTaskConfig

    config = request.config
    roberta = _model(config)
    options = PRONOUN_SETS[request.task] | _place(request) | _reading(request, roberta, "wsc")
    if request.task == "wsc":
        options["wsc_candidates"] = request.pronouns.wsc_candidates
    task = WSCTask(WSCTaskConfig(**options), roberta.tokenizer)
    criterion = WSCLoss(WSCLossConfig(wsc_cross_entropy=True), config.head or WSCTask.head)
    return evaluate_questions(roberta, task, criterion, config.split, max_tokens=config.max_tokens)


def _place(request: Request) -> dict[str, Any]:
    """Return the folder of the data, and the file in it where one is given."""
    if request.data.is_dir():
        return {"data": request.data}
    return {"data": request.data.parent, "valid_file": Path(request.data.name)}


def _race_place(request: Request) -> tuple[dict[str, Any], str]:
    """Return the folder of RACE and the split, of which the folder may be given."""
    if not request.data.is_dir():
        raise ConfigError(f"{request.data}: not a folder; give that of RACE, or one of its splits such as RACE/test")
    if is_race_split(request.data):
        folder = request.data.resolve()
        return {"data": folder.parent}, folder.name
    return {"data": request.data}, request.config.split


def _masked_lm(request: Request) -> dict[str, Any]:
    from roberta.data.cache import is_raw_text
    from roberta.evaluation import evaluate_masked_lm
    from roberta.tasks.masked_lm import MaskedLMTask, MaskedLMTaskConfig

    if is_raw_text(request.data):
        raise ConfigError(f"{request.data}: text; give what roberta-preprocess makes of it with the model's --vocab")
    roberta = _model(request.config)
    reading = _reading(request, roberta, "masked_lm", "sample_break_mode")
    task = MaskedLMTask(MaskedLMTaskConfig(data=request.data, **reading))
    return evaluate_masked_lm(roberta, task, request.config.split, max_tokens=request.config.max_tokens)


def _reading(request: Request, roberta: Any, task: str, *names: str) -> dict[str, Any]:
    """Return the options of a task that say how it reads: as given, or as the model was trained on such a task.

    tokens_per_sample is among them, as many as the model takes if nothing says how many.

    Raises:
        ConfigError: more are given than the model takes.
    """
    from roberta.pretrained import training_options

    assert request.config.model is not None
    names = ("tokens_per_sample", *names)
    trained = training_options(request.config.model).get("task", {})
    known = {name: trained[name] for name in names if name in trained} if trained.get("type") == task else {}
    given = {**asdict(request.config), **asdict(request.choices)}
    reading = {"tokens_per_sample": roberta.max_tokens} | known
    reading |= {name: given[name] for name in names if given.get(name) is not None}
    if reading["tokens_per_sample"] > roberta.max_tokens:
        raise ConfigError(
            f"--tokens-per-sample {reading['tokens_per_sample']}; the model takes {roberta.max_tokens} at most"
        )
    return reading


def _model(config: EvalConfig) -> Any:
    from roberta.devices import choose_device

    if config.model is None:
        raise ConfigError("required: --model")
    model = opened(config.model)
    if config.precision == "int8":
        return model.int8()
    model.to(choose_device(config.device)).set_cpu_engine(config.cpu_engine)
    if config.cpu_engine == "auto":
        logger.info("matrices by %s", model.model.cpu_engine)
    return model


EVALUATORS: dict[str, Callable[[Request], dict[str, Any]]] = {
    **dict.fromkeys(GLUE, _glue),
    "table": _table,
    "folders": _folders,
    "binarized": _binarized,
    "squad": _squad,
    **dict.fromkeys((*QUESTION_SETS, "choices"), _questions),
    **dict.fromkeys(PRONOUN_SETS, _pronouns),
    "masked_lm": _masked_lm,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
