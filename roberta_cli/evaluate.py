"""roberta-eval: measure a model."""

import argparse
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roberta.config import add_arguments, from_namespace
from roberta.data.readers.choices import QUESTION_SETS, ChoiceFields
from roberta.data.readers.glue import GLUE
from roberta.data.readers.race import is_race_split
from roberta.data.readers.table import TableFormat
from roberta.data.readers.winograd import PRONOUN_SETS
from roberta.errors import ConfigError, VocabError
from roberta.metrics import METRICS_OF_KIND
from roberta_cli.entry import Parser, add_user_module, asks_about, check_exists, load_user_modules, opened, run
from roberta_cli.evaluation_options import (
    OPTIONS,
    WINDOW_OPTIONS,
    ChoiceOptions,
    EvalConfig,
    LabelOptions,
    PronounOptions,
    Request,
    SquadOptions,
    check_options,
    check_split,
)
from roberta_cli.results import Result

if TYPE_CHECKING:
    from roberta.finetuning import DataSet

logger = logging.getLogger("roberta")  # whose level --quiet sets

_OF_TRAINING = ("train_file", "valid_file", "head_dropout")  # options of tasks that have no effect on a measurement

DESCRIPTION = f"""Measure a model on a data set.

  {", ".join(GLUE)}
             a set of GLUE or SuperGLUE, in the folder of its download or a file of it: the set's metrics,
             accuracy with its 95 % interval, the same by genre, and the confusion matrix
  table      the same on your own .tsv, .csv or .jsonl, or a folder that has one for each split
  folders    the same on texts in SPLIT/LABEL/NAME.txt, as in aclImdb
  binarized  the same on a folder that fairseq-preprocess made of input0, input1 and label
  squad, squad2
             SQuAD's official figures, of either version, for a development file: of predictions in files, or of the
             answers of a model, which --save-answers writes as such files
  {", ".join(QUESTION_SETS)}, choices
             choosing among options: accuracy, for RACE that of middle and high too; choices is your own .jsonl
  {", ".join(PRONOUN_SETS)}
             what a pronoun stands for, by the masked-LM head: accuracy; no fine-tuning is needed
  tagging    a label for each word: accuracy, and of entities precision, recall and F1, of each type too
  masked_lm  loss and perplexity on a split of a folder that roberta-preprocess made

So are data sets of yours that a --user-module adds to those of roberta-finetune, by their task and criterion; TASK
then comes before all options."""

EXAMPLE = """  roberta-eval mnli glue_data/MNLI/dev_matched.tsv --model roberta.large.mnli
  roberta-eval table reviews/test.csv --model runs/reviews --text-columns review --label-column stars
  roberta-eval squad dev-v2.0.json --predictions predictions.json --na-prob na_prob.json
  roberta-eval squad dev-v1.1.json --model runs/squad
  roberta-eval winogrande winogrande_1.1/dev.jsonl --model roberta.large
  roberta-eval tagging conll2003 --split test --model runs/tagging
  roberta-eval masked_lm data-bin --model runs/small"""


def command(argv: Sequence[str]) -> Result:
    """Do what the arguments say, and return the figures."""
    _load_user_module(argv)
    name = argv[0] if argv and not argv[0].startswith("-") else None
    others = {} if name in EVALUATORS or (asks_about(argv) and name is None) else _other_sets()
    given = _parser(others.get(name or ""), others).parse_args(argv)
    is_other = given.task in others
    if is_other and given.task != name:
        raise ConfigError(f"give {given.task} {given.data} before the options; see roberta-eval --help")
    (check_split if is_other else check_options)(given)
    check_exists(given.data)
    own = argparse.Namespace() if is_other else given
    request = Request(
        task=given.task,
        data=given.data,
        config=from_namespace(EvalConfig, given),
        labels=from_namespace(LabelOptions, own),
        table=from_namespace(TableFormat, own),
        squad=from_namespace(SquadOptions, own),
        fields=from_namespace(ChoiceFields, own),
        choices=from_namespace(ChoiceOptions, own),
        pronouns=from_namespace(PronounOptions, own),
        given=given,
    )
    return {"task": given.task, "model": request.config.model, **EVALUATORS.get(given.task, _by_task)(request)}


def _load_user_module(argv: Sequence[str]) -> None:
    """Import a user's module, whose data sets are then among those that can be named."""
    parser = Parser("roberta-eval", "TASK DATA", description="", example="", add_help=False)
    add_user_module(parser)
    load_user_modules(parser.parse_known_args(argv)[0].user_module)


def _other_sets() -> dict[str, "DataSet"]:
    """Return the data sets of roberta-finetune that have no evaluator of their own here."""
    from roberta.finetuning import DATASETS

    return {name: the_set for name, the_set in DATASETS.items() if name not in EVALUATORS}


