"""Reading checkpoints that fairseq wrote, 2019 to today: tables from its names to ours.

Of the options in a file only those in the tables below are looked at, and every size is checked against the tensors
before a model is built from it.

Shapes, in the tables: V vocabulary, P rows of the position table, C embed_dim, F ffn_embed_dim, Q 3 * embed_dim,
I inner_dim and K num_classes of a classification head.
"""

import argparse
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roberta.checkpoint import pickles
from roberta.checkpoint.foreign import (
    ForeignCheckpoint,
    activation,
    check_names,
    is_plain,
    join_qkv,
    probability,
    size,
    spell,
)
from roberta.data.readers.binarized import binarized_labels
from roberta.errors import CheckpointError, ConfigError, listed
from roberta.models.heads import LM_HEAD, ClassificationHeadConfig, MaskedLMHeadConfig, RegressionHeadConfig
from roberta.models.roberta import LARGEST, RobertaConfig
from roberta.models.transformer import Activation

# Options: our name of a size, the value of a probability that is absent, our name of a function.
_SIZES = {
    "encoder_layers": "encoder_layers",
    "encoder_embed_dim": "embed_dim",
    "encoder_ffn_embed_dim": "ffn_embed_dim",
    "encoder_attention_heads": "attention_heads",
    "max_positions": "max_positions",
}
_SWITCHES = ("untie_weights_roberta", "regression_target")
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
    (re.compile(r"^(encoder|decoder)\.lm_head\."), f"heads.{LM_HEAD}."),
    (re.compile(r"^classification_heads\."), "heads."),
    (re.compile(r"^encoder\.emb_layer_norm\."), "encoder.layernorm_embedding."),
    (re.compile(r"\.self_attn\.in_proj_"), ".self_attn.qkv_proj."),
    (re.compile(r"\.layer_norms\.0\."), ".self_attn_layer_norm."),
    (re.compile(r"\.layer_norms\.1\."), ".final_layer_norm."),
)
_LAYER_NAME = re.compile(r"encoder\.layers\.([^.]+)\.")
_HEAD_NAME = re.compile(r"heads\.([^.]+)\.")
_LAYER_NUMBERS = re.compile(r"\d{1,4}(,\d{1,4})*", re.ASCII)

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


def read(path: Path) -> ForeignCheckpoint:
    """Read a RoBERTa checkpoint written by fairseq, of any of its generations, without running anything in it.

    Parameters come in fp32, in whatever precision they are stored, as in fairseq; those of an fp32 file in zip format
    are mapped, not read: leave it unchanged as long as they are in use. Of a file with `encoder_layers_to_keep` the
    layers kept are read, numbered anew. Where `label/dict.txt` is in the folder of the file, and one classification
    head alone has that many classes, the head gets these labels.

    Raises:
        CheckpointError: the file is missing, damaged or refused, or does not describe a RoBERTa model.
        VocabError: `label/dict.txt` is damaged.
    """
    state = pickles.load(path, "fairseq checkpoint")
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        keys = [key for key in state if isinstance(key, str)] if isinstance(state, dict) else [type(state).__name__]
        found = listed(sorted(keys), most=20)
        raise CheckpointError(f"{path}: not a fairseq checkpoint: it has no dict 'model'; found {found}")
    tensors = _renamed(state.pop("model"), path)
    options = _options(state, path)
    tied = _drop_tied_projection(tensors, untied=options["untie_weights_roberta"])
    tensors = _kept_layers(tensors, options["encoder_layers_to_keep"], path)
    names = [name for name in dict.fromkeys(_matches(_HEAD_NAME, tensors)) if name != LM_HEAD]
    _check_layers(tensors, options, path)
    shapes = _expected(tensors, options["encoder_layers"], names, tied=tied)
    check_names(tensors, shapes, f"{path}: not the tensors of a post-norm RoBERTa (in our names)")
    _check_shapes(tensors, shapes, options, names, path)
    try:
        config = _config(options, tensors)
        heads = _labelled(_heads(options, tensors, names, tied=tied), binarized_labels(path.parent))
    except ConfigError as error:
        raise CheckpointError(f"{path}: its options contradict each other: {error}") from error
    joined = join_qkv(tensors, path)
    tensors.clear()
    return ForeignCheckpoint(config, heads, {name: joined.pop(name).float() for name in list(joined)})


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
        if not is_plain(tensor):
            raise CheckpointError(f"{path}: {key} is not an ordinary tensor of floats")
        name = key
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        if name in tensors:
            raise CheckpointError(f"{path}: it has two tensors for {name}")
        tensors[name] = tensor.detach()
    return tensors


