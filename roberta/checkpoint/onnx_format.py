"""ONNX files: a model written as a graph of padded tokens, for runtimes other than torch. They are never read back.

The library computes on packed tokens whose lengths live on the host; a graph can't. So the model's own modules are run
here over a padded grid that looks to them like a packed run: every cell is a row, pads are masked as keys.

Shapes: B sequences, S padded length, C embed_dim, K outputs of a head.
"""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from roberta.errors import ConfigError
from roberta.files import whole_file
from roberta.layout import SequenceLayout
from roberta.models.mode import evaluation_mode
from roberta.models.roberta import RobertaModel

logger = logging.getLogger(__name__)

INPUT = "tokens"
FEATURES, LOGITS = "features", "logits"

_PACKAGES = ("onnx", "onnxscript")
_OPSET = 18
_MAX_BYTES = 2**31 - 2**20  # protobuf ends a file at 2 GiB; the graph beside the weights is below 1 MiB


class PaddedModel(nn.Module):
    """A model, with one of its heads or none, on padded tokens: (B, S) int64 to (B, S, C), (B, K) or (B, S, K).

    The parameters are the model's own. A head of whole sequences answers from the first token of each, any other
    head for every token. Features and answers of `<pad>` are zero; pads may be on either side.
    """

    def __init__(self, model: RobertaModel, head: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.head = None if head is None else model.heads[head]
        self.is_pooled = head is not None and model.head_config(head).rows == "first"

    def forward(self, tokens: Tensor) -> Tensor:
        """Map padded token ids (B, S) to features or to the outputs of the head; no sequence may be empty."""
        grid = _Grid(tokens != self.model.config.padding_idx)
        rows = self.model.encoder(tokens.flatten(), cast(SequenceLayout, grid))  # (B * S, C)
        if self.is_pooled:
            first = grid.is_token.int().argmax(dim=1)  # (B,)
            rows = grid.pad(rows)[torch.arange(len(first)), first]  # (B, C)
        answers = rows if self.head is None else self.head(rows)
        if self.is_pooled:
            return answers  # (B, K)
        return torch.where(grid.is_token.unsqueeze(2), grid.pad(answers), 0.0)  # (B, S, K)


class _Grid:
    """What the encoder asks of a SequenceLayout, for B * S rows of which some are pads."""

    is_uniform = False
    runs = ()  # none known: their lengths are in the graph

    def __init__(self, is_token: Tensor) -> None:
        self.is_token = is_token  # (B, S)

    @property
    def positions(self) -> Tensor:
        return (self.is_token.cumsum(dim=1) - 1).clamp(min=0).flatten()  # (B * S,)

    def pad(self, packed: Tensor) -> Tensor:
        return packed.view(*self.is_token.shape, *packed.shape[1:])  # (B, S, ...)

    def pack(self, padded: Tensor) -> Tensor:
        return padded.flatten(0, 1)  # (B * S, ...)


def export_onnx(model: RobertaModel, path: Path, head: str | None = None) -> None:
    """Write the model as an ONNX graph of any batch size and length, whole or not at all.

    Its input `tokens` is (B, S) int64, padded on either side with the model's `padding_idx`. Its output is `features`
    (B, S, C), or with a head `logits`: (B, K) of one for whole sequences, (B, S, K) of one for tokens. The graph
    computes as in evaluation mode, in the precision of the model, and checks nothing: B and S are at least 1, ids lie
    in the vocabulary, and no sequence is empty or longer than `max_positions`.

    Raises:
        ConfigError: onnx or onnxscript is not installed, there is no such head, the model is in int8, or over 2 GiB.
        StorageError: the file can't be written.
    """
    if model.is_int8:
        raise ConfigError("a model in int8 can't be exported; export it before .int8(), and let the runtime round it")
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"the export to ONNX needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    if head is not None:
        model.head_config(head)
    if model.encoder.embed_tokens.weight.dtype == torch.bfloat16:
        logger.warning("onnxruntime has no products in bfloat16 on a CPU; export model.float() or model.half() for it")
    padded = PaddedModel(model, head)
    size = sum(parameter.nbytes for parameter in model.parameters())
    if size > _MAX_BYTES:
        raise ConfigError(f"{size} bytes of parameters; an ONNX file holds {_MAX_BYTES}: export model.half() instead")
    engine = model.cpu_engine
    model.set_cpu_engine("torch")  # others' products are none of ONNX's
    try:
        with evaluation_mode(padded):
            _write(padded, path)
    finally:
        model.set_cpu_engine(engine)


def _write(padded: PaddedModel, path: Path) -> None:
    device = next(padded.parameters()).device
    example = torch.full((2, 3), padded.model.config.padding_idx + 1, device=device)
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=padded.model.config.max_positions)},)
    with whole_file(path) as part:
        part.touch()  # a folder that can't be written should show before the export, not after
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):  # torch's exporter deprecates parts of itself
                warnings.simplefilter("ignore", category)
            # strict: the other way takes the number of tokens in `view(len(x), ...)` for a constant
            exported = torch.export.export(padded, (example,), dynamic_shapes=shapes, strict=True)
            program: Any = torch.onnx.export(
                exported,
                dynamic_shapes=shapes,
                input_names=[INPUT],
                output_names=[FEATURES if padded.head is None else LOGITS],
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
        program.save(part, external_data=False)
