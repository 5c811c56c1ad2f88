"""What the examples in docstrings of the hub call `roberta`, a small random model, and `folder`, an empty folder."""

import copy
import functools
import os
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the workers share the cores


@functools.cache
def random_roberta() -> Any:
    """Return a hub interface as small as can be, with an LM head and an NLI head."""
    import torch

    from roberta.data.readers.glue import MNLI_LABELS
    from roberta.data.tokenizer import Tokenizer
    from roberta.hub import RobertaHubInterface
    from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
    from roberta.models.roberta import RobertaConfig, RobertaModel

    torch.manual_seed(0)
    model = RobertaModel(RobertaConfig(encoder_layers=2, embed_dim=16, ffn_embed_dim=32, attention_heads=2))
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("mnli", ClassificationHeadConfig(num_classes=3, labels=MNLI_LABELS))
    return RobertaHubInterface(model.eval(), Tokenizer.load())


@pytest.fixture(autouse=True)
def _name_roberta(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any], tmp_path: Path) -> None:
    if isinstance(request.node, pytest.DoctestItem) and "roberta.hub" in request.node.name:
        built = random_roberta()
        doctest_namespace["roberta"] = type(built)(copy.deepcopy(built.model), built.tokenizer)
        doctest_namespace["folder"] = tmp_path
