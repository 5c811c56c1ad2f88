"""Reckoned figures against built models, measured memory and literals."""

import dataclasses
import json

import pytest
import torch

from roberta.errors import ConfigError
from roberta.estimates import (
    PEAK_FLOPS,
    Workload,
    activations,
    count_parameters,
    estimate,
    flops_per_token,
    memory,
    mfu,
    peak_flops,
)
from roberta.layout import SequenceLayout
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel, preset_config

H100 = "NVIDIA H100 80GB HBM3"
BASE = Workload(
    model=preset_config("roberta.base"),
    head=MaskedLMHeadConfig(),
    tokens_per_batch=32 * 512,
    tokens_per_sample=512,
    targets_per_token=0.15,
    update_freq=1,
    world_size=1,
    max_update=1000,
    precision="bf16",
    parallelism="ddp",
    device_type="cuda",
)
SMALL = RobertaConfig(
    vocab_size=300, encoder_layers=3, embed_dim=32, ffn_embed_dim=100, attention_heads=4, max_positions=64
)


def workload(**changes) -> Workload:
    return dataclasses.replace(BASE, **changes)


def estimated(**changes):
    return estimate(workload(**changes), device_name=H100, utilisation=0.4)


def memory_of(**changes):
    work = workload(**changes)
    return memory(work, count_parameters(work.model, work.head, work.freeze))


@pytest.mark.parametrize(
    ("preset", "targets_per_token", "gflops"),
    [("roberta.base", 0.15, 0.6015), ("roberta.base", 1.0, 0.8014), ("roberta.large", 0.15, 2.0102)],
)
def test_flops_are_those_of_the_formula(preset, targets_per_token, gflops):
    """6 P + 12 L d S + 6 r (d^2 + d V), P = 12 L d^2, worked out by hand."""
    work = workload(model=preset_config(preset), targets_per_token=targets_per_token)
    found = flops_per_token(work, count_parameters(work.model, work.head))
    assert found / 1e9 == pytest.approx(gflops, abs=5e-5)


@pytest.mark.parametrize(
    "head",
    [MaskedLMHeadConfig(), MaskedLMHeadConfig(tied=False), ClassificationHeadConfig(num_classes=3, inner_dim=7)],
)
def test_parameters_are_those_of_the_built_model(head):
    counted = count_parameters(SMALL, head)
    model = RobertaModel(SMALL)
    model.register_head("lm", head)
    assert counted.total == sum(parameter.numel() for parameter in model.parameters())
    assert counted.layer == sum(parameter.numel() for parameter in model.encoder.layers[0].parameters())


def test_base_has_the_parameters_of_the_paper():
    assert round(count_parameters(BASE.model, BASE.head).total / 1e6) == 125


def test_the_head_counts_for_the_rows_it_sees():
    work = workload(head=ClassificationHeadConfig(num_classes=3), targets_per_token=1 / 512)
    parameters = count_parameters(work.model, work.head)
    assert parameters.head_matrices == 768 * 768 + 3 * 768
    encoder = flops_per_token(dataclasses.replace(work, targets_per_token=0.0), parameters)
    assert flops_per_token(work, parameters) - encoder == pytest.approx(6 * parameters.head_matrices / 512)


