"""Small things that several tests build."""

from typing import Any

import torch

from roberta.bpe import GPT2BPE
from roberta.data.dictionary import Dictionary
from roberta.data.tokenizer import Tokenizer
from roberta.layout import Batch, SequenceLayout
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel


def make_tiny_model(config: RobertaConfig) -> RobertaModel:
    """Build a float64 model with an LM head and a classification head, no parameter at 0 or 1."""
    torch.manual_seed(0)
    model = RobertaModel(config)
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("topic", ClassificationHeadConfig(num_classes=3, labels=("a", "b", "c")))
    model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def fairseq_batch(sample: dict[str, Any]) -> Batch:
    """Return a padded masked-LM batch of fairseq's in our packed form."""
    tokens, targets = sample["net_input"]["src_tokens"], sample["target"]
    is_token = tokens != 1
    layout = SequenceLayout.from_lengths(is_token.sum(dim=1).numpy())
    packed_targets = targets[is_token]
    select = (packed_targets != 1).nonzero().squeeze(1)
    return Batch(tokens[is_token], layout, select, packed_targets[select], len(select), tuple(range(len(tokens))))


def make_byte_tokenizer() -> Tokenizer:
    """Build a tokenizer whose symbols are the 256 bytes: small models, whose checkpoints are written in no time."""
    bpe = GPT2BPE([])
    return Tokenizer(bpe, Dictionary(bpe.symbols, [1] * len(bpe.symbols)))
