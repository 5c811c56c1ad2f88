"""The heads of transformers' RoBERTa models and ours: which is which, by a table of kinds, and what says so in a file.

A kind is a class of transformers, the names of its parameters there and what it computes. Scales of regression and
the dropout of spans have no place there.
"""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roberta.errors import CheckpointError, ConfigError
from roberta.models.heads import (
    LM_HEAD,
    ChoiceHeadConfig,
    ClassificationHeadConfig,
    MaskedLMHeadConfig,
    RegressionHeadConfig,
    SpanHeadConfig,
    TaggingHeadConfig,
)
from roberta.models.transformer import Activation
from roberta.registry import HEADS

WORDS = "roberta.embeddings.word_embeddings.weight"
DECODER_WEIGHT, DECODER_BIAS, BIAS = "lm_head.decoder.weight", "lm_head.decoder.bias", "lm_head.bias"

_SEVERAL = "multi_label_classification"  # problem_type of classes that do not exclude each other

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kind:
    architecture: str  # the class of transformers
    modules: Mapping[str, str]  # ours and theirs, each a weight and a bias
    activation_fn: Activation | None  # the one that is computed there


_CLASSIFIER = {"dense": "classifier.dense", "out_proj": "classifier.out_proj"}
_KINDS: dict[type, _Kind] = {
    MaskedLMHeadConfig: _Kind(
        "RobertaForMaskedLM", {"dense": "lm_head.dense", "layer_norm": "lm_head.layer_norm"}, "gelu"
    ),
    ClassificationHeadConfig: _Kind("RobertaForSequenceClassification", _CLASSIFIER, "tanh"),
    RegressionHeadConfig: _Kind("RobertaForSequenceClassification", _CLASSIFIER, "tanh"),
    ChoiceHeadConfig: _Kind(
        "RobertaForMultipleChoice", {"dense": "roberta.pooler.dense", "out_proj": "classifier"}, "tanh"
    ),
    TaggingHeadConfig: _Kind("RobertaForTokenClassification", {"out_proj": "classifier"}, None),
    SpanHeadConfig: _Kind("RobertaForQuestionAnswering", {"out_proj": "qa_outputs"}, None),
}


def find_heads(options: Mapping[str, Any], tensors: dict[str, Tensor], *, dropout: float, path: Path) -> dict[str, Any]:
    """Return the configs of the heads that the tensors show, and remove the copy of a tied projection.

    options: the contents of config.json at `path`. dropout: the one of the heads.

    Raises:
        CheckpointError: the names of the classes don't fit.
    """
    heads: dict[str, Any] = {}
    if any(name.startswith("lm_head.") for name in tensors):
        heads[LM_HEAD] = _masked_lm(options, tensors)
    configs = []
    if "classifier.out_proj.weight" in tensors:
        configs.append(_sequence_head(options, _num_rows(tensors["classifier.out_proj.weight"]), dropout, path))
    if "classifier.weight" in tensors:
        num_classes = _num_rows(tensors["classifier.weight"])
        if _is_choice(options, tensors, num_classes):
            configs.append(ChoiceHeadConfig(dropout=dropout))
        else:
            configs.append(_with_classes(TaggingHeadConfig, options, num_classes, dropout, path))
    if "qa_outputs.weight" in tensors:
        configs.append(SpanHeadConfig())  # no dropout there
    return heads | {HEADS.name_of(type(config)): config for config in configs}


def head_names(name: str, config: Any) -> dict[str, str]:
    """Return their name of each parameter of our head `name`."""
    modules = _KINDS[type(config)].modules.items()
    names = {
        f"heads.{name}.{ours}.{part}": f"{theirs}.{part}" for ours, theirs in modules for part in ("weight", "bias")
    }
    if isinstance(config, MaskedLMHeadConfig):
        names[f"heads.{name}.bias"] = BIAS
        if not config.tied:
            names[f"heads.{name}.weight"] = DECODER_WEIGHT
    return names