def _options(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the options of the tables above, checked one by one, under fairseq's names."""
    cfg = state.get("cfg")
    args = cfg.get("model") if isinstance(cfg, dict) else state.get("args")
    given = vars(args) if isinstance(args, argparse.Namespace) else args
    if not isinstance(given, dict):
        raise CheckpointError(f"{path}: it has no options, neither 'args' nor 'cfg.model'")
    kept = _layer_numbers(given, path)
    options: dict[str, Any] = {"max_positions": None, "encoder_layers_to_keep": kept}
    for name, ours in _SIZES.items():
        if name == "max_positions" and given.get(name) is None:  # the table of positions then tells it
            continue
        options[name] = size(given, name, LARGEST[ours], path)
    options["encoder_layers"] = len(kept) or options["encoder_layers"]
    for name in _SWITCHES:
        options[name] = value = given.get(name, False)
        if type(value) is not bool:
            raise CheckpointError(f"{path}: {name} is {spell(value)}; allowed: True and False")
    for name, default in _PROBABILITIES.items():
        options[name] = probability(given, name, default, path)
    for name, usual in (("activation_fn", "gelu"), ("pooler_activation_fn", "tanh")):
        options[name] = activation(given, name, usual, _ACTIVATIONS, path)
    return options


def _layer_numbers(given: Mapping[str, Any], path: Path) -> list[int]:
    """Return the layers that LayerDrop (arXiv:1909.11556) leaves, in order; none where the option is not used."""
    value = given.get("encoder_layers_to_keep")
    if not value:
        return []
    if not isinstance(value, str) or not _LAYER_NUMBERS.fullmatch(value):
        raise CheckpointError(f"{path}: encoder_layers_to_keep is {spell(value)}; expected numbers such as '0,2,4'")
    return sorted(set(map(int, value.split(","))))


def _drop_tied_projection(tensors: dict[str, Tensor], *, untied: bool) -> bool:
    """Remove the copy of the token embedding that fairseq stores for a tied LM head; return whether it is tied."""
    if untied:
        return False
    projection, embedding = tensors.get(f"heads.{LM_HEAD}.weight"), tensors.get("encoder.embed_tokens.weight")
    if projection is None or embedding is None:
        return projection is None
    tied = projection.dtype == embedding.dtype and torch.equal(projection, embedding)
    if tied:
        del tensors[f"heads.{LM_HEAD}.weight"]
    return tied


def _matches(pattern: re.Pattern[str], names: Iterable[str]) -> list[str]:
    return [match[1] for match in map(pattern.match, names) if match]


def _kept_layers(tensors: dict[str, Tensor], keep: Sequence[int], path: Path) -> dict[str, Tensor]:
    """Return the tensors of the layers that LayerDrop leaves, numbered from 0; all where none are named.

    fairseq prunes on opening: a file may hold all layers still, or has been trained on, and holds them numbered anew.
    """
    found = set(_matches(_LAYER_NAME, tensors))
    if not keep or found == {str(number) for number in range(len(keep))}:
        return tensors
    numbers = {str(old): str(new) for new, old in enumerate(keep)}
    if absent := numbers.keys() - found:
        raise CheckpointError(
            f"{path}: encoder_layers_to_keep names layers that it does not have: {listed(sorted(absent))}"
        )
    kept = {}
    for name, tensor in tensors.items():
        layer = _LAYER_NAME.match(name)
        if layer is None:
            kept[name] = tensor
        elif layer[1] in numbers:
            kept[name[: layer.start(1)] + numbers[layer[1]] + name[layer.end(1) :]] = tensor
    return kept


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
    shapes |= {f"heads.{LM_HEAD}.{name}": shape for name, shape in _LM_HEAD.items()}
    if not tied:
        shapes[f"heads.{LM_HEAD}.weight"] = "V C"
    for head in heads:
        shapes |= {f"heads.{head}.{name}": shape for name, shape in _CLASSIFICATION_HEAD.items()}
    return shapes


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
        dropout=options["dropout"],
        attention_dropout=options["attention_dropout"],
        activation_dropout=options["activation_dropout"],
        activation_fn=options["activation_fn"],
    )


def _heads(
    options: Mapping[str, Any], tensors: Mapping[str, Tensor], names: list[str], *, tied: bool
) -> dict[str, Any]:
    heads: dict[str, Any] = {LM_HEAD: MaskedLMHeadConfig(activation_fn=options["activation_fn"], tied=tied)}
    activation_fn, dropout = options["pooler_activation_fn"], options["pooler_dropout"]
    for name in names:
        num_classes, width = tensors[f"heads.{name}.out_proj.weight"].shape
        inner_dim = None if width == options["encoder_embed_dim"] else width
        if options["regression_target"] and num_classes == 1:
            heads[name] = RegressionHeadConfig(inner_dim=inner_dim, activation_fn=activation_fn, dropout=dropout)
        else:
            heads[name] = ClassificationHeadConfig(
                num_classes=num_classes, inner_dim=inner_dim, activation_fn=activation_fn, dropout=dropout
            )
    return heads


def _labelled(heads: dict[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the heads, the labels given to the only classification head that has as many classes, if there is one."""
    fitting = [
        name
        for name, head in heads.items()
        if isinstance(head, ClassificationHeadConfig) and head.num_classes == len(labels)
    ]
    return heads | {name: dataclasses.replace(heads[name], labels=labels) for name in fitting if len(fitting) == 1}
