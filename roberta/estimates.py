"""What a training run will take, reckoned before it starts: parameters, operations, memory, hours.

Nothing is measured here and no device is touched; the model is built without values. FLOPs are those of the matrix
products of a forward and a backward pass. Memory is that of one process between the two passes, for samples of one
length; what passes while they run (the logits in `models.projection`, the library's own) comes on top.

Shapes: T tokens of a forward pass, S tokens of a sample, H heads, C embed_dim, F ffn_embed_dim, V vocabulary.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from roberta.checkpoint.assembly import unfilled
from roberta.devices import Precision
from roberta.distributed import Parallelism
from roberta.models.attention import MOST_IN_FP32
from roberta.optim.groups import freeze
from roberta.progress import in_millions
from roberta.timetable import SECONDS_PER_HOUR

FP32, HALF, INT64, BOOL = 4, 2, 8, 1  # bytes
_MOMENTS = 2  # fp32 numbers that an optimizer keeps for each trained parameter outside of the layers' matrices

# Dense half-precision FLOP/s with fp32 accumulation, from the makers' data sheets, by words of torch's device name.
PEAK_FLOPS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10": 125e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 154.8e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}


@dataclass(frozen=True)
class Workload:
    """A run as far as its cost goes: a model, and what each process computes at a time and in which form."""

    model: Any  # config of the encoder
    head: Any  # config of the head that is trained
    tokens_per_batch: int  # of one forward pass of one process
    tokens_per_sample: int
    targets_per_token: float  # rows that the head sees, for each token
    update_freq: int
    world_size: int
    max_update: int
    precision: Precision
    parallelism: Parallelism
    device_type: str  # cpu or cuda
    matrix_moments: int = 2  # fp32 numbers that the optimizer keeps for each trained parameter in a layer's matrix
    has_average: bool = False  # of the weights
    freeze: tuple[str, ...] = ()  # parts that are not trained
    head_name: str = "head"  # by which one of them may be named
    checkpoints_activations: bool = False
    total_tokens: int | None = None  # of the whole run; None: all its updates are full

    @property
    def tokens_per_update(self) -> int:
        """Tokens of one full update, of all processes."""
        return self.tokens_per_batch * self.update_freq * self.world_size

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.max_update * self.tokens_per_update if self.total_tokens is None else self.total_tokens

    @property
    def shards(self) -> int:
        """In how many parts parameters, gradients and moments are held."""
        return self.world_size if self.parallelism == "fsdp" else 1


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters."""

    encoder: int
    head: int
    layer: int  # of them in one layer
    layer_matrices: int  # of them in the matrices of all layers
    head_matrices: int  # in the matrices that the head multiplies with, the encoder's token embedding among them
    projection: int  # in the projection whose gradient a head's own loss computes in advance
    trained: int
    trained_matrices: int  # of those in the matrices of all layers

    @property
    def total(self) -> int:
        return self.encoder + self.head


@dataclass(frozen=True)
class Memory:
    """Bytes of one process between forward and backward pass."""

    weights: int  # with their copies in half precision
    gathered: int  # fsdp: whole weights for the time they are used
    gradients: int
    optimizer: int
    average: int  # of the weights
    activations: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True)
class Estimate:
    """What `estimate` says about a workload."""

    parameters: Parameters
    flops_per_token: float
    memory: Memory
    max_update: int
    tokens_per_update: int
    tokens: int  # of the whole run
    peak_flops: float | None  # FLOP/s of one device, where it is known
    hours: float | None  # None where the peak is unknown

    @property
    def flops(self) -> float:
        """Operations of the whole run."""
        return self.flops_per_token * self.tokens

    def to_json(self) -> str:
        """Return all figures as one line of JSON: bytes, FLOPs and hours, unrounded."""
        parts = dataclasses.asdict(self)
        for name in ("parameters", "memory"):
            parts[name]["total"] = getattr(self, name).total
        return json.dumps({**parts, "flops": self.flops})

    def __str__(self) -> str:
        rows = [
            ("parameters", f"{in_millions(self.parameters.total)} M"),
            ("  of the head", f"{in_millions(self.parameters.head)} M"),
            ("updates", f"{self.max_update:,}"),
            ("tokens an update", f"{self.tokens_per_update:,}"),
            ("tokens", f"{self.tokens / 1e9:,.3f} G"),
            ("FLOPs a token", f"{self.flops_per_token / 1e9:,.3f} G"),
            ("FLOPs", f"{self.flops:.2e}"),
            ("memory a process", _gib(self.memory.total)),
            *((f"  {name}", _gib(size)) for name, size in dataclasses.asdict(self.memory).items() if size),
            ("peak of a device", "unknown" if self.peak_flops is None else f"{self.peak_flops / 1e12:,.0f} TFLOP/s"),
            ("time", "unknown" if self.hours is None else f"{self.hours:,.1f} hours"),
        ]
        return "\n".join(f"{name:<20}{value:>16}" for name, value in rows)


