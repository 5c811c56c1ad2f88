"""Reading checkpoints that fairseq wrote, 2019 to today: tables from its names to ours, and a loader that runs no code.

Such a file is a pickle from somebody else. It may name only the classes in `_SAFE_GLOBALS`, none of which does
anything; of its options only those in the tables below are looked at, and every size is checked against the tensors
before a model is built from it. Nothing is ever written in this format.

Shapes, in the tables: V vocabulary, P rows of the position table, C embed_dim, F ffn_embed_dim, Q 3 * embed_dim,
I inner_dim and K num_classes of a classification head.
"""

import argparse
import io
import mmap
import pickle
import pickletools
import re
import struct
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.serialization import add_safe_globals, get_safe_globals, safe_globals

from roberta.errors import CheckpointError, ConfigError, choices
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig
from roberta.models.transformer import Activation


@dataclass(frozen=True)
class FairseqCheckpoint:
    """What a fairseq checkpoint says of a model, in this project's terms."""

    config: RobertaConfig
    heads: dict[str, Any]  # configs of the registry HEADS: "lm", then the classification heads of the file
    state_dict: dict[str, Tensor]  # the parameters of a RobertaModel with these heads, in the file's precision


# What a file may name. Meters stand in the training checkpoints of 2018 to 2020; they become objects without methods.
_METERS = [(type(name, (), {}), f"fairseq.meters.{name}") for name in ("AverageMeter", "TimeMeter", "StopwatchMeter")]
_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_SAFE_GLOBALS = frozenset(
    {
        "argparse.Namespace",
        "collections.OrderedDict",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        *(name for _, name in _METERS),
        *(f"torch.{kind}Storage" for kind in _STORAGES),
    }
)
_NAMING_OPCODES = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_LEGACY_PICKLES = 5  # magic number, protocol, system, contents, storage keys; the raw storages follow
_MAX_TUPLES = 50_000  # four per tensor is usual; hashing 300,000 within each other overflows the C stack
_MAX_PICKLE_BYTES = 4 * 2**20  # a training checkpoint of a large model takes less than one

# All that torch.load and the scan were seen to raise on damaged files; it has no error class of its own.
_LOAD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)
# torch keeps one table of allowed globals per process.
_LOCK = threading.Lock()

# Options: the largest size that is accepted, the value of a probability that is absent, our name of a function.
_SIZES = {
    "encoder_layers": 1000,
    "encoder_embed_dim": 2**16,
    "encoder_ffn_embed_dim": 2**18,
    "encoder_attention_heads": 2**12,
    "max_positions": 2**20,
}
_PROBABILITIES = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0, "pooler_dropout": 0.0}
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",  # fairseq's old name of the former
    "relu": "relu",
    "tanh": "tanh",
}

# Names: what to pass over, and what becomes of the rest, in this order.
_IGNORED = re.compile(r"(encoder|decoder)\.(sentence_encoder\.version$|_ema|regression_head)")
_RENAMES = (
    (re.compile(r"^(encoder|decoder)\.sentence_encoder\."), "encoder."),
    (re.compile(r"^(encoder|decoder)\.lm_head\."), "heads.lm."),
    (re.compile(r"^classification_heads\."), "heads."),
    (re.compile(r"^encoder\.emb_layer_norm\."), "encoder.layernorm_embedding."),
    (re.compile(r"\.self_attn\.in_proj_"), ".self_attn.qkv_proj."),
    (re.compile(r"\.layer_norms\.0\."), ".self_attn_layer_norm."),
    (re.compile(r"\.layer_norms\.1\."), ".final_layer_norm."),
)
_LAYER_NAME = re.compile(r"encoder\.layers\.([^.]+)\.")
_HEAD_NAME = re.compile(r"heads\.([^.]+)\.")