def check_head(name: str, config: Any, *, embed_dim: int) -> None:
    """Check that transformers computes what our head `name` does, and log what is lost that matters elsewhere.

    Raises:
        ConfigError: it does not.
    """
    if type(config) not in _KINDS:
        raise ConfigError(f"head {name!r} is a {type(config).__name__}; a Hugging Face folder can't hold it here")
    inner_dim = getattr(config, "inner_dim", None)
    if inner_dim not in (None, embed_dim):
        raise ConfigError(f"head {name!r}: inner_dim is {inner_dim}; in a Hugging Face folder it is embed_dim")
    usual = _KINDS[type(config)].activation_fn
    if usual is not None and config.activation_fn != usual:
        raise ConfigError(
            f"head {name!r}: activation_fn is {config.activation_fn}; in a Hugging Face folder it is {usual}"
        )
    if isinstance(config, SpanHeadConfig) and config.answerable:
        raise ConfigError(
            f"head {name!r} tells whether there is an answer; a Hugging Face folder has no place for that: "
            "leave the head out, or train one with answerable off"
        )
    if isinstance(config, SpanHeadConfig) and config.dropout:
        logger.warning("head %r: its dropout %g has no place in a Hugging Face folder", name, config.dropout)
    if isinstance(config, RegressionHeadConfig) and (config.minimum, config.maximum) != (0.0, 1.0):
        scale = (config.minimum, config.maximum)
        logger.warning(
            "head %r: its scale has no place in a Hugging Face folder; there 0 stands for %g and 1 for %g", name, *scale
        )


def head_options(config: Any) -> dict[str, Any]:
    """Return what config.json says of a model with this head; without one if the config is None."""
    if config is None:
        return {"architectures": ["RobertaModel"]}
    options: dict[str, Any] = {"architectures": [_KINDS[type(config)].architecture]}
    if isinstance(config, MaskedLMHeadConfig):
        return options | {"tie_word_embeddings": config.tied}
    if isinstance(config, SpanHeadConfig):
        return options
    options["classifier_dropout"] = config.dropout
    if isinstance(config, ChoiceHeadConfig):
        return options
    labels = getattr(config, "labels", ()) or _default_labels(config.num_outputs)
    options["id2label"] = {str(number): label for number, label in enumerate(labels)}
    options["label2id"] = {label: number for number, label in enumerate(labels)}
    if not isinstance(config, TaggingHeadConfig):
        single = "regression" if config.num_outputs == 1 else "single_label_classification"
        options["problem_type"] = _SEVERAL if getattr(config, "multi_label", False) else single
    return options


def _masked_lm(options: Mapping[str, Any], tensors: dict[str, Tensor]) -> MaskedLMHeadConfig:
    projection, words = tensors.get(DECODER_WEIGHT), tensors.get(WORDS)
    tied = options.get("tie_word_embeddings", True) is not False
    if projection is not None and words is not None:
        tied = projection.dtype == words.dtype and torch.equal(projection, words)
        if tied:
            del tensors[DECODER_WEIGHT]
    return MaskedLMHeadConfig(activation_fn="gelu", tied=tied)


def _sequence_head(options: Mapping[str, Any], num_outputs: int, dropout: float, path: Path) -> Any:
    problem = options.get("problem_type")
    if num_outputs == 1 and problem in (None, "regression"):  # transformers takes one output for a number
        logger.info("%s: the scale of its regression is taken to be 0 to 1", path)
        return RegressionHeadConfig(dropout=dropout)
    if problem == "regression":
        logger.warning("%s: its outputs are %d numbers, not classes; take the logits", path, num_outputs)
    head = _with_classes(ClassificationHeadConfig, options, num_outputs, dropout, path)
    return dataclasses.replace(head, multi_label=problem == _SEVERAL)


def _is_choice(options: Mapping[str, Any], tensors: Iterable[str], num_classes: int) -> bool:
    """Return whether a lone `classifier` scores choices: config.json says which, else its one output and the pooler."""
    architectures = options.get("architectures")
    for config in (ChoiceHeadConfig, TaggingHeadConfig):
        if isinstance(architectures, list) and _KINDS[config].architecture in architectures:
            return config is ChoiceHeadConfig
    return num_classes == 1 and "roberta.pooler.dense.weight" in tensors


def _with_classes(
    kind: type[ClassificationHeadConfig] | type[TaggingHeadConfig],
    options: Mapping[str, Any],
    num_classes: int,
    dropout: float,
    path: Path,
) -> Any:
    try:
        return kind(num_classes=num_classes, dropout=dropout, labels=_labels(options, num_classes, path))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


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


def _num_rows(matrix: Tensor) -> int:
    return matrix.shape[:1].numel()