def estimate(workload: Workload, *, device_name: str | None, utilisation: float) -> Estimate:
    """Return what a workload takes on devices of that name (torch's), where training reaches `utilisation` of the peak.

    device_name: None stands for the CPU, whose peak is not known.
    """
    parameters = count_parameters(workload.model, workload.head, workload.freeze, workload.head_name)
    flops = flops_per_token(workload, parameters)
    peak = peak_flops(device_name, workload.precision)
    seconds = None if peak is None else flops * workload.tokens / (peak * utilisation * workload.world_size)
    return Estimate(
        parameters=parameters,
        flops_per_token=flops,
        memory=memory(workload, parameters),
        max_update=workload.max_update,
        tokens_per_update=workload.tokens_per_update,
        tokens=workload.tokens,
        peak_flops=peak,
        hours=None if seconds is None else seconds / SECONDS_PER_HOUR,
    )


def count_parameters(model: Any, head: Any, frozen: Sequence[str] = (), head_name: str = "head") -> Parameters:
    """Return the numbers of parameters of an encoder with a head, from their configs; frozen: parts not trained.

    Raises:
        ConfigError: a part is not in the model, or nothing is left to train.
    """
    built: Any = unfilled(model, {head_name: head})
    freeze(built, frozen)
    layers, module = built.encoder.layers, built.heads[head_name]
    embedding = model.vocab_size * model.embed_dim
    return Parameters(
        encoder=_size(built.encoder),
        head=_size(module),
        layer=_size(layers[0]),
        layer_matrices=_size(layers, dimensions=2),
        head_matrices=_size(module, dimensions=2) + embedding * getattr(head, "tied", False),
        projection=(embedding + model.vocab_size) * hasattr(module, "loss"),
        trained=_size(built, only_trained=True),
        trained_matrices=_size(layers, dimensions=2, only_trained=True),
    )


def flops_per_token(workload: Workload, parameters: Parameters) -> float:
    """Return the FLOPs of a training step for each token: 6 for a parameter in a matrix, and 12 L C S for attention.

    The head's matrices count for the rows it sees alone. Activation checkpointing makes the layers compute their
    forward pass twice; that is no use, so it is not counted, and shows as a lower utilisation.
    """
    model = workload.model
    attention = 2 * model.encoder_layers * model.embed_dim * workload.tokens_per_sample
    head = workload.targets_per_token * parameters.head_matrices
    return 6.0 * (parameters.layer_matrices + attention + head)


def mfu(tokens_per_second: float, flops_per_token: float, *, peak: float, world_size: int = 1) -> float:
    """Return the model FLOPs utilisation: the share of the devices' peak FLOP/s that training used (arXiv:2204.02311).

    >>> f"{mfu(740e3, 0.602e9, peak=989e12):.2f}"
    '0.45'
    """
    return tokens_per_second * flops_per_token / (peak * world_size)


def peak_flops(device_name: str | None, precision: Precision = "bf16") -> float | None:
    """Return the FLOP/s of a device by the name that torch gives it; None where they are not known, as in fp32.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    """
    if precision == "fp32":
        return None
    words = f" {re.sub(r'[^A-Za-z0-9]+', ' ', device_name or '')} "
    known = [name for name in PEAK_FLOPS if f" {name} " in words]
    if not known or " Laptop " in words:
        return None
    return PEAK_FLOPS[max(known, key=len)]


