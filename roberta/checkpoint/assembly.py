"""A model put together around weights that were read, whatever format they came from."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from roberta.errors import ConfigError, listed
from roberta.models.roberta import RobertaModel
from roberta.registry import MODELS


def assemble(config: Any, heads: Mapping[str, Any], weights: Mapping[str, Tensor], *, source: str) -> RobertaModel:
    """Return the model of these configs in evaluation mode; its parameters are `weights`, not copies of them.

    Nothing is drawn at random on the way. Tensors that are no parameters, such as a buffer that is not saved, are what
    the modules make them.

    Raises:
        CheckpointError: parameters are missing, unknown or of another shape; the message lists all of them.
        ConfigError: a config is of no registered kind, or a name can't name a head.
    """
    model = unfilled(config, heads)
    model.load_weights(weights, source=source)
    return model.eval()


def unfilled(config: Any, heads: Mapping[str, Any]) -> RobertaModel:
    """Return the model of these configs with parameters of any value, whose memory is hardly touched.

    Raises:
        ConfigError: a config is of no registered kind, or a name can't name a head.
    """
    with _Unfilled():
        model: RobertaModel = MODELS.build(config)
        for name, head in heads.items():
            model.register_head(name, head)
    return model


def check_rebuilds(model: RobertaModel) -> None:
    """Refuse a model that `assemble` could not build again from its configs, as parts of it were exchanged.

    Raises:
        ConfigError: its weights have other names or shapes than those of a new model; the message names some.
    """
    expected, found = _shapes(unfilled(model.config, model.head_configs)), _shapes(model)
    if differing := sorted(dict(expected.items() ^ found.items())):
        raise ConfigError(
            f"the model can't be built again from its {type(model.config).__name__}, which tells otherwise of "
            f"{listed(differing)}; merge what was exchanged, save what was given to torch.compile, or register a model "
            "that is built so"
        )


def _shapes(model: RobertaModel) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


class _Unfilled(TorchFunctionMode):
    """Leave the parameters of new modules as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FILLS or getattr(func, "__module__", None) == nn.init.__name__:
            tensor = args[0] if args else (kwargs or {})["tensor"]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **(kwargs or {}))


_FILLS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_})
