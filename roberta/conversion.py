"""Checkpoints from one format to another, proven by what the two compute.

Shapes: B sequences, T packed tokens.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from roberta import pretrained
from roberta.averaging import average
from roberta.checkpoint import fairseq_writer, hf_format, native
from roberta.data.tokenizer import Tokenizer
from roberta.errors import CheckpointError, ConfigError
from roberta.layout import SequenceLayout
from roberta.model_card import write_card
from roberta.models.roberta import RobertaModel
from roberta.pretrained import Pretrained

Format = Literal["native", "hf", "fairseq"]
TOLERANCE = 1e-4

_STRIDE = 7  # heads see every seventh row: all logits over the vocabulary would fill a tenth of a GB

_TEXT = "Hello world!  Zoë’s 1,000 naïve 🤗s —\tdon't\n\n 한국어 \u200b\u00ad\x00 x_y"


@dataclass(frozen=True)
class Conversion:
    """What a conversion did: the heads that went along, those that did not, and how far the outputs are apart."""

    heads: tuple[str, ...]
    left_out: tuple[str, ...]
    largest_difference: float


def convert(
    source: str | Path | Sequence[str | Path], target: Path, *, to: Format, head: str | None = None
) -> Conversion:
    """Write a model in another format, open the result, and compare what both compute on a fixed batch.

    source: any name or path that `pretrained.load` takes; of several, the mean of their weights is written.
    head: the one that goes with the model into a Hugging Face folder; the other formats hold all.

    Raises:
        CheckpointError: the source can't be read, several are not alike, or the outputs differ by more than
            `TOLERANCE`; the target is then removed.
        ConfigError: the target exists, or its format can't hold the model.
        StorageError, VocabError, DownloadError: a file can't be written, fits ill, or can't be fetched.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already; remove it or choose another folder")
    if head is not None and to != "hf":
        raise ConfigError(f"--head {head} is for --to hf, which holds one head; {to} holds all of them")
    loaded = pretrained.load(source) if isinstance(source, str | Path) else average(source)
    if to == "hf":
        hf_format.write(target, loaded.model, loaded.tokenizer, head)
    elif to == "fairseq":
        fairseq_writer.write(target, loaded.model, loaded.tokenizer)
    else:
        native.save(target, loaded.model, loaded.tokenizer)
    try:
        conversion = _checked(loaded, pretrained.load(target), head, source=f"{source} -> {target}")
        if to == "native":
            write_card(target)
        return conversion
    except BaseException:  # Ctrl-C too
        shutil.rmtree(target)
        raise


def largest_difference(one: RobertaModel, other: RobertaModel, heads: dict[str | None, str | None]) -> float:
    """Return by how much the outputs of two models of one shape differ at most, on a batch that reaches every position.

    heads: names of heads in `one` and in `other` that are to agree; None stands for the features.
    """
    tokens, layout = _batch(one)
    select = torch.arange(0, layout.num_tokens, _STRIDE)
    differences = []
    with torch.inference_mode():
        for name, its_name in heads.items():
            rows = None if name is None else select
            outputs = one(tokens, layout, name, rows), other(tokens, layout, its_name, rows)
            differences.append(_distance(*outputs))
    return torch.stack(differences).max().item()  # NaN if one of them is


def _checked(loaded: Pretrained, again: Pretrained, head: str | None, *, source: str) -> Conversion:
    names = {None: None, **_counterparts(loaded.model, again.model, head)}
    difference = largest_difference(loaded.model.float(), again.model.float(), names)  # fairseq is read as fp32
    if not difference <= TOLERANCE:  # nor if it is NaN
        raise CheckpointError(f"{source}: outputs differ by {difference:.2g}, more than {TOLERANCE:g}; nothing is kept")
    if not _agree(loaded.tokenizer, again.tokenizer):
        raise CheckpointError(f"{source}: the tokenizers give other tokens for the same text; nothing is kept")
    kept = tuple(name for name in loaded.model.heads if name in names)
    return Conversion(kept, tuple(name for name in loaded.model.heads if name not in names), difference)


def _counterparts(written: RobertaModel, again: RobertaModel, head: str | None) -> dict[str | None, str | None]:
    """Return what the heads that were written are called when they are read again.

    A Hugging Face folder gives its one head a name of its own; a fairseq file may have a masked-LM head more.
    """
    ours, theirs = list(written.heads), list(again.heads)
    same: dict[str | None, str | None] = {name: name for name in ours if name in theirs}
    if head is not None or (ours and len(theirs) == 1 and not same):
        return {head or ours[0]: theirs[0]}
    return same


def _agree(one: Tokenizer, other: Tokenizer) -> bool:
    text = " ".join((_TEXT, *one.added_symbols))
    if len(one.dictionary) != len(other.dictionary) or one.encode(text) != other.encode(text):
        return False
    return all(one.decode([token]) == other.decode([token]) for token in range(len(one.dictionary)))


def _batch(model: RobertaModel) -> tuple[Tensor, SequenceLayout]:
    """Return a batch of odd lengths, the longest and the shortest among them: tokens (T,) and layout."""
    longest = model.config.max_positions
    layout = SequenceLayout.from_lengths([min(length, longest) for length in (longest, 1, 17, 2, 61)])
    tokens = torch.arange(layout.num_tokens) * 7919 % model.config.vocab_size  # (T,)
    return tokens, layout


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return (one.double() - other.double()).abs().max()
