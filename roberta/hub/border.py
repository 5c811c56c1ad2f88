"""The hub's border: texts, lists and padded tensors outside, checked and packed tokens inside.

This is the only place where tokens are padded.

Shapes: B sequences, S padded length, T packed tokens, C embed_dim, K outputs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from numbers import Integral
from operator import index
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from roberta.data.batching import batches
from roberta.data.tokenizer import Tokenizer
from roberta.errors import DataError
from roberta.layout import SequenceLayout
from roberta.models.mode import evaluation_mode
from roberta.models.roberta import RobertaConfig, RobertaModel

BATCH_TOKENS = 4096  # of a forward pass: keeps two cores busy; a large GPU takes many times as much

Result = TypeVar("Result")
Text = str | tuple[str, ...]  # what makes one sequence: a text, or several such as a pair


@dataclass(frozen=True)
class Engine:
    """A model, its tokenizer, and how many tokens go through the model at once."""

    model: RobertaModel
    tokenizer: Tokenizer
    batch_tokens: int

    def __post_init__(self) -> None:
        count = self.batch_tokens
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise DataError(f"batches of {self.batch_tokens!r} tokens; expected a whole number of at least 1")

    def encode(self, texts: Sequence[tuple[str, ...]], *, truncate: bool) -> list[list[int]]:
        """Return the token ids of each sequence, with `truncate` no more than the model takes."""
        limit = self.model.config.max_positions if truncate else None
        return [self.tokenizer.encode_sequence(*parts, max_tokens=limit) for parts in texts]

    def batches(self, sequences: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor, SequenceLayout]]:
        """Yield (indices, tokens (T,), layout) of many sequences of token ids, batch by batch, on the model's device.

        Sequences of like length go together, `batch_tokens` at most (one sequence always fits); the longest come first,
        so that what does not fit into memory shows at once. Every index appears in exactly one batch.

        Raises:
            DataError: a sequence is empty, longer than the model takes, or holds an unknown id.
        """
        config = self.model.config
        lengths = np.array(list(map(len, sequences)), dtype=np.int64)
        check_lengths(lengths.tolist(), config)
        by_length = np.argsort(-lengths, kind="stable")
        offsets = batches(lengths[by_length], max_tokens=max(self.batch_tokens, int(lengths.max(initial=1))))
        device = device_of(self.model)
        for start, end in pairwise(offsets.tolist()):
            indices = by_length[start:end].tolist()
            packed = torch.tensor(list(chain.from_iterable(sequences[index] for index in indices)), dtype=torch.int64)
            check_ids(packed, config.vocab_size)
            yield indices, packed.to(device), SequenceLayout.from_lengths(lengths[indices], device)

    def each(
        self,
        sequences: Sequence[Sequence[int]],
        compute: Callable[[list[int], Tensor, SequenceLayout], Iterable[Result]],
    ) -> list[Result]:
        """Return what `compute` says of each sequence, in input order; it is called with each batch of `batches`.

        Raises:
            DataError: as `batches`.
        """
        found: dict[int, Result] = {}
        for indices, tokens, layout in self.batches(sequences):
            found.update(zip(indices, compute(indices, tokens, layout), strict=True))
        return [found[index] for index in range(len(sequences))]


@dataclass(frozen=True)
class PackedGrid:
    """A padded grid of tokens, packed, and the way back."""

    tokens: Tensor  # (T,) int64
    layout: SequenceLayout
    cells: Tensor  # (T,) int64: the cell of each token in the flattened (B * S) grid
    shape: tuple[int, int]  # (B, S)

    def unpack(self, packed: Tensor, value: float = 0.0) -> Tensor:
        """Return (T, K) spread over the grid: (B, S, K), `value` where there is no token."""
        grid = packed.new_full((self.shape[0] * self.shape[1], packed.shape[1]), value)
        return grid.index_copy(0, self.cells, packed).view(*self.shape, -1)  # (B, S, K)


def device_of(model: RobertaModel) -> torch.device:
    """Return where the model is."""
    return model.encoder.embed_tokens.weight.device


@contextmanager
def inference(model: RobertaModel) -> Iterator[None]:
    """Compute in evaluation mode and without gradients; the mode of each module is restored."""
    with evaluation_mode(model), torch.no_grad():
        yield


def as_sequences(inputs: Any) -> tuple[list[tuple[str, ...]], bool]:
    """Return the texts of each sequence, and whether it is a single one: a string, or a tuple of strings.

    Anything else must be an iterable of strings and of tuples or lists of strings.

    Raises:
        DataError: it is not.
    """
    if isinstance(inputs, str):
        return [(inputs,)], True
    if isinstance(inputs, tuple) and inputs and all(isinstance(text, str) for text in inputs):
        return [inputs], True
    _refuse_mapping(inputs)
    items = list(inputs) if isinstance(inputs, Iterable) else [inputs]
    sequences = []
    for position, item in enumerate(items):
        texts = (item,) if isinstance(item, str) else tuple(item) if isinstance(item, tuple | list) else ()
        if not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"item {position} is {item!r:.60}; expected a text, a tuple of texts such as a pair, or a list of those"
            )
        sequences.append(texts)
    return sequences, False


def as_texts(inputs: Any) -> tuple[list[str], bool]:
    """Return the texts, and whether it is a single one.

    Raises:
        DataError: neither a string nor an iterable of strings.
    """
    if isinstance(inputs, str):
        return [inputs], True
    _refuse_mapping(inputs)
    items = list(inputs) if isinstance(inputs, Iterable) else [inputs]
    for position, item in enumerate(items):
        if not isinstance(item, str):
            raise DataError(f"item {position} is {item!r:.60}; expected a text or a list of texts")
    return items, False


def as_ids(inputs: Iterable[Any], pad: int) -> list[list[int]]:
    """Return sequences of token ids, of lists, arrays or tensors, as lists.

    Raises:
        DataError: one of them is something else, or holds `pad`.
    """
    sequences = []
    for number, item in enumerate(inputs):
        given = item.tolist() if hasattr(item, "tolist") else item
        try:
            ids = None if isinstance(given, str | bytes) else list(map(index, given))
        except TypeError:
            ids = None
        if ids is None or pad in ids:
            raise DataError(
                f"sequence {number} is {item!r:.60}; expected token ids without <pad>, as encode returns them; "
                "predict takes texts, and padded tensors"
            )
        sequences.append(ids)
    return sequences


def _refuse_mapping(inputs: Any) -> None:
    """Refuse a row of a data set, and a table, whose keys would be taken for texts."""
    if isinstance(inputs, Mapping):
        raise DataError(f"this is a mapping of {list(inputs)!r:.60}; give the text in it, or a list of texts")
    if getattr(inputs, "ndim", 1) != 1:
        raise DataError(f"this {type(inputs).__name__} has {inputs.ndim} dimensions; give a column or a list of texts")


def as_word_list(words: Any, what: str) -> list[str]:
    """Return words as a list; `what` they are begins the message of an error.

    Raises:
        DataError: not an iterable of strings, or a single string, whose characters would be taken for the words.
    """
    if isinstance(words, str) or not isinstance(words, Iterable):
        raise DataError(f"{what} are {words!r:.60}; expected a list of strings: put brackets around a single one")
    items = list(words)
    for position, item in enumerate(items):
        if not isinstance(item, str):
            raise DataError(f"{what}: item {position} is {item!r:.60}; expected a string")
    return items


def padded(sequences: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Return sequences of token ids as a right-padded (B, S) int64."""
    grid = torch.full((len(sequences), max(map(len, sequences), default=0)), pad)
    for row, sequence in zip(grid, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
    return grid


def pack(tokens: Tensor, model: RobertaModel) -> PackedGrid:
    """Return the real tokens of (S,) or (B, S), with `<pad>` anywhere between them, on the model's device.

    Raises:
        DataError: not ids, ids outside the vocabulary, or a sequence that is empty or longer than the model takes.
    """
    if tokens.dim() not in (1, 2) or tokens.is_floating_point():
        raise DataError(f"tokens must be a 1-D or 2-D tensor of ids, not {tokens.dtype} of shape {tuple(tokens.shape)}")
    grid = tokens.unsqueeze(0) if tokens.dim() == 1 else tokens  # (B, S)
    if not len(grid):
        raise DataError(f"tokens are an empty batch, of shape {tuple(tokens.shape)}; give one sequence or more")
    check_ids(grid, model.config.vocab_size)
    is_token = grid != model.config.padding_idx
    device = device_of(model)
    layout = SequenceLayout.from_lengths(is_token.sum(dim=1).cpu().numpy(), device)
    check_lengths(layout.lengths, model.config)
    cells = is_token.flatten().nonzero().squeeze(1)  # (T,)
    packed = grid.flatten()[cells].long()
    return PackedGrid(packed.to(device), layout, cells.to(device), (grid.shape[0], grid.shape[1]))


def windows(tokens: Tensor, engine: Engine, *, max_tokens: int | None, stride: int | None) -> Tensor:
    """Return the tokens (L,) of one text as sequences of at most `max_tokens`, `stride` apart, padded: (B, S).

    Raises:
        DataError: not the tokens of one text, or `max_tokens` or `stride` is out of range.
    """
    dictionary, limit = engine.tokenizer.dictionary, engine.model.config.max_positions
    ids = tokens.tolist() if isinstance(tokens, Tensor) and tokens.dim() == 1 else []
    if len(ids) < 2 or ids[0] != dictionary.bos or ids[-1] != dictionary.eos or dictionary.eos in ids[:-1]:
        raise DataError("windows takes the 1-D tensor of tokens of one text, from <s> to </s>, as encode gives them")
    for name, value in (("max_tokens", max_tokens), ("stride", stride)):
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool)):
            raise DataError(f"{name} is {value!r:.60}; expected a whole number")
    room = (limit if max_tokens is None else max_tokens) - 2
    step = room if stride is None else stride
    if not 1 <= room <= limit - 2 or not 1 <= step <= room:
        raise DataError(
            f"windows of {room + 2} tokens, {step} apart; the model takes 3 to {limit} tokens, "
            "and windows may be 1 to max_tokens - 2 apart, or tokens would be lost"
        )
    bos, *inner, eos = ids
    starts = range(0, max(1, len(inner) - room + step), step)
    return padded([[bos, *inner[start : start + room], eos] for start in starts], dictionary.pad)


