"""What all commands share: the options of how to report, errors as one line, and exit codes."""

import argparse
import difflib
import importlib
import logging
import os
import platform
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from roberta.errors import ConfigError, DataError, RobertaError, StorageError, TrainingError, choices
from roberta.failures import is_out_of_memory, reason_of
from roberta.files import is_stream
from roberta_cli.completion import SHELLS, PrintCompletion
from roberta_cli.results import Result, show

INTERRUPTED = 130
BROKEN_PIPE = 141  # as shells report a program that SIGPIPE ended

Command = Callable[[Sequence[str]], Result | None]  # from arguments to what is to be shown

VERSION = "--version"

# Read by torch when it first asks for memory: it then wants blocks of 2 MB and more in huge pages, where the system
# grants them (Linux). Small pages take about a tenth of the time of a step of training on a CPU.
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"

_MISSING = "the following arguments are required"
_MEMORY_ADVICE = (
    "lower --batch-size and --max-tokens where the command has them (see --help), or give it a smaller model, a device "
    "with more memory, or --device cpu"
)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the line breaks of descriptions and examples, in a column that fits most terminals."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


# Options of fairseq's whose names here are others; what is behind the name is their value.
_RENAMED = {
    "max-sentences": "batch-size",
    "batch-size-valid": "batch-size",
    "arch": "preset",
    "fp16": "precision fp16",
    "bf16": "precision bf16",
    "restore-file": "init-from",
    "user-dir": "user-module",
    "ddp-backend": "parallelism",
    "classification-head-name": "head-name",
    "num-workers": "workers",
    "best-checkpoint-metric": "metric",
    "encoder-embed-dim": "embed-dim",
    "encoder-ffn-embed-dim": "ffn-embed-dim",
    "encoder-attention-heads": "attention-heads",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose `@file` arguments are recipes, which `expanded` reads.

    operands: what stands before the options, as the usage shows it.
    """

    def __init__(self, name: str, operands: str, *, description: str, example: str, add_help: bool = True) -> None:
        super().__init__(
            prog=name,
            usage=" ".join([name, *operands.split(), "[options]"]),
            description=description,
            epilog=f"example:\n{example}",
            formatter_class=Formatter,
            allow_abbrev=False,
            conflict_handler="resolve",  # a task has a --version of its own
            add_help=False,
        )
        self._general = group = self.add_argument_group("general")
        if add_help:
            group.add_argument("-h", "--help", action="help", help="show this help and exit")
        group.add_argument("--quiet", action="store_true", help="show errors and the result, nothing else")
        group.add_argument(
            "--json", action="store_true", help="print the result as one line of JSON on a terminal too, not as a table"
        )
        group.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if add_help:
            group.add_argument(VERSION, action=_PrintVersion, nargs=0, help="alone: show the versions and exit")
            group.add_argument(
                "--print-completion",
                action=PrintCompletion,
                choices=SHELLS,
                default=argparse.SUPPRESS,
                help="show a script that makes the shell complete the options, and exit; needs shtab",
            )

    def format_help(self) -> str:
        """Return the help, in which the options that all commands have come last."""
        self._action_groups.sort(key=lambda group: group is self._general)
        return super().format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the parsed arguments, and those that are unknown.

        Raises:
            ConfigError: a recipe can't be read, or an option misses its value or has a wrong one.
        """
        return super().parse_known_args(expanded(args), namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the parsed arguments.

        Raises:
            ConfigError: an option is unknown, misses its value or has a wrong one.
        """
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [option[2:] for option in self._option_string_actions if option.startswith("--")]
            given = unknown[0].partition("=")[0].lstrip("-")
            renamed = _RENAMED.get(given, "")
            is_here = renamed.partition(" ")[0] in known
            near = [renamed] if is_here else difflib.get_close_matches(given, known, n=1)
            hint = f"did you mean --{near[0]}? " if near else ""
            raise ConfigError(f"unknown argument {unknown[0]!r}; {hint}see {self.prog} --help")
        return namespace

    def error(self, message: str) -> NoReturn:
        """Raise what argparse has found wrong as a ConfigError."""
        hint = "; give them before the options" if message.startswith(_MISSING) else ""
        raise ConfigError(f"{message}{hint}; see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; {choices(value, action.choices)}")


class _PrintVersion(argparse.Action):
    """Print what runs, and leave."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        _print_version()
        parser.exit()


def _print_version() -> None:
    from importlib import metadata  # 20 ms that --help can do without

    found = {name: metadata.version(name) for name in ("roberta", "torch", "numpy")}
    print(*(f"{name} {version}" for name, version in found.items()), f"python {platform.python_version()}", sep=", ")


def expanded(arguments: Sequence[str], *, inside: tuple[str, ...] = ()) -> list[str]:
    """Return the arguments with the options of a recipe in the place of each `@file`, and `@text` for `@@text`.

    A recipe has options as on a command line, a value with spaces in double quotes, and recipes; `#` starts a comment.
    inside: those being read.

    Raises:
        ConfigError: a recipe can't be read, or inserts itself.
    """
    found: list[str] = []
    for argument in arguments:
        if argument in inside:
            raise ConfigError(f"{argument}: the recipe inserts itself, by way of {inside[-1]}; take that line out")
        if is_recipe(argument):
            found += expanded(_options_in(argument), inside=(*inside, argument))
        else:
            found.append(argument[1:] if argument.startswith("@@") else argument)
    return found


def is_recipe(argument: str) -> bool:
    """Return whether an argument stands for the options in a file."""
    return argument.startswith("@") and not argument.startswith("@@")


def _options_in(argument: str) -> list[str]:
    try:
        lines = Path(argument[1:]).read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
        return [option for line in lines for option in _words(line)]
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"can't be read: {error}"
        raise ConfigError(
            f"{argument}: {reason}; what begins with @ is the path of a recipe, a file of options; give a text that "
            f"begins with @ as @{argument}"
        ) from error


def _words(line: str) -> Iterator[str]:
    """Return the words of a line of a recipe; one in double quotes may have spaces."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.quotes, lexer.escape = True, '"', ""
    return iter(lexer)


def asks_about(argv: Sequence[str]) -> bool:
    """Return whether the arguments ask about a command, so that what it works on need not be named."""
    names = {argument.partition("=")[0] for argument in argv}
    return bool(names & {"-h", "--help", "--print-completion"})


def check_exists(data: Path) -> None:
    """Refuse data that is not there, before a model is fetched or opened for it.

    Raises:
        DataError: it is not there.
    """
    if not data.exists():
        raise DataError(f"{data}: no such file or folder; give the path of the data")


def check_output(option: str, path: Path | None, *inputs: Path) -> None:
    """Refuse a file that could not be written when all is computed, or is one of the inputs.

    Raises:
        ConfigError: there is no such folder, it is a folder itself, or an input.
    """
    if path is None:
        return
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        raise ConfigError(f"{option} {path}: {'a folder' if path.is_dir() else 'no such folder'}; name a file in one")
    if is_stream(path) and os.path.isfile(path):
        raise ConfigError(f"{option} {path}: the result would be written over it; name a file of its own")
    if any(os.path.exists(path) and os.path.exists(given) and path.samefile(given) for given in inputs):
        raise ConfigError(f"{option} {path}: what is read would be replaced; choose another file")


def opened(model: str) -> Any:
    """Return the hub interface of a model, for answers alone: in fp32, and frozen.

    Raises:
        CheckpointError, DownloadError, VocabError: as `roberta.from_pretrained`.
    """
    from roberta.hub import from_pretrained

    return from_pretrained(model).float().requires_grad_(False)


def vocabulary_folder(vocab: Path | None) -> Path | None:
    """Return the folder of a vocabulary given as such, or as the name of a model that comes with the package."""
    if vocab is None or vocab.exists():
        return vocab
    from roberta.pretrained import SHIPPED  # with torch, which takes long

    return SHIPPED.get(str(vocab), vocab)


def add_training_components(group: Any) -> None:
    """Add to a group of arguments the choices that all commands that train have."""
    from roberta.registry import OPTIMIZERS, SCHEDULES

    for name, what, default, table in (
        ("--optimizer", "optimizer", "adam", OPTIMIZERS),
        ("--lr-scheduler", "learning-rate schedule", "polynomial_decay", SCHEDULES),
    ):
        known = ", ".join(table)
        group.add_argument(name, default=default, metavar="NAME", help=f"the {what}: {known} (default: {default})")
    add_user_module(group)


def add_user_module(group: Any) -> None:
    """Add to a parser or a group of arguments the modules that `load_user_modules` takes."""
    group.add_argument(
        "--user-module",
        action="append",
        metavar="MODULE",
        help="Python module to import first; it registers components of yours; may be given several times",
    )


def load_user_modules(names: Sequence[str] | None) -> None:
    """Import a user's own modules, so that their components are registered.

    Raises:
        ConfigError: there is no such module on the import path.
    """
    for name in names or ():
        _load_user_module(name)


def _load_user_module(name: str) -> None:
    if not all(name.split(".")) or "/" in name or os.sep in name or name.endswith(".py"):
        raise ConfigError(
            f"--user-module {name!r}: not the name of a module; give one such as spoken, and its folder in PYTHONPATH"
        )
    try:
        importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"--user-module {name}: {error}; mend it, install it, or add its folder to PYTHONPATH"
        ) from error


def run(command: Command, argv: Sequence[str] | None = None) -> int:
    """Call `command` with the arguments, show what it returns, and return the exit code of the process.

    A RobertaError becomes one line on stderr and its exit code, and so does memory that does not suffice; `--debug`
    among the arguments shows the traceback too.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if arguments == [VERSION]:
        _print_version()  # for which some commands need not import torch
        return 0
    try:
        return _run(command, arguments)
    except RobertaError as error:
        _say(f"error: {error}", arguments)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be written has no reader
        return BROKEN_PIPE
    except (MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            _say(f"error: out of memory ({reason_of(error)}); {_MEMORY_ADVICE}", arguments)
            return TrainingError.exit_code
        if not isinstance(error, OSError):
            raise
        _say(f"error: {error}; check the path, its permissions and the free space", arguments)
        return StorageError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(command: Command, arguments: Sequence[str]) -> int:
    given = _general_options(arguments)
    with _verbosity(quiet=given.quiet):
        try:
            result = command(arguments)
        except SystemExit:
            sys.stdout.flush()
            raise
    if result is not None:
        show(result, as_json=given.json)
        sys.stdout.flush()
    return 0


def _general_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser("roberta", "", description="", example="", add_help=False)
    try:
        given, _ = parser.parse_known_args(arguments)
    except ConfigError:
        return parser.parse_known_args([])[0]  # the command's own parser names its own help
    return given


@contextmanager
def _verbosity(*, quiet: bool) -> Iterator[None]:
    """Show what our loggers say from INFO on, and others from WARNING; if `quiet` errors alone, and then no bars."""
    logging.basicConfig(format="%(message)s")
    others, ours = logging.getLogger(), logging.getLogger("roberta")
    before = others.level, ours.level
    if quiet:
        others.setLevel(logging.ERROR)
    ours.setLevel(logging.ERROR if quiet else logging.INFO)
    if quiet:
        logging.captureWarnings(True)
    try:
        yield
    finally:
        if quiet:
            logging.captureWarnings(False)
        others.setLevel(before[0])
        ours.setLevel(before[1])


def _say(message: str, arguments: Sequence[str]) -> None:
    """Print an error; with `--debug` among the arguments, its traceback first."""
    if "--debug" in arguments:
        traceback.print_exc()
    print(message, file=sys.stderr)
