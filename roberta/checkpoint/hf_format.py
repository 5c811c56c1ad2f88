"""Folders of Hugging Face transformers: its RoBERTa models are read, and folders that it opens unchanged are written.

    config.json             the architecture, its sizes, the names of the classes
    model.safetensors       parameters; when reading also in shards, or pytorch_model.bin
    tokenizer.json, ...     the tokenizer's files, see `hf_tokenizer`

One model there has one head, see `hf_heads`. Here a masked-LM head is then named "lm", another as its kind. A pooler is
dropped, but for choices: RoBERTa's pretraining never trained it. Half precision is read as fp32.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from roberta.checkpoint import hf_tokenizer, pickles
from roberta.checkpoint.folders import read_json, replacing, write_json, write_tensors
from roberta.checkpoint.foreign import (
    ForeignCheckpoint,
    activation,
    check_is_roberta,
    check_names,
    is_plain,
    join_qkv,
    probability,
    size,
    spell,
    split_qkv,
)
from roberta.checkpoint.hf_heads import (
    BIAS,
    DECODER_BIAS,
    DECODER_WEIGHT,
    WORDS,
    check_head,
    find_heads,
    head_names,
    head_options,
)
from roberta.data.dictionary import Dictionary
from roberta.data.tokenizer import Tokenizer
from roberta.errors import CheckpointError, ConfigError
from roberta.models.roberta import LARGEST, RobertaConfig, RobertaModel
from roberta.models.transformer import Activation

CONFIG = "config.json"
WEIGHTS, SHARDS, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
SAFE_FILES = (CONFIG, WEIGHTS, SHARDS, "model-*.safetensors")
FILES = (*SAFE_FILES, PICKLE)
MODEL_TYPE = "roberta"

logger = logging.getLogger(__name__)

# Options of config.json: our name of a size, a probability and its value if absent.
_SIZES = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "encoder_layers",
    "hidden_size": "embed_dim",
    "intermediate_size": "ffn_embed_dim",
    "num_attention_heads": "attention_heads",
}
_PROBABILITIES = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "tanh": "tanh",
}
# What must be so: the value, what transformers assumes where it is absent, and why no other is read.
_FIXED = {
    "type_vocab_size": (
        1,
        2,
        "there are no token types here; if only type 0 was in use, cut token_type_embeddings.weight to its first row",
    ),
    "pad_token_id": (Dictionary.pad, 1, "positions are counted from the id after it"),
    "position_embedding_type": ("absolute", "absolute", "there are no relative positions here"),
    "is_decoder": (False, False, "this is an encoder"),
    "add_cross_attention": (False, False, "this is an encoder"),
}

# Parameters: ours, with q, k and v apart, and theirs; each is a weight and a bias if not said otherwise.
_EMBEDDINGS = {
    "encoder.embed_tokens.weight": WORDS,
    "encoder.embed_positions.weight": "roberta.embeddings.position_embeddings.weight",
}
_EMBEDDING_NORM = {"encoder.layernorm_embedding": "roberta.embeddings.LayerNorm"}
_LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
_TOKEN_TYPES = "roberta.embeddings.token_type_embeddings.weight"

_ENCODER_CLASS = "RobertaModel"  # of models saved without a head, which may have been trained through the pooler
_POOLER = re.compile(r"roberta\.pooler\.")
_BUFFER = re.compile(r"roberta\.embeddings\.(position_ids|token_type_ids)$")
_RENAMES = (
    (re.compile(r"^(?=embeddings\.|encoder\.|pooler\.)"), "roberta."),  # the encoder saved alone
    (re.compile(r"\.LayerNorm\.gamma$"), ".LayerNorm.weight"),
    (re.compile(r"\.LayerNorm\.beta$"), ".LayerNorm.bias"),
)


def is_folder(folder: Path) -> bool:
    """Return whether a folder is one of transformers: its config.json names a model type.

    Raises:
        CheckpointError: there is a config.json that can't be read.
    """
    return (folder / CONFIG).is_file() and "model_type" in read_json(folder / CONFIG)


def read(folder: Path) -> ForeignCheckpoint:
    """Read the RoBERTa model in a folder of transformers. Tensors are mapped: leave the files as they are meanwhile.

    Raises:
        CheckpointError: a file is missing, damaged or refused, or does not describe a RoBERTa model.
    """
    path = folder / CONFIG
    options = read_json(path)
    config = _config(options, path)
    tensors = _renamed(_load(folder), folder)
    heads = find_heads(options, tensors, dropout=_head_dropout(options, config, path), path=path)
    names = _names(config, heads)
    expected = {*names.values(), _TOKEN_TYPES}
    left = {name for name in tensors if _POOLER.match(name)} - expected
    if left:
        is_encoder = options.get("architectures") == [_ENCODER_CLASS]
        logger.log(
            logging.WARNING if is_encoder else logging.INFO,
            "%s: its pooler is left aside: pretraining never trains it, and there is no pooler_output here",
            folder,
        )
    check_names(tensors.keys() - left, expected, f"{folder}: not a RoBERTa alone or with a head known here")
    token_types = tensors[_TOKEN_TYPES]
    state = join_qkv({ours: tensors[theirs] for ours, theirs in names.items()}, folder)
    positions = state["encoder.embed_positions.weight"]
    if token_types.shape != (1, *positions.shape[1:]):
        raise CheckpointError(
            f"{folder}: {_TOKEN_TYPES} is {tuple(token_types.shape)}; expected one row of hidden_size"
        )
    if token_types.any():  # its row is added to every token, as a position is
        state["encoder.embed_positions.weight"] = positions.float() + token_types.float()
    return ForeignCheckpoint(config, heads, {name: tensor.float() for name, tensor in state.items()})


def write(folder: Path, model: RobertaModel, tokenizer: Tokenizer, head: str | None = None) -> None:
    """Write a folder that transformers opens unchanged, whole or not at all; one of that name is replaced.

    head: the name of the one head that goes with it; need not be given if the model has one or none.

    Raises:
        ConfigError: the model has several heads or no such head, or something in it that RoBERTa's code in
            transformers does not compute.
        VocabError: the tokenizer can't be written in this form.
        StorageError: the folder can't be written.
    """
    check_is_roberta(model)
    head = _chosen(model, head)
    config = _config_json(model, head)
    tensors = _tensors(model, head)
    with replacing(folder, CONFIG) as temporary:
        hf_tokenizer.write(temporary, tokenizer, max_tokens=model.config.max_positions)
        write_json(temporary / CONFIG, config)
        write_tensors(temporary / WEIGHTS, tensors)


def _config(options: Mapping[str, Any], path: Path) -> RobertaConfig:
    """Return the encoder's config, with every option checked that bears on what the model computes."""
    if options.get("model_type") != MODEL_TYPE:
        given = options.get("model_type")
        raise CheckpointError(f"{path}: model_type is {spell(given)}; only models of type {MODEL_TYPE} are read")
    for name, (value, default, reason) in _FIXED.items():
        if options.get(name, default) != value:
            raise CheckpointError(
                f"{path}: {name} is {spell(options.get(name, default))}; allowed: {value}, as {reason}"
            )
    sizes = {}
    for name, ours in _SIZES.items():
        sizes[ours] = size(options, name, LARGEST[ours], path)
    padding_idx = Dictionary.pad
    positions = size(options, "max_position_embeddings", LARGEST["max_positions"], path) - padding_idx - 1
    dropout, attention_dropout = (probability(options, *item, path) for item in _PROBABILITIES.items())
    try:
        return RobertaConfig(
            **sizes,
            padding_idx=padding_idx,
            max_positions=positions,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation_fn=activation(options, "hidden_act", "gelu", _ACTIVATIONS, path),
            layer_norm_eps=probability(options, "layer_norm_eps", 1e-12, path),
            initialisation="bert",
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: its options contradict each other: {error}") from error


def _head_dropout(options: Mapping[str, Any], config: RobertaConfig, path: Path) -> float:
    if options.get("classifier_dropout") is None:
        return config.dropout
    return probability(options, "classifier_dropout", 0.0, path)


def _load(folder: Path) -> dict[Any, Any]:
    """Return the tensors of the weight files that the folder has, the safe formats first."""
    if (folder / WEIGHTS).is_file():
        return _load_safetensors(folder / WEIGHTS)
    if (folder / SHARDS).is_file():
        shards = read_json(folder / SHARDS).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise CheckpointError(f"{folder / SHARDS}: has no weight_map of names to files; restore it from a copy")
        tensors: dict[Any, Any] = {}
        for name in sorted(set(shards.values())):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise CheckpointError(f"{folder / SHARDS}: refused: {name[:200]!r} is not a safetensors file beside it")
            tensors |= _load_safetensors(folder / name)
        return tensors
    if (folder / PICKLE).is_file():
        tensors = pickles.load(folder / PICKLE, "Hugging Face checkpoint")
        if not isinstance(tensors, dict):
            raise CheckpointError(f"{folder / PICKLE}: holds a {type(tensors).__name__}, not tensors by name")
        return tensors
    raise CheckpointError(f"{folder}: has no {WEIGHTS}, {SHARDS} or {PICKLE}; copy the weights there")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: can't be read: {error}; get a whole copy of it") from error


def _renamed(loaded: Mapping[Any, Any], folder: Path) -> dict[str, Tensor]:
    """Return the tensors under the names of today, without those that say nothing."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in loaded.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{folder}: not the name of a tensor: a {type(key).__name__} among its weights")
        name = key
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        if _BUFFER.match(name):
            continue
        if not is_plain(tensor):
            raise CheckpointError(f"{folder}: {key} is not an ordinary tensor of floats")
        if name in tensors:
            raise CheckpointError(f"{folder}: it has two tensors for {name}")
        tensors[name] = tensor.detach()
    if DECODER_BIAS in tensors:  # where both are stored, this is the one that transformers adds
        tensors[BIAS] = tensors.pop(DECODER_BIAS)
    return tensors


def _names(config: RobertaConfig, heads: Mapping[str, Any]) -> dict[str, str]:
    """Return their name of each of our parameters, with q, k and v apart."""
    modules = dict(_EMBEDDING_NORM)
    for number in range(config.encoder_layers):
        layer = {f"encoder.layers.{number}.{ours}": f"roberta.encoder.layer.{number}.{_LAYER[ours]}" for ours in _LAYER}
        modules |= layer
    names = dict(_EMBEDDINGS)
    for name, head in heads.items():
        names |= head_names(name, head)
    for ours, theirs in modules.items():
        names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}
    return names


def _chosen(model: RobertaModel, head: str | None) -> str | None:
    """Return the name of the head to write, checked to be one that transformers computes alike."""
    if head is None:
        if len(model.head_configs) > 1:
            raise ConfigError(
                "a Hugging Face folder holds one head; name it (--head): " + ", ".join(sorted(model.head_configs))
            )
        head = next(iter(model.head_configs), None)
    if head is None:
        return None
    check_head(head, model.head_config(head), embed_dim=model.config.embed_dim)
    return head


def _config_json(model: RobertaModel, head: str | None) -> dict[str, Any]:
    config = model.config
    if config.padding_idx != Dictionary.pad:
        raise ConfigError(f"padding_idx is {config.padding_idx}; in a Hugging Face folder it is {Dictionary.pad}")
    if config.activation_dropout:
        logger.warning("activation_dropout %g has no place in a Hugging Face folder", config.activation_dropout)
    return {
        "model_type": MODEL_TYPE,
        **head_options(None if head is None else model.head_configs[head]),
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "max_position_embeddings": config.padding_idx + 1 + config.max_positions,
        "hidden_act": next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == config.activation_fn),
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        **{name: value for name, (value, _, _) in _FIXED.items() if value},
        "bos_token_id": Dictionary.bos,
        "eos_token_id": Dictionary.eos,
        "torch_dtype": str(model.encoder.embed_tokens.weight.dtype).removeprefix("torch."),
    }


def _tensors(model: RobertaModel, head: str | None) -> dict[str, Tensor]:
    state = split_qkv(model.state_dict())
    names = _names(model.config, {} if head is None else {head: model.head_configs[head]})
    tensors = {theirs: state[ours] for ours, theirs in names.items()}
    tensors[_TOKEN_TYPES] = torch.zeros_like(tensors[WORDS][:1])
    if DECODER_WEIGHT in tensors:
        tensors[DECODER_BIAS] = tensors[BIAS].clone()
    return tensors
