"""fairseq as a peer of the benchmarks: its models, losses and optimizer with the weights of a model of ours.

fairseq-fixed on PyPI is fairseq 0.12 for Python 3.11 and later, where fairseq's own releases can't be imported. It is
compiled for some minutes, and would bring torchaudio, which this does without:

    pip install 'setuptools<81' cython hydra-core==1.3.2 omegaconf==2.3.0 bitarray scikit-learn
    pip install --no-deps --no-build-isolation fairseq-fixed
"""

import importlib.util
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from roberta.bpe import GPT2BPE
from roberta.checkpoint import fairseq_writer, pickles
from roberta.data.dictionary import FILE_NAME
from roberta.data.tokenizer import Tokenizer
from roberta.layout import Batch
from roberta.models.heads import LM_HEAD, MaskedLMHeadConfig
from roberta.models.roberta import RobertaModel

NAME = "fairseq"
PAD = 1


def is_installed() -> bool:
    """Return whether fairseq can be imported."""
    return importlib.util.find_spec("fairseq") is not None


def twin(model: RobertaModel) -> tuple[nn.Module, Any]:
    """Return fairseq's model with the weights of `model`, by way of a file in its form, and what it has for a task.

    Every model of fairseq has an LM head; one of random weights is added where `model` has none.
    """
    from fairseq.data import Dictionary
    from fairseq.models.roberta import RobertaModel as TheirModel

    if LM_HEAD not in model.head_configs:
        model = deepcopy(model)
        model.register_head(LM_HEAD, MaskedLMHeadConfig())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / NAME
        fairseq_writer.write(folder, model, Tokenizer.load())
        dictionary = Dictionary.load(str(folder / FILE_NAME))
        dictionary.add_symbol("<mask>")
        state = pickles.load(folder / fairseq_writer.MODEL, "fairseq checkpoint")
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary, label_dictionary=None)
    theirs = TheirModel.build_model(state["args"], task)
    for name, config in model.head_configs.items():
        if name != LM_HEAD:
            theirs.register_classification_head(name, num_classes=config.num_classes)
    theirs.load_state_dict(state["model"])
    return theirs, task


def features(model: nn.Module, ids: Tensor) -> Tensor:
    """Map ids (B, S), padded on the right, to (B, S, C)."""
    return model(ids, features_only=True)[0]


def mean_loss(model: nn.Module, task: Any, *, is_lm: bool) -> Callable[[Batch], Tensor]:
    """Return fairseq's own criterion as a function of a batch, a mean over targets; for a head it is called "topic"."""
    from fairseq.criterions.masked_lm import MaskedLmConfig, MaskedLmLoss
    from fairseq.criterions.sentence_prediction import SentencePredictionConfig, SentencePredictionCriterion

    criterion = (
        MaskedLmLoss(MaskedLmConfig(tpu=False), task)
        if is_lm
        else SentencePredictionCriterion(SentencePredictionConfig(classification_head_name="topic"), task)
    )

    def loss(batch: Batch) -> Tensor:
        layout, targets = batch.layout, batch.targets
        if is_lm:
            targets = layout.pad(torch.full_like(batch.tokens, PAD).index_copy(0, batch.select, targets), PAD)
        sample = {
            "net_input": {"src_tokens": layout.pad(batch.tokens, PAD), "src_lengths": None},
            "target": targets,
            "ntokens": layout.num_tokens,
            "nsentences": len(layout.lengths),
        }
        total, size, _ = criterion(model, sample)
        return total / size

    return loss


def encoder(bpe: GPT2BPE) -> Callable[[list[str]], list[int]]:
    """Return fairseq's GPT-2 BPE as a function from lines to the ids of all of them."""
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    with tempfile.TemporaryDirectory() as name:
        bpe.save(Path(name))
        theirs = get_encoder(f"{name}/encoder.json", f"{name}/vocab.bpe")
    return lambda lines: [index for line in lines for index in theirs.encode(line)]


def adam(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return fairseq's Adam with the settings of its RoBERTa: a loop over parameters, where there is no apex."""
    from fairseq.optim.adam import FairseqAdam
    from omegaconf import OmegaConf

    settings = {"adam_betas": [0.9, 0.98], "adam_eps": 1e-6, "weight_decay": 0.01, "lr": [lr], "use_old_adam": False}
    config = OmegaConf.create({**settings, "fp16_adam_stats": False, "tpu": False})
    return FairseqAdam(config, list(model.parameters())).optimizer