_ENCODER = {
    "embed_tokens.weight": "V C",
    "embed_positions.weight": "P C",
    "layernorm_embedding.weight": "C",
    "layernorm_embedding.bias": "C",
}
_FUSED = {"self_attn.qkv_proj.weight": "Q C", "self_attn.qkv_proj.bias": "Q"}
_SPLIT = {f"self_attn.{x}_proj.{kind}": shape for x in "qkv" for kind, shape in (("weight", "C C"), ("bias", "C"))}
_LAYER = {
    "self_attn.out_proj.weight": "C C",
    "self_attn.out_proj.bias": "C",
    "self_attn_layer_norm.weight": "C",
    "self_attn_layer_norm.bias": "C",
    "fc1.weight": "F C",
    "fc1.bias": "F",
    "fc2.weight": "C F",
    "fc2.bias": "C",
    "final_layer_norm.weight": "C",
    "final_layer_norm.bias": "C",
}
_LM_HEAD = {
    "dense.weight": "C C",
    "dense.bias": "C",
    "layer_norm.weight": "C",
    "layer_norm.bias": "C",
    "bias": "V",
}
_CLASSIFICATION_HEAD = {"dense.weight": "I C", "dense.bias": "I", "out_proj.weight": "K I", "out_proj.bias": "K"}


def read(path: Path) -> FairseqCheckpoint:
    """Read a RoBERTa checkpoint written by fairseq, of any of its generations, without running anything in it.

    The tensors of a file in zip format are mapped, not read: leave the file unchanged as long as they are in use.

    Raises:
        CheckpointError: the file is missing, damaged or refused, or does not describe a RoBERTa model.
    """
    state = _load(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        found = (
            _listed(key for key in state if isinstance(key, str)) if isinstance(state, dict) else type(state).__name__
        )
        raise CheckpointError(f"{path}: not a fairseq checkpoint: it has no dict 'model'; found {found or 'nothing'}")
    tensors = _renamed(state["model"], path)
    options = _options(state, path)
    tied = _drop_tied_projection(tensors)
    names = [name for name in dict.fromkeys(_matches(_HEAD_NAME, tensors)) if name != "lm"]
    _check_layers(tensors, options, path)
    shapes = _expected(tensors, options["encoder_layers"], names, tied=tied)
    _check_names(tensors, shapes, path)
    _check_shapes(tensors, shapes, options, names, path)
    try:
        return FairseqCheckpoint(
            _config(options, tensors), _heads(options, tensors, names, tied=tied), _joined(tensors)
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: its options contradict each other: {error}") from error


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # as torch.load decides
            file.seek(0)
            _scan_zip(file, path) if is_zip else _scan_legacy(file, path)
        with _inert_globals():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except _LOAD_ERRORS as error:
        # torch's text on a damaged pickle is long, and advises to load it unsafely.
        damage = "its pickle is damaged" if isinstance(error, pickle.UnpicklingError) else str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: can't be read as a fairseq checkpoint: {damage or type(error).__name__}; get a whole copy of it"
        ) from error


@contextmanager
def _inert_globals() -> Iterator[None]:
    with _LOCK:
        theirs = get_safe_globals()
        try:
            with safe_globals([argparse.Namespace, *_METERS]):
                yield
        finally:
            add_safe_globals(theirs)  # leaving safe_globals also forgot Namespace if the user had allowed it


def _scan_zip(file: BinaryIO, path: Path) -> None:
    """Check a zip container before torch maps it: whole, not compressed, and its pickle harmless."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or len(names) < len(members) or sum(member.file_size for member in members) > size:
            raise CheckpointError(
                f"{path}: refused: its container is compressed or overlaps itself, as torch.save never makes it"
            )
        pickles = [member for member in members if member.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{path}: refused: it has {len(pickles)} parts data.pkl, or one over {_MAX_PICKLE_BYTES} bytes"
            )
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")
        _scan_pickle(io.BytesIO(archive.read(pickles[0])), path)


def _scan_legacy(file: BinaryIO, path: Path) -> None:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for _ in range(_LEGACY_PICKLES):
            _scan_pickle(view, path)


def _scan_pickle(stream: Any, path: Path) -> None:
    """Walk over the instructions of one pickle, without following any, and refuse what could name other code.

    torch's own check comes after this one. It allows more (an allocation of any size among it, and whatever the
    process has registered), and can't name what it refuses in a legacy file before having run a part of it.
    """
    start = stream.tell()
    words: list[str] = []
    tuples = 0
    for opcode, argument, position in pickletools.genops(stream):
        tuples += opcode.name.startswith("TUPLE")
        if tuples > _MAX_TUPLES or (position is not None and position - start > _MAX_PICKLE_BYTES):
            raise CheckpointError(
                f"{path}: refused: its pickle is over {_MAX_PICKLE_BYTES} bytes or has over {_MAX_TUPLES} tuples"
            )
        if opcode.name == "GLOBAL" and str(argument).replace(" ", ".", 1) in _SAFE_GLOBALS:
            continue
        if isinstance(argument, str):
            words = [*words[-1:], argument]
        if opcode.name in _NAMING_OPCODES:
            name = ".".join(words) if opcode.name == "STACK_GLOBAL" else str(argument).replace(" ", ".", 1)
            raise CheckpointError(
                f"{path}: refused global {name[:200]}, which could run code; "
                f"if you trust the file, save its 'model' and its 'args' or 'cfg' alone, where fairseq is installed"
            )


def _renamed(model: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors under our names, q, k and v still apart where the file has them so."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in model.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{path}: not the name of a tensor: a {type(key).__name__} in its 'model'")
        if _IGNORED.match(key):
            continue
        if key.startswith("classification_heads.lm."):
            raise CheckpointError(f"{path}: it has a classification head 'lm', here the name of the LM head; rename it")
        if not _is_plain(tensor):
            raise CheckpointError(f"{path}: {key} is not an ordinary tensor of floats")
        name = key
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        if name in tensors:
            raise CheckpointError(f"{path}: it has two tensors for {name}")
        tensors[name] = tensor.detach()
    return tensors


def _is_plain(tensor: Any) -> bool:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()  # not one number spread out


def _options(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the options of the tables above, checked one by one, under fairseq's names."""
    cfg = state.get("cfg")
    args = cfg.get("model") if isinstance(cfg, dict) else state.get("args")
    given = vars(args) if isinstance(args, argparse.Namespace) else args
    if not isinstance(given, dict):
        raise CheckpointError(f"{path}: it has no options, neither 'args' nor 'cfg.model'")
    options: dict[str, Any] = {"max_positions": None}
    for name, largest in _SIZES.items():
        if name == "max_positions" and given.get(name) is None:  # the table of positions then tells it
            continue
        options[name] = value = given.get(name)
        if type(value) is not int or not 1 <= value <= largest:
            raise CheckpointError(f"{path}: {name} is {_spell(value)}; allowed: 1 to {largest}")
    for name, default in _PROBABILITIES.items():
        options[name] = value = given.get(name, default)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise CheckpointError(f"{path}: {name} is {_spell(value)}; allowed: numbers from 0 to less than 1")
    for name, usual in (("activation_fn", "gelu"), ("pooler_activation_fn", "tanh")):
        value = given.get(name, usual)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise CheckpointError(f"{path}: {name} is {_spell(value)}; {choices(_spell(value), _ACTIVATIONS)}")
        options[name] = _ACTIVATIONS[value]
    return options


