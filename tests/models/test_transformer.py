"""The encoder against its float64 twin, in evaluation and in training, alone and packed."""

import dataclasses
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from roberta.layout import SequenceLayout
from roberta.models import transformer
from roberta.models.attention import attention
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.models.transformer import Activation
from tests.builders import make_tiny_model
from tests.reference import encoder as twin

LENGTHS = (5, 1, 24, 7)


def sequences(lengths=LENGTHS, vocab_size=97) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(2, vocab_size, size=length).tolist() for length in lengths]


def packed(rows: list[list[int]]) -> tuple[torch.Tensor, SequenceLayout]:
    tokens = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
    return tokens, SequenceLayout.from_lengths([len(row) for row in rows])


def as_arrays(model: RobertaModel) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def shape_of(config: RobertaConfig) -> dict[str, int]:
    return {"layers": config.encoder_layers, "heads": config.attention_heads}


@pytest.mark.parametrize("lengths", [LENGTHS, (6, 6, 6), (1,), (24,), (3, 0, 2)])
def test_all_hiddens_equal_the_float64_twin(tiny_model, lengths):
    rows = sequences(lengths)
    tokens, layout = packed(rows)
    with torch.no_grad():
        ours = tiny_model.encoder.all_hiddens(tokens, layout)
    for depth, hidden in enumerate(ours):
        expected = [
            twin.hiddens(row, as_arrays(tiny_model), **shape_of(tiny_model.config))[depth] for row in rows if row
        ]
        np.testing.assert_allclose(hidden.numpy(), np.concatenate(expected), atol=1e-10, rtol=0)


def test_head_outputs_equal_the_float64_twin(tiny_model):
    rows = sequences()
    tokens, layout = packed(rows)
    weights = as_arrays(tiny_model)
    features = [twin.hiddens(row, weights, **shape_of(tiny_model.config))[-1] for row in rows]
    with torch.no_grad():
        lm = tiny_model(tokens, layout, "lm").numpy()
        classes = tiny_model(tokens, layout, "topic", layout.first).numpy()
    np.testing.assert_allclose(lm, np.concatenate([twin.lm_logits(f, weights) for f in features]), atol=1e-10, rtol=0)
    np.testing.assert_allclose(classes, [twin.class_logits(f, weights, "topic") for f in features], atol=1e-10, rtol=0)


def test_train_mode_equals_the_twin_with_the_same_dropout_masks(tiny_config, monkeypatch):
    """A mask that depends on the call and the column alone is the same for packed and for single sequences."""
    model = make_tiny_model(dataclasses.replace(tiny_config, dropout=0.3, activation_dropout=0.2)).train()
    calls = []

    def keep(call: int, width: int, p: float) -> np.ndarray:
        return (np.random.default_rng(call).random(width) >= p) / (1.0 - p)

    def fake_dropout(x, p, training):
        assert training
        calls.append(p)
        return x * torch.from_numpy(keep(len(calls), x.shape[-1], p))

    monkeypatch.setattr(transformer, "dropout", fake_dropout)
    rows = sequences()
    tokens, layout = packed(rows)
    ours = model.encoder(tokens, layout).detach().numpy()
    assert calls == [0.3] + [0.3, 0.2, 0.3] * 2

    def twin_hiddens(row):
        count = 0

        def dropout(x, p):
            nonlocal count
            count += 1
            return x * keep(count, x.shape[-1], p)

        return twin.hiddens(row, as_arrays(model), **shape_of(model.config), p=0.3, activation_p=0.2, dropout=dropout)[
            -1
        ]

    np.testing.assert_allclose(ours, np.concatenate([twin_hiddens(row) for row in rows]), atol=1e-10, rtol=0)


def test_gradients_equal_finite_differences_of_the_twin(tiny_model):
    rows = sequences((5, 3))
    tokens, layout = packed(rows)
    select, targets = torch.tensor([1, 4, 6]), [11, 12, 13]
    tiny_model.train()
    loss = F.cross_entropy(tiny_model(tokens, layout, "lm", select), torch.tensor(targets), reduction="sum")
    loss.backward()
    weights = {name: array.copy() for name, array in as_arrays(tiny_model).items()}

    def twin_loss() -> float:
        features = np.concatenate([twin.hiddens(row, weights, **shape_of(tiny_model.config))[-1] for row in rows])
        return twin.cross_entropy(twin.lm_logits(features[select.numpy()], weights), targets)

    assert loss.item() == pytest.approx(twin_loss(), abs=1e-10)
    step = 1e-5
    for name, parameter in tiny_model.named_parameters():
        if name.startswith("heads.topic") or name.endswith("embed_positions.weight"):
            continue
        at = int(parameter.grad.abs().argmax())
        flat = weights[name].reshape(-1)
        value = flat[at]
        flat[at] = value + step
        above = twin_loss()
        flat[at] = value - step
        below = twin_loss()
        flat[at] = value
        assert parameter.grad.view(-1)[at].item() == pytest.approx((above - below) / (2 * step), rel=1e-5), name


