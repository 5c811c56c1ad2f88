"""What the formats of other libraries share: what their files say of a model, and q, k and v apart."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roberta.errors import CheckpointError, ConfigError, choices, listed
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.models.transformer import Activation


@dataclass(frozen=True)
class ForeignCheckpoint:
    """What a file of another library says of a model, in this project's terms."""

    config: RobertaConfig
    heads: dict[str, Any]  # configs of the registry HEADS by the names of the heads
    state_dict: dict[str, Tensor]  # the parameters of a RobertaModel with these heads, in fp32


def check_is_roberta(model: RobertaModel) -> None:
    """Refuse a model of another kind, which other libraries' code for RoBERTa would compute otherwise.

    Raises:
        ConfigError: it is of another kind.
    """
    if type(model.config) is not RobertaConfig:
        raise ConfigError(
            f"a model of a {type(model.config).__name__} is no RoBERTa, and can be written in our own format alone: "
            "--to native, or save_pretrained"
        )


def is_plain(tensor: Any) -> bool:
    """Return whether this is a tensor of floats with memory for each of them."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()  # not one number spread out


def probability(options: Mapping[str, Any], name: str, default: float, path: Path) -> float:
    """Return an option of a file that is a probability, or its value if absent.

    Raises:
        CheckpointError: it is something else.
    """
    value = options.get(name, default)
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise CheckpointError(f"{path}: {name} is {spell(value)}; allowed: numbers from 0 to less than 1")
    return float(value)


def activation(
    options: Mapping[str, Any], name: str, default: str, known: Mapping[str, Activation], path: Path
) -> Activation:
    """Return our name of an activation function that an option names; `known` has the names of that library.

    Raises:
        CheckpointError: it is not one of them.
    """
    value = options.get(name, default)
    if not isinstance(value, str) or value not in known:
        raise CheckpointError(f"{path}: {name} is {spell(value)}; {choices(spell(value), known)}")
    return known[value]


def spell(value: Any) -> str:
    """Return a value of a file for a message: short, and of containers only the type.

    >>> spell("gelu"), spell([1, 2])
    ("'gelu'", 'a list')
    """
    return repr(value)[:50] if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"


def size(options: Mapping[str, Any], name: str, largest: int, path: Path) -> int:
    """Return a size among the options of a file at `path`.

    Raises:
        CheckpointError: it is no whole number from 1 to `largest`.
    """
    value = options.get(name)
    if type(value) is not int or not 1 <= value <= largest:
        raise CheckpointError(f"{path}: {name} is {spell(value)}; allowed: 1 to {largest}")
    return value


def check_names(found: Iterable[str], expected: Iterable[str], what: str) -> None:
    """Compare the names of tensors with those that must be there.

    Raises:
        CheckpointError: some are missing or unknown; the message begins with `what` and lists both.
    """
    found, expected = set(found), set(expected)
    lists = {"missing": expected - found, "unknown": found - expected}
    details = [f"{kind}: {listed(sorted(names), most=20)}" for kind, names in lists.items() if names]
    if details:
        raise CheckpointError(f"{what}: {'; '.join(details)}")


def join_qkv(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors with q, k and v of each layer in one: three times (C, C) becomes (3 * C, C).

    Raises:
        CheckpointError: the three are of different shapes, or without any.
    """
    joined: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".self_attn.q_proj." in name:
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            if not tensor.dim() or any(part.shape != tensor.shape for part in parts):
                raise CheckpointError(
                    f"{path}: {name} and those of k and v beside it are single numbers or of different shapes"
                )
            joined[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
        elif ".self_attn.k_proj." not in name and ".self_attn.v_proj." not in name:
            joined[name] = tensor
    return joined


def split_qkv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with q, k and v of each layer apart, as views; the inverse of `join_qkv`."""
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".self_attn.qkv_proj." in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                apart[name.replace("qkv_proj", f"{part}_proj")] = third
        else:
            apart[name] = tensor
    return apart
