"""Where a model computes, and in which precision."""

from typing import Any, Literal

import torch

from roberta.errors import ConfigError
from roberta.models.attention import backend

Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]


def choose_device(name: Device) -> torch.device:
    """Return the device of that name; `auto` is CUDA if there is one.

    Raises:
        ConfigError: CUDA is asked for, and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but torch finds no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def dtype_of(precision: Precision) -> torch.dtype:
    """Return the type of numbers of a precision."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a forward pass computes in `precision`."""
    is_half = precision != "fp32"
    return torch.autocast(device.type, dtype=dtype_of(precision) if is_half else None, enabled=is_half)


def attention_backend(model_config: Any, device: torch.device, precision: Precision) -> str:
    """Return which of torch's kernels computes the attention of models of this config in training."""
    width, heads = model_config.embed_dim // model_config.attention_heads, model_config.attention_heads
    dropout_p = model_config.attention_dropout
    return backend(device, dtype_of(precision), heads=heads, width=width, dropout_p=dropout_p)
