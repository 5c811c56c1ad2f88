"""The same numbers on a CUDA device. Run with `pytest -m gpu`."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from roberta.criterions.masked_lm import MaskedLMLossConfig
from roberta.data.tokenizer import Tokenizer
from roberta.hub import RobertaHubInterface
from roberta.layout import SequenceLayout
from roberta.models import attention
from roberta.models.projection import projected_cross_entropy
from roberta.models.roberta import RobertaConfig
from roberta.optim.adam import AdamConfig
from roberta.optim.schedules import PolynomialDecayConfig
from roberta.recipe import Recipe, TrainerConfig
from roberta.tasks.masked_lm import MaskedLMTaskConfig
from roberta.trainer import Trainer
from tests.builders import make_tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LENGTHS = ((5, 1, 24, 7), (6, 6, 6))


@pytest.mark.parametrize("lengths", LENGTHS)
def test_features_and_gradients_equal_those_of_the_cpu(tiny_config, lengths):
    layout = SequenceLayout.from_lengths(lengths)
    tokens = torch.randint(2, 97, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    select, targets = torch.tensor([1, 4]), torch.tensor([11, 12])
    gradients = []
    for device in ("cpu", "cuda"):
        model = make_tiny_model(tiny_config).to(device)
        inputs = (tokens.to(device), layout.to(device), "lm", select.to(device), targets.to(device))
        model(*inputs).backward()
        gradients.append({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-10, rtol=1e-8, msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_half_precision_errs_by_a_few_roundings_a_layer(tiny_config, dtype, lengths):
    layout = SequenceLayout.from_lengths(lengths, "cuda")
    tokens = torch.randint(2, 97, (sum(lengths),), device="cuda")
    with torch.no_grad():
        rounded = make_tiny_model(tiny_config).to("cuda", dtype)
        half = rounded(tokens, layout).double()
        exact = rounded.double()(tokens, layout)
    rounding = exact.abs().max() * torch.finfo(dtype).eps
    assert (half - exact).abs().max() < 3 * rounding * tiny_config.encoder_layers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(5, 1, 24, 7), (3, 0, 2), (300, 17, 128)])
def test_attention_without_pads_errs_no_more_than_the_padded_one(dtype, lengths, monkeypatch):
    calls = []
    kernel = attention._variable_length_attention
    monkeypatch.setattr(
        attention, "_variable_length_attention", lambda *given, **rate: calls.append(1) or kernel(*given, **rate)
    )
    layout = SequenceLayout.from_lengths(lengths, "cuda")
    torch.manual_seed(0)
    rounded = torch.randn(sum(lengths), 3, 2, 64, device="cuda").to(dtype)
    results = []
    for compute, kind in (
        (attention.padded_attention, torch.float64),
        (attention.padded_attention, dtype),
        (attention.attention, dtype),
    ):
        qkv = rounded.to(kind, copy=True).requires_grad_()
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):  # cuDNN would make a plan for each mask
            context = compute(*qkv.unbind(1), layout)
        (context * torch.arange(64, device="cuda") / 64).sum().backward()
        results.append((context.double(), qkv.grad.double()))
    assert len(calls) == 1
    exact, padded, packed = results
    for wanted, naive, ours in zip(exact, padded, packed, strict=True):
        assert (ours - wanted).abs().max() < 3 * (naive - wanted).abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_without_pads_drops_at_its_rate(dtype):
    """All scores are equal, and the values of a sequence the identity: an output is the probability of a key, or 0."""
    lengths, rate = (64, 3, 40, 64, 17), 0.1
    layout = SequenceLayout.from_lengths(lengths, "cuda")
    q = torch.zeros(sum(lengths), 12, 64, device="cuda", dtype=dtype, requires_grad=True)
    v = torch.eye(64, device="cuda", dtype=dtype)[layout.positions].unsqueeze(1).expand(-1, 12, -1).contiguous()
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        results.append(attention.attention(q, q, v, layout, dropout_p=rate))
    assert torch.equal(*results)
    results[0].sum().backward()
    assert torch.isfinite(q.grad).all()
    is_key = torch.cat([torch.arange(64, device="cuda").expand(n, -1) < n for n in lengths])  # (T, 64)
    kept = results[0][is_key.unsqueeze(1).expand(-1, 12, -1)]
    count = kept.numel()
    share = (kept == 0).double().mean().item()
    assert abs(share - rate) < 1 / 256 + 6 * (rate * (1 - rate) / count) ** 0.5
    assert (results[0][~is_key.unsqueeze(1).expand(-1, 12, -1)] == 0).all()
    expected = torch.cat([torch.full((n * n * 12,), 1 / n / (1 - rate), device="cuda") for n in lengths])
    sizes = (kept[kept != 0].double() / expected.double()[kept != 0] - 1).abs()
    assert sizes.max() < 4 * torch.finfo(dtype).eps


def test_losses_that_are_compiled_are_the_same():
    torch.manual_seed(0)
    x, weight = torch.randn(300, 64, device="cuda"), torch.randn(5003, 64, device="cuda").mul_(0.2).requires_grad_()
    bias, targets = torch.zeros(5003, device="cuda", requires_grad=True), torch.randint(5003, (300,), device="cuda")
    gradients = []
    for compiled in (False, True):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = projected_cross_entropy(x, weight, bias, targets, compiled=compiled)
        gradients.append((loss, *torch.autograd.grad(loss, (weight, bias))))
    for plain, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, plain, rtol=2e-2, atol=2e-2)


def test_the_hub_works_after_cuda_and_half(tiny_config):
    model = make_tiny_model(dataclasses.replace(tiny_config, vocab_size=50265)).float()
    roberta = RobertaHubInterface(model, Tokenizer.load())
    tokens = roberta.encode("Hello world!")
    expected = roberta.extract_features(tokens)
    roberta.cuda()
    torch.testing.assert_close(roberta.extract_features(tokens).cpu(), expected, atol=1e-4, rtol=1e-4)
    assert roberta.half().extract_features(tokens).dtype == torch.float16
    assert len(roberta.fill_mask("It is a <mask>.")) == 5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_on_cuda_is_exact_after_a_resume(data_bin, tmp_path, precision):
    recipe = Recipe(
        task=MaskedLMTaskConfig(data=data_bin, tokens_per_sample=64),
        model=RobertaConfig(encoder_layers=2, embed_dim=64, ffn_embed_dim=64, attention_heads=2, max_positions=64),
        criterion=MaskedLMLossConfig(),
        optimizer=AdamConfig(),
        lr_scheduler=PolynomialDecayConfig(lr=1e-3, total_num_update=20),
        trainer=TrainerConfig(
            save_dir=tmp_path / "whole", max_update=6, batch_size=8, device="cuda", precision=precision
        ),
    )
    whole = Trainer(recipe).train()
    cut = dataclasses.replace(
        recipe, trainer=dataclasses.replace(recipe.trainer, save_dir=tmp_path / "cut", max_update=3)
    )
    Trainer(cut).train()
    resumed = dataclasses.replace(cut, trainer=dataclasses.replace(cut.trainer, max_update=6, resume=True))
    assert Trainer(resumed).train()["nats"] == pytest.approx(whole["nats"], rel=1e-4)
    assert whole["nats"] < 10.75  # it begins at ln 50,265 = 10.82, and ends at 10.65 on a CPU
