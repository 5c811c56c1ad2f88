"""Whether a resumed run is the same: its state, its data, and what the last bits of its numbers depend on."""

import logging
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from roberta.data.tokenizer import Tokenizer
from roberta.distributed import World
from roberta.errors import CheckpointError, ConfigError, DataError
from roberta.models.dropout import torch_draws_one_by_one
from roberta.tasks.task import Samples

logger = logging.getLogger(__name__)

_ARITHMETIC = "2026-12-01"  # when this package last changed the last bits of a step, or the masks of dropout
_BESIDE_POSITION = frozenset({"data", "conditions", "optimizer", "loss_scale", "max_update"})  # in the state of a run
_SINCE = frozenset({"valid"})  # likewise, but states of earlier versions don't have it
_LOOKED_AT = 2**20  # tokens of samples whose contents count, at most
_AT_ONCE = 256  # samples of them in a batch


def position_and_rest(state: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the part of a run's state that says where the run is, and the rest: its data, conditions and so on.

    source: the checkpoint that holds it.

    Raises:
        CheckpointError: some of the rest is missing.
    """
    if missing := _BESIDE_POSITION - state.keys():
        raise CheckpointError(f"{source}: the state of the run lacks {', '.join(sorted(missing))}; it can't go on")
    rest = _BESIDE_POSITION | _SINCE
    position = {name: value for name, value in state.items() if name not in rest}
    return position, {name: state.get(name) for name in rest}


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
        "hardware": _hardware(world.device),
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "cpu_engine": cpu_engine,
        "arithmetic": _ARITHMETIC,
        "dropout": "numpy" if world.device.type == "cpu" and torch_draws_one_by_one() else "torch",
        **({"numpy": np.__version__} if cpu_engine == "numpy" else {}),
    }


def _hardware(device: torch.device) -> str:
    """Return what torch chooses its kernels by: the name of a GPU, or the instructions of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(torch.backends.cpu.get_cpu_capability())


def settle_engine(model: Any, recorded: str | None, world: World) -> None:
    """Give the model of each rank the CPU engine that the run began with, or else what the first rank measures now.

    recorded: in the checkpoint that the run goes on from; None for a run that begins. It is measured anew where that
    engine can't be had, as on a GPU.
    """
    if recorded is not None:
        with suppress(ConfigError):
            model.set_cpu_engine(recorded)
            return
    measured = model.set_cpu_engine("auto").cpu_engine if world.is_main else None
    model.set_cpu_engine(world.gather(measured)[0])


def check_data(old: Mapping[str, Any], new: Mapping[str, Any], *, source: str, task: Any) -> None:
    """Refuse to go on with other data: fingerprints of what the run was trained on, and of what is there now.

    source: the checkpoint. task: the config that names the data.

    Raises:
        DataError: the fingerprints differ; the message says in what.
    """
    if changes := _differences(old, new):
        raise DataError(
            f"{source}: the run was trained on other data than {task}: {changes}; resume with its own, "
            "or begin another run with --init-from"
        )


def is_validated_elsewhere(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Return whether the fingerprints of the validation data differ, and say so; figures on it can't be compared then.

    old: None where it was not written down.
    """
    changes = "" if old is None else _differences(old, new)
    if changes:
        logger.warning("the validation data is not that of before (%s): the best figure so far is forgotten", changes)
    return bool(changes)


def warn_of_conditions(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Say what of the conditions differs, if anything does; at first they didn't tell all of what they do now."""
    then = {"cpu_engine": "torch", "dropout": "torch", "hardware": new["hardware"], "arithmetic": "older"}
    if changes := _differences({**then, **old}, new):
        logger.warning(
            "resumed under other conditions (%s): the same samples in the same order, but not the same bits", changes
        )


def warn_of_updates(old: Sequence[int], new: Sequence[int]) -> None:
    """Say so where updates no longer take as many batches; both are of all processes, for each epoch."""
    if list(old) != list(new):
        logger.warning(
            "an update takes %s batches now, where it took %s (processes times --update-freq): what is learned differs",
            " ".join(map(str, new)),
            " ".join(map(str, old)),
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return what differs, in words; nothing if nothing does."""
    return "; ".join(f"{name} was {old.get(name)}, is {new[name]}" for name in new if old.get(name) != new[name])
