"""The mean of checkpoints, and which can't have one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roberta.averaging import average
from roberta.checkpoint import native
from roberta.data.dictionary import Dictionary
from roberta.data.tokenizer import Tokenizer
from roberta.errors import CheckpointError, ConfigError
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.pretrained import load
from roberta_cli.convert import main

CONFIG = RobertaConfig(encoder_layers=1, embed_dim=4, ffn_embed_dim=6, attention_heads=2, max_positions=9)
HEADS = {"lm": MaskedLMHeadConfig()}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


def save(folder: Path, tokenizer: Tokenizer, *, seed: int = 0, config=CONFIG, heads=HEADS, dtype=torch.float32) -> Path:
    torch.manual_seed(seed)
    model = RobertaModel(config)
    for name, head in heads.items():
        model.register_head(name, head)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    native.save(folder, model.to(dtype), tokenizer)
    return folder


def test_every_parameter_is_the_mean_in_float64(tmp_path, tokenizer):
    folders = [save(tmp_path / str(seed), tokenizer, seed=seed) for seed in range(3)]
    states = [load(folder).model.state_dict() for folder in folders]
    found = average(folders).model.state_dict()
    assert found.keys() == states[0].keys()
    for name, tensor in found.items():
        expected = torch.stack([state[name].double() for state in states]).mean(dim=0).float()
        assert torch.equal(tensor, expected), name


def test_half_precision_is_rounded_once(tmp_path, tokenizer):
    folders = [save(tmp_path / str(seed), tokenizer, seed=seed, dtype=torch.float16) for seed in range(3)]
    states = [load(folder).model.state_dict() for folder in folders]
    mean = average(folders).model.state_dict()["heads.lm.bias"]
    assert mean.dtype == torch.float16
    assert torch.equal(mean, (sum(state["heads.lm.bias"].double() for state in states) / 3).half())


def test_the_mean_of_equals_is_bit_for_bit_the_same(tmp_path, tokenizer):
    folders = [save(tmp_path / name, tokenizer) for name in "abc"]
    expected = load(folders[0]).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in average(folders).model.state_dict().items())


def test_the_command_averages_several_sources_into_any_format(tmp_path, tokenizer, capsys):
    folders = [str(save(tmp_path / f"step_{seed}", tokenizer, seed=seed)) for seed in range(2)]
    expected = average(folders).model.state_dict()
    for to in ("native", "hf"):
        assert main([*folders, str(tmp_path / to), "--to", to]) == 0
        assert json.loads(capsys.readouterr().out)["source"] == folders
        found = load(tmp_path / to).model.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def swapped(tokenizer: Tokenizer) -> Tokenizer:
    symbols = tokenizer.dictionary.symbols[4:-1]
    return Tokenizer(tokenizer.bpe, Dictionary([symbols[1], symbols[0], *symbols[2:]], [0] * len(symbols)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config": replace(CONFIG, embed_dim=8, max_positions=10)},
            "it has max_positions 10 instead of 9; embed_dim 8",
        ),
        ({"heads": {}}, "it has heads none instead of lm;"),
        ({"heads": {"lm": MaskedLMHeadConfig(tied=False)}}, "it has head lm: tied False instead of True"),
        (
            {"heads": {"lm": ClassificationHeadConfig(num_classes=2)}},
            "it has head lm: ClassificationHeadConfig instead of MaskedLMHeadConfig",
        ),
        ({"tokenizer": swapped}, "it has another vocabulary; average checkpoints of one run"),
    ],
)
def test_checkpoints_that_differ_are_refused_with_the_difference(changes, message, tmp_path, tokenizer):
    first = save(tmp_path / "first", tokenizer)
    its_tokenizer = changes.pop("tokenizer", lambda same: same)(tokenizer)
    second = save(tmp_path / "second", its_tokenizer, **changes)
    with pytest.raises(CheckpointError) as caught:
        average([first, second])
    assert str(caught.value).startswith(f"{second} can't be averaged with {first}: ")
    assert message in str(caught.value)


def test_fewer_than_two_or_the_same_twice_are_refused(tmp_path, tokenizer):
    folder = save(tmp_path / "one", tokenizer)
    with pytest.raises(ConfigError, match="1 checkpoints to average; give at least 2"):
        average([folder])
    with pytest.raises(ConfigError, match="given twice"):
        average([folder, str(folder)])
