"""Small random models with a hub interface around them."""

import pytest
import torch

from roberta.bpe import GPT2BPE
from roberta.data.dictionary import Dictionary
from roberta.data.readers.glue import MNLI_LABELS
from roberta.data.tokenizer import Tokenizer
from roberta.hub import RobertaHubInterface
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from tests.builders import make_tiny_model


@pytest.fixture(scope="module")
def roberta() -> RobertaHubInterface:
    """Return a model of 32 positions with the real vocabulary, an LM head and an NLI head."""
    torch.manual_seed(0)
    config = RobertaConfig(encoder_layers=2, embed_dim=16, ffn_embed_dim=32, attention_heads=2, max_positions=32)
    model = RobertaModel(config)
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("mnli", ClassificationHeadConfig(num_classes=3, labels=MNLI_LABELS))
    return RobertaHubInterface(model.eval(), Tokenizer.load())


@pytest.fixture
def byte_roberta() -> RobertaHubInterface:
    """Return a float64 model whose tokens are single bytes, so that all fillings can be tried."""
    bpe = GPT2BPE([])
    dictionary = Dictionary(bpe.symbols, [0] * len(bpe.symbols))
    config = RobertaConfig(
        vocab_size=len(dictionary),
        max_positions=40,
        encoder_layers=2,
        embed_dim=24,
        ffn_embed_dim=40,
        attention_heads=3,
    )
    return RobertaHubInterface(make_tiny_model(config), Tokenizer(bpe, dictionary))
