"""Measure the linear maps of a layer on a CPU: torch's own product, and oneDNN's with weights laid out beforehand.

    OMP_NUM_THREADS=1 python examples/benchmark/kernels.py
    OMP_NUM_THREADS=1 python examples/benchmark/kernels.py --preset roberta.small --rows 256 3060 --json

Figures are GFLOP/s of the products alone, whatever else a row computes. Which is faster depends on the processor: where
`packed` is far ahead, inference has something to win by it.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from measuring import Row, add_timing_options, interleaved, show
from torch import Tensor

from roberta.models.roberta import preset_config


def works(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the ways to compute a linear map, with and without a GELU after it."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
    product = torch.ops.mkldnn._linear_pointwise
    return {
        "plain": partial(F.linear, x, weight, bias),
        "packed": partial(product, x, packed, bias, "none", [], ""),
        "plain, GELU": lambda: F.gelu(F.linear(x, weight, bias)),
        "packed, GELU in it": partial(product, x, packed, bias, "gelu", [], "none"),
    }


@torch.inference_mode()
def measure(rows: int, inputs: int, outputs: int, given: argparse.Namespace) -> Row:
    """Return the row of one map; all ways must agree."""
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs) * inputs**-0.5, torch.randn(outputs)
    ways = works(x, weight, bias)
    torch.testing.assert_close(ways["packed"](), ways["plain"](), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ways["packed, GELU in it"](), ways["plain, GELU"](), rtol=1e-4, atol=1e-4)
    timings = interleaved(ways, repeats=given.repeats, processor_time=given.processor_time)
    gflops = 2 * rows * inputs * outputs / 1e9
    rates = {name: gflops / timing.median for name, timing in timings.items()}
    return {"tokens": rows, "inputs": inputs, "outputs": outputs, **rates}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="roberta.base", help="shape of the model (default: %(default)s)")
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 670, 2048], help="tokens of a batch")
    add_timing_options(parser)
    given = parser.parse_args()
    if not torch.backends.mkldnn.is_available():
        parser.error("this build of torch has no oneDNN")
    config = preset_config(given.preset)
    width, inner = config.embed_dim, config.ffn_embed_dim
    shapes = ((width, 3 * width), (width, width), (width, inner), (inner, width))
    show(
        [measure(rows, inputs, outputs, given) for rows in given.rows for inputs, outputs in shapes],
        as_json=given.json,
    )


if __name__ == "__main__":
    main()
