"""The mean of several checkpoints of one model, which is often better than the last of them (arXiv:1803.05407)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roberta import pretrained
from roberta.data.vocabulary import fingerprint
from roberta.errors import CheckpointError, ConfigError, listed
from roberta.pretrained import Pretrained


def average(sources: Sequence[str | Path]) -> Pretrained:
    """Return a model whose parameters are the means of those of all sources, computed in float64.

    sources: names or paths that `pretrained.load` takes, two or more.

    Raises:
        ConfigError: there are fewer than two sources, or two are the same one.
        CheckpointError: they differ in shape, options, heads or vocabulary; the message names the difference.
        DownloadError, VocabError: as `pretrained.load`.
    """
    if len(sources) < 2:
        raise ConfigError(f"{len(sources)} checkpoints to average; give at least 2")
    if len({Path(source).absolute() for source in sources}) < len(sources):
        raise ConfigError("a checkpoint to average is given twice; name each once")
    first, *others = (pretrained.load(source) for source in sources)
    for source, other in zip(sources[1:], others, strict=True):
        _check_alike(first, other, f"{source} can't be averaged with {sources[0]}")
    states = [loaded.model.state_dict() for loaded in (first, *others)]
    means = {name: _mean([state[name] for state in states]) for name in states[0]}
    first.model.load_weights(means, source="mean")
    return first


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors of one shape in the number format of the first."""
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).to(tensors[0].dtype)


def _check_alike(one: Pretrained, other: Pretrained, what: str) -> None:
    differences = _differences(one.model.config, other.model.config, "")
    ours, theirs = one.model.head_configs, other.model.head_configs
    if ours.keys() != theirs.keys():
        differences.append(f"heads {listed(sorted(theirs))} instead of {listed(sorted(ours))}")
    else:
        for name in ours:
            differences += _differences(ours[name], theirs[name], f"head {name}: ")
    if fingerprint(one.tokenizer) != fingerprint(other.tokenizer):
        differences.append("another vocabulary")
    if differences:
        raise CheckpointError(f"{what}: it has {'; '.join(differences)}; average checkpoints of one run")


def _differences(ours: Any, theirs: Any, prefix: str) -> list[str]:
    if type(ours) is not type(theirs):
        return [f"{prefix}{type(theirs).__name__} instead of {type(ours).__name__}"]
    our_values, their_values = dataclasses.asdict(ours), dataclasses.asdict(theirs)
    return [
        f"{prefix}{name} {their_values[name]} instead of {value}"
        for name, value in our_values.items()
        if their_values[name] != value
    ]
