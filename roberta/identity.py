"""Whether a resumed run is the same: its data, and what the last bits of its numbers depend on."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from roberta.data.tokenizer import Tokenizer
from roberta.distributed import World
from roberta.tasks.task import Samples

_LOOKED_AT = 2**20  # tokens of samples whose contents count, at most
_AT_ONCE = 256  # samples of them in a batch


def data_fingerprint(samples: Samples, tokenizer: Tokenizer) -> dict[str, int]:
    """Return figures that change with the data: with all lengths, the dictionary, and the contents of samples.

    Samples are looked at from the first to the last, evenly spaced where they are too many for all to be looked at.
    """
    num_tokens = int(samples.sizes.sum())
    count = min(len(samples), max(1, _LOOKED_AT * len(samples) // num_tokens))
    contents = 0
    for ids in np.array_split(np.linspace(0, len(samples) - 1, count, dtype=np.int64), -(-count // _AT_ONCE)):
        batch = samples.batch(ids, seed=0, epoch=0)
        for tensor in (batch.tokens, batch.targets):
            contents = zlib.crc32(tensor.numpy().tobytes(), contents)
    return {
        "samples": len(samples),
        "tokens": num_tokens,
        "lengths": zlib.crc32(samples.sizes.tobytes()),
        "dictionary": zlib.crc32("\n".join(tokenizer.dictionary.symbols).encode()),
        "contents": contents,
    }


def conditions(world: World, cpu_engine: str) -> dict[str, Any]:
    """Return that on which the last bits of the numbers of a run depend."""
    return {
        "torch": torch.__version__,
        "device": world.device.type,
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "cpu_engine": cpu_engine,
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return what differs, in words; nothing if nothing does."""
    return "; ".join(f"{name} was {old.get(name)}, is {new[name]}" for name in new if old.get(name) != new[name])
