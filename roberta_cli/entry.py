"""What all commands share: errors become one line and an exit code."""

import argparse
import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from roberta.errors import ConfigError, RobertaError, StorageError

INTERRUPTED = 130


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the line breaks of descriptions and examples, in a column that fits most terminals."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


class Parser(argparse.ArgumentParser):
    """An argument parser whose `@file` arguments are recipes: options as on a command line, `#` starts a comment."""

    def __init__(self, *, description: str, example: str, add_help: bool = True) -> None:
        super().__init__(
            description=description,
            epilog=f"example:\n{example}",
            formatter_class=Formatter,
            fromfile_prefix_chars="@",
            allow_abbrev=False,
            add_help=add_help,
        )
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the parsed arguments.

        Raises:
            ConfigError: an option is unknown, misses its value or has a wrong one.
        """
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"unknown argument {unknown[0]!r}; {hint}see {self.prog} --help")
        return namespace

    def error(self, message: str) -> NoReturn:
        """Raise what argparse has found wrong as a ConfigError."""
        raise ConfigError(f"{message}; see {self.prog} --help")

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """Split a line of a recipe file into arguments."""
        return arg_line.split("#")[0].split()


def add_training_components(group: Any) -> None:
    """Add to a group of arguments the choices that all commands that train have."""
    group.add_argument("--optimizer", default="adam", metavar="NAME", help="the optimizer (default: %(default)s)")
    group.add_argument(
        "--lr-scheduler",
        default="polynomial_decay",
        metavar="NAME",
        help="the learning-rate schedule (default: %(default)s)",
    )
    group.add_argument(
        "--user-module", metavar="MODULE", help="Python module to import first; it registers components of yours"
    )


def load_user_module(name: str | None) -> None:
    """Import a user's own module, so that its components are registered.

    Raises:
        ConfigError: there is no such module on the import path.
    """
    if name is None:
        return
    try:
        importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"--user-module {name}: {error}; mend it, install it, or add its folder to PYTHONPATH"
        ) from error


def run(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Call `command` with the arguments and return the exit code of the process.

    A RobertaError becomes one line on stderr and its exit code; `--debug` among the arguments shows the traceback too.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return command(arguments)
    except RobertaError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"error: {error}; check the path, its permissions and the free space", file=sys.stderr)
        return StorageError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