def _spell(value: Any) -> str:
    return repr(value)[:50] if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"


def _drop_tied_projection(tensors: dict[str, Tensor]) -> bool:
    """Remove the copy of the token embedding that fairseq stores for a tied LM head; return whether it is tied."""
    projection, embedding = tensors.get("heads.lm.weight"), tensors.get("encoder.embed_tokens.weight")
    if projection is None or embedding is None:
        return projection is None
    tied = projection.dtype == embedding.dtype and torch.equal(projection, embedding)
    if tied:
        del tensors["heads.lm.weight"]
    return tied


def _matches(pattern: re.Pattern[str], names: Iterable[str]) -> list[str]:
    return [match[1] for match in map(pattern.match, names) if match]


def _check_layers(tensors: Mapping[str, Tensor], options: Mapping[str, Any], path: Path) -> None:
    found = len(set(_matches(_LAYER_NAME, tensors)))
    if found != options["encoder_layers"]:
        raise CheckpointError(
            f"{path}: encoder_layers is {options['encoder_layers']}, but it has tensors of {found} layers"
        )


def _expected(tensors: Mapping[str, Tensor], layers: int, heads: list[str], *, tied: bool) -> dict[str, str]:
    """Return the names that the file must have, each with its shape in the letters of the tables."""
    is_split = any(".self_attn.q_proj." in name for name in tensors)
    layer = {**(_SPLIT if is_split else _FUSED), **_LAYER}
    shapes = {f"encoder.{name}": shape for name, shape in _ENCODER.items()}
    for number in range(layers):
        shapes |= {f"encoder.layers.{number}.{name}": shape for name, shape in layer.items()}
    shapes |= {f"heads.lm.{name}": shape for name, shape in _LM_HEAD.items()}
    if not tied:
        shapes["heads.lm.weight"] = "V C"
    for head in heads:
        shapes |= {f"heads.{head}.{name}": shape for name, shape in _CLASSIFICATION_HEAD.items()}
    return shapes


