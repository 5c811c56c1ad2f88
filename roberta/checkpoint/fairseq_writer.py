"""Writing checkpoints of fairseq, as it has written them since 2021; `fairseq_format` reads them back."""

import argparse
import copy
import logging
from pathlib import Path

import torch
from torch import Tensor

from roberta.checkpoint.folders import replacing
from roberta.checkpoint.foreign import check_is_roberta, split_qkv
from roberta.data.dictionary import FILE_NAME, Dictionary
from roberta.data.readers.binarized import binarized_labels
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, StorageError, VocabError
from roberta.models.heads import LM_HEAD, ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.models.transformer import Activation

MODEL = "model.pt"

logger = logging.getLogger(__name__)

_ACTIVATIONS: dict[Activation, str] = {"gelu": "gelu", "gelu_tanh": "gelu_accurate", "relu": "relu", "tanh": "tanh"}
# What the names of parameters begin with, ours and fairseq's; the first that fits.
_PREFIXES = {
    "encoder.": "encoder.sentence_encoder.",
    f"heads.{LM_HEAD}.": "encoder.lm_head.",
    "heads.": "classification_heads.",
}


def write(folder: Path, model: RobertaModel, tokenizer: Tokenizer) -> None:
    """Write `model.pt` with the tokenizer's files beside it, whole or not at all; a folder of that name is replaced.

    A model without a masked-LM head, such as a fine-tuned one, gets one that was never trained, which is logged: in
    fairseq every model has one.

    The names of the classes go to `label/dict.txt`, as in a data folder of fairseq, if just one head has such names
    and no other has as many classes; otherwise they are left out, which is logged.

    Raises:
        ConfigError: the model holds something that fairseq's RoBERTa does not; or the name of a class can't stand in
            `label/dict.txt`.
        StorageError: the folder can't be written.
    """
    check_is_roberta(model)
    model = model if LM_HEAD in model.head_configs else _with_lm_head(model)
    state = {"args": _args(model), "model": _tensors(model), **_NO_TRAINING}
    labels = _labels(model)
    with replacing(folder, MODEL) as temporary:
        tokenizer.save(temporary)
        if labels:
            _write_labels(temporary, labels)
        try:
            torch.save(state, temporary / MODEL)
        except RuntimeError as error:  # how torch reports a full disk
            raise StorageError(f"can't write checkpoint {folder}: {error}; free some space") from error


# What fairseq's loader asks for beside the model.
_NO_TRAINING = {
    "optimizer_history": [
        {"criterion_name": "MaskedLmLoss", "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 0}
    ],
    "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    "last_optimizer_state": None,
}


def _with_lm_head(model: RobertaModel) -> RobertaModel:
    logger.warning("the model has no masked-LM head, and a fairseq checkpoint needs one: it gets one of random weights")
    model = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same file each time
        model.register_head(LM_HEAD, MaskedLMHeadConfig(activation_fn=model.config.activation_fn))
    return model


def _args(model: RobertaModel) -> argparse.Namespace:
    """Return the options under fairseq's names, with all that its loader asks for."""
    config = model.config
    lm = model.head_configs[LM_HEAD]
    if not isinstance(lm, MaskedLMHeadConfig) or lm.activation_fn != config.activation_fn:
        raise ConfigError(
            f"a fairseq checkpoint has a masked-LM head with the activation of the encoder; here {LM_HEAD!r} is {lm}: "
            f"register one with MaskedLMHeadConfig(activation_fn={config.activation_fn!r})"
        )
    if config.padding_idx != Dictionary.pad:
        raise ConfigError(f"padding_idx is {config.padding_idx}; in a fairseq checkpoint it is {Dictionary.pad}")
    if config.layer_norm_eps != RobertaConfig.layer_norm_eps:
        raise ConfigError(
            f"layer_norm_eps is {config.layer_norm_eps}; a fairseq checkpoint has {RobertaConfig.layer_norm_eps}"
        )
    pooler_activation, pooler_dropout = _pooler(model)
    return argparse.Namespace(
        arch="roberta",
        task="masked_lm",
        criterion="masked_lm",
        optimizer="adam",
        lr_scheduler="polynomial_decay",
        data=".",
        tokens_per_sample=config.max_positions,
        max_positions=config.max_positions,
        encoder_layers=config.encoder_layers,
        encoder_embed_dim=config.embed_dim,
        encoder_ffn_embed_dim=config.ffn_embed_dim,
        encoder_attention_heads=config.attention_heads,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        activation_fn=_ACTIVATIONS[config.activation_fn],
        pooler_dropout=pooler_dropout,
        pooler_activation_fn=_ACTIVATIONS[pooler_activation],
        untie_weights_roberta=not lm.tied,
    )


def _pooler(model: RobertaModel) -> tuple[Activation, float]:
    """Return the activation and the dropout that fairseq keeps once for all classification heads."""
    heads = {name: head for name, head in model.head_configs.items() if name != LM_HEAD}
    others = sorted(name for name, head in heads.items() if not isinstance(head, ClassificationHeadConfig))
    if others:
        raise ConfigError(f"a fairseq checkpoint holds heads for masked LM and classification, not {', '.join(others)}")
    poolers = {(head.activation_fn, head.dropout) for head in heads.values()}
    for name in sorted(name for name, head in heads.items() if isinstance(head, ClassificationHeadConfig)):
        if heads[name].multi_label:
            logger.warning("a fairseq checkpoint does not say that head %s tells several classes at once", name)
    if len(poolers) > 1:
        raise ConfigError(f"fairseq has one pooler activation and dropout for all heads; the model has {poolers}")
    return poolers.pop() if poolers else ("tanh", 0.0)


def _labels(model: RobertaModel) -> tuple[str, ...]:
    """Return the names of the classes that a reader can tell to be those of their head; none if there are no such."""
    heads = [head for name, head in model.head_configs.items() if name != LM_HEAD]
    labelled = [head.labels for head in heads if head.labels]
    if len(labelled) > 1:
        logger.warning("a fairseq checkpoint has the class names of one head; those of %d are left out", len(labelled))
    if len(labelled) != 1:
        return ()
    if sum(head.num_classes == len(labelled[0]) for head in heads) > 1:
        logger.warning(
            "a fairseq checkpoint does not say which head its class names belong to; they are left out, as several "
            "heads have %d classes",
            len(labelled[0]),
        )
        return ()
    return labelled[0]


def _write_labels(folder: Path, labels: tuple[str, ...]) -> None:
    (folder / "label").mkdir()
    Dictionary(labels, [0] * len(labels)).save(folder / "label" / FILE_NAME)
    try:
        found = binarized_labels(folder)
    except VocabError:
        found = ()
    if found != labels:
        raise ConfigError(
            f"labels {', '.join(labels)}: label/{FILE_NAME} would not give them back; a fairseq checkpoint can't hold "
            "<mask>, madeupwordNNNN, an empty name or line ends: rename them"
        )


def _tensors(model: RobertaModel) -> dict[str, Tensor]:
    """Return the parameters under fairseq's names; the projection of the LM head is there even where it is tied."""
    tensors = {"encoder.sentence_encoder.version": torch.tensor([3.0])}
    for name, tensor in split_qkv(model.state_dict()).items():
        prefix = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
        tensors[_PREFIXES[prefix] + name.removeprefix(prefix)] = tensor.detach().cpu()
    tensors.setdefault("encoder.lm_head.weight", tensors["encoder.sentence_encoder.embed_tokens.weight"])
    return tensors
