"""What README says, done."""

import re
from pathlib import Path

import pytest
import torch

from roberta.data.readers.glue import MNLI_LABELS
from roberta.data.tokenizer import Tokenizer
from roberta.hub import RobertaHubInterface
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def narrow_large() -> RobertaHubInterface:
    """Return a random model with the layers and heads of roberta.large.mnli, but narrow."""
    torch.manual_seed(0)
    model = RobertaModel(RobertaConfig(encoder_layers=24, embed_dim=8, ffn_embed_dim=8, attention_heads=1))
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("mnli", ClassificationHeadConfig(num_classes=3, labels=MNLI_LABELS))
    return RobertaHubInterface(model.eval(), Tokenizer.load())


def test_the_python_examples_run_in_order(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "load", lambda repository, name, source: narrow_large())
    monkeypatch.setattr("roberta.hub.from_pretrained", lambda path: narrow_large())
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "my-roberta" / "MANIFEST.json").is_file()


@pytest.mark.parametrize(
    "document", sorted([*ROOT.glob("*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("roberta/*.md")])
)
def test_links_lead_to_files(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links {target}"
