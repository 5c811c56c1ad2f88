"""A float64 model small enough for the slow twin, with every parameter away from 0 and 1."""

import pytest

from roberta.hub.border import Engine
from roberta.models.roberta import RobertaConfig
from tests.builders import make_byte_tokenizer, make_tiny_model


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Return a model of three layers and 40 positions whose tokens are bytes."""
    tokenizer = make_byte_tokenizer()
    config = RobertaConfig(
        vocab_size=len(tokenizer.dictionary),
        max_positions=40,
        encoder_layers=3,
        embed_dim=12,
        ffn_embed_dim=20,
        attention_heads=3,
    )
    return Engine(make_tiny_model(config), tokenizer, batch_tokens=64)
