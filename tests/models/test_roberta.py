"""The model as a whole: presets, heads, ties, weights."""

import copy
import math

import pytest
import torch

from roberta.errors import CheckpointError, ConfigError
from roberta.layout import SequenceLayout
from roberta.models import heads
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import PRESETS, RobertaConfig, RobertaModel, preset, preset_config


@pytest.mark.parametrize(("name", "millions"), [("roberta.base", 124.7), ("roberta.large", 355.4)])
def test_presets_have_the_published_number_of_parameters(name, millions):
    with torch.device("meta"):
        model = RobertaModel(preset_config(name))
        model.register_head("lm", MaskedLMHeadConfig())
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == millions


def test_every_preset_builds():
    for name in PRESETS:
        with torch.device("meta"):
            assert RobertaModel(preset_config(name)).config == preset_config(name)


def test_a_preset_is_not_replaced_in_silence():
    with pytest.raises(ConfigError, match="preset 'roberta.base' is registered twice"):
        preset("roberta.base")(RobertaConfig)
    assert preset_config("roberta.base").encoder_layers == 12


def test_an_unknown_preset_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown preset 'roberta\.bas'.*did you mean roberta\.base"):
        preset_config("roberta.bas")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 10, "attention_heads": 3}, "not a multiple"),
        ({"dropout": 1.0}, r"lie in \[0, 1\)"),
        ({"encoder_layers": 0}, "at least 1"),
        ({"padding_idx": 50265}, "outside the vocabulary"),
        ({"vocab_size": 2**62}, "at most 67108864"),
        ({"max_positions": 2**64}, "at most 1048576"),
        ({"encoder_layers": 10**9}, "at most 1000"),
    ],
)
def test_contradictory_shapes_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RobertaConfig(**options)


def test_weights_are_initialised_as_bert_does():
    torch.manual_seed(0)
    model = RobertaModel(preset_config("roberta.tiny"))
    model.register_head("lm", MaskedLMHeadConfig())
    for name, parameter in model.named_parameters():
        if "layer_norm" in name or "layernorm" in name:
            assert torch.all(parameter == (1.0 if name.endswith("weight") else 0.0)), name
        elif name.endswith("bias"):
            assert torch.all(parameter == 0.0), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.03), name
    assert torch.all(model.encoder.embed_tokens.weight[1] == 0)
    assert torch.all(model.encoder.embed_positions.weight[1] == 0)


def test_a_new_classification_head_has_torchs_default_initialisation(tiny_config):
    torch.manual_seed(0)
    model = RobertaModel(tiny_config)
    model.register_head("topic", ClassificationHeadConfig(num_classes=3))
    bound = 1 / math.sqrt(tiny_config.embed_dim)
    weight = model.heads["topic"].dense.weight
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_the_tied_projection_is_the_token_embedding_after_copies_and_moves(tiny_model):
    for model in (tiny_model, copy.deepcopy(tiny_model), copy.deepcopy(tiny_model).half()):
        assert "heads.lm.weight" not in model.state_dict()
        tokens, layout = torch.tensor([5, 6]), SequenceLayout.from_lengths([2])
        before = model(tokens, layout, "lm")
        with torch.no_grad():
            model.encoder.embed_tokens.weight[50] += 1.0
        after = model(tokens, layout, "lm")
        assert not torch.equal(before[:, 50], after[:, 50])
        assert torch.equal(before[:, :50], after[:, :50])


def test_an_untied_projection_is_a_parameter_of_its_own(tiny_config):
    model = RobertaModel(tiny_config)
    model.register_head("lm", MaskedLMHeadConfig(tied=False))
    assert model.state_dict()["heads.lm.weight"].shape == (97, 24)
    with torch.no_grad():
        model.encoder.embed_tokens.weight[50] += 1.0
    assert not torch.equal(model.heads["lm"].weight, model.encoder.embed_tokens.weight)


def test_weights_that_do_not_fit_are_refused_with_three_lists(tiny_model):
    weights = dict(tiny_model.state_dict())
    weights["stranger"] = weights.pop("heads.lm.bias")
    weights["heads.topic.dense.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        tiny_model.load_weights(weights, source="here")
    message = str(caught.value)
    assert message.startswith("here: ")
    assert "missing: heads.lm.bias" in message
    assert "unknown: stranger" in message
    assert "heads.topic.dense.bias (7,) instead of (24,)" in message


def test_a_head_replaces_the_one_of_its_name_and_takes_the_models_type(tiny_model):
    tiny_model.register_head("topic", ClassificationHeadConfig(num_classes=5))
    layout = SequenceLayout.from_lengths([2])
    outputs = tiny_model(torch.tensor([0, 2]), layout, "topic", layout.first)
    assert outputs.shape == (1, 5)
    assert outputs.dtype == torch.float64


@pytest.mark.parametrize("training", [True, False])
def test_a_new_head_is_in_the_mode_of_the_model(tiny_model, training):
    tiny_model.train(training).register_head("new", ClassificationHeadConfig(num_classes=2, dropout=0.5))
    assert tiny_model.heads["new"].training == training


def test_an_unknown_head_is_refused_with_the_known_ones(tiny_model):
    with pytest.raises(ConfigError, match=r"no head 'topik'; allowed: lm, topic; did you mean topic"):
        tiny_model.head_config("topik")


def test_labels_must_match_the_number_of_classes():
    with pytest.raises(ConfigError, match="2 labels for num_classes 3"):
        ClassificationHeadConfig(num_classes=3, labels=("a", "b"))


@pytest.mark.parametrize("name", ["", "a.b", "a b", "type", "training", "_modules"])
def test_names_that_torch_uses_can_not_name_a_head(tiny_model, name):
    with pytest.raises(ConfigError, match="can't name a head"):
        tiny_model.register_head(name, ClassificationHeadConfig(num_classes=2))


def test_the_heads_own_options_act(tiny_config, monkeypatch):
    """Both dropouts of a classification head, its activation, and that of the masked-LM head."""
    layout = SequenceLayout.from_lengths([3])
    tokens = torch.tensor([0, 5, 2])
    outputs = {}
    for activation in ("tanh", "relu"):
        torch.manual_seed(0)
        model = RobertaModel(tiny_config)
        model.register_head("lm", MaskedLMHeadConfig(activation_fn=activation))
        model.register_head("topic", ClassificationHeadConfig(num_classes=2, activation_fn=activation, dropout=0.5))
        outputs[activation] = [model.eval()(tokens, layout, head) for head in ("lm", "topic")]
    for one, other in zip(*outputs.values(), strict=True):
        assert not torch.equal(one, other)
    seen = []
    monkeypatch.setattr(heads, "dropout", lambda x, p, training: seen.append((tuple(x.shape), p, training)) or x)
    model.heads["topic"].train()(torch.randn(1, tiny_config.embed_dim))
    assert seen == [((1, 24), 0.5, True), ((1, 24), 0.5, True)]
