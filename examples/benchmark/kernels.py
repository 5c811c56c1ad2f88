"""Measure what a layer does on a CPU in fp32, bf16 and int8, in the ways there are to do it.

    OMP_NUM_THREADS=1 python examples/benchmark/kernels.py
    OMP_NUM_THREADS=1 python examples/benchmark/kernels.py --precision bf16
    OMP_NUM_THREADS=1 python examples/benchmark/kernels.py --preset roberta.small --rows 256 3060 --json

The first table has the linear maps, and the vocabulary projection of masked tokens: torch's own product, numpy's, and
oneDNN's with weights laid out beforehand (`packed`); and GELU after them, in new memory, in that of its input, or
within oneDNN's product. Figures are GFLOP/s of the products alone, whatever else a row computes. Which is the fastest
depends on the processor, and is what `--cpu-engine auto` measures. The second table has the rounding of inputs to
uint8, directly and by way of int16, in nanoseconds for each number. The third has dropout, and attention with and
without it, forward and backward, in milliseconds: torch's and ours. The fourth has attention without gradients over
sequences of some lengths, in microseconds for each: torch's over the keys of each, and ours. In bf16 there are no
products of numpy's, and no second table.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from measuring import Row, add_timing_options, interleaved, show
from torch import Tensor

from roberta.devices import dtype_of
from roberta.layout import SequenceLayout
from roberta.models.attention import attention
from roberta.models.dropout import dropout
from roberta.models.linear import linear
from roberta.models.quantization import rounded_inputs
from roberta.models.roberta import preset_config

MASKED = 0.15  # of the tokens: the rows that the vocabulary projection has in pretraining
LENGTH = 128  # tokens of a sequence
RATE = 0.1  # of dropout
LENGTHS = (10, 20, 31, 32, 40, 47, 48, 65, 79, 127, 128, 255, 383)  # of sequences, in the fourth table
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def works(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the ways to compute a linear map, with and without a GELU after it."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
    product = torch.ops.mkldnn._linear_pointwise
    by_numpy = {"numpy": partial(linear, x, weight, bias, "numpy")}
    return {
        "plain": partial(F.linear, x, weight, bias),
        **(by_numpy if x.dtype == torch.float32 else {}),
        "packed": partial(product, x, packed, bias, "none", [], ""),
        "plain, GELU": lambda: F.gelu(F.linear(x, weight, bias)),
        "GELU in place": lambda: torch.ops.aten.gelu_(F.linear(x, weight, bias)),
        "packed, GELU in it": partial(product, x, packed, bias, "gelu", [], "none"),
    }


@torch.inference_mode()
def measure(rows: int, inputs: int, outputs: int, dtype: torch.dtype, given: argparse.Namespace) -> Row:
    """Return the row of one map; all ways must agree."""
    weight = torch.randn(outputs, inputs) * inputs**-0.5
    x, weight, bias = (tensor.to(dtype) for tensor in (torch.randn(rows, inputs), weight, torch.randn(outputs)))
    ways = works(x, weight, bias)
    for name, way in ways.items():
        expected = ways["plain, GELU" if "GELU" in name else "plain"]()
        torch.testing.assert_close(way(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    timings = interleaved(ways, repeats=given.repeats, processor_time=given.processor_time)
    gflops = 2 * rows * inputs * outputs / 1e9
    rates = {name: gflops / timing.median for name, timing in timings.items()}
    return {"tokens": rows, "inputs": inputs, "outputs": outputs, **rates}


@torch.inference_mode()
def measure_rounding(rows: int, inputs: int, given: argparse.Namespace) -> Row:
    """Return the row of one input of int8."""
    levels = torch.rand(rows, inputs) * 255 + 0.5
    works: dict[str, Callable[[], object]] = {
        "direct": lambda: levels.to(torch.uint8),
        "by int16": lambda: levels.to(torch.int16).to(torch.uint8),
        "all of it": lambda: rounded_inputs(levels),
    }
    timings = interleaved(works, repeats=given.repeats, processor_time=given.processor_time)
    times = {name: 1e9 * timing.median / levels.numel() for name, timing in timings.items()}
    return {"tokens": rows, "inputs": inputs, **times}


def measure_dropout(rows: int, heads: int, width: int, dtype: torch.dtype, given: argparse.Namespace) -> Row:
    """Return the row of one batch, in sequences of 128 tokens."""
    lengths = [LENGTH] * -(-rows // LENGTH)
    layout = SequenceLayout.from_lengths(lengths)
    x = torch.randn(layout.num_tokens, width).to(dtype).requires_grad_()
    qkv = torch.randn(layout.num_tokens, 3, heads, width // heads).to(dtype).requires_grad_()

    def there_and_back(work: Callable[[], Tensor]) -> None:
        work().sum().backward()

    def torchs(p: float) -> Tensor:
        q, k, v = (part.unflatten(0, (len(lengths), LENGTH)).transpose(1, 2) for part in qkv.unbind(1))
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p).transpose(1, 2).flatten(0, 1)

    works: dict[str, Callable[[], Tensor]] = {
        "dropout, torch": lambda: F.dropout(x, RATE),
        "dropout, ours": lambda: dropout(x, RATE),
        "attention, torch": lambda: torchs(RATE),
        "attention, ours": lambda: attention(*qkv.unbind(1), layout, dropout_p=RATE),
        "torch without": lambda: torchs(0.0),
        "ours without": lambda: attention(*qkv.unbind(1), layout),
    }
    timings = interleaved(
        {name: partial(there_and_back, work) for name, work in works.items()},
        repeats=given.repeats,
        processor_time=given.processor_time,
    )
    return {"tokens": layout.num_tokens, **{name: 1e3 * timing.median for name, timing in timings.items()}}


@torch.inference_mode()
def measure_keys(length: int, heads: int, width: int, dtype: torch.dtype, given: argparse.Namespace) -> Row:
    """Return the row of sequences of one length; the first of them has 16 tokens more, so that none are padded."""
    runs = ((1, length + 16), (16, length))
    layout = SequenceLayout.from_lengths([length for count, length in runs for _ in range(count)])
    qkv = torch.randn(layout.num_tokens, 3, heads, width // heads).to(dtype)

    def torchs() -> Tensor:
        parts = qkv.split([count * length for count, length in runs])
        contexts = []
        for run, part in zip(runs, parts, strict=True):
            q, k, v = (x.unflatten(0, run).transpose(1, 2) for x in part.unbind(1))
            contexts.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
        return torch.cat(contexts)

    works: dict[str, Callable[[], Tensor]] = {"torch": torchs, "ours": lambda: attention(*qkv.unbind(1), layout)}
    torch.testing.assert_close(works["ours"](), torchs(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    timings = interleaved(works, repeats=10 * given.repeats, processor_time=given.processor_time)
    return {
        "keys": length,
        **{name: 1e6 * timing.median / layout.num_sequences for name, timing in timings.items()},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="roberta.base", help="shape of the model (default: %(default)s)")
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 670, 2048], help="tokens of a batch")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="(default: %(default)s)")
    add_timing_options(parser)
    given = parser.parse_args()
    if not torch.backends.mkldnn.is_available():
        parser.error("this build of torch has no oneDNN")
    if given.precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        parser.error("this processor has no bf16")
    config, dtype = preset_config(given.preset), dtype_of(given.precision)
    heads = config.attention_heads
    width, inner = config.embed_dim, config.ffn_embed_dim
    shapes = ((width, 3 * width), (width, width), (width, inner), (inner, width))
    maps = [measure(rows, inputs, outputs, dtype, given) for rows in given.rows for inputs, outputs in shapes]
    maps += [measure(round(MASKED * rows), width, config.vocab_size, dtype, given) for rows in given.rows]
    show(maps, as_json=given.json)
    if given.precision == "fp32":
        rounding = [measure_rounding(rows, inputs, given) for rows in given.rows for inputs in (width, inner)]
        show(rounding, as_json=given.json)
    show([measure_dropout(rows, heads, width, dtype, given) for rows in given.rows], as_json=given.json)
    show([measure_keys(length, heads, width, dtype, given) for length in LENGTHS], as_json=given.json)


if __name__ == "__main__":
    main()
