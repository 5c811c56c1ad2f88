"""Measure a forward pass on sequences of real lengths, against other engines with the same weights.

    python examples/benchmark/inference.py
    python examples/benchmark/inference.py --mix squad --sequences 32 --precision fp32 int8
    python examples/benchmark/inference.py --pairs MNLI/dev_matched.tsv --json

Every engine gets the same batches, in the order given and sorted by length, and must give the same features before it
is timed. Engines that are not installed are left out: transformers, fairseq, onnxruntime (with onnx), openvino,
ctranslate2.
`floor` is the time of the matrix products alone at the best rate found for the shapes of this model.
"""

import argparse
import copy
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import fairseq_peer
import numpy as np
import torch
import torch.nn.functional as F
from measuring import (
    MIXES,
    Row,
    add_engine_option,
    add_timing_options,
    draw_lengths,
    forward_gflops,
    interleaved,
    layer_products,
    random_sequences,
    show,
    working_memory,
)
from torch import Tensor, nn

from roberta.checkpoint import hf_format
from roberta.checkpoint.onnx_format import export_onnx
from roberta.data.tokenizer import Tokenizer
from roberta.distributed import SINGLE, parallelise
from roberta.layout import SequenceLayout
from roberta.models.roberta import RobertaConfig, RobertaModel, preset_config

Batches = list[list[list[int]]]  # batches of sequences of token ids
Forward = Callable[[list[list[int]]], Sequence[Any]]  # the features of each sequence, (S, C)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LEAST_COSINE = {"fp32": 1 - 1e-6, "bf16": 0.999, "int8": 0.98}  # between the features of an engine and ours in fp32
COMPUTE_TYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8_float32"}  # of CTranslate2
OURS, BASELINE = "roberta", "Hugging Face"
PAD, VOCAB = 1, 50265


@dataclass(frozen=True)
class Peer:
    """One engine at one precision."""

    name: str
    precision: str
    forward: Forward


def padded(batch: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and the mask of a batch, right-padded: (B, S) int64 each."""
    lengths = np.array([len(sequence) for sequence in batch])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, PAD, dtype=np.int64)
    ids[mask] = np.concatenate(batch)
    return ids, mask.astype(np.int64)


def unpadded(features: Any, batch: list[list[int]]) -> list[Any]:
    """Return the features (B, S, C) of each sequence without those of its pads."""
    return [rows[: len(sequence)] for rows, sequence in zip(features, batch, strict=True)]


def ours(model: RobertaModel) -> Forward:
    """Return the forward pass of this library."""
    device = model.encoder.embed_tokens.weight.device

    def forward(batch: list[list[int]]) -> Sequence[Tensor]:
        layout = SequenceLayout.from_lengths([len(sequence) for sequence in batch], device)
        return model(torch.from_numpy(np.concatenate(batch)).to(device), layout).split(layout.lengths)

    return forward


def hugging_face(model: nn.Module, device: str) -> Forward:
    """Return the forward pass of transformers."""

    def forward(batch: list[list[int]]) -> list[Tensor]:
        ids, mask = (torch.from_numpy(array).to(device) for array in padded(batch))
        return unpadded(model(ids, attention_mask=mask).last_hidden_state, batch)

    return forward


def fairseq(model: nn.Module, device: str) -> Forward:
    """Return the forward pass of fairseq, which tells pads by their id."""

    def forward(batch: list[list[int]]) -> list[Tensor]:
        ids = torch.from_numpy(padded(batch)[0]).to(device)
        return unpadded(fairseq_peer.features(model, ids), batch)

    return forward


def onnx_runtime(path: Path) -> Forward:
    """Return the forward pass of a graph with ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def forward(batch: list[list[int]]) -> list[np.ndarray]:
        return unpadded(session.run(None, dict(zip(names, padded(batch), strict=False)))[0], batch)

    return forward


def openvino(path: Path, precision: str) -> Forward:
    """Return the forward pass of a graph with OpenVINO."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    hint = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision]}
    compiled = openvino.Core().compile_model(path, "CPU", {**options, **hint})
    inputs = len(compiled.inputs)
    return lambda batch: unpadded(next(iter(compiled(list(padded(batch)[:inputs])).values())), batch)


def ctranslate2(folder: Path, compute_type: str) -> Forward:
    """Return the forward pass of CTranslate2, which tells pads by their lengths."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    converted = folder / "ctranslate2"
    if not converted.exists():
        TransformersConverter(str(folder)).convert(str(converted))
    encoder = ctranslate2.Encoder(str(converted), compute_type=compute_type, intra_threads=torch.get_num_threads())
    return lambda batch: unpadded(np.array(encoder.forward_batch(batch).last_hidden_state), batch)


class Features(nn.Module):
    """transformers' model as a function of ids and mask alone, as its tracer needs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map (B, S) to (B, S, C)."""
        return self.model(ids, attention_mask=mask).last_hidden_state


def fused_graph(folder: Path, config: RobertaConfig) -> Path:
    """Write transformers' model as a graph with attention, GELU and LayerNorm fused by ONNX Runtime's own tool."""
    from onnxruntime.transformers.optimizer import optimize_model
    from transformers import RobertaModel as TheirModel

    plain, fused = folder / "plain.onnx", folder / "fused.onnx"
    model = TheirModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager").eval()
    ids = torch.full((2, 8), PAD + 1)
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "batch", 1: "length"} for name in (*names, "features")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is on its way out, but ONNX Runtime's tool knows its patterns
        torch.onnx.export(
            Features(model).eval(),
            (ids, torch.ones_like(ids)),
            plain,
            input_names=names,
            output_names=["features"],
            dynamic_axes=axes,
            dynamo=False,
        )
    optimized = optimize_model(str(plain), "bert", num_heads=config.attention_heads, hidden_size=config.embed_dim)
    optimized.save_model_to_file(str(fused))
    return fused


