"""Tables of interchangeable components, each identified by its config class.

A component registers itself under a name together with the frozen dataclass of its options. The name is what a user
types and what a checkpoint stores; the config class is what code passes on. Registration happens on import: a table
knows the package that holds its components, whose `__init__.py` lists them, and imports it at the first question.
A user's own components come in with their module.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from roberta.config import from_json, to_json
from roberta.errors import ConfigError, choices

Component = TypeVar("Component", bound=Callable[..., Any])


class Registry:
    """One table: name -> (component, config class)."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._components: dict[str, Callable[..., Any]] = {}
        self._configs: dict[str, type] = {}

    def register(self, name: str, config: type) -> Callable[[Component], Component]:
        """Return a decorator that enters a class or function under `name`, built from a `config` instance.

        Raises:
            ConfigError: the name or the config class is already taken.
        """
        if name in self._components:
            raise ConfigError(f"{self.kind} {name!r} is registered twice; choose another name")
        for known in self._components:
            if self._configs[known] is config:
                raise ConfigError(
                    f"{config.__name__} already identifies {self.kind} {known!r}; make a new config class"
                )

        def enter(component: Component) -> Component:
            self._components[name] = component
            self._configs[name] = config
            return component

        return enter

    def build(self, config: Any, *args: Any) -> Any:
        """Return the component that `config` identifies, called with `config` and `args`."""
        name = self.name_of(type(config))
        return self._components[name](config, *args)

    def config_class(self, name: str) -> type:
        """Return the config class registered under `name`.

        Raises:
            ConfigError: no such name; the message lists the names and the nearest one.
        """
        if name not in self:
            hint = "if it is one of yours, import its module first (--user-module)"
            raise ConfigError(f"unknown {self.kind} {name!r}; {choices(name, self._configs)}; {hint}")
        return self._configs[name]

    def name_of(self, config: type) -> str:
        """Return the name under which a config class is registered.

        Raises:
            ConfigError: the class is not in this table.
        """
        for name in self:
            if self._configs[name] is config:
                return name
        raise ConfigError(
            f"{config.__name__} is not the config of a {self.kind}; {choices(config.__name__, self._configs)}"
        )

    def describe(self, config: Any) -> dict[str, Any]:
        """Return a component's config as JSON together with the name it is registered under."""
        return {"type": self.name_of(type(config)), **to_json(config)}

    def described(self, values: Any, source: str) -> Any:
        """Return the config that `describe` has written.

        Raises:
            ConfigError: the options are not those of a registered component; the message names the source.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: expected an object, found {type(values).__name__}")
        options = dict(values)
        return from_json(self.config_class(str(options.pop("type"))), options, source=source)

    def __iter__(self) -> Iterator[str]:
        importlib.import_module(self._package)
        return iter(sorted(self._components))

    def __contains__(self, name: object) -> bool:
        return name in list(self)


MODELS = Registry("model", "roberta.models")
HEADS = Registry("head", "roberta.models")
TASKS = Registry("task", "roberta.tasks")
CRITERIONS = Registry("criterion", "roberta.criterions")
BPES = Registry("bpe", "roberta.bpe")
OPTIMIZERS = Registry("optimizer", "roberta.optim")
SCHEDULES = Registry("lr-scheduler", "roberta.optim")
