"""roberta-convert: between all formats, and nothing left behind that computes something else."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from roberta import conversion
from roberta.checkpoint import native
from roberta.conversion import largest_difference
from roberta.data.tokenizer import Tokenizer
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.pretrained import load
from roberta.registry import HEADS
from roberta_cli import evaluate, inspect, score
from roberta_cli.convert import main

LABELS = ("no", "maybe", "yes")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a checkpoint folder of a small model with the heads "lm" and "topic"."""
    torch.manual_seed(0)
    shape = {"encoder_layers": 2, "embed_dim": 8, "ffn_embed_dim": 12, "attention_heads": 2, "max_positions": 20}
    model = RobertaModel(RobertaConfig(**shape))
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("topic", ClassificationHeadConfig(num_classes=3, labels=LABELS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("source") / "model"
    native.save(folder, model, Tokenizer.load())
    return folder


def convert(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def assert_same(one, other) -> None:
    assert one.model.config == other.model.config
    assert one.tokenizer.dictionary == other.tokenizer.dictionary
    states = one.model.state_dict(), other.model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])] == []


def test_the_result_is_one_line_of_json(source, tmp_path, capsys):
    assert convert(source, tmp_path / "new", "--to", "hf", "--head", "topic") == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed) == {
        "source": str(source),
        "target": str(tmp_path / "new"),
        "to": "hf",
        "heads": ["topic"],
        "left_out": ["lm"],
        "largest_difference": 0.0,
    }


@pytest.mark.parametrize("to", ["native", "fairseq"])
def test_formats_of_many_heads_give_everything_back_bit_for_bit(to, source, tmp_path, capsys):
    assert convert(source, tmp_path / "there", "--to", to) == 0
    assert convert(tmp_path / "there", tmp_path / "back", "--to", "native") == 0
    assert "error" not in capsys.readouterr().err
    assert_same(load(tmp_path / "back"), load(source))
    assert load(tmp_path / "back").model.head_configs == load(source).model.head_configs
    assert "`topic` (classification: no, maybe, yes)" in (tmp_path / "back/README.md").read_text()


def test_the_head_of_a_hugging_face_folder_comes_back_bit_for_bit(source, tmp_path):
    assert convert(source, tmp_path / "hf", "--to", "hf", "--head", "lm") == 0
    assert convert(tmp_path / "hf", tmp_path / "fairseq", "--to", "fairseq") == 0
    assert convert(tmp_path / "fairseq", tmp_path / "again", "--to", "hf") == 0
    assert_same(load(tmp_path / "again"), load(tmp_path / "hf"))
    expected = load(source).model
    del expected.heads["topic"]
    found = load(tmp_path / "again").model.state_dict()
    assert found.keys() == expected.state_dict().keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.state_dict().items())


def test_an_existing_target_is_refused_and_kept(source, tmp_path, capsys):
    (tmp_path / "note").write_text("mine")
    assert convert(source, tmp_path, "--to", "native") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "note").read_text() == "mine"


def test_a_target_that_computes_something_else_is_removed(source, tmp_path, capsys, monkeypatch):
    def save_wrongly(folder, model, tokenizer):
        model.heads["topic"].out_proj.bias.data[1] += 2e-4
        native.save(folder, model, tokenizer)
        model.heads["topic"].out_proj.bias.data[1] -= 2e-4

    monkeypatch.setattr(conversion.fairseq_writer, "write", save_wrongly)
    assert convert(source, tmp_path / "new", "--to", "fairseq") == 3
    assert "outputs differ by 0.0002, more than 0.0001" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_target_with_another_tokenizer_is_removed(source, tmp_path, capsys, monkeypatch):
    def save_wrongly(folder, model, tokenizer):
        dictionary = tokenizer.dictionary
        symbols = dictionary.symbols[4:-1]
        wrong = Tokenizer(tokenizer.bpe, type(dictionary)([symbols[1], symbols[0], *symbols[2:]], [0] * len(symbols)))
        native.save(folder, model, wrong)

    monkeypatch.setattr(conversion.fairseq_writer, "write", save_wrongly)
    assert convert(source, tmp_path / "new", "--to", "fairseq") == 3
    assert "other tokens for the same text" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_target_is_removed_if_its_check_is_interrupted(source, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "largest_difference", interrupt)
    with pytest.raises(KeyboardInterrupt):
        conversion.convert(source, tmp_path / "new", to="native")
    assert list(tmp_path.iterdir()) == []


def test_symbols_that_were_added_go_along(source, tmp_path):
    loaded = load(source)
    tokenizer = loaded.tokenizer.with_symbols(["COVID19x"])
    torch.manual_seed(0)
    model = RobertaModel(replace(loaded.model.config, vocab_size=len(tokenizer.dictionary)))
    model.register_head("lm", MaskedLMHeadConfig())
    native.save(tmp_path / "source", model, tokenizer)
    assert convert(tmp_path / "source", tmp_path / "hf", "--to", "hf") == 0
    assert load(tmp_path / "hf").tokenizer.added_symbols == ("COVID19x",)


