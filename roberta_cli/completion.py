"""Completion of options by the shell: a script for it, made by shtab from a parser."""

import argparse
from pathlib import Path
from typing import Any

from roberta.errors import ConfigError

SHELLS = ("bash", "zsh", "fish", "tcsh")

_MODELS = ("model", "init", "source")  # options that take a name, or a path


class PrintCompletion(argparse.Action):
    """Print the script and leave, as `--help` does.

    Raises:
        ConfigError: shtab is not installed.
    """

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Print the script of a shell."""
        print(script(parser, values))
        parser.exit()


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that makes a shell complete the options of a parser, and paths where they take one.

    Raises:
        ConfigError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ConfigError("--print-completion needs shtab; run: pip install 'roberta[completion]'") from error
    for action in parser._actions:
        if action.type is Path or action.dest in _MODELS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))
