"""Folders of Hugging Face transformers: its RoBERTa models are read, and folders that it opens unchanged are written.

    config.json             the architecture, its sizes, the names of the classes
    model.safetensors       parameters; when reading also in shards, or pytorch_model.bin
    tokenizer.json, ...     the tokenizer's files, see `hf_tokenizer`

One model there has one head. Here the masked-LM head is then named "lm", a head for sequences "classification".
A pooler is dropped: RoBERTa's pretraining never trained it.
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
from roberta.checkpoint.foreign import ForeignCheckpoint, check_names, is_plain, join_qkv, split_qkv
from roberta.data.dictionary import Dictionary
from roberta.data.tokenizer import Tokenizer
from roberta.errors import CheckpointError, ConfigError, choices
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.models.transformer import LAYER_NORM_EPS, Activation

CONFIG = "config.json"
WEIGHTS, SHARDS, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
SAFE_FILES = (CONFIG, WEIGHTS, SHARDS, "model-*.safetensors")
FILES = (*SAFE_FILES, PICKLE)
MODEL_TYPE = "roberta"
LM, CLASSIFICATION = "lm", "classification"

_LOGGER = logging.getLogger(__name__)

# Options of config.json: our name and the largest size that is accepted, a probability and its value if absent.
_SIZES = {
    "vocab_size": ("vocab_size", 2**24),
    "num_hidden_layers": ("encoder_layers", 1000),
    "hidden_size": ("embed_dim", 2**16),
    "intermediate_size": ("ffn_embed_dim", 2**18),
    "num_attention_heads": ("attention_heads", 2**12),
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
    "layer_norm_eps": (LAYER_NORM_EPS, 1e-12, "the layer norms here have that one; set it if the model was trained so"),
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
    "encoder.embed_tokens.weight": "roberta.embeddings.word_embeddings.weight",
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
_LM_HEAD = {"dense": "lm_head.dense", "layer_norm": "lm_head.layer_norm"}
_CLASSIFICATION_HEAD = {"dense": "classifier.dense", "out_proj": "classifier.out_proj"}
_TOKEN_TYPES = "roberta.embeddings.token_type_embeddings.weight"
_WORDS = _EMBEDDINGS["encoder.embed_tokens.weight"]
_DECODER_WEIGHT, _DECODER_BIAS, _BIAS = "lm_head.decoder.weight", "lm_head.decoder.bias", "lm_head.bias"

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
    heads = _heads(options, config, tensors, path)
    names = _names(config, heads)
    check_names(
        tensors,
        {*names.values(), _TOKEN_TYPES},
        f"{folder}: not a RoBERTa alone or with a head for masked LM or sequences",
    )
    token_types = tensors[_TOKEN_TYPES]
    state = join_qkv({ours: tensors[theirs] for ours, theirs in names.items()}, folder)
    positions = state["encoder.embed_positions.weight"]
    if token_types.shape != (1, *positions.shape[1:]):
        raise CheckpointError(
            f"{folder}: {_TOKEN_TYPES} is {tuple(token_types.shape)}; expected one row of hidden_size"
        )
    if token_types.any():  # its row is added to every token, as a position is
        state["encoder.embed_positions.weight"] = positions + token_types
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
    head = _chosen(model, head)
    config = _config_json(model, head)
    tensors = _tensors(model, head)
    with replacing(folder) as temporary:
        hf_tokenizer.write(temporary, tokenizer, max_tokens=model.config.max_positions)
        write_json(temporary / CONFIG, config)
        write_tensors(temporary / WEIGHTS, tensors)


def _config(options: Mapping[str, Any], path: Path) -> RobertaConfig:
    """Return the encoder's config, with every option checked that bears on what the model computes."""
    if options.get("model_type") != MODEL_TYPE:
        given = options.get("model_type")
        raise CheckpointError(f"{path}: model_type is {_spell(given)}; {choices(given, [MODEL_TYPE])}")
    for name, (value, default, reason) in _FIXED.items():
        if options.get(name, default) != value:
            raise CheckpointError(
                f"{path}: {name} is {_spell(options.get(name, default))}; allowed: {value}, as {reason}"
            )
    sizes = {}
    for name, (ours, largest) in _SIZES.items():
        sizes[ours] = _size(options, name, largest, path)
    padding_idx = Dictionary.pad
    positions = _size(options, "max_position_embeddings", 2**20, path) - padding_idx - 1
    hidden_act = options.get("hidden_act", "gelu")
    if not isinstance(hidden_act, str) or hidden_act not in _ACTIVATIONS:
        raise CheckpointError(
            f"{path}: hidden_act is {_spell(hidden_act)}; {choices(_spell(hidden_act), _ACTIVATIONS)}"
        )
    dropout, attention_dropout = (_probability(options, *item, path) for item in _PROBABILITIES.items())
    try:
        return RobertaConfig(
            **sizes,
            padding_idx=padding_idx,
            max_positions=positions,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation_fn=_ACTIVATIONS[hidden_act],
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: its options contradict each other: {error}") from error


def _size(options: Mapping[str, Any], name: str, largest: int, path: Path) -> int:
    value = options.get(name)
    if type(value) is not int or not 1 <= value <= largest:
        raise CheckpointError(f"{path}: {name} is {_spell(value)}; allowed: 1 to {largest}")
    return value


def _probability(options: Mapping[str, Any], name: str, default: float, path: Path) -> float:
    value = options.get(name, default)
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise CheckpointError(f"{path}: {name} is {_spell(value)}; allowed: numbers from 0 to less than 1")
    return float(value)


def _spell(value: Any) -> str:
    return repr(value)[:50] if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"


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
    has_pooler = False
    for key, tensor in loaded.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{folder}: not the name of a tensor: a {type(key).__name__} among its weights")
        name = key
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        has_pooler |= _POOLER.match(name) is not None
        if _BUFFER.match(name) or _POOLER.match(name):
            continue
        if not is_plain(tensor):
            raise CheckpointError(f"{folder}: {key} is not an ordinary tensor of floats")
        if name in tensors:
            raise CheckpointError(f"{folder}: it has two tensors for {name}")
        tensors[name] = tensor.detach()
    if has_pooler:
        _LOGGER.info("%s: its pooler is left aside; RoBERTa's pretraining never trained it", folder)
    if _DECODER_BIAS in tensors:  # where both are stored, this is the one that transformers adds
        tensors[_BIAS] = tensors.pop(_DECODER_BIAS)
    return tensors


def _heads(options: Mapping[str, Any], config: RobertaConfig, tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """Return the configs of the heads that the tensors show, and remove the copy of a tied projection."""
    heads: dict[str, Any] = {}
    if any(name.startswith("lm_head.") for name in tensors):
        projection, words = tensors.get(_DECODER_WEIGHT), tensors.get(_WORDS)
        tied = options.get("tie_word_embeddings", True) is not False
        if projection is not None and words is not None:
            tied = projection.dtype == words.dtype and torch.equal(projection, words)
            if tied:
                del tensors[_DECODER_WEIGHT]
        heads[LM] = MaskedLMHeadConfig(activation_fn="gelu", tied=tied)
    projection = tensors.get(_CLASSIFICATION_HEAD["out_proj"] + ".weight")
    if projection is not None:
        dropout = options.get("classifier_dropout")
        if dropout is None:
            dropout = config.dropout
        num_classes = projection.shape[:1].numel()
        try:
            heads[CLASSIFICATION] = ClassificationHeadConfig(
                num_classes=num_classes,
                dropout=_probability({"classifier_dropout": dropout}, "classifier_dropout", 0.0, path),
                labels=_labels(options, num_classes, path),
            )
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from error
        if options.get("problem_type") == "multi_label_classification":
            _LOGGER.warning("%s: its classes do not exclude each other; take the logits, and their sigmoid", path)
    return heads


def _labels(options: Mapping[str, Any], num_classes: int, path: Path) -> tuple[str, ...]:
    """Return the names of the classes in order; none if they are those that transformers makes up."""
    given = options.get("id2label")
    if given is None:
        return ()
    if not isinstance(given, dict) or not all(isinstance(label, str) for label in given.values()):
        raise CheckpointError(f"{path}: id2label is not an object of id: name")
    numbers = [str(number) for number in range(num_classes)]
    if set(given) != set(numbers):
        raise CheckpointError(f"{path}: id2label names {len(given)} classes; the classifier has {num_classes}, from 0")
    labels = tuple(given[number] for number in numbers)
    return () if labels == _default_labels(num_classes) else labels


def _default_labels(num_classes: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{number}" for number in range(num_classes))


def _names(config: RobertaConfig, heads: Mapping[str, Any]) -> dict[str, str]:
    """Return their name of each of our parameters, with q, k and v apart."""
    modules = dict(_EMBEDDING_NORM)
    for number in range(config.encoder_layers):
        layer = {f"encoder.layers.{number}.{ours}": f"roberta.encoder.layer.{number}.{_LAYER[ours]}" for ours in _LAYER}
        modules |= layer
    names = dict(_EMBEDDINGS)
    for name, head in heads.items():
        table = _LM_HEAD if isinstance(head, MaskedLMHeadConfig) else _CLASSIFICATION_HEAD
        modules |= {f"heads.{name}.{ours}": theirs for ours, theirs in table.items()}
        if isinstance(head, MaskedLMHeadConfig):
            names[f"heads.{name}.bias"] = _BIAS
            if not head.tied:
                names[f"heads.{name}.weight"] = _DECODER_WEIGHT
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
    config = model.head_config(head)
    if isinstance(config, MaskedLMHeadConfig):
        usual: Activation = "gelu"
    elif isinstance(config, ClassificationHeadConfig):
        usual = "tanh"
        if config.inner_dim not in (None, model.config.embed_dim):
            raise ConfigError(
                f"head {head!r}: inner_dim is {config.inner_dim}; in a Hugging Face folder it is embed_dim"
            )
    else:
        raise ConfigError(f"head {head!r} is a {type(config).__name__}; a Hugging Face folder can't hold it here")
    if config.activation_fn != usual:
        raise ConfigError(
            f"head {head!r}: activation_fn is {config.activation_fn}; in a Hugging Face folder it is {usual}"
        )
    return head


def _config_json(model: RobertaModel, head: str | None) -> dict[str, Any]:
    config = model.config
    if config.padding_idx != Dictionary.pad:
        raise ConfigError(f"padding_idx is {config.padding_idx}; in a Hugging Face folder it is {Dictionary.pad}")
    if config.activation_dropout:
        _LOGGER.warning("activation_dropout %g has no place in a Hugging Face folder", config.activation_dropout)
    return {
        "model_type": MODEL_TYPE,
        **_head_json(None if head is None else model.head_configs[head]),
        **{theirs: getattr(config, ours) for theirs, (ours, _) in _SIZES.items()},
        "max_position_embeddings": config.padding_idx + 1 + config.max_positions,
        "hidden_act": next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == config.activation_fn),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        **{name: value for name, (value, _, _) in _FIXED.items() if value},
        "bos_token_id": Dictionary.bos,
        "eos_token_id": Dictionary.eos,
        "torch_dtype": str(model.encoder.embed_tokens.weight.dtype).removeprefix("torch."),
    }


def _head_json(head: Any) -> dict[str, Any]:
    if head is None:
        return {"architectures": ["RobertaModel"]}
    if isinstance(head, MaskedLMHeadConfig):
        return {"architectures": ["RobertaForMaskedLM"], "tie_word_embeddings": head.tied}
    labels = head.labels or _default_labels(head.num_classes)
    return {
        "architectures": ["RobertaForSequenceClassification"],
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": "regression" if head.num_classes == 1 else "single_label_classification",
        "classifier_dropout": head.dropout,
    }


def _tensors(model: RobertaModel, head: str | None) -> dict[str, Tensor]:
    state = split_qkv(model.state_dict())
    names = _names(model.config, {} if head is None else {head: model.head_configs[head]})
    tensors = {theirs: state[ours] for ours, theirs in names.items()}
    tensors[_TOKEN_TYPES] = torch.zeros_like(tensors[_WORDS][:1])
    if _DECODER_WEIGHT in tensors:
        tensors[_DECODER_BIAS] = tensors[_BIAS].clone()
    return tensors