def _parser(the_set: "DataSet | None", others: Collection[str]) -> argparse.ArgumentParser:
    """Return the parser of all options: those of a data set's task if it is one of the others."""
    parser = Parser("roberta-eval", "TASK DATA", description=DESCRIPTION, example=EXAMPLE)
    parser.add_argument("task", choices=(*EVALUATORS, *others), metavar="TASK", help="what to measure, see above")
    parser.add_argument("data", type=Path, metavar="DATA", help="the file or folder to measure on")
    add_arguments(parser, EvalConfig, title="evaluation")
    if the_set is None:
        for title, (options, _) in OPTIONS.items():
            add_arguments(parser, options, title=title)
    else:
        from roberta.registry import TASKS

        hidden = ("data", *_OF_TRAINING, *the_set.options, *(field.name for field in fields(EvalConfig)))
        add_arguments(parser, TASKS.config_class(the_set.task), title=f"task {the_set.task}", exclude=hidden)
    add_user_module(parser)
    return parser


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


def _by_task(request: Request) -> dict[str, Any]:
    """Measure by what trains on such data: its task, its criterion and the validation of training."""
    from roberta.config import from_json
    from roberta.evaluation import evaluate_task, only_head
    from roberta.finetuning import data_set
    from roberta.pretrained import training_options
    from roberta.registry import CRITERIONS, TASKS

    config, the_set = request.config, data_set(request.task)
    roberta = _model(config)
    heads = tuple(roberta.model.heads)
    head = config.head or (heads[0] if len(heads) == 1 else only_head(roberta, the_set.task))
    trained = training_options(str(config.model))

    def as_trained(part: str, name: str, config_class: Any) -> Any:
        """Return the options of a component as the model was trained with it; None if it was not."""
        options = dict(trained.get(part, {}))
        is_same = options.pop("type", None) == name
        return from_json(config_class, options, source=f"{config.model}: {part}") if is_same else None

    task_class, criterion_class = TASKS.config_class(the_set.task), CRITERIONS.config_class(the_set.criterion)
    criterion = as_trained("criterion", the_set.criterion, criterion_class) or criterion_class()
    task = from_namespace(
        task_class,
        argparse.Namespace(**_task_options(request, roberta, head, the_set)),
        as_trained("task", the_set.task, task_class),
    )
    return evaluate_task(roberta, task, criterion, head, config.split, max_tokens=config.max_tokens)


def _task_options(request: Request, roberta: Any, head: str, the_set: "DataSet") -> dict[str, Any]:
    """Return the options of a task that are not as the model was trained: its data, what was given, and its labels."""
    from roberta.recipe import PLACES
    from roberta.registry import TASKS

    known = {field.name: field for field in fields(TASKS.config_class(the_set.task))}
    options = {name: known[name].default for name in PLACES if name in known and name != "data"}
    labels = getattr(roberta.model.head_config(head), "labels", None)
    if "labels" in known and labels is not None:
        if not labels and not hasattr(request.given, "labels"):
            raise ConfigError(f"head {head!r} has no names for its labels; name them in their order with --labels")
        given = tuple(getattr(request.given, "labels", labels))
        if labels and given != labels:
            raise ConfigError(f"head {head!r} has names for its outputs: {', '.join(labels)}; leave out --labels")
        options["labels"] = labels
    if "tokens_per_sample" in known:
        options |= _reading(request, roberta, the_set.task)
    elif request.config.tokens_per_sample is not None:
        raise ConfigError(f"--tokens-per-sample has no effect on {request.task}, whose task has no such option")
    options |= {name: value for name, value in vars(request.given).items() if name in known}
    place = _place(request) if "valid_file" in known else {"data": request.data}
    return options | dict(the_set.options) | place


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
    from roberta.registry import TASKS

    assert request.config.model is not None
    names = ("tokens_per_sample", *names)
    trained = training_options(request.config.model).get("task", {})
    kind = trained.get("type")
    is_such = kind in TASKS and issubclass(TASKS.config_class(kind), TASKS.config_class(task))
    known = {name: trained[name] for name in names if name in trained} if is_such else {}
    given = {**asdict(request.config), **asdict(request.choices)}
    reading = {"tokens_per_sample": roberta.max_tokens} | known
    reading |= {name: given[name] for name in names if given.get(name) is not None}
    if reading["tokens_per_sample"] > roberta.max_tokens:
        raise ConfigError(
            f"--tokens-per-sample {reading['tokens_per_sample']}; the model takes {roberta.max_tokens} at most"
        )
    return reading


def _model(config: EvalConfig) -> Any:
    from roberta.devices import choose_device, dtype_of

    if config.model is None:
        raise ConfigError("required: --model")
    if config.precision == "int8":
        return opened(config.model).int8()
    device = choose_device(config.device)
    if config.precision == "fp16" and device.type == "cpu":
        raise ConfigError("--precision fp16 is for GPUs, and this is a CPU; give fp32, bf16 or int8")
    model = opened(config.model).to(device, dtype_of(config.precision)).set_cpu_engine(config.cpu_engine)
    if config.cpu_engine == "auto":
        logger.info("matrices by %s", model.model.cpu_engine)
    return model


EVALUATORS: dict[str, Callable[[Request], dict[str, Any]]] = {
    **dict.fromkeys(GLUE, _glue),
    "table": _table,
    "folders": _folders,
    "binarized": _binarized,
    **dict.fromkeys(("squad", "squad2"), _squad),
    **dict.fromkeys((*QUESTION_SETS, "choices"), _questions),
    **dict.fromkeys(PRONOUN_SETS, _pronouns),
    "masked_lm": _masked_lm,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