def quantised_graph(path: Path) -> Path:
    """Write a graph with linear maps in dynamic int8, each output with a scale of its own."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantised = path.with_name("int8.onnx")
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # shapes are not inferred through fused operators
    quantize_dynamic(path, quantised, per_channel=True, weight_type=QuantType.QInt8, extra_options=options)
    return quantised


def own(model: RobertaModel, precision: str, given: argparse.Namespace, *, compiled: bool = False) -> RobertaModel:
    """Return a model of this library with the weights of `model`, for inference."""
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    if precision == "int8":
        twin.int8()
    else:
        twin.to(given.device, DTYPES[precision])
    if compiled:
        parallelise(twin, twin.encoder, SINGLE, "ddp", compiled=True)
    return twin


def by_engine(model: RobertaModel, precision: str, given: argparse.Namespace) -> list[Peer]:
    """Return this library with each engine for matrices on a CPU that is asked for and takes the precision."""
    found = {}
    for engine in given.cpu_engine if precision in DTYPES else ["torch"]:
        takes_it = (precision, engine) != ("bf16", "numpy")
        twin = own(model, precision, given).set_cpu_engine(engine if takes_it else "torch")
        name = OURS if twin.cpu_engine == "torch" else f"{OURS} by {twin.cpu_engine}"
        found.setdefault(name, Peer(name, precision, ours(twin)))
    return list(found.values())


def peers(model: RobertaModel, given: argparse.Namespace, folder: Path) -> list[Peer]:
    """Return the engines that are installed and asked for, all with the weights of `model`."""
    floats = [precision for precision in given.precision if precision in DTYPES]
    found = [peer for precision in given.precision for peer in by_engine(model, precision, given)]
    if given.compile:
        found += [Peer(f"{OURS} compiled", name, ours(own(model, name, given, compiled=True))) for name in floats]
    if given.ours:
        return found
    if fairseq_peer.is_installed():
        for precision in floats:
            theirs, _ = fairseq_peer.twin(model)
            forward = fairseq(theirs.eval().to(given.device, DTYPES[precision]), given.device)
            found.append(Peer(fairseq_peer.NAME, precision, forward))
    if not is_installed("transformers"):
        return found
    from transformers import RobertaModel as TheirModel

    hf_format.write(folder, model, Tokenizer.load())
    for precision in floats:
        theirs = TheirModel.from_pretrained(folder, add_pooling_layer=False, dtype=DTYPES[precision]).eval()
        found.append(Peer(BASELINE, precision, hugging_face(theirs.to(given.device), given.device)))
        if given.compile:
            compiled: Any = torch.compile(theirs, dynamic=True)
            found.append(Peer(f"{BASELINE} compiled", precision, hugging_face(compiled, given.device)))
    return found if given.device == "cuda" else [*found, *runtimes(model, given.precision, folder)]


def runtimes(model: RobertaModel, precisions: Sequence[str], folder: Path) -> list[Peer]:
    """Return the runtimes for CPUs that are installed; `folder` holds the model in transformers' form."""
    found = []
    if is_installed("onnxruntime") and is_installed("onnx"):
        graphs = {"fp32": fused_graph(folder, model.config)}
        if "int8" in precisions:
            graphs["int8"] = quantised_graph(graphs["fp32"])
        found += [Peer("ONNX Runtime", name, onnx_runtime(graphs[name])) for name in precisions if name in graphs]
    if is_installed("openvino") and is_installed("onnxscript"):
        export_onnx(model, folder / "ours.onnx")
        found += [Peer("OpenVINO", name, openvino(folder / "ours.onnx", name)) for name in precisions if name in DTYPES]
    if is_installed("ctranslate2"):
        from ctranslate2 import get_supported_compute_types

        types = [(name, COMPUTE_TYPES[name]) for name in precisions]
        possible = get_supported_compute_types("cpu")  # bf16 is none of them, so far
        found += [Peer("CTranslate2", name, ctranslate2(folder, kind)) for name, kind in types if kind in possible]
    return found