@pytest.mark.parametrize("training", [False, True])
def test_packed_features_equal_those_of_single_sequences(tiny_model, training):
    tiny_model.train(training)
    rows = sequences()
    together = tiny_model(*packed(rows))
    alone = torch.cat([tiny_model(*packed([row])) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize("select", [[0], [3, 5, 29], [30, 2, 2], []])
@pytest.mark.parametrize("layerdrop", [0.0, 0.999])
@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_selected_rows_are_those_of_all_features(tiny_model, select, layerdrop, checkpoint_activations):
    """With a layerdrop of 0.999 no layer is left, and the rows are those of the embeddings."""
    encoder = tiny_model.encoder.train()
    encoder.layerdrop, encoder.checkpoint_activations = layerdrop, checkpoint_activations
    tokens, layout = packed(sequences())
    rows = torch.tensor(select, dtype=torch.int64)
    gradients = []
    for few in (True, False):
        torch.manual_seed(0)
        features = encoder(tokens, layout, None, rows) if few else encoder(tokens, layout)[rows]
        assert features.shape == (len(select), 24)
        (features * torch.arange(24.0)).sum().backward()
        grads = {name: p.grad for name, p in encoder.named_parameters()}
        gradients.append((features.detach(), {name: grad for name, grad in grads.items() if grad is not None}))
        encoder.zero_grad()
    (ours, grads), (expected, expected_grads) = gradients
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)
    for name, grad in expected_grads.items():
        torch.testing.assert_close(grads[name], grad, atol=1e-10, rtol=1e-10, msg=name)


def test_the_last_layer_computes_no_more_than_the_selected_rows(tiny_model):
    shapes = []
    for layer in tiny_model.encoder.layers:
        layer.fc1.register_forward_hook(lambda module, args, output: shapes.append(len(output)))
    tokens, layout = packed(sequences())
    tiny_model(tokens, layout, "topic", layout.first)
    assert shapes == [len(tokens), layout.num_sequences]


@pytest.mark.parametrize("activation_fn", get_args(Activation))
def test_features_are_the_same_with_and_without_gradients(tiny_config, activation_fn):
    model = make_tiny_model(dataclasses.replace(tiny_config, activation_fn=activation_fn)).eval()
    tokens, layout = packed(sequences())
    learning = model(tokens, layout)
    with torch.no_grad():
        assert torch.equal(model(tokens, layout), learning)
        hiddens = model.encoder.all_hiddens(tokens, layout)
    assert torch.equal(hiddens[-1], learning)
    assert len({hidden.data_ptr() for hidden in hiddens}) == len(hiddens)


def test_sequences_do_not_see_each_other(tiny_model):
    rows = sequences()
    changed = [rows[0], *[[token % 90 + 3 for token in row] for row in rows[1:]]]
    before, after = tiny_model(*packed(rows)), tiny_model(*packed(changed))
    torch.testing.assert_close(before[: len(rows[0])], after[: len(rows[0])], atol=1e-12, rtol=0)
    assert (before[len(rows[0]) :] - after[len(rows[0]) :]).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_by_a_few_roundings_a_layer(tiny_model, dtype):
    tokens, layout = packed(sequences())
    with torch.no_grad():
        rounded = tiny_model.to(dtype)
        half = rounded(tokens, layout).double()
        exact = rounded.double()(tokens, layout)  # the same rounded weights
    rounding = exact.abs().max() * torch.finfo(dtype).eps
    assert (half - exact).abs().max() < 3 * rounding * tiny_model.config.encoder_layers


@pytest.mark.parametrize("lengths", [(4, 3), (4, 4)])  # the masked branch and the uniform one
def test_attention_dropout_keeps_the_mean_and_drops_the_share(lengths):
    torch.manual_seed(0)
    layout = SequenceLayout.from_lengths(lengths)
    q = k = torch.zeros(sum(lengths), 1, 4)  # equal scores: every probability is 1 / length
    v = torch.ones(sum(lengths), 1, 4)
    outputs = torch.stack([attention(q, k, v, layout, dropout_p=0.5)[:4, 0, 0] for _ in range(2000)])
    kept = outputs * 4 * 0.5  # how many of 4 keys were kept
    assert set(kept.unique().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert kept.mean().item() == pytest.approx(2.0, abs=0.06)  # 8,000 draws of Binomial(4, 0.5): 5 sigma


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout", "activation_dropout"])
@pytest.mark.parametrize("lengths", [LENGTHS, (6, 6)])
def test_dropout_acts_in_training_and_not_in_evaluation(tiny_config, kind, lengths):
    model = make_tiny_model(dataclasses.replace(tiny_config, **{kind: 0.5}))
    tokens, layout = packed(sequences(lengths))
    assert torch.equal(model(tokens, layout), model(tokens, layout))
    model.train()
    assert not torch.equal(model(tokens, layout), model(tokens, layout))
