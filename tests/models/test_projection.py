"""The projected cross-entropy, against torch's on whole logits."""

import pytest
import torch
import torch.nn.functional as F

from roberta.models import projection
from roberta.models.projection import projected_cross_entropy


def inputs(rows: int, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    shapes = ((rows, 6), (31, 6), (31,))
    tensors = [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]
    return *tensors, torch.randint(0, 31, (rows,))


@pytest.mark.parametrize("rows", [0, 1, 4, 9])
@pytest.mark.parametrize("few", [3, 16])
def test_loss_and_gradients_equal_those_of_whole_logits(rows, few, monkeypatch):
    monkeypatch.setitem(projection._PIECE_BYTES, "cpu", 4 * 31 * 8)  # pieces of 4 rows
    monkeypatch.setitem(projection._PART_BYTES, "cpu", few * 31 * 8)
    x, weight, bias, targets = inputs(rows)
    ours = projected_cross_entropy(x, weight, bias, targets)
    expected = F.cross_entropy(x @ weight.t() + bias, targets, reduction="sum")
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    found = torch.autograd.grad(ours * 0.3, (x, weight, bias))
    wanted = torch.autograd.grad(expected * 0.3, (x, weight, bias))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_is_compiled_computes_the_same(dtype, monkeypatch):
    """Without the compiler, whose own part `--compile` in the slow tests runs."""
    monkeypatch.setattr(projection, "_compiled", lambda: projection._cross_entropy_of_products)
    monkeypatch.setitem(projection._PIECE_BYTES, "cpu", 4 * 31 * 8)  # pieces of 4 rows or 8
    x, weight, bias, targets = inputs(9, torch.promote_types(dtype, torch.float32))
    found, wanted = [], []
    for compiled, results in ((True, found), (False, wanted)):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
            loss = projected_cross_entropy(x, weight, bias, targets, compiled=compiled)
        results += [loss, *torch.autograd.grad(loss * 0.3, (x, weight, bias))]
    bounds = {torch.float64: (1e-10, 1e-12), torch.float32: (1e-4, 1e-5)}
    rtol, atol = bounds.get(dtype, (1e-2, 1e-2))  # in half precision products are rounded
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol)


def test_pieces_of_any_number_of_rows_are_one_graph(monkeypatch):
    """Of which only the rows are dynamic: that those of the logits are aligned is known to the compiler."""
    graphs = []

    def note(graph, example_inputs):
        graphs.append([tuple(x.stride()) for x in example_inputs if isinstance(x, torch.Tensor) and x.dim() == 2])
        return graph.forward

    compiled = torch.compile(projection._cross_entropy_of_products, backend=note)
    monkeypatch.setattr(projection, "_compiled", lambda: compiled)
    monkeypatch.setitem(projection._PIECE_BYTES, "cpu", 4 * 31 * 4)  # pieces of 4 rows
    for rows in (4, 8, 6, 3):
        x, weight, bias, targets = inputs(rows, torch.float32)
        projected_cross_entropy(x, weight, bias, targets, compiled=True).backward()
    assert graphs == [[(32, 1), (1, 1)]]


def test_the_gradient_of_a_wide_weight_is_not_rounded_to_half():
    x, weight, bias, targets = inputs(9, torch.float32)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = projected_cross_entropy(x, weight, bias, targets)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert not torch.equal(gradient, gradient.half().float())


@pytest.mark.parametrize("rows", [1, 20, 154])
@pytest.mark.parametrize("autocast", [False, True])
def test_nothing_is_read_that_was_not_written(rows, autocast, monkeypatch):
    """With new memory that is full of nan; rows of logits have room behind them, which oneDNN reads with AMX."""
    multiply, with_room = torch.mm, []

    def mm(a, b, **options):
        if a.stride(0) > a.shape[1]:
            with_room.append(a.as_strided((len(a), a.stride(0)), a.stride()).isfinite().all())
        return multiply(a, b, **options)

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    x, weight, bias, targets = inputs(rows, torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = projected_cross_entropy(x, weight, bias, targets)
        gradients = torch.autograd.grad(loss, (x, weight, bias))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(tensor.isfinite().all() for tensor in (loss, *gradients))
    assert with_room == [True]


def test_large_logits_do_not_overflow():
    x, weight, bias, targets = inputs(3, torch.float32)
    ours = projected_cross_entropy(x * 1e4, weight, bias, targets)
    torch.testing.assert_close(ours, F.cross_entropy(x * 1e4 @ weight.t() + bias, targets, reduction="sum"))


@pytest.mark.parametrize(("piece", "few"), [(2, 4), (4, 3), (9, 2), (9, 9)])
def test_autocast_keeps_the_softmax_in_single_precision(piece, few, monkeypatch):
    monkeypatch.setitem(projection._PIECE_BYTES, "cpu", piece * 31 * 4)  # the last piece has one row of nine
    monkeypatch.setattr(projection, "_LARGER_IN_BF16", 1)
    monkeypatch.setitem(projection._PART_BYTES, "cpu", few * 31 * 4)
    monkeypatch.setattr(projection, "_SLAB_BYTES", 8 * 6 * 4)  # 8 of 31 symbols
    x, weight, bias, targets = inputs(9, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = projected_cross_entropy(x, weight, bias, targets)
    logits = (x.bfloat16() @ weight.bfloat16().t()).float() + bias
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, F.cross_entropy(logits, targets, reduction="sum"), rtol=1e-6, atol=0)
    gradients = torch.autograd.grad(ours, (x, weight, bias))
    exact = torch.autograd.grad(F.cross_entropy(x @ weight.t() + bias, targets, reduction="sum"), (x, weight, bias))
    for gradient, reference in zip(gradients, exact, strict=True):
        assert gradient.dtype == torch.float32
        assert F.cosine_similarity(gradient.flatten(), reference.flatten(), dim=0) > 0.999


def test_gradients_of_unlikely_symbols_do_not_vanish_in_fp16():
    """As in a model that is sure of itself: nearly all probabilities are below what fp16 can hold."""
    torch.manual_seed(0)
    bias = torch.full((400,), -17.0).index_fill_(0, torch.arange(8), 0.0).requires_grad_()
    x, weight = torch.randn(512, 16).half().float(), torch.randn(400, 16).mul(0.2).half().float().requires_grad_()
    targets = torch.randint(0, 8, (512,))
    assert (F.linear(x, weight, bias).softmax(dim=1) < 2.0**-25).float().mean() > 0.9
    with torch.autocast("cpu", dtype=torch.float16):
        ours = 128.0 * projected_cross_entropy(x, weight, bias, targets)  # the loss scale that training begins with
    theirs = 128.0 * F.cross_entropy(F.linear(x, weight, bias), targets, reduction="sum")
    (found,), (wanted,) = torch.autograd.grad(ours, weight), torch.autograd.grad(theirs, weight)
    errors = (found - wanted)[8:].norm(dim=1) / wanted[8:].norm(dim=1)
    assert errors.quantile(0.9) < 0.01


def test_without_gradients_the_loss_is_the_same():
    x, weight, bias, targets = inputs(5)
    with torch.no_grad():
        quiet = projected_cross_entropy(x, weight, bias, targets)
    assert torch.equal(quiet, projected_cross_entropy(x, weight, bias, targets).detach())


def test_second_derivatives_are_refused_rather_than_wrong():
    x, weight, bias, targets = inputs(3)
    loss = projected_cross_entropy(x, weight, bias, targets)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()
