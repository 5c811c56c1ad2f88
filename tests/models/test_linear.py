"""Engines for matrices on a CPU: each against torch's own product, and the choice between them."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from roberta.errors import ConfigError
from roberta.hub import from_pretrained
from roberta.layout import SequenceLayout
from roberta.models import linear as engines
from roberta.models import roberta as models
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.linear import CPU_ENGINES, CpuEngine, Linear, fastest_engine
from roberta.models.roberta import RobertaConfig, RobertaModel

OTHERS: tuple[CpuEngine, ...] = ("numpy", "onednn")


def make_linear(engine: CpuEngine, inputs: int = 33, outputs: int = 20) -> Linear:
    torch.manual_seed(0)
    linear = Linear(inputs, outputs)
    linear.engine = engine
    return linear.requires_grad_(engine != "onednn")


def make_model() -> tuple[RobertaModel, torch.Tensor, SequenceLayout]:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=60,
        max_positions=16,
        encoder_layers=2,
        embed_dim=16,
        ffn_embed_dim=32,
        attention_heads=2,
        dropout=0.0,
        attention_dropout=0.0,
    )
    model = RobertaModel(config)
    model.register_head("lm", MaskedLMHeadConfig())
    return model, torch.randint(4, 60, (12,)), SequenceLayout.from_lengths([5, 7])


def expected(linear: Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x.double(), linear.weight.double(), linear.bias.double()).float()


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize("rows", [0, 1, 2, 40])
def test_outputs_are_those_of_float64(engine, rows):
    linear, x = make_linear(engine), torch.randn(rows, 33)
    with torch.no_grad():
        torch.testing.assert_close(linear(x), expected(linear, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("engine", OTHERS)
def test_a_bias_may_have_any_stride(engine):
    linear, x = make_linear(engine), torch.randn(40, 33)
    linear.bias.data = torch.randn(40)[::2]
    with torch.no_grad():
        torch.testing.assert_close(linear(x), expected(linear, x), atol=1e-5, rtol=1e-5)


def test_another_engine_is_really_asked(monkeypatch):
    asked = []
    product = engines.numpy_product
    monkeypatch.setattr(engines, "numpy_product", lambda *given: asked.append(len(given)) or product(*given))
    make_linear("numpy")(torch.randn(3, 33)).sum().backward()
    assert asked == [2, 2]  # x needs no gradient
    linear = make_linear("onednn")
    linear(torch.randn(3, 33))
    assert linear._packed is not None


@pytest.mark.parametrize("engine", OTHERS)
def test_gradients_are_those_of_torch(engine):
    x = torch.randn(6, 33)
    found, wanted = [], []
    for gradients, chosen in ((found, engine), (wanted, "torch")):
        linear, given = make_linear(chosen).requires_grad_(), x.clone().requires_grad_()
        loss = linear(given).tanh().expand(2, 6, 20).sum()  # a gradient with strides of 0 on the way
        gradients += torch.autograd.grad(loss, [given, *linear.parameters()])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_numpy_takes_inputs_and_gradients_of_any_strides():
    linear = make_linear("numpy", 6, 5)
    x = torch.randn(6, 4).t().requires_grad_()
    (linear(x).t() @ torch.randn(4, 3)).sum().backward()
    linear(torch.randn(8, 6)[::2]).sum().backward()
    linear(torch.randn(1, 6).expand(4, 6)).expand(3, 4, 5).sum().backward()
    assert linear.weight.grad.isfinite().all()
    torch.testing.assert_close(linear(x), expected(linear, x), atol=1e-5, rtol=1e-5)


def test_numpy_computes_no_gradient_that_nobody_wants():
    linear = make_linear("numpy").requires_grad_(False)
    x = torch.randn(3, 33, requires_grad=True)
    linear(x).sum().backward()
    assert x.grad is not None
    assert linear.weight.grad is None
    assert not linear(x.detach()).requires_grad


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_engines_leave_other_precisions_and_autocast_to_torch(engine, dtype):
    linear, x = make_linear(engine), torch.randn(3, 33)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))
    linear, x = linear.to(dtype), x.to(dtype)
    with torch.no_grad():
        assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("engine", OTHERS)
def test_bf16_is_multiplied_by_onednn_where_a_processor_has_it(engine, rows):
    linear, x = make_linear(engine).bfloat16(), torch.randn(rows, 33).bfloat16()
    with torch.no_grad():
        found = linear(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected(linear, x), atol=2.0**-8, rtol=2.0**-7)
    has_bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert (linear._packed is not None) == (engine == "onednn" and has_bf16)


@pytest.mark.parametrize("change", ["in place", "new data", "loaded", "assigned", "a fused optimizer"])
def test_changed_weights_are_laid_out_anew(change):
    linear, x = make_linear("onednn"), torch.randn(3, 33)
    with torch.no_grad():
        linear(x)
    other = torch.randn(20, 33)
    if change == "in place":
        linear.weight.copy_(other)
    elif change == "new data":
        linear.weight.data = other
    elif change in ("loaded", "assigned"):
        weights = {"weight": other, "bias": torch.zeros(20)}
        linear.load_state_dict(weights, assign=change == "assigned")
    else:
        linear.requires_grad_()
        linear(x).sum().backward()
        torch.optim.AdamW(linear.parameters(), lr=1.0, fused=True).step()  # does not raise the version of a tensor
        linear.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(linear(x), expected(linear, x), atol=1e-5, rtol=1e-5)


def test_inputs_get_gradients_from_frozen_weights():
    linear = make_linear("onednn")
    x = torch.randn(3, 33, requires_grad=True)
    linear(x).sum().backward()
    torch.testing.assert_close(x.grad, linear.weight.sum(dim=0).expand(3, 33))


def test_weights_whose_changes_nobody_counts_are_left_to_torch():
    with torch.inference_mode():
        linear, x = make_linear("onednn"), torch.randn(3, 33)
        linear(x)
        linear.weight.copy_(torch.randn(20, 33))
        torch.testing.assert_close(linear(x), expected(linear, x), atol=1e-5, rtol=1e-5)
        assert linear._packed is None


def test_another_engine_frees_the_second_copy():
    model, tokens, layout = make_model()
    model.requires_grad_(False).set_cpu_engine("onednn")
    model(tokens, layout)
    maps = [module for module in model.modules() if isinstance(module, Linear)]
    assert all(linear._packed is not None for linear in maps)
    model.set_cpu_engine("torch")
    assert all(linear._packed is None for linear in maps)
    fastest_engine(dict.fromkeys(maps, 1), CPU_ENGINES)
    assert all(linear._packed is None for linear in maps)


def test_an_interrupted_trial_leaves_the_engines_as_they_were(monkeypatch):
    linear = make_linear("torch", 4, 4)
    monkeypatch.setattr(linear, "forward", lambda x: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fastest_engine({linear: 1}, ("numpy", "torch"))
    assert linear.engine == "torch"


@pytest.mark.parametrize("engine", OTHERS)
def test_the_default_type_of_tensors_is_of_no_account(engine):
    model, tokens, layout = make_model()
    model.requires_grad_(False).set_cpu_engine(engine)
    torch.set_default_dtype(torch.float64)
    try:
        assert model(tokens, layout).dtype == torch.float32
        fastest_engine({module: 1 for module in model.modules() if hasattr(module, "engine")}, ("torch", engine))
    finally:
        torch.set_default_dtype(torch.float32)


def test_unchanged_weights_are_laid_out_once():
    linear, x = make_linear("onednn"), torch.randn(3, 33)
    with torch.no_grad():
        linear(x)
        packed = linear._packed
        linear(x)
    assert linear._packed is packed


@pytest.mark.parametrize("engine", OTHERS)
def test_a_map_is_copied_and_pickled_with_its_engine(engine):
    linear, x = make_linear(engine), torch.randn(3, 33)
    with torch.no_grad():
        output = linear(x)
        for twin in (copy.deepcopy(linear), pickle.loads(pickle.dumps(linear))):
            assert twin.engine == engine
            assert torch.equal(twin(x), output)


@pytest.mark.parametrize("engine", OTHERS)
def test_a_model_computes_the_same_with_every_engine(engine):
    model, tokens, layout = make_model()
    select, targets = torch.tensor([1, 3, 8]), torch.tensor([10, 20, 30])

    def results() -> list[torch.Tensor]:
        model.zero_grad()
        model.requires_grad_(False)
        outputs = [model(tokens, layout), model(tokens, layout, head="lm")]
        model.requires_grad_()
        loss = model(tokens, layout, head="lm", select=select, targets=targets)
        loss.backward()
        return [*outputs, loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    wanted = results()
    assert model.requires_grad_(False).set_cpu_engine(engine) is model
    assert model.cpu_engine == engine
    for one, other in zip(results(), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_heads_of_later_have_the_engine_too():
    model, *_ = make_model()
    model.set_cpu_engine("numpy").register_head("other", MaskedLMHeadConfig(tied=False))
    model.register_head("topic", ClassificationHeadConfig(num_classes=2))
    assert model.heads["other"].engine == "numpy"
    model.set_cpu_engine("torch")
    assert {module.engine for module in model.modules() if hasattr(module, "engine")} == {"torch"}


@pytest.mark.parametrize(
    ("slow", "chosen"), [(("torch", "onednn"), "numpy"), (("torch", "numpy"), "onednn"), (OTHERS, "torch")]
)
def test_the_fastest_engine_is_chosen(monkeypatch, slow, chosen):
    clock = [0.0]
    monkeypatch.setattr(engines.time, "perf_counter", lambda: clock[0])
    maps = [make_linear("onednn", 4, 4), make_linear("torch", 4, 4)]
    for linear in maps:

        def forward(x: torch.Tensor, linear: Linear = linear) -> torch.Tensor:
            clock[0] += 2.0 if linear.engine in slow else 1.0
            return x

        monkeypatch.setattr(linear, "forward", forward)
    assert fastest_engine(dict.fromkeys(maps, 1), CPU_ENGINES) == chosen
    assert [linear.engine for linear in maps] == ["onednn", "torch"]  # as they were


def test_a_part_counts_as_often_as_it_is_there(monkeypatch):
    class Part:
        """One that takes long with some engines."""

        def __init__(self, slow: tuple[str, ...]) -> None:
            self.engine, self.slow = "torch", slow

        def try_out(self, rows: int) -> None:
            clock[0] += 2.0 if self.engine in self.slow else 1.0

    clock = [0.0]
    monkeypatch.setattr(engines.time, "perf_counter", lambda: clock[0])
    layer, vocabulary = Part(("torch",)), Part(("numpy",))
    assert fastest_engine({layer: 6, vocabulary: 1}, ("torch", "numpy")) == "numpy"
    assert fastest_engine({layer: 1, vocabulary: 6}, ("torch", "numpy")) == "torch"


def test_all_parts_of_a_model_can_be_tried_out():
    model, *_ = make_model()
    for engine in CPU_ENGINES:
        model.requires_grad_(engine != "onednn").set_cpu_engine(engine)
        for part in model.modules():
            if hasattr(part, "engine"):
                part.try_out(64)


def test_torch_is_kept_where_little_is_to_be_won(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(engines.time, "perf_counter", lambda: clock[0])
    linear = make_linear("torch", 4, 4)

    def forward(x: torch.Tensor) -> torch.Tensor:
        clock[0] += 0.98 if linear.engine == "numpy" else 1.0
        return x

    monkeypatch.setattr(linear, "forward", forward)
    assert fastest_engine({linear: 1}, CPU_ENGINES) == "torch"


@pytest.mark.parametrize(("frozen", "candidates"), [(False, ("torch", "numpy")), (True, ("torch", "numpy", "onednn"))])
def test_auto_measures_what_can_be_taken_on_one_layer(monkeypatch, frozen, candidates):
    model, *_ = make_model()
    asked = []
    monkeypatch.setattr(models, "fastest_engine", lambda maps, given: asked.append((maps, given)) or given[-1])
    assert model.requires_grad_(not frozen).set_cpu_engine().cpu_engine == candidates[-1]
    layer = model.encoder.layers[0]
    maps = [layer.self_attn.qkv_proj, layer.self_attn.out_proj, layer.fc1, layer.fc2]
    parts = {**dict.fromkeys(maps, 2), model.heads["lm"]: 1}
    assert asked == [(parts, list(candidates))]


@pytest.mark.parametrize("has_bf16", [False, True])
def test_bf16_is_left_to_torch_where_a_processor_lacks_it(has_bf16, monkeypatch):
    monkeypatch.setattr(engines, "_has_bf16", lambda: has_bf16)
    monkeypatch.setattr(models, "fastest_engine", lambda maps, given: given[-1])
    model, *_ = make_model()
    model.requires_grad_(False).set_cpu_engine("onednn").bfloat16()
    x = torch.randn(3, 16).bfloat16()
    assert engines.counts_for("onednn", x, model.encoder.layers[0].fc1.weight) == has_bf16
    if has_bf16:
        assert model.set_cpu_engine("auto").cpu_engine == "onednn"
    else:
        with pytest.raises(ConfigError, match="no products in bf16 on this processor; choose torch, or use .float()"):
            model.set_cpu_engine("onednn")
        assert model.set_cpu_engine("auto").cpu_engine == "torch"


def test_auto_is_torch_where_there_is_no_choice():
    model, *_ = make_model()
    assert model.bfloat16().set_cpu_engine("auto").cpu_engine == "torch"
    assert from_pretrained("roberta.mini").int8().set_cpu_engine("auto").model.cpu_engine == "torch"


def test_wrong_choices_are_refused():
    model, *_ = make_model()
    with pytest.raises(ConfigError, match="unknown engine 'nump'; allowed: auto, numpy, onednn, torch; did you mean"):
        model.set_cpu_engine("nump")
    with pytest.raises(ConfigError, match=r"frozen layers, .* .requires_grad_\(False\) before, or choose another"):
        model.set_cpu_engine("onednn")
    with pytest.raises(ConfigError, match="numpy multiplies in fp32 on the CPU, and the layers are in torch.bfloat16"):
        model.bfloat16().set_cpu_engine("numpy")
    with pytest.raises(ConfigError, match="the layers are in int8; choose torch"):
        from_pretrained("roberta.mini").int8().set_cpu_engine("onednn")
    assert model.cpu_engine == "torch"


def test_int8_takes_the_place_of_an_engine():
    roberta = from_pretrained("roberta.mini").set_cpu_engine("numpy").int8()
    assert roberta.model.heads["lm"].engine == roberta.model.cpu_engine == "torch"


def test_the_hub_says_which_engine_it_has():
    roberta = from_pretrained("roberta.mini")
    assert "products by" not in repr(roberta)
    assert "products by numpy" in repr(roberta.set_cpu_engine("numpy"))
    text = "She opened the <mask> and went into the house."
    roberta.requires_grad_(False)
    plain = [filled[0] for filled in roberta.set_cpu_engine("torch").fill_mask(text)]
    for engine in OTHERS:
        assert [filled[0] for filled in roberta.set_cpu_engine(engine).fill_mask(text)] == plain
