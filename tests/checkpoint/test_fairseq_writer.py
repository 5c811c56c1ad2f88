"""Checkpoints in fairseq's form, written here: read back unchanged, and named as fairseq names them."""

import argparse
import dataclasses
import logging

import pytest
import torch
from torch.serialization import safe_globals

from roberta.checkpoint import fairseq_format, fairseq_writer
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, StorageError
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel


@pytest.fixture
def model(tiny_model) -> RobertaModel:
    return tiny_model.float()


def contents(path) -> dict:
    with safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("activation_fn", ["gelu", "gelu_tanh", "relu"])
def test_what_is_written_is_read_back_unchanged(tied, activation_fn, tmp_path):
    torch.manual_seed(0)
    shape = {"encoder_layers": 2, "embed_dim": 12, "ffn_embed_dim": 20, "attention_heads": 3, "max_positions": 9}
    model = RobertaModel(
        RobertaConfig(vocab_size=50, activation_fn=activation_fn, dropout=0.2, attention_dropout=0.05, **shape)
    )
    model.register_head("lm", MaskedLMHeadConfig(tied=tied, activation_fn=activation_fn))
    if not tied:
        torch.nn.init.normal_(model.heads["lm"].weight)
    model.register_head("a", ClassificationHeadConfig(num_classes=2, inner_dim=5, dropout=0.3))
    model.register_head("b", ClassificationHeadConfig(num_classes=3, labels=("x", "y y", "z"), dropout=0.3))
    fairseq_writer.write(tmp_path / "model", model, Tokenizer.load())
    found = fairseq_format.read(tmp_path / "model" / "model.pt")
    assert found.config == model.config
    assert found.heads == model.head_configs
    assert found.state_dict.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, found.state_dict[name]) for name, tensor in model.state_dict().items())


def test_a_folder_holds_the_model_and_its_dictionary_and_nothing_is_left_beside_it(model, tmp_path):
    fairseq_writer.write(tmp_path / "model", model, Tokenizer.load())
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    folder = {f"model/{name}" for name in ("model.pt", "dict.txt", "vocab.bpe", "encoder.json", "label/dict.txt")}
    assert names == folder
    assert (tmp_path / "model" / "label" / "dict.txt").read_text() == "a 0\nb 0\nc 0\n"


def test_the_names_are_those_that_fairseq_itself_writes(shared, tmp_path):
    golden = shared / "golden" / "ckpt_cfg" / "model.pt"
    checkpoint = fairseq_format.read(golden)
    model = RobertaModel(checkpoint.config)
    for name, head in checkpoint.heads.items():
        model.register_head(name, head)
    model.load_weights(checkpoint.state_dict, source="golden")
    fairseq_writer.write(tmp_path / "model", model, Tokenizer.load())
    theirs, ours = contents(golden), contents(tmp_path / "model" / "model.pt")
    assert ours["model"].keys() == theirs["model"].keys()
    version = theirs["model"].pop("encoder.sentence_encoder.version")  # 1 there, of a file upgraded from 2019
    assert version.shape == ours["model"]["encoder.sentence_encoder.version"].shape
    assert all(torch.equal(tensor, ours["model"][name]) for name, tensor in theirs["model"].items())
    given = vars(theirs["cfg"]["model"])
    different = {name for name, value in vars(ours["args"]).items() if given[name] != value}
    assert different <= {"data", "arch"}
    assert ours.keys() <= theirs.keys()


def test_a_tied_projection_takes_no_room_of_its_own(model, tmp_path):
    fairseq_writer.write(tmp_path / "model", model, Tokenizer.load())
    state = contents(tmp_path / "model" / "model.pt")["model"]
    words = state["encoder.sentence_encoder.embed_tokens.weight"]
    assert state["encoder.lm_head.weight"].data_ptr() == words.data_ptr()


def test_a_model_that_fairseq_can_not_hold_is_refused(model, tmp_path):
    folder, tokenizer = tmp_path / "model", Tokenizer.load()
    model.register_head("b", ClassificationHeadConfig(num_classes=2, dropout=0.3))
    with pytest.raises(ConfigError, match="one pooler activation and dropout for all heads"):
        fairseq_writer.write(folder, model, tokenizer)
    bare = RobertaModel(model.config)
    bare.register_head("lm", MaskedLMHeadConfig(activation_fn="relu"))
    with pytest.raises(ConfigError, match="with the activation of the encoder"):
        fairseq_writer.write(folder, bare, tokenizer)
    bare.register_head("lm", MaskedLMHeadConfig())
    bare.register_head("other", MaskedLMHeadConfig())
    with pytest.raises(ConfigError, match="heads for masked LM and classification, not other"):
        fairseq_writer.write(folder, bare, tokenizer)
    other = RobertaModel(dataclasses.replace(model.config, layer_norm_eps=1e-12))
    other.register_head("lm", MaskedLMHeadConfig())
    with pytest.raises(ConfigError, match="layer_norm_eps is 1e-12; a fairseq checkpoint has 1e-05"):
        fairseq_writer.write(folder, other, tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_is_a_storage_error_and_leaves_what_was_there(model, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("PytorchStreamWriter failed writing file: file write failed")

    fairseq_writer.write(tmp_path / "model", model, Tokenizer.load())
    before = (tmp_path / "model" / "model.pt").read_bytes()
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(StorageError, match="PytorchStreamWriter"):
        fairseq_writer.write(tmp_path / "model", model, Tokenizer.load())
    assert (tmp_path / "model" / "model.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("label", ["<mask>", "madeupword0001", "x\ny", ""])
def test_class_names_that_the_label_file_would_not_give_back_are_refused(label, model, tmp_path):
    model = RobertaModel(model.config)
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("new", ClassificationHeadConfig(num_classes=2, labels=("x", label)))
    with pytest.raises(ConfigError, match="would not give them back"):
        fairseq_writer.write(tmp_path / "model", model, Tokenizer.load())
    assert list(tmp_path.iterdir()) == []


def test_class_names_that_could_be_those_of_another_head_are_left_out_and_it_is_logged(model, tmp_path, caplog):
    model.register_head("other", ClassificationHeadConfig(num_classes=3))
    with caplog.at_level(logging.WARNING, logger="roberta"):
        fairseq_writer.write(tmp_path / "model", model, Tokenizer.load())
    assert "they are left out, as several heads have 3 classes" in caplog.text
    assert not (tmp_path / "model" / "label").exists()


def test_a_head_for_several_classes_at_once_is_told_of(model, tmp_path, caplog):
    model.register_head("topic", ClassificationHeadConfig(num_classes=3, multi_label=True))
    with caplog.at_level(logging.WARNING, logger="roberta"):
        fairseq_writer.write(tmp_path / "model", model, Tokenizer.load())
    assert "does not say that head topic tells several classes at once" in caplog.text


def test_a_model_without_an_lm_head_gets_one_of_random_weights(model, tmp_path, caplog):
    tuned = RobertaModel(model.config)
    tuned.register_head("rte", ClassificationHeadConfig(num_classes=2))
    files = []
    for name in "ab":
        fairseq_writer.write(tmp_path / name, tuned.eval(), Tokenizer.load())
        files.append(fairseq_format.read(tmp_path / name / "model.pt").state_dict)
    assert "it gets one of random weights" in caplog.text
    assert list(tuned.head_configs) == ["rte"]
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())
    state = tuned.state_dict()
    kept = {name: tensor for name, tensor in files[0].items() if "heads.lm" not in name}
    assert len(files[0]) > len(kept) == len(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in kept.items())
