"""roberta-finetune: train a pretrained model on a data set, from raw files to scores."""

import argparse
import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roberta.errors import ConfigError
from roberta_cli.entry import (
    Parser,
    add_training_components,
    asks_about,
    check_exists,
    expanded,
    is_recipe,
    load_user_modules,
    run,
)
from roberta_cli.results import Result

if TYPE_CHECKING:
    from roberta.finetuning import DataSet
    from roberta.pretrained import Pretrained

_NAMELESS = "name a data set and where it is, before all options"
_LENGTHS = ("--max-update", "--max-epoch")  # of a run; the shorter one counts

DESCRIPTION = """Fine-tune a pretrained model on a data set, keep the best checkpoint, predict, and write a report.

  cola sst2 mrpc stsb qqp mnli qnli rte wnli boolq cb wic
                  a set of GLUE or SuperGLUE, in the folder of its download
  table           your own .tsv, .csv or .jsonl, or a folder that has one for each split
  folders         texts in SPLIT/LABEL/NAME.txt, as in aclImdb
  binarized       a folder that fairseq-preprocess made of input0, input1 and label
  squad squad2    SQuAD 1.1 and 2.0: train.json with --dev dev.json, or the folder of both
  race            RACE's folders
  commonsense_qa openbookqa arc hellaswag copa
                  multiple choice, in the folder of the download
  choices         your own multiple choice, in .jsonl
  tagging         a label for each word, such as named entities, in files as CoNLL's: a word a line
  wsc winogrande dpr
                  what a pronoun or a blank stands for

Every set has the hyper-parameters that were published for it: `roberta-finetune rte --help` shows those of RTE, and
options change them; --max-update or --max-epoch takes the place of both. With several --seeds or --lr there is a run
for each combination. In the end the folder (runs/DATA_SET, or --save-dir) holds the best model, predictions, report.md
and report.json."""

EXAMPLE = """  roberta-finetune rte glue_data/RTE --init roberta.large
  roberta-finetune sst2 glue_data/SST-2 --init roberta.base --save-dir runs/sst2 --seeds 1 2 3 --lr 1e-5 2e-5 3e-5
  roberta-finetune table reviews.csv --text-columns title body --label-column stars --save-dir runs/reviews"""

RECIPES = Path(__file__).with_name("recipes")
logger = logging.getLogger("roberta")  # whose level --quiet sets

RUNS = Path("runs")  # where a run's folder is, named as its data set, if --save-dir does not say


def parse(argv: Sequence[str]) -> tuple[str, Any, Any, "Pretrained"]:
    """Return the name of the data set, the Recipe and the SweepConfig of the arguments, and the model to start from."""
    from roberta import pretrained
    from roberta.config import from_namespace
    from roberta.finetuning import RegularisationConfig, SweepConfig, data_set
    from roberta.recipe import Recipe, TrainerConfig, config_classes

    places, recipes, options = _arguments(argv)
    arguments = [*places, *recipes, *options]
    choice, _ = _parser(add_help=False).parse_known_args(arguments)
    choice.name = places[0] if places else None  # not the value of an option that this parser does not know
    load_user_modules(choice.user_module)
    the_set = data_set(choice.name or "table")
    configs = config_classes(
        task=the_set.task, criterion=the_set.criterion, optimizer=choice.optimizer, lr_scheduler=choice.lr_scheduler
    )
    full_parser = partial(_full_parser, the_set, choice, configs)

    of_recipe, _ = full_parser({}).parse_known_args(recipes)
    shown = {key: tuple(value) if isinstance(value, list) else value for key, value in vars(of_recipe).items()}
    parser = full_parser(shown)
    given = parser.parse_args(arguments)
    if choice.name is None or given.data is None:
        parser.error(_NAMELESS)
    check_exists(given.data)
    vars(given).update(the_set.options)
    sweep = from_namespace(SweepConfig, given)
    given.lr, given.init_from = sweep.lr[0], given.init
    source = pretrained.load(given.init)
    chosen = vars(full_parser({}).parse_known_args(options)[0])
    parts = {part: from_namespace(config, given) for part, config in configs.items()}
    parts["task"] = _cut_to(source.model.config.max_positions, parts["task"], chosen)
    recipe = Recipe(
        **parts,
        model=from_namespace(RegularisationConfig, given).applied(source.model.config),
        trainer=from_namespace(TrainerConfig, given),
    )
    return choice.name, recipe, sweep, source


