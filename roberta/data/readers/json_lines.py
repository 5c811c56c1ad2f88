"""JSON in data sets: files of one object a line, files that are one value, and the fields in them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from roberta.data.text import read_lines
from roberta.errors import DataError, choices

Value = TypeVar("Value")


class Row(NamedTuple):
    """An object, and where it stands."""

    fields: dict[str, Any]
    source: str  # `file:line`

    def get(self, name: str, kind: type[Value]) -> Value:
        """Return a field of that type; a dot in the name leads into an object, as `question.stem` does.

        Raises:
            DataError: the field is missing, or is not of the type.
        """
        value = self.find(name)
        if value is None and not self._has(name):
            raise DataError(f"{self.source}: no field {name!r}; {choices(name, self.fields)}")
        if value is None:
            raise DataError(f"{self.source}: {name} is null; expected {kind.__name__}, or no such field")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DataError(f"{self.source}: {name} is {value!r:.60}; expected {kind.__name__}")
        return value

    def find(self, name: str) -> Any:
        """Return a field of any type, None where there is none."""
        value: Any = self.fields
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def _has(self, name: str) -> bool:
        owner, _, key = name.rpartition(".")
        values = self.find(owner) if owner else self.fields
        return isinstance(values, dict) and key in values


def read_json_lines(path: Path) -> Iterator[Row]:
    """Yield the object of each line; empty lines are passed over.

    Raises:
        DataError: the file can't be read, or a line is no JSON object; the message names the line.
    """
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            yield _row(line, f"{path}:{number}")


def read_json(path: Path) -> Row:
    """Return the object that a file holds.

    Raises:
        DataError: the file can't be read, or holds no JSON object; the message names it.
    """
    return _row("\n".join(read_lines(path)), str(path))


def read_value(path: Path, *, unique_keys: bool = False) -> Any:
    """Return the JSON value that a file holds, of any type; with `unique_keys` no object has a key twice.

    Raises:
        DataError: the file can't be read, holds no JSON, or a key twice; the message names it.
    """
    return _value("\n".join(read_lines(path)), str(path), _unique if unique_keys else None)


def _row(text: str, source: str) -> Row:
    fields = _value(text, source)
    if not isinstance(fields, dict):
        raise DataError(f"{source}: {text.strip()!r:.60}; expected a JSON object in {{}}")
    return Row(fields, source)


def _value(text: str, source: str, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    try:
        return json.loads(text, object_pairs_hook=pairs_hook)
    except ValueError as error:
        raise DataError(f"{source}: not JSON: {error}; get the file again, or mend it") from error
    except RecursionError as error:
        raise DataError(f"{source}: JSON nested too deeply; get the file again, or mend it") from error
    except _RepeatedKeyError as error:
        raise DataError(f"{source}: {error.args[0]!r} stands there twice; leave one of them") from error


class _RepeatedKeyError(Exception):
    """An object has a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise _RepeatedKeyError(key)
        values[key] = value
    return values
