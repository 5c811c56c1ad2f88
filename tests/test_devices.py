"""Forward passes on a pretended GPU: nothing stays on the host, and nothing waits for the device.

The tensors are torch's fakes: each has a shape, a type and a device, which torch checks at every step, and no contents,
so that reading a number from the device is an error. It takes no GPU, and is no proof of what one computes:
`pytest -m gpu`.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from roberta.checkpoint.onnx_format import PaddedModel
from roberta.criterions.masked_lm import MaskedLMLoss, MaskedLMLossConfig
from roberta.criterions.sentence_prediction import SentencePredictionLoss, SentencePredictionLossConfig
from roberta.criterions.sentence_ranking import SentenceRankingLoss, SentenceRankingLossConfig
from roberta.criterions.span import SpanLoss, SpanLossConfig
from roberta.criterions.wsc import WSCLoss, WSCLossConfig
from roberta.layout import Batch, SequenceLayout
from roberta.models.heads import ChoiceHeadConfig, ClassificationHeadConfig, MaskedLMHeadConfig, SpanHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.optim.adam import AdamConfig, adam
from roberta.optim.muon import MuonConfig, muon

GPU = torch.device("cuda", 0)
LENGTHS = ((5, 1, 24, 7), (3, 0, 2, 9), (6, 6, 6, 6))


class WithoutDriver(TorchFunctionMode):
    """Do by torch's operators what otherwise begins with asking for a driver: moving to a GPU, and brackets."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.to and str(args[1]).startswith("cuda"):
            return torch.ops.aten._to_copy(args[0], device=GPU)
        if func is torch.Tensor.__getitem__ and args[0].is_cuda:
            return indexed(*args)
        if func is torch.Tensor.pin_memory:
            return args[0]
        func = OPERATORS.get(func, func)
        return func(*args, **kwargs or {})


OPERATORS = {
    torch.addmm: lambda *args, out: torch.ops.aten.copy_(out, torch.ops.aten.addmm(*args)),
    torch.Tensor.copy_: torch.ops.aten.copy_,
    torch.Tensor.__invert__: torch.ops.aten.bitwise_not,
}


def indexed(tensor: Tensor, index: Any) -> Tensor:
    """Return tensor[index] for slices, numbers, None and one tensor or more."""
    dim, tensors = 0, []
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, Tensor):
            tensors += [None] * (dim - len(tensors)) + [part]
        elif part is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(part, int):
            tensor = tensor.select(dim, part)
            continue
        else:
            tensor = torch.ops.aten.slice(tensor, dim, part.start, part.stop)
        dim += 1
    return torch.ops.aten.index(tensor, tensors) if tensors else tensor


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make tensors without contents; those of an H100 too."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    from_numpy = torch.from_numpy
    # Without gradients, as their graph asks for the driver in its own way.
    with FakeTensorMode() as mode, WithoutDriver(), torch.no_grad():
        monkeypatch.setattr(torch, "from_numpy", lambda array: mode.from_tensor(from_numpy(array)))
        yield


def put_there(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace parameters by some of the same shapes on the GPU; those that are shared stay so."""
    new: dict[Tensor, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter not in new:
                new[parameter] = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=GPU))
            module._parameters[name] = None if parameter is None else new[parameter]


def ids(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64, device=GPU)


@pytest.fixture(scope="module")
def model() -> RobertaModel:
    shape = {"encoder_layers": 2, "embed_dim": 24, "ffn_embed_dim": 40, "attention_heads": 3, "max_positions": 24}
    model = RobertaModel(RobertaConfig(vocab_size=97, activation_dropout=0.1, **shape))
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("untied", MaskedLMHeadConfig(tied=False))
    model.register_head("topic", ClassificationHeadConfig(num_classes=3))
    model.register_head("span", SpanHeadConfig(answerable=True))
    model.register_head("choice", ChoiceHeadConfig())
    return model


CRITERIONS = [
    MaskedLMLoss(MaskedLMLossConfig(), "lm"),
    MaskedLMLoss(MaskedLMLossConfig(), "untied"),
    SentencePredictionLoss(SentencePredictionLossConfig(), "topic"),
    SentenceRankingLoss(SentenceRankingLossConfig(), "choice"),
    SpanLoss(SpanLossConfig(), "span"),
    WSCLoss(WSCLossConfig(), "lm"),
    WSCLoss(WSCLossConfig(wsc_cross_entropy=True), "lm"),
]


def batch_for(criterion: Any, lengths: tuple[int, ...]) -> Batch:
    """Return a batch of four sequences of the form that a criterion takes."""
    layout = SequenceLayout.from_lengths(lengths, "cuda")
    groups = SequenceLayout.from_lengths((3, 1), "cuda")
    select, targets, of_groups = {
        MaskedLMLoss: (ids(2), ids(2), None),
        SentencePredictionLoss: (ids(4), ids(4), None),
        SentenceRankingLoss: (ids(4), ids(2), groups),
        SpanLoss: (None, ids(4, 3), None),
        WSCLoss: (ids(4), ids(2 + 4), groups),
    }[type(criterion)]
    return Batch(ids(layout.num_tokens), layout, select, targets, 4, (0, 1, 2, 3), of_groups)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("criterion", CRITERIONS, ids=lambda criterion: f"{type(criterion).__name__}-{criterion.head}")
@pytest.mark.parametrize("training", [True, False])
def test_losses_are_computed_on_the_gpu_alone(criterion, dtype, lengths, training, model, monkeypatch):
    model = copy.deepcopy(model).train(training)
    with pretended_gpu(monkeypatch):
        put_there(model, dtype)
        loss, sums = criterion(model, batch_for(criterion, lengths))
        assert {loss.device, *(value.device for value in sums.values())} == {GPU}
        assert loss.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_graph_for_export_is_computed_where_attention_has_a_kernel_for_packed_tokens(dtype, model, monkeypatch):
    model = copy.deepcopy(model).eval()
    with pretended_gpu(monkeypatch):
        put_there(model, dtype)
        features = PaddedModel(model)(ids(2, 3))
        assert (features.shape, features.device, features.dtype) == ((2, 3, 24), GPU, dtype)


@pytest.mark.parametrize(("build", "config"), [(adam, AdamConfig()), (muon, MuonConfig())])
def test_updates_are_made_on_the_gpu_alone(build, config, model, monkeypatch):
    model = copy.deepcopy(model)
    with pretended_gpu(monkeypatch):
        put_there(model, torch.float32)
        optimizer = build(config, list(model.named_parameters()))
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        moments = [value for state in optimizer.state.values() for value in state.values()]
        assert {moment.device for moment in moments} == {GPU}


def test_the_pretence_notices_what_stays_on_the_host_and_what_waits(monkeypatch):
    with pretended_gpu(monkeypatch):
        with pytest.raises(RuntimeError, match="cuda:0 and cpu|cuda:0, cpu"):
            ids(3) + torch.arange(3)
        with pytest.raises(DataDependentOutputException):
            ids(3).sum().item()
