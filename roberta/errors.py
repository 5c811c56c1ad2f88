"""The exception tree: every error a user can cause or meet is a RobertaError.

Each class carries the exit code that the command-line tools return for it. A message says what was given, what is
allowed and what to do; it names the file and line, or the option.
"""

import difflib
from collections.abc import Iterable


class RobertaError(Exception):
    """Base of all errors raised on purpose by this package."""

    exit_code = 1


class ConfigError(RobertaError):
    """An option, name or combination of options is not allowed."""

    exit_code = 2


class DataError(RobertaError):
    """Input data (text, a data set, a token sequence) can't be used as given."""

    exit_code = 2


class VocabError(RobertaError):
    """A dictionary or BPE file is damaged, or does not fit the model."""

    exit_code = 3


class CheckpointError(RobertaError):
    """A checkpoint is missing, damaged, refused, or does not fit the model."""

    exit_code = 3


class DownloadError(RobertaError):
    """A file could not be fetched, verified or unpacked."""

    exit_code = 4


class StorageError(RobertaError):
    """A file could not be written: disk full, read-only folder, missing permission."""

    exit_code = 5


class TrainingError(RobertaError):
    """Training can't go on: a non-finite loss, nothing to train on."""

    exit_code = 6


class LostProcessError(TrainingError):
    """Another process of the training was lost, or did not answer in time."""


class PreemptionError(RobertaError):
    """Work was stopped from outside, saved, and can be resumed."""

    exit_code = 75


def listed(names: Iterable[object], most: int = 8, sep: str = ", ") -> str:
    """Return names with commas between them, no more than a reader can take in; `none` for none.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    items = list(map(str, names))
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return (sep.join(item[:200] for item in items[:most]) or "none") + rest


def choices(given: object, allowed: Iterable[str]) -> str:
    """Return the tail of an error message: the allowed names, and the one nearest to `given` if one is near.

    >>> choices("roberta.bas", ["roberta.base", "roberta.large"])
    'allowed: roberta.base, roberta.large; did you mean roberta.base?'
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(str(given), names, n=1)
    tail = f"; did you mean {near[0]}?" if near else ""
    return f"allowed: {', '.join(names) or 'none'}{tail}"
