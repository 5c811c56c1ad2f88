"""ONNX export: the padded form against the packed model, and the files against onnxruntime where it is installed."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from roberta.checkpoint import onnx_format
from roberta.checkpoint.onnx_format import PaddedModel, export_onnx
from roberta.errors import ConfigError, StorageError
from roberta.layout import SequenceLayout
from roberta.models.heads import select_rows
from roberta.models.roberta import RobertaModel
from tests.builders import make_tiny_model

PAD = 1
LENGTHS = [[1], [24], [3, 3], [1, 24, 7], [5, 2, 2, 9, 1]]
HEADS = [None, "topic", "lm"]


def padded_tokens(lengths: list[int], *, left: bool) -> Tensor:
    """Return random tokens (B, S) of these lengths, padded to one column more than the longest needs."""
    rng = torch.Generator().manual_seed(sum(lengths))
    grid = torch.full((len(lengths), min(max(lengths) + 1, 24)), PAD)
    for row, length in zip(grid, lengths, strict=True):
        cells = row[len(row) - length :] if left else row[:length]
        cells.copy_(torch.randint(4, 97, (length,), generator=rng))
    return grid


def packed_answers(model: RobertaModel, head: str | None, tokens: Tensor) -> Tensor:
    """Return what the packed model gives for padded tokens: (B, K) of a head of sequences, else (B, S, K)."""
    is_token = tokens != PAD
    layout = SequenceLayout.from_lengths(is_token.sum(dim=1).tolist())
    select = None if head is None else select_rows(model.head_config(head), layout)
    with torch.no_grad():
        answers = model(tokens[is_token], layout, head, select)
    if select is not None:
        return answers
    grid = answers.new_zeros(*tokens.shape, answers.shape[1])
    grid[is_token] = answers
    return grid


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("head", HEADS)
def test_padded_answers_equal_packed_answers(
    tiny_model: RobertaModel, head: str | None, lengths: list[int], left: bool
) -> None:
    tokens = padded_tokens(lengths, left=left)
    with torch.no_grad():
        found = PaddedModel(tiny_model, head)(tokens)
    torch.testing.assert_close(found, packed_answers(tiny_model, head, tokens), atol=1e-10, rtol=0)


def test_an_unknown_head_is_an_error(tiny_model: RobertaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_format, "_PACKAGES", ())
    with pytest.raises(ConfigError, match=r"no head 'topics'.*did you mean topic"):
        export_onnx(tiny_model, tmp_path / "model.onnx", "topics")


def test_missing_packages_are_named_with_the_command_that_installs_them(
    tiny_model: RobertaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install onnx onnxscript"):
        export_onnx(tiny_model, tmp_path / "model.onnx")


def test_weights_beyond_what_a_file_holds_are_an_error(
    tiny_model: RobertaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_format, "_PACKAGES", ())
    monkeypatch.setattr(onnx_format, "_MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"bytes of parameters; an ONNX file holds 1000: export model\.half\(\)"):
        export_onnx(tiny_model, tmp_path / "model.onnx")


def test_a_folder_that_can_not_be_written_is_a_storage_error(
    tiny_model: RobertaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_format, "_PACKAGES", ())
    with pytest.raises(StorageError, match=r"nowhere/model\.onnx: can't be written"):
        export_onnx(tiny_model.train(), tmp_path / "nowhere" / "model.onnx")
    assert tiny_model.training


def exported(model: RobertaModel, path: Path, head: str | None) -> Any:
    """Return an onnxruntime session of an exported model."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(model, path, head)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.slow  # an export takes 6 to 10 s, whatever the size of the model
@pytest.mark.parametrize("head", HEADS)
def test_onnxruntime_agrees_for_every_batch_and_length(tiny_config, tmp_path: Path, head: str | None) -> None:
    model = make_tiny_model(tiny_config).float()
    session = exported(model, tmp_path / "model.onnx", head)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert session.get_inputs()[0].shape == ["batch", "length"]
    assert [output.name for output in session.get_outputs()] == ["features" if head is None else "logits"]
    for lengths in LENGTHS:
        for left in (False, True):
            tokens = padded_tokens(lengths, left=left)
            (found,) = session.run(None, {"tokens": tokens.numpy()})
            expected = packed_answers(model, head, tokens)
            torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_model_in_training_and_half_precision_is_exported_as_in_evaluation(tiny_config, tmp_path: Path) -> None:
    config = type(tiny_config)(**{**vars(tiny_config), "dropout": 0.5, "attention_dropout": 0.5})
    model = make_tiny_model(config).half().train()
    session = exported(model, tmp_path / "model.onnx", "topic")
    assert model.training
    tokens = padded_tokens([5, 2, 7], left=False)
    (found,) = session.run(None, {"tokens": tokens.numpy()})
    expected = packed_answers(model.float().eval(), "topic", tokens)
    assert found.dtype.name == "float16"
    # torch's own run in half precision is off by 4.3e-4 here.
    torch.testing.assert_close(torch.from_numpy(found).float(), expected, atol=1.3e-3, rtol=0)


@pytest.mark.slow
def test_a_model_is_exported_whatever_multiplies_its_matrices(tiny_config, tmp_path: Path) -> None:
    model = make_tiny_model(tiny_config).float().requires_grad_(False)
    engine = "onednn" if torch.backends.mkldnn.is_available() else "numpy"
    expected = packed_answers(model, "topic", padded_tokens([5, 2], left=False))
    model.set_cpu_engine(engine)
    session = exported(model, tmp_path / "model.onnx", "topic")
    assert model.cpu_engine == engine
    (found,) = session.run(None, {"tokens": padded_tokens([5, 2], left=False).numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)
