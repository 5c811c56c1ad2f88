"""Configs: frozen dataclasses that are at once the options, their defaults, and the JSON in a checkpoint.

Allowed field types: bool, int, float, str, Path, Literal of strings, tuple[X, ...] of those, and `X | None`.
An option that is not given on the command line leaves no trace in the namespace, so values layer as
preset < recipe file < command line with one `dataclasses.replace`.
"""

import argparse
import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from roberta.errors import ConfigError, choices

Config = TypeVar("Config")


def option(default: Any = dataclasses.MISSING, *, help: str) -> Any:
    """Return a dataclass field with a line of help; without a default the option is required."""
    return dataclasses.field(default=default, metadata={"help": help}, kw_only=True)


def help_of(config: type, name: str) -> str:
    """Return the help of an option."""
    (field,) = (field for field in dataclasses.fields(config) if field.name == name)
    text: str = field.metadata["help"]
    return text


def flag(name: str) -> str:
    """Return the command-line spelling of an option.

    >>> flag("max_positions")
    '--max-positions'
    """
    return "--" + name.replace("_", "-")


def add_arguments(
    parser: argparse.ArgumentParser,
    config: type,
    *,
    title: str,
    exclude: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Add one argument per field of `config` to `parser`, in a group of its own; absent options stay absent.

    The help shows the values in `defaults`, by field, and those of the class where there are none.

    Raises:
        ConfigError: another config has an option of that name, so that one value would be given to both.
    """
    owners = parser.__dict__.setdefault("option_owners", {})  # config classes by the names of their fields
    group = parser.add_argument_group(title)
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if field.name in exclude:
            continue
        owner = owners.setdefault(field.name, config)
        if owner is not config:
            raise ConfigError(
                f"{config.__name__} and {owner.__name__} both have the option {flag(field.name)}; rename one"
            )
        text = field.metadata.get("help", "").replace("%", "%%")
        default = (defaults or {}).get(field.name, field.default)
        if default is dataclasses.MISSING:
            text += " (required)"
        elif default not in (None, ()):
            text += f" (default: {_spell(default)})"
        kind, count, _ = _shape(hints[field.name])
        if kind is bool:
            group.add_argument(
                flag(field.name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
            )
        else:
            group.add_argument(
                flag(field.name),
                type=_parser(kind),
                nargs=count,
                choices=typing.get_args(kind) if typing.get_origin(kind) is Literal else None,
                metavar=None if typing.get_origin(kind) is Literal else kind.__name__.upper(),
                default=argparse.SUPPRESS,
                help=text,
            )


def from_namespace(config: type[Config], namespace: argparse.Namespace, base: Config | None = None) -> Config:
    """Return `base` (or the defaults) with the options that the namespace holds.

    Raises:
        ConfigError: a required option is missing, or `config` rejects the values.
    """
    known = {field.name: field for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(config)
    given = {
        name: tuple(value) if _shape(hints[name])[1] is not None and value is not None else value
        for name, value in vars(namespace).items()
        if name in known
    }
    if base is not None:
        return dataclasses.replace(base, **given)  # type: ignore[type-var]
    missing = [
        flag(name) for name, field in known.items() if name not in given and field.default is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"required: {', '.join(missing)}")
    return config(**given)


def refuse_idle(config: Any, names: Iterable[str], reason: str) -> None:
    """Refuse options that are not at their defaults although they have no effect.

    Raises:
        ConfigError: one is not: its flag, and the reason.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in names:
        if getattr(config, name) != defaults[name]:
            raise ConfigError(f"{flag(name)} {reason}: leave it out")


def to_json(config: Any) -> dict[str, Any]:
    """Return the fields of a config as a dict that `json.dump` writes and `from_json` reads back unchanged."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_json(config: type[Config], values: Any, *, source: str) -> Config:
    """Return a config from what `to_json` gave; every value is checked against the type of its field.

    Raises:
        ConfigError: not an object, an unknown key, a missing key without a default, or a value of a wrong type.
            The message begins with `source`, the file or part it came from.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected an object of options, found {type(values).__name__}")
    hints = typing.get_type_hints(config)
    known = {field.name: field for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(f"{source}: unknown option {name!r}; {choices(name, known)}")
    missing = [name for name, field in known.items() if name not in values and field.default is dataclasses.MISSING]
    if missing:
        raise ConfigError(f"{source}: missing {', '.join(missing)}")
    return config(**{name: _typed(value, hints[name], f"{source}: {name}") for name, value in values.items()})


def check_types(config: Any) -> None:
    """Refuse a config that could not be saved, or not be read back, as its values are not of its fields' types.

    Raises:
        ConfigError: it could not; the message begins with the name of the class.
    """
    name = type(config).__name__
    try:
        from_json(type(config), json.loads(json.dumps(to_json(config))), source=name)
    except TypeError as error:
        raise ConfigError(f"{name}: {error}; give plain numbers, strings and tuples of them") from error


def _shape(hint: Any) -> tuple[Any, int | str | None, bool]:
    """Split a field type into (element type, length of a tuple or "+" for any or None for no tuple, may be None)."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        if len(arms) != 1:
            raise ConfigError(f"options of the type {hint} can't be saved; give the field one type, and None at most")
        hint, optional = arms[0], True
    if typing.get_origin(hint) is tuple:
        elements = typing.get_args(hint)
        return _element(elements[0]), "+" if elements[-1] is ... else len(elements), optional
    return _element(hint), None, optional


def _element(kind: Any) -> Any:
    """Return the type of one value of an option, if options may have it."""
    if kind not in (bool, int, float, str, Path) and typing.get_origin(kind) is not Literal:
        raise ConfigError(
            f"options of the type {kind} can't be read; take bool, int, float, str, Path, a Literal of strings, or "
            "tuple[X, ...] of one of those"
        )
    return kind


def _parser(kind: Any) -> Any:
    return str if typing.get_origin(kind) is Literal else kind


def _spell(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _typed(value: Any, hint: Any, source: str) -> Any:
    kind, count, optional = _shape(hint)
    if value is None and optional:
        return None
    if count is not None:
        if not isinstance(value, list) or (count != "+" and len(value) != count):
            raise ConfigError(f"{source}: expected a list{'' if count == '+' else f' of {count}'}, found {value!r}")
        return tuple(_typed(item, kind, source) for item in value)
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(f"{source}: {value!r}; {choices(value, typing.get_args(kind))}")
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{source}: expected {kind.__name__}, found {value!r}")
    return value
