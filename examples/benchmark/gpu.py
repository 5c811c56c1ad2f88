"""Check on a CUDA device what the speed of training rests on there, before anything is timed.

    python examples/benchmark/gpu.py

- Which kernels of torch compute attention at dropout 0, 0.1 and 0.125, and what share of the probabilities they drop.
  Flash attention compares bytes, so it comes within 1/256 of a rate; a kernel that is further off rounds it.
- That the layers compile into one graph, and the loss into another, which serve batches of all sizes.

Prints a table; a graph that breaks or is compiled again ends it with exit code 1, and so does a kernel that rounds the
rate and is chosen nevertheless.
"""

import sys
import warnings
from collections import Counter

import torch
import torch.nn.functional as F
from measuring import Row, interleaved, machine, show
from torch.nn.attention import SDPBackend, sdpa_kernel

from roberta.distributed import SINGLE, parallelise
from roberta.layout import SequenceLayout
from roberta.models.attention import backend
from roberta.models.heads import MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel

RATES = (0.0, 0.1, 0.125)
BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
SEQUENCES, HEADS, LENGTH, WIDTH = 16, 12, 512, 64
LARGE = 8192  # rows and columns
STANDARD_ERRORS, FINEST = 6.0, 1 / 256
GRAPHS = 2
SIZES = ((512, 512), (300, 20, 77), (128,) * 5, (500, 1), (64,) * 12)


def dropped(kernel: SDPBackend, rate: float) -> float | None:
    """Return the share of the probabilities that a kernel drops; None where it does not run.

    All scores are equal, and the values of the first WIDTH keys are the identity, so an output is the probability of a
    key: kept, or 0.
    """
    q = torch.zeros(SEQUENCES, HEADS, LENGTH, WIDTH, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    v = torch.zeros_like(q, requires_grad=False)
    v[:, :, torch.arange(WIDTH), torch.arange(WIDTH)] = 1.0
    try:
        with sdpa_kernel(kernel), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says there why a kernel does not run
            context = F.scaled_dot_product_attention(q, q, v, dropout_p=rate)
            context.sum().backward()
    except RuntimeError:
        return None
    return (context == 0).double().mean().item()


def kernel_rows() -> tuple[list[Row], bool]:
    """Return a row for each kernel and rate, and whether all rates are kept."""
    rows, is_exact = [], True
    count = SEQUENCES * HEADS * LENGTH * WIDTH
    for rate in RATES:
        device = torch.device("cuda")
        chosen = backend(device, torch.bfloat16, heads=HEADS, width=WIDTH, dropout_p=rate)
        for kernel in BACKENDS:
            share = dropped(kernel, rate)
            name = kernel.name.removesuffix("_ATTENTION").lower()
            tolerance = (FINEST if rate else 0.0) + STANDARD_ERRORS * (rate * (1 - rate) / count) ** 0.5
            is_kept = share is None or abs(share - rate) <= tolerance
            is_exact &= is_kept or name != chosen
            rows.append(
                {
                    "kernel": name,
                    "rate": rate,
                    "dropped": "does not run" if share is None else f"{share:.5f}",
                    "exact": "-" if share is None else str(is_kept),
                    "torch's choice": "yes" if name == chosen else "",
                }
            )
    return rows, is_exact


def graphs() -> Counter[str]:
    """Return how many graphs were compiled for a model's layers over batches of many sizes, and how many breaks."""
    import torch._dynamo.utils

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    config = RobertaConfig(encoder_layers=3)
    model = RobertaModel(config)
    model.register_head("lm", MaskedLMHeadConfig())
    model.cuda().train()
    parallelise(model, model.encoder, SINGLE, "ddp", compiled=True)
    for lengths in SIZES:
        layout = SequenceLayout.from_lengths(lengths, "cuda")
        tokens = torch.randint(4, config.vocab_size, (layout.num_tokens,), device="cuda")
        select = torch.arange(0, layout.num_tokens, 7, device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            model(tokens, layout, "lm", select, tokens[select]).backward()
    counters = torch._dynamo.utils.counters
    return Counter(
        graphs=counters["stats"]["unique_graphs"],
        breaks=sum(counters["graph_break"].values()),
    )


def product_rate() -> float:
    """Return the TFLOP/s of a large product in bf16: what this device reaches at best."""
    a = torch.randn(LARGE, LARGE, device="cuda", dtype=torch.bfloat16)
    timing = interleaved({"product": lambda: a @ a}, repeats=20)["product"]
    return 2 * LARGE**3 / timing.median / 1e12


def main() -> None:
    """Print the tables."""
    if not torch.cuda.is_available():
        sys.exit("needs a CUDA device")
    print(machine())
    print(f"a product of {LARGE} x {LARGE} in bf16: {product_rate():,.0f} TFLOP/s")
    rows, is_exact = kernel_rows()
    show(rows, as_json=False)
    counts = graphs()
    print(f"{counts['graphs']} graphs over {len(SIZES)} batches, {counts['breaks']} breaks")
    if not is_exact or counts["breaks"] or counts["graphs"] != GRAPHS:
        sys.exit("a rate was rounded, a graph broke, or one was compiled again")


if __name__ == "__main__":
    main()