def is_installed(package: str) -> bool:
    """Return whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def check_agreement(engines: Sequence[Peer], reference: Forward, batches: Batches) -> dict[Peer, float]:
    """Return the least cosine between the features of each engine and the reference's, which must be high enough."""
    cosines = {}
    expected = [features.float().cpu() for batch in batches for features in reference(batch)]
    for engine in engines:
        outputs = [torch.as_tensor(features) for batch in batches for features in engine.forward(batch)]
        pairs = zip(outputs, expected, strict=True)
        cosines[engine] = min(float(F.cosine_similarity(one.float().cpu(), two, dim=-1).min()) for one, two in pairs)
        if not cosines[engine] >= LEAST_COSINE[engine.precision]:
            sys.exit(f"{engine.name} {engine.precision} computes something else: cosine {cosines[engine]:.6f}")
    return cosines


def orders(sequences: list[list[int]], batch_size: int) -> dict[str, Batches]:
    """Return the batches of sequences in the order given and by length."""
    by_length = sorted(sequences, key=len, reverse=True)
    return {
        name: [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
        for name, ordered in (("given", sequences), ("sorted", by_length))
    }


def measure(
    engines: Sequence[Peer], sequences: list[list[int]], model: RobertaModel, given: argparse.Namespace
) -> None:
    """Print a row for each engine and order."""
    arranged = orders(sequences, given.batch_size)
    cosines = check_agreement(engines, ours(model), arranged["sorted"])
    works = {(engine, order): partial(run, engine, arranged[order]) for engine in engines for order in arranged}
    memory = {key: working_memory(work) for key, work in works.items()}
    baseline = next((key for key in works if key[0].name == BASELINE), next(iter(works)))
    lengths = [len(sequence) for sequence in sequences]
    gflops, per_batch = forward_gflops(model.config, lengths), max(64, sum(lengths) // len(arranged["given"]))
    times = model.config.encoder_layers * len(arranged["given"])
    floors = {
        name: layer_products(model.config, rows=per_batch, dtype=DTYPES[name], device=given.device, times=times)
        for name in given.precision
        if name in DTYPES
    }
    timings = interleaved({**works, **floors}, repeats=given.repeats, processor_time=given.processor_time)
    rows: list[Row] = []
    for engine, order in works:
        timing, floor = timings[engine, order], floors.get(engine.precision)
        rows.append(
            {
                "engine": engine.name,
                "precision": engine.precision,
                "order": order,
                "tokens/s": sum(lengths) / timing.median,
                "spread": timing.spread,
                "x baseline": timing.times_faster_than(timings[baseline]),
                "of floor": None if floor is None else floor.share(timings[engine.precision], gflops, timing),
                "MB": memory[engine, order],
                "1 - cosine": 1.0 - cosines[engine],
            }
        )
    show(rows, as_json=given.json)


def pairs(path: Path, count: int) -> list[list[int]]:
    """Return the token ids of the first pairs of a file of MNLI."""
    tokenizer = Tokenizer.load()
    with path.open(encoding="utf-8") as file:
        rows = [line.split("\t") for line in islice(file, 1, count + 1)]
    return [tokenizer.encode_sequence(row[8], row[9]) for row in rows]


def run(engine: Peer, batches: Batches) -> None:
    """Compute all batches."""
    for batch in batches:
        engine.forward(batch)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="roberta.base", help="shape of the model (default: %(default)s)")
    parser.add_argument("--mix", choices=MIXES, default="mnli", help="lengths (default: %(default)s)")
    parser.add_argument("--pairs", type=Path, help="file of MNLI whose pairs are computed, in the place of --mix")
    parser.add_argument("--sequences", type=int, default=64, help="how many (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="sequences in a batch (default: %(default)s)")
    parser.add_argument(
        "--precision", nargs="+", choices=LEAST_COSINE, default=["fp32"], help="number formats (default: fp32)"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compiled forms of ours and transformers' too",
    )
    parser.add_argument("--ours", action="store_true", help="this library alone")
    add_engine_option(parser)
    add_timing_options(parser)
    given = parser.parse_args()
    given.device = "cuda" if torch.cuda.is_available() else "cpu"
    if "bf16" in given.precision and given.device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        parser.error("this processor only emulates bf16; leave it out")
    if "int8" in given.precision and given.device == "cuda":
        parser.error("int8 is of CPUs; leave it out where there is a GPU")
    if given.pairs is None:
        sequences = random_sequences(draw_lengths(given.mix, given.sequences), vocab_size=VOCAB)
    else:
        sequences = pairs(given.pairs, given.sequences)
    torch.manual_seed(0)
    model = RobertaModel(preset_config(given.preset)).eval()
    with tempfile.TemporaryDirectory() as folder:
        engines = peers(model, given, Path(folder))
        with torch.inference_mode():
            measure(engines, sequences, model.to(given.device), given)


if __name__ == "__main__":
    main()