def kept_bytes(model: RobertaModel, work: Workload) -> int:
    """Return the bytes that a forward pass on this CPU keeps for the backward pass, parameters aside."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    count, length = work.tokens_per_batch // work.tokens_per_sample, work.tokens_per_sample
    tokens = torch.arange(count * length) % work.model.vocab_size
    select = torch.arange(round(work.targets_per_token * len(tokens)))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=work.precision == "bf16"),
    ):
        model(tokens, SequenceLayout.from_lengths([length] * count), "lm", select, tokens[select])
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "rates",
    [
        {"dropout": 0.0, "attention_dropout": 0.0},
        {"dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.1},
        {"dropout": 0.1, "attention_dropout": 0.1},
    ],
)
def test_activations_are_within_a_tenth_of_what_torch_keeps(rates, precision):
    work = workload(
        model=dataclasses.replace(SMALL, **rates),
        tokens_per_batch=8 * 64,
        tokens_per_sample=64,
        precision=precision,
        device_type="cpu",
    )
    model = RobertaModel(work.model)
    model.register_head("lm", work.head)
    parameters = count_parameters(work.model, work.head)
    copies = memory(work, parameters).weights - 4 * parameters.total  # autocast's, which torch keeps too
    assert activations(work, parameters) + copies == pytest.approx(kept_bytes(model.train(), work), rel=0.1)


def test_checkpointing_keeps_an_input_for_each_layer_and_one_layer_at_work():
    plain, checkpointed = memory_of().activations, memory_of(checkpoints_activations=True).activations
    one, two = (dataclasses.replace(BASE.model, encoder_layers=layers) for layers in (1, 2))
    layer_input = 4 * 768 * BASE.tokens_per_batch
    kept_of_one, kept_of_two = (
        memory_of(model=model, checkpoints_activations=True).activations for model in (one, two)
    )
    assert kept_of_two - kept_of_one == layer_input
    assert checkpointed == kept_of_one + 11 * layer_input
    at_work = memory_of(model=two).activations - memory_of(model=one).activations
    assert kept_of_one - layer_input - at_work < memory_of(model=one).activations  # what is not of the layers
    assert checkpointed < plain / 3


def test_sharding_divides_what_lasts_and_gathers_what_is_used():
    whole, sharded = memory_of(precision="fp32"), memory_of(precision="fp32", parallelism="fsdp", world_size=8)
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(sharded, name) == pytest.approx(getattr(whole, name) / 8, rel=1e-6)
    assert whole.gathered == 0 < sharded.gathered < whole.weights
    assert sharded.activations == whole.activations
    assert memory_of(world_size=8) == memory_of()


def test_gradients_that_wait_for_their_exchange_are_whole():
    waiting = memory_of(parallelism="fsdp", world_size=8, update_freq=2)
    assert waiting.gradients == memory_of().gradients


def test_the_optimizer_holds_its_moments_in_fp32():
    assert memory_of().optimizer == 2 * 4 * 124_696_665
    matrices = 12 * 12 * 768 * 768
    assert memory_of(matrix_moments=1).optimizer == 4 * (2 * 124_696_665 - matrices)


def test_what_is_frozen_has_no_gradient_and_no_moments_and_an_average_has_all():
    trained = 124_696_665 - 50265 * 768
    frozen = memory_of(freeze=("encoder.embed_tokens",), has_average=True)
    assert (frozen.gradients, frozen.optimizer) == (4 * trained, 2 * 4 * trained)
    assert (frozen.average, memory_of().average) == (4 * 124_696_665, 0)
    with pytest.raises(ConfigError, match="embed_tokns"):
        memory_of(freeze=("encoder.embed_tokns",))


def test_hours_follow_from_the_peak():
    run = estimated(world_size=8, update_freq=2, max_update=500)
    assert run.tokens == 500 * 8 * 2 * 32 * 512
    assert run.hours == pytest.approx(run.tokens * 0.6015e9 / (8 * 989e12 * 0.4) / 3600, rel=1e-3)
    assert estimated(world_size=16, update_freq=1, max_update=500).hours == pytest.approx(run.hours / 2)


def test_hours_are_unknown_where_the_peak_is():
    assert estimated(precision="fp32").hours is None  # the peaks are those of half precision
    run = estimate(BASE, device_name=None, utilisation=0.4)
    assert (run.hours, run.peak_flops) == (None, None)
    assert "time                         unknown" in str(run)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        (H100, 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA H20", None),
        ("", None),
        (None, None),
    ],
)
def test_peaks_are_found_by_whole_words_of_a_name(name, peak):
    assert peak_flops(name) == peak


def test_every_name_of_the_table_finds_its_own_peak():
    assert {name: peak_flops(f"NVIDIA {name} 80GB") for name in PEAK_FLOPS} == PEAK_FLOPS


def test_utilisation_is_of_all_devices():
    assert mfu(2e6, 1e9, peak=1e15, world_size=4) == pytest.approx(0.5)


def test_an_estimate_prints_as_a_table_and_as_json():
    run = estimated()
    table = str(run).splitlines()
    assert table[0] == "parameters                   124.7 M"
    assert len({len(line) for line in table}) == 1
    values = json.loads(run.to_json())
    assert values["parameters"]["total"] == 124_696_665
    assert values["memory"]["total"] == run.memory.total == sum(dataclasses.astuple(run.memory))
    assert values["tokens"] == 1000 * 32 * 512
