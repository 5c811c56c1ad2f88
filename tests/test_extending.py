"""Models, BPEs, optimizers and criterions of a user's own: opened, resumed and refused as those of the package are."""

import argparse
import dataclasses
import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from roberta import registry
from roberta.bpe import GPT2BPE
from roberta.checkpoint import fairseq_writer, hf_format
from roberta.checkpoint.native import save
from roberta.config import add_arguments, option
from roberta.criterions.masked_lm import MaskedLMLoss, MaskedLMLossConfig
from roberta.data.dictionary import Dictionary
from roberta.data.encoding import Workers
from roberta.data.text import Piece
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, VocabError
from roberta.estimates import count_parameters
from roberta.layout import SequenceLayout
from roberta.models.heads import MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.models.transformer import SelfAttention
from roberta.optim.adam import AdamConfig
from roberta.optim.schedules import PolynomialDecayConfig
from roberta.pretrained import Pretrained, load, transfer
from roberta.recipe import Recipe, TrainerConfig
from roberta.tasks.masked_lm import MaskedBlocks, MaskedLMTaskConfig
from roberta.trainer import Trainer
from roberta.validation import check_criterion, evaluate
from tests.builders import make_byte_tokenizer

SHAPE = {"encoder_layers": 2, "embed_dim": 16, "ffn_embed_dim": 32, "attention_heads": 2, "max_positions": 64}


@dataclasses.dataclass(frozen=True)
class TurnedConfig(RobertaConfig):
    """A model whose queries and keys are turned by position (arXiv:2104.09864), and whose layers are one."""

    base: float = option(100.0, help="of the angles")


class TurnedAttention(SelfAttention):
    def __init__(self, config: TurnedConfig) -> None:
        super().__init__(config.embed_dim, config.attention_heads, config.attention_dropout)
        half = config.embed_dim // config.attention_heads // 2
        angles = torch.arange(config.max_positions).outer(config.base ** (-torch.arange(half) / half))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles), persistent=False)
        self.scale = torch.full((1,), 2.0)  # neither parameter nor buffer

    def qkv(self, x: Tensor, layout: SequenceLayout) -> tuple[Tensor, ...]:
        q, k, v = super().qkv(x, layout)
        turns = self.turns[layout.positions].unsqueeze(1)  # (T, 1, D // 2)
        return *(self.scale * _turned(part, turns) for part in (q, k)), v


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())  # (T, H, D // 2)
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


class TurnedModel(RobertaModel):
    def __init__(self, config: TurnedConfig) -> None:
        super().__init__(config)
        (layer, *others) = self.encoder.layers
        layer.self_attn = TurnedAttention(config)
        self.encoder.layers = nn.ModuleList([layer for _ in range(len(others) + 1)])
        self.encoder.register_buffer("seen", torch.zeros(3))
        self.encoder.gate = nn.Parameter(torch.ones(1))

    def forward(self, *args, **kwargs) -> Tensor:
        if self.training:
            self.encoder.seen += 1
        return super().forward(*args, **kwargs) * self.encoder.gate


@dataclasses.dataclass(frozen=True)
class BytesConfig:
    """Bytes, counted down."""

    first: int = option(255, help="id of the byte 0")


