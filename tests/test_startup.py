"""What starting costs, counted in modules: seconds differ from machine to machine, imports don't."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from roberta.checkpoint import native
from roberta.data.tokenizer import Tokenizer
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel

ROOT = Path(__file__).parents[1]
MAPS = Path("/proc/self/maps")
OPTIONAL = {"huggingface_hub", "matplotlib", "onnx", "onnxruntime", "onnxscript", "spacy", "transformers"}
SLOW = {"requests", "sacrebleu", "tiktoken", "torch._dynamo", "torch._inductor", "sympy", "pandas", "scipy"}


def modules_after(code: str, *arguments: str) -> set[str]:
    """Return the modules that a fresh interpreter holds when it leaves after this code."""
    report = "import atexit, json, sys; atexit.register(lambda: print(json.dumps(list(sys.modules)), file=sys.stderr))"
    finished = subprocess.run(
        [sys.executable, "-c", f"{report}; {code}", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(finished.stderr.splitlines()[-1]))


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    assert not modules_after("import roberta") & {"torch", "numpy", "tqdm", *OPTIONAL, *SLOW}


def test_help_of_preprocess_imports_no_torch() -> None:
    code = "from roberta_cli.preprocess import main; raise SystemExit(main(['--help']))"
    assert not modules_after(code) & {"torch", *OPTIONAL, *SLOW}


def test_the_hub_imports_little_beside_torch() -> None:
    torch_alone, hub = modules_after("import torch"), modules_after("import roberta.hub")
    assert not hub & {*OPTIONAL, *SLOW} - torch_alone
    foreign = {name for name in hub - torch_alone if name.partition(".")[0] != "roberta"}
    assert len(foreign) < 60  # 20; torch 2.13 alone: 1123


@pytest.fixture
def base_shaped(tmp_path: Path) -> Path:
    """Return a checkpoint of twelve narrow layers with heads: as many modules as a base model."""
    config = RobertaConfig(max_positions=8, encoder_layers=12, embed_dim=8, ffn_embed_dim=8, attention_heads=1)
    model = RobertaModel(config)
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("topic", ClassificationHeadConfig(num_classes=2))
    native.save(tmp_path / "model", model, Tokenizer.load())
    return tmp_path / "model"


def test_opening_a_model_does_not_import_torchs_compiler(base_shaped: Path) -> None:
    code = "import sys, roberta; roberta.from_pretrained(sys.argv[1])"
    assert not modules_after(code, str(base_shaped)) & {*OPTIONAL, *SLOW}


@pytest.mark.skipif(not MAPS.exists(), reason="needs Linux's list of mapped files")
def test_parameters_are_mapped_from_their_file(base_shaped: Path) -> None:
    model = native.load(base_shaped).model
    assert all(not parameter.is_meta for parameter in model.parameters())
    storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    mapped = [line for line in MAPS.read_text().splitlines() if line.endswith(".safetensors")]
    ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in mapped]
    assert all(any(start <= storage < end for start, end in ranges) for storage in storages)


def test_a_model_is_assembled_without_a_random_fill(base_shaped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a parameter was filled")

    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    native.load(base_shaped)