def _check_names(tensors: Mapping[str, Tensor], shapes: Mapping[str, str], path: Path) -> None:
    lists = {"missing": shapes.keys() - tensors.keys(), "unknown": tensors.keys() - shapes.keys()}
    details = [f"{kind}: {_listed(names)}" for kind, names in lists.items() if names]
    if details:
        raise CheckpointError(f"{path}: not the tensors of a post-norm RoBERTa (in our names): {'; '.join(details)}")


def _listed(names: Iterable[str], most: int = 20) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(name[:200] for name in ordered[:most]) + rest


def _check_shapes(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, str], options: Mapping[str, Any], heads: list[str], path: Path
) -> None:
    embed_dim = options["encoder_embed_dim"]
    positions = tensors["encoder.embed_positions.weight"].shape[:1].numel()
    if options["max_positions"] is not None:
        positions = options["max_positions"] + RobertaConfig.padding_idx + 1
    sizes = {
        "V": tensors["encoder.embed_tokens.weight"].shape[:1].numel(),
        "P": positions,
        "C": embed_dim,
        "F": options["encoder_ffn_embed_dim"],
        "Q": 3 * embed_dim,
    }
    for name, letters in shapes.items():
        head = _HEAD_NAME.match(name)
        if head and head[1] in heads:
            sizes["I"] = tensors[f"heads.{head[1]}.dense.weight"].shape[:1].numel()
            sizes["K"] = tensors[f"heads.{head[1]}.out_proj.weight"].shape[:1].numel()
        shape = tuple(sizes[letter] for letter in letters.split())
        if tensors[name].shape != shape:
            declared = ", ".join(f"{option} {options[option]}" for option in _SIZES)
            raise CheckpointError(
                f"{path}: {name} is {tuple(tensors[name].shape)}, but its options ({declared}) need {shape}"
            )


def _config(options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> RobertaConfig:
    return RobertaConfig(
        vocab_size=len(tensors["encoder.embed_tokens.weight"]),
        max_positions=len(tensors["encoder.embed_positions.weight"]) - RobertaConfig.padding_idx - 1,
        encoder_layers=options["encoder_layers"],
        embed_dim=options["encoder_embed_dim"],
        ffn_embed_dim=options["encoder_ffn_embed_dim"],
        attention_heads=options["encoder_attention_heads"],
        dropout=float(options["dropout"]),
        attention_dropout=float(options["attention_dropout"]),
        activation_dropout=float(options["activation_dropout"]),
        activation_fn=options["activation_fn"],
    )


def _heads(
    options: Mapping[str, Any], tensors: Mapping[str, Tensor], names: list[str], *, tied: bool
) -> dict[str, Any]:
    heads: dict[str, Any] = {"lm": MaskedLMHeadConfig(activation_fn=options["activation_fn"], tied=tied)}
    for name in names:
        inner_dim = len(tensors[f"heads.{name}.dense.weight"])
        heads[name] = ClassificationHeadConfig(
            num_classes=len(tensors[f"heads.{name}.out_proj.weight"]),
            inner_dim=None if inner_dim == options["encoder_embed_dim"] else inner_dim,
            activation_fn=options["pooler_activation_fn"],
            dropout=float(options["pooler_dropout"]),
        )
    return heads


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with q, k and v of each layer in one: three times (C, C) becomes (3 * C, C)."""
    joined: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ".self_attn.q_proj." in name:
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            joined[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
        elif ".self_attn.k_proj." not in name and ".self_attn.v_proj." not in name:
            joined[name] = tensor
    return joined
