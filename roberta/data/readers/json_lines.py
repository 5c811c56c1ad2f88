"""JSON in data sets: files of one object a line, files of one object, and the fields in them."""

import json
from collections.abc import Iterator
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
        if value is None:
            raise DataError(f"{self.source}: no field {name!r}; {choices(name, self.fields)}")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DataError(f"{self.source}: {name} is {value!r:.60}; expected {kind.__name__}")
        return value

    def find(self, name: str) -> Any:
        """Return a field of any type, None where there is none."""
        value: Any = self.fields
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value


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


def _row(text: str, source: str) -> Row:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise DataError(f"{source}: no JSON: {error}; get the file again, or mend it") from error
    except RecursionError as error:
        raise DataError(f"{source}: JSON nested too deeply; get the file again, or mend it") from error
    if not isinstance(fields, dict):
        raise DataError(f"{source}: {text.strip()!r:.60}; expected a JSON object in {{}}")
    return Row(fields, source)
