"""What a command found out, on stdout: a table for people at a terminal, one line of JSON for everything else."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from roberta.files import as_json as to_json


class Described(Protocol):
    """A result that has words of its own for people."""

    def to_json(self) -> str:
        """Return one line of JSON."""
        ...

    def __str__(self) -> str: ...


Values = Mapping[str, Any]  # plain values by name: numbers, texts, and lists and mappings of such
Result = Values | Described

_STEP = 2  # columns by which a part of a table is indented


def show(result: Result, *, as_json: bool) -> None:
    """Print a result; as a table only on a terminal, and where JSON is not asked for.

    In JSON a number that is not finite is null.
    """
    is_json = as_json or not sys.stdout.isatty()
    if isinstance(result, Mapping):
        print(to_json(result) if is_json else table(result))
    else:
        print(result.to_json() if is_json else result)


def table(result: Values) -> str:
    """Return a result as lines of a name and a value; parts of it are indented below their name.

    >>> print(table({"lines": 3, "loss": 2.0 / 3, "splits": {"train": {"lines": 3}}}))
    lines  3
    loss   0.666667
    splits
      train
        lines  3
    """
    return "\n".join(_lines(result, 0))


def _lines(values: Values, indent: int) -> Iterator[str]:
    margin = " " * indent
    width = max((len(name) for name, value in values.items() if not _is_block(value)), default=0)
    for name, value in values.items():
        if not _is_block(value):
            yield f"{margin}{name:<{width}}  {_cell(value)}".rstrip()
        elif isinstance(value, Mapping):
            yield f"{margin}{name}"
            yield from _lines(value, indent + _STEP)
        else:
            yield f"{margin}{name}"
            yield from (f"{margin}{' ' * _STEP}{_row(item)}" for item in value)


def _is_block(value: Any) -> bool:
    """Return whether a value takes lines of its own."""
    if isinstance(value, list | tuple):
        return any(isinstance(item, Mapping | list | tuple) for item in value)
    return isinstance(value, Mapping) and bool(value)


def _row(value: Any) -> str:
    if isinstance(value, Mapping):
        return "  ".join(f"{name} {_cell(item)}" for name, item in value.items())
    return _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return "  ".join(map(_cell, value))
    if isinstance(value, Mapping):
        return f"({', '.join(f'{name} {_cell(item)}' for name, item in value.items())})"
    return str(value)
