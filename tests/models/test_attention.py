"""All ways to compute attention against the padded one and against softmax written out."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from roberta.layout import SequenceLayout
from roberta.models import attention as attention_module
from roberta.models.attention import attention, padded_attention

UNEQUAL = [(5, 1, 24, 7), (3, 0, 2), (0, 4, 0), (6, 6, 2, 6), (9, 8, 8, 8, 1, 1)]
UNIFORM = [(6, 6, 6), (1,), (24,)]


def random_qkv(layout: SequenceLayout, *, requires_grad: bool = False) -> list[torch.Tensor]:
    """Return float64 q, k and v of three heads, strided as the fused projection leaves them."""
    torch.manual_seed(0)
    qkv = torch.randn(layout.num_tokens, 3, 3, 8, dtype=torch.float64, requires_grad=requires_grad)
    return [qkv, *qkv.unbind(1)]


def written_out(q, k, v, lengths):
    rows, start = [], 0
    for length in lengths:
        mine = slice(start, start + length)
        scores = torch.einsum("qhd,khd->hqk", q[mine], k[mine]) / math.sqrt(q.shape[-1])
        rows.append(torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), v[mine]))
        start += length
    return torch.cat(rows)


@pytest.mark.parametrize("lengths", UNEQUAL + UNIFORM)
@pytest.mark.parametrize("compute", [attention, padded_attention])
def test_attention_is_a_softmax_within_each_sequence(lengths, compute):
    layout = SequenceLayout.from_lengths(lengths)
    _, q, k, v = random_qkv(layout)
    torch.testing.assert_close(compute(q, k, v, layout), written_out(q, k, v, lengths), atol=1e-12, rtol=0)


@pytest.fixture
def num_keys(monkeypatch):
    """On a processor with AVX512: how many keys the kernel is given in each call."""
    whole, found = F.scaled_dot_product_attention, []

    def note_keys(q, k, v, **options):
        found.append(k.shape[2])
        return whole(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", note_keys)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    return found


@pytest.mark.parametrize(
    ("lengths", "shown"),
    [
        ((5, 31, 31, 17, 16, 9, 31, 31), [5, 32, 17, 16, 16, 32]),
        ((40, 8, 9), [48, 8, 16]),
        ((30, 20, 4), [32, 32, 4]),
        ((0, 9, 30), [16, 32]),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)]
)
def test_sequences_see_whole_vectors_of_keys_and_none_but_their_own(lengths, shown, dtype, bound, num_keys):
    layout = SequenceLayout.from_lengths(lengths)
    _, q, k, v = (x.to(dtype) for x in random_qkv(layout))
    with torch.inference_mode():
        found = attention(q, k, v, layout)
    expected = written_out(q.double(), k.double(), v.double(), lengths)
    torch.testing.assert_close(found.double(), expected, atol=bound, rtol=0)
    own = [length for _, length in layout.runs]
    assert num_keys == (shown if dtype == torch.bfloat16 else own)


@pytest.mark.parametrize("learned", ["q", "k", "v"])
def test_with_gradients_sequences_see_their_own_keys_alone(learned, num_keys):
    layout = SequenceLayout.from_lengths((31, 9))
    qkv = [x.bfloat16() for x in random_qkv(layout)[1:]]
    with torch.inference_mode():
        attention(*qkv, layout)
    assert num_keys == [32, 16]
    given = dict(zip("qkv", (x.clone() for x in qkv), strict=True))
    given[learned].requires_grad_()
    attention(**given, layout=layout).sum().backward()
    assert num_keys[2:] == [31, 9]


def test_a_default_device_is_no_concern_of_attention(num_keys):
    layout = SequenceLayout.from_lengths((31, 9))
    qkv = [x.bfloat16() for x in random_qkv(layout)[1:]]
    with torch.device("meta"):
        found = attention(*qkv, layout)
    expected = written_out(*(x.double() for x in qkv), (31, 9))
    torch.testing.assert_close(found.double(), expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("lengths", UNEQUAL)
def test_sequences_of_unequal_length_are_not_padded_on_a_cpu(lengths, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    layout = SequenceLayout.from_lengths(lengths)
    _, q, k, v = random_qkv(layout)
    shapes = []
    whole = F.scaled_dot_product_attention

    def note_shape(q, *others, **options):
        shapes.append((q.shape[0], q.shape[2]))
        assert options.get("attn_mask") is None
        return whole(q, *others, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", note_shape)
    attention(q, k, v, layout)
    assert sum(count * length for count, length in shapes) == layout.num_tokens


@pytest.mark.parametrize("lengths", UNEQUAL)
def test_gradients_by_run_equal_those_of_the_padded_way(lengths):
    layout = SequenceLayout.from_lengths(lengths)
    gradients = []
    for compute in (attention, padded_attention):
        qkv, q, k, v = random_qkv(layout, requires_grad=True)
        (compute(q, k, v, layout) * torch.arange(8.0)).sum().backward()
        gradients.append(qkv.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_half_precision_stays_half(dropout_p):
    layout = SequenceLayout.from_lengths([3, 2])
    _, q, k, v = (x.bfloat16() for x in random_qkv(layout))
    assert attention(q, k, v, layout, dropout_p=dropout_p).dtype == torch.bfloat16


@pytest.mark.parametrize("lengths", [(5, 1, 7), (6, 6)])
def test_dropout_falls_on_the_probabilities(lengths, monkeypatch):
    """With masks that depend on a probability's place in its sequence alone."""
    layout = SequenceLayout.from_lengths(lengths)
    qkv, q, k, v = random_qkv(layout, requires_grad=True)

    def keep(length):
        return torch.from_numpy(np.random.default_rng(length).random((length, length)) >= 0.3) / 0.7

    monkeypatch.setattr(attention_module, "dropout", lambda x, p: x * keep(x.shape[-1]))
    rows = []
    for part in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
        one, two, three = (x.transpose(0, 1) for x in part)  # (H, S, D)
        shares = (one @ two.transpose(1, 2) / math.sqrt(8)).softmax(dim=-1) * keep(one.shape[1])
        rows.append((shares @ three).transpose(0, 1))
    mine = attention(q, k, v, layout, dropout_p=0.3)
    torch.testing.assert_close(mine, torch.cat(rows), atol=1e-12, rtol=0)
    expected = torch.autograd.grad(torch.cat(rows).sin().sum(), qkv, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(mine.sin().sum(), qkv), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("lengths", [(5, 1, 7), (6, 6)])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_has_its_scores_in_single_with_dropout_on_a_cpu(lengths, autocast, monkeypatch):
    """To bf16's last bit; scores of hundreds would be off by ones in bf16, and their softmax by any factor."""
    monkeypatch.setattr(attention_module, "dropout", lambda x, p: x)
    layout = SequenceLayout.from_lengths(lengths)
    _, q, k, v = (x.bfloat16() for x in random_qkv(layout))
    q = 100.0 * q
    exact = written_out(q.double(), k.double(), v.double(), lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = attention(q, k, v, layout, dropout_p=0.1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=2.0**-8)


@pytest.mark.parametrize("lengths", [(5, 1, 7), (6, 6)])
@pytest.mark.parametrize("autocast", [False, True])
def test_in_bf16_what_is_trained_without_dropout_is_computed_in_fp32_on_a_cpu(lengths, autocast):
    """It is the rounding of that, forward and backward; a long sequence and what has no gradient is left to torch."""
    layout = SequenceLayout.from_lengths(lengths)
    heads = [x.bfloat16() for x in random_qkv(layout)[1:]]
    grad = torch.randn_like(heads[0])
    narrow = [x.clone().requires_grad_() for x in heads]
    wide = [x.float().requires_grad_() for x in heads]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = attention(*narrow, layout)
    found.backward(grad)
    expected = attention(*wide, layout)
    expected.backward(grad.float())
    torch.testing.assert_close(found, expected.bfloat16(), rtol=0, atol=0)
    for mine, theirs in zip(narrow, wide, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad.bfloat16(), rtol=0, atol=0)
    long = SequenceLayout.from_lengths([attention_module.MOST_IN_FP32 + 1])
    q = torch.randn(long.num_tokens, 2, 8).bfloat16()
    torchs = F.scaled_dot_product_attention(*(q.transpose(0, 1)[None],) * 3)[0].transpose(0, 1)
    for given in (q, q.clone().requires_grad_()):
        assert torch.equal(attention(given, given, given, long), torchs)


def test_a_batch_without_tokens_has_no_features():
    layout = SequenceLayout.from_lengths([])
    empty = torch.zeros(0, 2, 4)
    assert attention(empty, empty, empty, layout).shape == (0, 2, 4)


@pytest.mark.parametrize(("rate", "has_cudnn"), [(0.0, True), (0.1, False), (0.125, True)])
def test_cudnn_is_left_out_where_it_has_no_such_rate_of_dropout(rate, has_cudnn):
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with attention_module.kernels(torch.device("cuda"), dropout_p=rate):
        assert torch.backends.cuda.cudnn_sdp_enabled() == has_cudnn
        assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() is before is True