class Bytes:
    """A BPE without pairs."""

    def __init__(self, config: BytesConfig, folder: Path | None = None) -> None:
        self.config = config
        self.symbols = [f"b{number}" for number in range(256)]
        self.token_bytes = [bytes([config.first - number]) for number in range(256)]
        self.starts_word = np.array([piece == b" " for piece in self.token_bytes])

    def encode(self, text: str) -> list[int]:
        return [self.config.first - byte for byte in text.encode()]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return list(map(self.encode, texts))

    def save(self, folder: Path) -> None: ...


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register what is above for one test."""
    for table, name, component, config in (
        (registry.MODELS, "turned", TurnedModel, TurnedConfig),
        (registry.BPES, "bytes", Bytes, BytesConfig),
    ):
        list(table)  # the package's own are imported
        monkeypatch.setattr(table, "_components", {**table._components, name: component})
        monkeypatch.setattr(table, "_configs", {**table._configs, name: config})


@pytest.fixture
def recipe(data_bin: Path, tmp_path: Path) -> Recipe:
    return Recipe(
        task=MaskedLMTaskConfig(data=data_bin, tokens_per_sample=64),
        model=TurnedConfig(**SHAPE),
        criterion=MaskedLMLossConfig(),
        optimizer=AdamConfig(),
        lr_scheduler=PolynomialDecayConfig(lr=1e-2, total_num_update=20),
        trainer=TrainerConfig(save_dir=tmp_path / "run", max_update=4, batch_size=8, device="cpu"),
    )


def with_options(recipe: Recipe, **options) -> Recipe:
    return dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, **options))


def plain_model(**heads) -> RobertaModel:
    model = RobertaModel(RobertaConfig(vocab_size=261, **SHAPE))
    for name, config in heads.items():
        model.register_head(name, config)
    return model


def test_a_model_of_shared_layers_and_buffers_goes_on_and_opens_as_it_was(recipe, tmp_path):
    whole = Trainer(recipe)
    whole.train()
    half = with_options(recipe, save_dir=tmp_path / "half", max_update=2)
    Trainer(half).train()
    resumed = Trainer(with_options(half, max_update=4, resume=True))
    resumed.train()
    opened = load(tmp_path / "half").model
    assert opened.encoder.seen.tolist() == [4.0] * 3
    expected = whole.model.state_dict()
    assert expected.keys() >= {"encoder.layers.1.fc1.bias", "encoder.seen"}
    for model in (resumed.model, opened):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    tokens, layout = torch.arange(5, 25), SequenceLayout.from_lengths([20])
    with torch.no_grad():
        assert torch.equal(opened(tokens, layout), whole.model.eval()(tokens, layout))


def test_attentions_are_those_that_are_computed(recipe):
    model = TurnedModel(TurnedConfig(vocab_size=97, **SHAPE)).eval()
    tokens, layout = torch.arange(5, 25), SequenceLayout.from_lengths([20])
    with torch.no_grad():
        (x, *_), attention = model.encoder.all_hiddens(tokens, layout), model.encoder.layers[0].self_attn
        v = attention.qkv(x, layout)[2]  # (S, H, D)
        context = torch.einsum("hqk,khd->qhd", model.encoder.attentions(tokens)[0], v).flatten(1)
        torch.testing.assert_close(context, attention(x, layout))


def test_parts_that_were_exchanged_are_refused_before_anything_is_written(tmp_path):
    model = plain_model()
    model.encoder.layers[0].fc1 = nn.Sequential(model.encoder.layers[0].fc1)
    with pytest.raises(ConfigError, match=r"from its RobertaConfig, .* of encoder.layers.0.fc1.0.bias, .*; merge"):
        save(tmp_path / "model", model, make_byte_tokenizer())
    assert not (tmp_path / "model").exists()


def test_weights_go_from_one_kind_of_model_to_another(caplog):
    source = Pretrained(plain_model(lm=MaskedLMHeadConfig()), make_byte_tokenizer())
    model = TurnedModel(TurnedConfig(vocab_size=261, **SHAPE))
    model.register_head("lm", MaskedLMHeadConfig())
    transfer(source, model, "lm", "plain")
    weights = source.model.state_dict()
    assert torch.equal(model.encoder.embed_tokens.weight, weights["encoder.embed_tokens.weight"])
    assert torch.equal(model.heads["lm"].dense.weight, weights["heads.lm.dense.weight"])
    assert "plain is a model of the kind roberta, and this one of the kind turned" in caplog.text
    assert "plain lacks gate, seen" in caplog.text
    transfer(Pretrained(model, source.tokenizer), source.model, "lm", "turned")
    assert "turned has what is left out: gate, seen" in caplog.text
    model.encoder.embed_positions.weight = nn.Parameter(torch.zeros(3, 16))
    with pytest.raises(ConfigError, match=r"--init-from plain: embed_positions.weight has the shape \(66, 16\)"):
        transfer(source, model, "lm", "plain")


@pytest.mark.parametrize("write", [hf_format.write, fairseq_writer.write])
def test_other_libraries_get_no_model_that_they_compute_otherwise(write, tmp_path):
    model = TurnedModel(TurnedConfig(vocab_size=261, **SHAPE))
    with pytest.raises(ConfigError, match="a model of a TurnedConfig is no RoBERTa, .* --to native"):
        write(tmp_path / "out", model, make_byte_tokenizer())


def test_a_bpe_of_ones_own_comes_back(tmp_path, monkeypatch):
    bpe = Bytes(BytesConfig())
    tokenizer = Tokenizer(bpe, Dictionary(bpe.symbols, [1] * 256))
    tokenizer.save(tmp_path)
    opened = Tokenizer.load(tmp_path)
    assert opened.encode("Zoë") == tokenizer.encode("Zoë") == [4 + 255 - byte for byte in "Zoë".encode()]
    assert opened.decode(opened.encode("Zoë")) == "Zoë"
    monkeypatch.setattr(registry.BPES, "_components", {"gpt2": GPT2BPE})
    monkeypatch.setattr(registry.BPES, "_configs", {})
    with pytest.raises(VocabError, match=r"bpe.json: names no BPE that is known: unknown bpe 'bytes'.*--user-module"):
        Tokenizer.load(tmp_path)


def test_an_option_belongs_to_one_component():
    @dataclasses.dataclass(frozen=True)
    class Noise:
        seed: int = option(7, help="of the noise")

    parser = argparse.ArgumentParser()
    add_arguments(parser, TrainerConfig, title="training")
    with pytest.raises(ConfigError, match="Noise and TrainerConfig both have the option --seed; rename one"):
        add_arguments(parser, Noise, title="noise")


@pytest.mark.parametrize("kind", [list[float], dict[str, int], tuple[list[int], ...], complex])
def test_options_of_types_that_no_command_line_gives_are_refused(kind):
    config = dataclasses.make_dataclass("Weights", [("weights", kind, option(None, help="of the classes"))])
    with pytest.raises(ConfigError, match="options of the type .* can't be read; take bool, int"):
        add_arguments(argparse.ArgumentParser(), config, title="weights")


class Scored(MaskedBlocks):
    """Samples with a figure of their own, which they don't tell."""

    sizes = np.array([3])
    metric = "acuracy"

    def __init__(self) -> None: ...


