"""The encoder in int8, against the same sums in integers and the encoder in fp32."""

import copy

import pytest
import torch
from torch import nn

from roberta import inspection
from roberta.errors import ConfigError
from roberta.hub import RobertaHubInterface, from_pretrained
from roberta.models import quantization
from roberta.models.heads import ClassificationHeadConfig
from roberta.models.quantization import Int8Linear, adds_neighbours, rounded_inputs, weight_scales
from roberta.models.roberta import RobertaConfig, RobertaModel

TEXTS = ("She opened the <mask> and went into the house.", "He had never been so <mask> in his life.")


def make_linear(inputs: int, outputs: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs).requires_grad_(False)


def sum_of_integers(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Return what int8 should give, from integers in 64 bits."""
    scales = weight_scales(linear.weight)
    weights = (linear.weight / scales.unsqueeze(1)).round().long()
    rounded, scale, low = (part.double() for part in rounded_inputs(x))
    sums = rounded.long() @ weights.t()
    return ((sums * scale + low * weights.sum(dim=1)) * scales + linear.bias).float()


@pytest.mark.parametrize("shape", [(1, 16, 8), (7, 33, 5), (64, 768, 96)])
def test_sums_are_those_of_integers(shape):
    rows, inputs, outputs = shape
    linear = make_linear(inputs, outputs)
    x = torch.randn(rows, inputs)
    torch.testing.assert_close(Int8Linear(linear)(x), sum_of_integers(linear, x), atol=1e-5, rtol=1e-5)


def test_a_map_without_bias_has_none():
    linear = nn.Linear(64, 8, bias=False)
    x = torch.randn(5, 64)
    found = Int8Linear(linear)
    assert found.num_weights == 8 * 64
    torch.testing.assert_close(found(x), linear(x), atol=0.05, rtol=0.05)


def test_the_largest_inputs_and_weights_do_not_overflow():
    linear = make_linear(512, 4)
    linear.weight.fill_(1.0)
    linear.bias.zero_()
    x = torch.full((3, 512), 2.0)
    x[:, 0] = 0.0  # or all inputs would be the lowest
    torch.testing.assert_close(Int8Linear(linear)(x), torch.full((3, 4), 1022.0))


def of_integers(weight: torch.Tensor) -> nn.Linear:
    """Return a linear map that int8 takes over as it is, if the scales allow it."""
    linear = nn.Linear(weight.shape[1], len(weight)).requires_grad_(False)
    linear.weight.copy_(weight)
    linear.bias.zero_()
    return linear


@pytest.mark.skipif(torch.cpu._is_vnni_supported(), reason="sums have 32 bits here")
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("inputs", [31, 256, 768])
def test_weights_as_large_as_16_bits_allow_do_not_overflow(rows, inputs):
    assert adds_neighbours()
    torch.manual_seed(0)
    pairs = torch.tensor([[125.0, 1.0], [1.0, 125.0], [-125.0, -1.0], [126.0, -126.0], [63.0, 63.0]])
    weight = pairs[torch.randint(5, (40, -(-inputs // 2)))].flatten(1)[:, :inputs]
    weight[:, :2] = torch.tensor([126.0, -126.0])  # so that the step is 1
    torch.testing.assert_close(weight_scales(weight), torch.ones(40))
    x = torch.full((rows, inputs), 255.0)
    x[:, 1] = 0.0  # the lowest
    torch.testing.assert_close(Int8Linear(of_integers(weight))(x), x @ weight.round().t())


@pytest.mark.parametrize("neighbours", [True, False])
def test_no_two_products_exceed_16_bits(monkeypatch, neighbours):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    monkeypatch.setattr(quantization, "adds_neighbours", lambda: neighbours)
    weight = torch.randn(200, 63, generator=torch.Generator().manual_seed(0))
    rounded = (weight / weight_scales(weight).unsqueeze(1)).round()
    assert rounded.abs().max() <= (126 if neighbours else 63)
    pairs = torch.nn.functional.pad(rounded, (0, 1)).view(200, -1, 2)
    for signed in (pairs, -pairs):
        assert 255 * signed.clamp(min=0).sum(dim=2).max() < 2**15
    if neighbours:  # fine steps are what it is for
        assert rounded.abs().amax(dim=1).mean() > 90


def test_with_vnni_weights_have_8_bits(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    weight = torch.full((2, 8), 3.0)
    torch.testing.assert_close(weight_scales(weight), torch.full((2,), 3.0 / 127))


def test_narrower_inputs_are_rounded_as_wide_ones():
    linear, x = Int8Linear(make_linear(64, 8)), torch.randn(20, 64).bfloat16()
    assert torch.equal(linear(x), linear(x.float()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(value):
    linear, x = make_linear(16, 4), torch.randn(3, 16)
    x[1, 5] = value
    assert Int8Linear(linear)(x).isfinite().all(dim=1).tolist() == [True, False, True]
    linear.weight[2, 7] = value
    assert not Int8Linear(linear)(torch.randn(3, 16))[:, 2].isfinite().any()


def test_each_input_is_off_by_half_a_level_at_most():
    x = torch.randn(5, 64) * torch.tensor([[1.0], [1e-3], [1e4], [0.0], [1.0]]) + torch.tensor([[0.0]] * 4 + [[100.0]])
    rounded, scale, low = rounded_inputs(x)
    levels = (x.amax(dim=1) - x.amin(dim=1)) / 255
    assert torch.all((rounded * scale + low - x).abs() <= 0.51 * levels.unsqueeze(1) + 1e-30)


def test_rows_do_not_depend_on_each_other():
    linear, x = Int8Linear(make_linear(64, 8)), torch.randn(9, 64)
    together = linear(torch.cat([x, 1000 * x]))
    torch.testing.assert_close(together[:9], linear(x), atol=1e-6, rtol=1e-6)


def test_a_row_of_zeros_and_no_rows_at_all_have_an_answer():
    linear = make_linear(8, 3)
    linear.weight[1] = 0.0
    assert Int8Linear(linear)(torch.randn(4, 8))[:, 1].tolist() == pytest.approx([float(linear.bias[1])] * 4)
    assert Int8Linear(linear)(torch.empty(0, 8)).shape == (0, 3)


def test_the_shipped_model_says_nearly_the_same():
    exact, rounded = from_pretrained("roberta.mini"), from_pretrained("roberta.mini").int8()
    for text in TEXTS:
        one, other = exact.extract_features(text), rounded.extract_features(text)
        assert 0.99 < float(torch.cosine_similarity(one, other).min()) < 1.0
        (_, probability, token), *_ = exact.fill_mask(text, topk=1)
        (_, near, same), *_ = rounded.fill_mask(text, topk=1)
        assert same == token
        assert near == pytest.approx(probability, rel=0.2)


def make_model() -> RobertaModel:
    config = RobertaConfig(encoder_layers=1, embed_dim=16, ffn_embed_dim=32, attention_heads=2, vocab_size=50)
    return RobertaModel(config).eval()


def test_only_the_layers_become_int8_and_nothing_of_them_is_trained():
    model = make_model()
    size = model.num_parameters
    assert model.int8() is model
    assert model.num_parameters == size
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Linear | Int8Linear)}
    assert set(kinds.values()) == {Int8Linear}
    assert len(kinds) == 4
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_int8_can_not_do_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"not from torch.bfloat16 on cpu; use .cpu\(\).float\(\)"):
        make_model().bfloat16().int8()
    hub = RobertaHubInterface(make_model(), from_pretrained("roberta.mini").tokenizer).int8()
    assert "M parameters in int8, " in repr(hub)
    with pytest.raises(ConfigError, match="in int8 already"):
        hub.int8()
    with pytest.raises(ConfigError, match="can't become torch.float64 on cpu; load it again"):
        hub.double()
    assert {parameter.dtype for parameter in hub.parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match=r"no weights to save or replace"):
        hub.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"no weights to save or replace"):
        hub.model.load_weights(make_model().state_dict(), source="other")
    with pytest.raises(ConfigError, match=r"can't be copied or pickled; load it again"):
        copy.deepcopy(hub)
    with pytest.raises(ConfigError, match=r"can't be copied or pickled; load it again"):
        torch.save(hub.model, tmp_path / "model.pt")
    (tmp_path / "model.pt").unlink()  # of torch
    with pytest.raises(ConfigError, match=r"can't be exported"):
        hub.export_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_in_int8_gives_no_gradients_rather_than_wrong_ones():
    hub = from_pretrained("roberta.mini").int8()
    with pytest.raises(ConfigError, match="in int8 gives no gradients"):
        inspection.inspect(hub, TEXTS[0])


def test_new_symbols_and_heads_of_a_model_in_int8_do_not_make_the_rest_learn():
    hub = from_pretrained("roberta.mini").int8()
    hub.add_tokens(["naproxen"])
    hub.model.register_head("topic", ClassificationHeadConfig(num_classes=2))
    hub.predict("topic", hub.encode("She took naproxen.")).sum().backward()
    learning = {name for name, parameter in hub.named_parameters() if parameter.grad is not None}
    assert learning == {name for name, _ in hub.named_parameters() if name.startswith("model.heads.topic.")}
