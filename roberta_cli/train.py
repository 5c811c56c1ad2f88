"""roberta-train: pretrain a model."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roberta_cli.entry import Parser, add_training_components, load_user_modules, run, vocabulary_folder
from roberta_cli.results import Result

DESCRIPTION = """Pretrain a model on a folder that roberta-preprocess made.
Options may stand in recipe files: `@file` inserts the options written in it; `@@text` is the argument @text."""

EXAMPLE = """  roberta-train data-bin --save-dir runs/small --preset roberta.small --max-update 10000 \\
      --tokens-per-sample 128 --batch-size 32 --lr 1e-3 --warmup-updates 600
  roberta-train @examples/pretraining/eltec.args data-bin --save-dir runs/small --seed 2
  roberta-train @examples/pretraining/base_8k.args data-bin --save-dir runs/base \\
      --dry-run --devices 64 --device-name H100"""


def parse(argv: Sequence[str]) -> tuple[Any, Any]:
    """Return the Recipe and the DryRunConfig that the arguments describe."""
    from roberta.config import add_arguments, from_namespace, help_of
    from roberta.models.roberta import preset_config
    from roberta.planning import DryRunConfig
    from roberta.recipe import Recipe, TrainerConfig, config_classes

    choice, _ = _parser(add_help=False).parse_known_args(argv)
    load_user_modules(choice.user_module)
    model = preset_config(choice.preset)
    criterion = choice.criterion or choice.task
    configs = config_classes(
        task=choice.task, criterion=criterion, optimizer=choice.optimizer, lr_scheduler=choice.lr_scheduler
    )

    parser = _parser(add_help=True)
    parser.add_argument("data", type=Path, metavar="DATA", help=help_of(configs["task"], "data"))
    add_arguments(parser, TrainerConfig, title="training")
    add_arguments(parser, configs["task"], title=f"task {choice.task}", exclude=("data",))
    add_arguments(
        parser, type(model), title=f"model {choice.preset}", exclude=("vocab_size", "padding_idx"), defaults=vars(model)
    )
    add_arguments(parser, configs["criterion"], title=f"criterion {criterion}")
    add_arguments(parser, configs["optimizer"], title=f"optimizer {choice.optimizer}")
    add_arguments(parser, configs["lr_scheduler"], title=f"lr scheduler {choice.lr_scheduler}")
    add_arguments(parser, DryRunConfig, title="dry run")
    given = parser.parse_args(argv)
    if hasattr(given, "vocab"):
        given.vocab = vocabulary_folder(given.vocab)
    recipe = Recipe(
        **{part: from_namespace(config, given) for part, config in configs.items()},
        model=from_namespace(type(model), given, model),
        trainer=from_namespace(TrainerConfig, given),
    )
    return recipe, from_namespace(DryRunConfig, given)


def _parser(*, add_help: bool) -> argparse.ArgumentParser:
    from roberta.models.roberta import PRESETS
    from roberta.registry import TASKS

    parser = Parser("roberta-train", "DATA", description=DESCRIPTION, example=EXAMPLE, add_help=add_help)
    group = parser.add_argument_group("components")
    group.add_argument(
        "--preset", default="roberta.base", metavar="NAME", help=f"shape: {', '.join(PRESETS)} (default: %(default)s)"
    )
    tasks = ", ".join(TASKS)
    group.add_argument("--task", default="masked_lm", metavar="NAME", help=f"the task: {tasks} (default: %(default)s)")
    group.add_argument("--criterion", metavar="NAME", help="the loss (default: that of the task's name)")
    add_training_components(group)
    return parser


def command(argv: Sequence[str]) -> Result | None:
    """Do what the arguments say, and return the last validation; only the first process of several returns one."""
    recipe, dry_run = parse(argv)
    from roberta.distributed import leave_world
    from roberta.model_card import write_run_cards
    from roberta.trainer import Trainer

    if dry_run.dry_run:
        from roberta.planning import plan

        return plan(recipe, dry_run)
    try:
        trainer = Trainer(recipe)
        metrics = trainer.train()
    finally:
        leave_world()
    if not trainer.world.is_main:
        return None
    write_run_cards(recipe.trainer.save_dir)
    return {"save_dir": str(recipe.trainer.save_dir), "valid": metrics}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