def _arguments(argv: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the operands, the options of the recipe of their data set, and the options that were given."""
    places = list(takewhile(lambda argument: not (argument.startswith("-") or is_recipe(argument)), argv[:2]))
    if not places and not asks_about(argv):
        _parser(add_help=True).error(_NAMELESS)
    name, options = places[0] if places else None, list(argv[len(places) :])
    flags = {option.partition("=")[0] for option in expanded(options)}
    recipes = expanded([f"--save-dir={RUNS / (name or 'DATA_SET')}", _recipe("finetuning"), _recipe(name or "other")])
    if not flags.isdisjoint(_LENGTHS):
        recipes = _without(recipes, _LENGTHS)  # how long the recipe trains gives way to what is asked for
    if "--warmup-updates" in flags and "--warmup-ratio" not in flags:
        recipes.append("--warmup-ratio=0")  # the recipe's, which the number of updates replaces
    return places, recipes, options


def _full_parser(
    the_set: "DataSet", choice: argparse.Namespace, configs: Mapping[str, Any], shown: Mapping[str, Any]
) -> argparse.ArgumentParser:
    """Return the parser of all options; shown: the defaults in its help, where they aren't those of the configs."""
    from roberta.config import add_arguments
    from roberta.finetuning import RegularisationConfig, SweepConfig
    from roberta.recipe import TrainerConfig

    parser = _parser(add_help=True)
    fixed = ("data", *the_set.options)
    for title, config, hidden in (
        ("runs", SweepConfig, ()),
        ("training", TrainerConfig, ("seed", "init_from")),
        (f"data of {choice.name or 'table'}", configs["task"], fixed),
        ("model", RegularisationConfig, ()),
        (f"criterion {the_set.criterion}", configs["criterion"], ()),
        (f"optimizer {choice.optimizer}", configs["optimizer"], ()),
        (f"lr scheduler {choice.lr_scheduler}", configs["lr_scheduler"], ("lr",)),
    ):
        add_arguments(parser, config, title=title, exclude=hidden, defaults=shown)
    return parser


def _cut_to(max_positions: int, task: Any, chosen: Mapping[str, Any]) -> Any:
    """Return the config of a task whose sequences are as long as its recipe says, or as the model takes.

    chosen: the options of the command line, which are not to be changed.
    """
    from roberta.config import flag
    from roberta.data.windows import fitting_sizes
    from roberta.tasks.span import SpanTaskConfig

    if getattr(task, "tokens_per_sample", 0) <= max_positions:  # a task of a user's need not have the option
        return task
    if "tokens_per_sample" in chosen:
        raise ConfigError(
            f"--tokens-per-sample is {task.tokens_per_sample}; the model takes at most {max_positions}; give fewer"
        )
    lengths = {"tokens_per_sample": max_positions}
    if isinstance(task, SpanTaskConfig):
        sizes = fitting_sizes(
            max_positions, stride=chosen.get("doc_stride"), max_question_tokens=chosen.get("max_question_length")
        )
        lengths |= {"doc_stride": sizes.stride, "max_question_length": sizes.max_question_tokens}
    told = ", ".join(f"{flag(name)} {length}" for name, length in lengths.items())
    logger.info("the model takes sequences of %d tokens; so: %s", max_positions, told)
    return dataclasses.replace(task, **lengths)


def _without(options: Sequence[str], names: Collection[str]) -> list[str]:
    """Return the options of a recipe but those of these names, which have a value each."""
    dropped = {place + after for place, option in enumerate(options) if option in names for after in (0, 1)}
    return [option for place, option in enumerate(options) if place not in dropped]


def _recipe(name: str) -> str:
    """Return the argument that reads the recipe of a data set; that of all others if it has none."""
    path = RECIPES / f"{name}.args"
    return f"@{path if path.is_file() else RECIPES / 'other.args'}"


def _parser(*, add_help: bool) -> argparse.ArgumentParser:
    parser = Parser("roberta-finetune", "DATA_SET DATA", description=DESCRIPTION, example=EXAMPLE, add_help=add_help)
    parser.add_argument("name", nargs="?", metavar="DATA_SET", help="the kind of data, see above")
    parser.add_argument("data", nargs="?", type=Path, metavar="DATA", help="its file or folder")
    group = parser.add_argument_group("components")
    group.add_argument(
        "--init",
        default="roberta.base",
        metavar="MODEL",
        help="model to start from: a name, or the path of a run or checkpoint (default: %(default)s)",
    )
    add_training_components(group)
    return parser


def command(argv: Sequence[str]) -> Result | None:
    """Do what the arguments say, and return the report; only the first process of several returns one."""
    from roberta.distributed import leave_world
    from roberta.finetuning import finetune

    name, recipe, sweep, source = parse(argv)
    try:
        report = finetune(name, recipe, sweep, source)
    finally:
        leave_world()
    return None if report is None else {"save_dir": str(recipe.trainer.save_dir), **report.summary()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