def test_criterions_that_would_fail_at_the_first_validation_are_refused(recipe):
    with pytest.raises(ConfigError, match="Linear has parameters, which are not trained; put them into a head"):
        check_criterion(nn.Linear(1, 1), Scored())
    with pytest.raises(ConfigError, match="'acuracy' needs Linear.outputs"):  # a teacher may be held, if it is frozen
        check_criterion(nn.Linear(1, 1).requires_grad_(False), Scored())
    with pytest.raises(ConfigError, match="'acuracy' needs MaskedLMLoss.outputs, MaskedLMLoss.loss, Scored.score"):
        check_criterion(MaskedLMLoss(MaskedLMLossConfig(), "lm"), Scored())


def test_a_metric_that_nothing_tells_is_named(recipe, monkeypatch):
    trainer = Trainer(with_options(recipe, max_update=1))
    monkeypatch.setattr(type(trainer.valid_samples), "metric", "losss")
    monkeypatch.setattr(type(trainer.valid_samples), "score", lambda self, outputs: {})
    monkeypatch.setattr(trainer.criterion, "outputs", lambda model, batch: torch.zeros(len(batch.targets), 1), False)
    loss = (torch.zeros(()), {"loss": torch.zeros(()), "correct": torch.zeros(())})
    monkeypatch.setattr(trainer.criterion, "loss", lambda outputs, batch: loss, False)
    with pytest.raises(ConfigError, match=r"MaskedBlocks.metric is 'losss'; allowed: .*; did you mean loss\?"):
        evaluate(trainer.model, trainer.criterion, trainer.valid_samples, batch_size=8, max_tokens=None)


def test_what_an_optimizer_can_not_keep_is_named(recipe):
    trainer = Trainer(with_options(recipe, max_update=1))
    step = trainer.optimizer.step

    def count(*args) -> None:
        step(*args)
        trainer.optimizer.state[trainer.model.encoder.gate]["step"] = 1

    trainer.optimizer.step = count
    with pytest.raises(ConfigError, match="keeps 'step' of a parameter as int, which no checkpoint holds"):
        trainer.train()


def test_a_bpe_of_ones_own_encodes_in_processes_of_their_own(tmp_path, monkeypatch):
    source = "\n".join(inspect.getsource(part) for part in (BytesConfig, Bytes))
    head = (
        "import dataclasses\nimport numpy as np\nfrom roberta.config import option\nfrom roberta.registry import BPES\n"
    )
    (tmp_path / "bytes_bpe.py").write_text(
        f"from __future__ import annotations\n{head}{source}\nBPES.register('own', BytesConfig)(Bytes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("bytes_bpe")
    bpe = module.Bytes(module.BytesConfig())
    tokenizer = Tokenizer(bpe, Dictionary(bpe.symbols, [1] * 256))
    (tmp_path / "vocab").mkdir()
    tokenizer.save(tmp_path / "vocab")
    pieces = [Piece(tmp_path / "a.txt", number, 3 * number - 3, b"ab\n") for number in range(1, 40)]
    with Workers(2, tokenizer, tmp_path / "vocab") as workers:
        found = [piece.tokens.tolist() for piece in workers.encode(pieces)]
    assert found == [[*tokenizer.encode("ab"), 2]] * 39


def test_a_model_that_reads_values_while_it_is_built_is_saved_and_counted(tmp_path, monkeypatch):
    class Stepped(RobertaModel):
        def __init__(self, config: RobertaConfig) -> None:
            super().__init__(config)
            self.rates = [rate.item() for rate in torch.linspace(0, 1, config.encoder_layers)]

    monkeypatch.setitem(registry.MODELS._components, "turned", Stepped)
    model = Stepped(TurnedConfig(vocab_size=262, **SHAPE))
    save(tmp_path / "model", model, make_byte_tokenizer())
    assert load(tmp_path / "model").model.rates == [0.0, 1.0]
    assert count_parameters(model.config, MaskedLMHeadConfig()).encoder == model.num_parameters