def test_the_module_runs_as_a_command():
    finished = subprocess.run(
        [sys.executable, "-m", "roberta_cli.convert"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert "required: SOURCE, TARGET" in finished.stderr


@pytest.mark.parametrize("change", [float("nan"), 0.5])
def test_every_position_and_every_head_counts_in_the_difference(change, source):
    for name in ("encoder.embed_positions.weight", "heads.topic.out_proj.bias", "heads.lm.bias"):
        changed = load(source).model
        changed.state_dict()[name].view(-1)[-1] += change
        heads = {None: None, "topic": "topic", "lm": "lm"}
        assert not largest_difference(load(source).model, changed, heads) <= 1e-4, name


def test_several_heads_and_one_place_need_a_name(source, tmp_path, capsys):
    assert convert(source, tmp_path / "new", "--to", "hf") == 2
    assert "name it (--head): lm, topic" in capsys.readouterr().err
    assert convert(source, tmp_path / "new", "--to", "fairseq", "--head", "lm") == 2
    assert "fairseq holds all of them" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_source_is_named(tmp_path, capsys):
    assert convert("roberta.bas", tmp_path / "new", "--to", "hf") == 3
    assert "did you mean roberta.base" in capsys.readouterr().err


def test_a_format_is_required(source, tmp_path, capsys):
    assert convert(source, tmp_path / "new") == 2
    assert "required: --to" in capsys.readouterr().err


@pytest.mark.parametrize("heads", [("topic",), ()])
def test_a_fine_tuned_model_goes_to_fairseq_with_a_masked_lm_head_that_was_not_trained(source, tmp_path, capsys, heads):
    loaded = load(source)
    for name in set(loaded.model.heads) - set(heads):
        del loaded.model.heads[name], loaded.model.head_configs[name]
    native.save(tmp_path / "tuned", loaded.model, loaded.tokenizer)
    assert convert(tmp_path / "tuned", tmp_path / "new", "--to", "fairseq") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["heads"], printed["left_out"]) == (list(heads), [])
    assert set(load(tmp_path / "new").model.heads) == {"lm", *heads}


def test_the_head_that_is_named_is_compared_though_another_has_its_new_name(source, tmp_path):
    loaded = load(source)
    loaded.model.register_head("classification", ClassificationHeadConfig(num_classes=3))  # as it is called once read
    native.save(tmp_path / "two", loaded.model, loaded.tokenizer)
    assert convert(tmp_path / "two", tmp_path / "new", "--to", "hf", "--head", "topic") == 0
    again = load(tmp_path / "new").model
    assert largest_difference(loaded.model, again, {"topic": "classification"}) < 1e-6


HEAD_MODULE = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from roberta.registry import HEADS
@dataclass(frozen=True)
class SpokenConfig:
    rows: ClassVar[str] = "first"
@HEADS.register("spoken", SpokenConfig)
class Spoken(torch.nn.Module):
    def __init__(self, config, encoder):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(encoder.embed_tokens.embedding_dim, 1))
    def forward(self, rows):
        return rows @ self.weight
"""


def test_heads_of_a_module_of_ones_own_are_converted(source, tmp_path, monkeypatch, capsys):
    for table in ("_components", "_configs"):
        monkeypatch.setattr(HEADS, table, dict(getattr(HEADS, table)))
    (tmp_path / "spoken_head.py").write_text(HEAD_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load(source)
    loaded.model.register_head("spoken", importlib.import_module("spoken_head").SpokenConfig())
    native.save(tmp_path / "model", loaded.model, loaded.tokenizer)
    del HEADS._components["spoken"], HEADS._configs["spoken"], sys.modules["spoken_head"]
    assert convert(tmp_path / "model", tmp_path / "new", "--to", "native") == 3
    assert "unknown head 'spoken'" in (message := capsys.readouterr().err)
    assert "if it is one of yours, import its module first (--user-module)" in message
    assert convert(tmp_path / "model", tmp_path / "new", "--to", "native", "--user-module", "spoken_head") == 0
    assert json.loads(capsys.readouterr().out)["heads"] == ["lm", "topic", "spoken"]


@pytest.mark.parametrize("command", [evaluate, inspect, score])
def test_a_module_that_is_not_there_is_an_error_wherever_models_are_opened(command, capsys):
    places = ["sst2", "data"] if command is evaluate else ["text"]
    assert command.main([*places, "--model", "roberta.mini", "--user-module", "nothing"]) == 2
    assert "--user-module nothing: No module named 'nothing'" in capsys.readouterr().err
