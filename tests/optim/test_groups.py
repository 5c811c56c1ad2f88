"""Parameter groups: who is decayed, and at what share of the learning rate."""

import pytest
from torch import nn

from roberta.errors import ConfigError
from roberta.models.heads import ClassificationHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.optim.groups import GroupsConfig, parameter_groups


def small_model() -> RobertaModel:
    shape = {"vocab_size": 20, "max_positions": 8, "encoder_layers": 3, "embed_dim": 8, "ffn_embed_dim": 16}
    model = RobertaModel(RobertaConfig(**shape, attention_heads=2))
    model.register_head("topic", ClassificationHeadConfig(num_classes=2))
    return model


def treatment(model: nn.Module, config: GroupsConfig) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(config, model.named_parameters())
        for parameter in group["params"]
    }


def test_by_default_one_group_holds_every_parameter_in_its_order():
    model = small_model()
    (group,) = parameter_groups(GroupsConfig(weight_decay=0.1), model.named_parameters())
    assert all(a is b for a, b in zip(group["params"], model.parameters(), strict=True))
    assert (group["lr_scale"], group["weight_decay"]) == (1.0, 0.1)


def test_without_decay_all_biases_and_layer_norms_are_spared_and_nothing_else():
    found = treatment(small_model(), GroupsConfig(weight_decay=0.1, decay_all=False))
    spared = {name for name, (_, decay) in found.items() if decay == 0.0}
    assert spared == {name for name in found if name.endswith("bias") or "layer_norm" in name or "layernorm" in name}
    assert "encoder.layers.0.fc1.weight" not in spared


def test_layers_train_slower_the_deeper_they_lie():
    found = treatment(small_model(), GroupsConfig(layer_lr_decay=0.5))
    assert found["heads.topic.dense.weight"][0] == 1.0
    assert found["encoder.layers.2.fc1.bias"][0] == 0.5
    assert found["encoder.layers.0.self_attn.qkv_proj.weight"][0] == 0.125
    assert found["encoder.embed_tokens.weight"][0] == found["encoder.layernorm_embedding.bias"][0] == 0.0625


def test_frozen_parameters_are_in_no_group():
    model = small_model()
    model.encoder.embed_tokens.weight.requires_grad_(False)
    assert "encoder.embed_tokens.weight" not in treatment(model, GroupsConfig())


@pytest.mark.parametrize("options", [{"weight_decay": -1.0}, {"layer_lr_decay": 0.0}, {"layer_lr_decay": 1.5}])
def test_impossible_options_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ConfigError, match="--" + name.replace("_", "-")):
        GroupsConfig(**options)
