"""A model put together around weights that were read, whatever format they came from."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from roberta.models.roberta import RobertaModel
from roberta.registry import MODELS


def assemble(config: Any, heads: Mapping[str, Any], weights: Mapping[str, Tensor], *, source: str) -> RobertaModel:
    """Return the model of these configs in evaluation mode; its parameters are `weights`, not copies of them.

    Nothing is allocated or drawn at random on the way.

    Raises:
        CheckpointError: parameters are missing, unknown or of another shape; the message lists all of them.
        ConfigError: a config is of no registered kind, or a name can't name a head.
    """
    with torch.device("meta"), _Unfilled():
        model: RobertaModel = MODELS.build(config)
        for name, head in heads.items():
            model.register_head(name, head)
    model.load_weights(weights, source=source)
    return model.eval()


class _Unfilled(TorchFunctionMode):
    """Leave the parameters of new modules as they are; on the meta device a random fill imports torch's compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FILLS or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


_FILLS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.zero_, Tensor.fill_})