def decode(tokens: Tensor, engine: Engine) -> str | list[Any]:
    """Return the text of (S,) token ids, a list of texts if they hold several; a list of those for (B, S).

    Raises:
        DataError: not a tensor of one or two dimensions, or holds ids outside the vocabulary.
    """
    if not isinstance(tokens, Tensor):
        raise DataError(f"decode takes a tensor of token ids, not {type(tokens).__name__}; use torch.tensor(ids)")
    if tokens.dim() not in (1, 2) or tokens.is_floating_point():
        raise DataError(f"decode takes a 1-D or 2-D tensor of token ids, not {tokens.dtype} of {tokens.dim()}-D")
    check_ids(tokens, engine.model.config.vocab_size)
    if tokens.dim() == 2:
        return [decode(row, engine) for row in tokens.cpu()]
    ids = tokens[tokens != engine.tokenizer.dictionary.pad].tolist()
    return engine.tokenizer.decode_sequence(ids)


def refuse_truncation(truncate: bool) -> None:
    """Refuse to cut tokens, whose last one ends the sequence.

    Raises:
        DataError: that is asked for.
    """
    if truncate:
        raise DataError("truncate=True is for texts; cut them when they are encoded: encode(text, truncate=True)")


def check_ids(tokens: Tensor, vocab_size: int) -> None:
    """Refuse token ids that the model has no embedding for.

    Raises:
        DataError: there are such ids.
    """
    tokens = tokens.long()  # some types of integers have no minimum in torch
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise DataError(
            f"token ids from {int(tokens.min())} to {int(tokens.max())}; the vocabulary has ids 0 to {vocab_size - 1}"
        )


def check_lengths(lengths: Iterable[int], config: RobertaConfig) -> None:
    """Refuse sequences without tokens, or with more than the model takes.

    Raises:
        DataError: there is such a sequence.
    """
    for row, length in enumerate(lengths):
        if not length:
            raise DataError(f"sequence {row} has no tokens; a sequence holds at least <s> and </s>")
        if length > config.max_positions:
            raise DataError(
                f"sequence {row} has {length} tokens; the model takes at most {config.max_positions}: "
                "cut the text (truncate=True does, where a method takes it), or split its tokens with windows()"
            )