def memory(workload: Workload, parameters: Parameters) -> Memory:
    """Return the bytes that one process needs between forward and backward pass."""
    shards = workload.shards
    share, trained = -(-parameters.total // shards), -(-parameters.trained // shards)
    matrices_trained = -(-parameters.trained_matrices // shards)
    # FSDP keeps what is outside the layers whole from the first pass to the second, and two layers at a time.
    outside = parameters.total - workload.model.encoder_layers * parameters.layer
    gathered = FP32 * (outside + 2 * parameters.layer) if shards > 1 else 0
    # Autocast's copies live until the backward pass, of sharded weights too.
    matrices = parameters.layer_matrices + parameters.head_matrices
    copies = HALF * matrices if workload.precision != "fp32" else 0
    # Gradients that wait for the next forward pass of the same update are exchanged, and sharded, after the last one.
    held = parameters.trained if workload.update_freq > 1 else trained
    return Memory(
        weights=FP32 * share + copies,
        gathered=gathered,
        gradients=FP32 * held,
        optimizer=FP32 * (_MOMENTS * (trained - matrices_trained) + workload.matrix_moments * matrices_trained),
        average=FP32 * share * workload.has_average,
        activations=activations(workload, parameters),
    )


def activations(workload: Workload, parameters: Parameters) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, weights aside.

    A layer keeps, for each token, of what it computes in the precision of the matrix products: the input, q, k, v,
    the context, and the input of fc1 (6 C), the input and the output of the activation (2 F); in fp32: the inputs of
    its two LayerNorms (2 C), which in fp32 stand beside the former. Of each dropout it keeps which values went on.
    """
    model, tokens = workload.model, workload.tokens_per_batch
    width, number = model.embed_dim, _number_bytes(workload)
    of_attention = tokens * (number * 5 * width + _kept_by_attention(workload))
    of_rest = tokens * (
        number * (width + 2 * model.ffn_embed_dim)
        + FP32 * 2 * width
        + FP32 * 4  # mean and scale of the LayerNorms
        + _kept_by_dropout(workload, model.dropout, 2 * width)
        + _kept_by_dropout(workload, model.activation_dropout, model.ffn_embed_dim)
    )
    if workload.checkpoints_activations:  # the input of each layer, and of the layer at work all of it
        layers = FP32 * tokens * width * model.encoder_layers + of_attention + of_rest
    else:  # the last layer goes on with the rows that the head sees
        share = min(1.0, workload.targets_per_token)
        layers = of_attention * model.encoder_layers + round(of_rest * (model.encoder_layers - 1 + share))
    embedding = tokens * (2 * INT64 + FP32 * width + FP32 * 2 + _kept_by_dropout(workload, model.dropout, width))
    rows = round(workload.targets_per_token * tokens)
    head = rows * 4 * width * number + FP32 * parameters.projection
    return layers + embedding + head


def _kept_by_attention(workload: Workload) -> int:
    """Return the bytes for each token that scaled dot-product attention keeps beside q, k, v and its output.

    Flash attention keeps the normaliser of each row. On a CPU with dropout the scores are in fp32; the probabilities
    before dropout, after it, and which went on are kept, and where q, k and v are in half precision, they are in fp32.
    So they are over short sequences without dropout, and the output beside them.
    """
    model = workload.model
    widening = 3 * (FP32 - _number_bytes(workload)) * model.embed_dim
    if workload.device_type == "cpu" and model.attention_dropout:
        return 3 * FP32 * model.attention_heads * workload.tokens_per_sample + widening
    if workload.device_type == "cpu" and workload.precision == "bf16" and workload.tokens_per_sample <= MOST_IN_FP32:
        return FP32 * model.attention_heads + widening + FP32 * model.embed_dim
    return FP32 * model.attention_heads


def _kept_by_dropout(workload: Workload, rate: float, width: int) -> int:
    """Return the bytes for each token that the dropout of `width` values keeps: on a CPU as numbers, else as bools."""
    if not rate:
        return 0
    return width * (_number_bytes(workload) if workload.device_type == "cpu" else BOOL)


def _number_bytes(workload: Workload) -> int:
    return FP32 if workload.precision == "fp32" else HALF


def _size(module: nn.Module, dimensions: int = 1, *, only_trained: bool = False) -> int:
    """Return how many numbers the parameters of a module have, of those with at least that many dimensions."""
    return sum(
        parameter.numel()
        for parameter in module.parameters()
        if parameter.dim() >= dimensions and (parameter.requires_grad or not only_trained)
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB"
