"""The masked-LM loss, against fairseq's figures."""

import math

import pytest
import torch

from roberta.criterions.masked_lm import MaskedLMLoss, MaskedLMLossConfig
from roberta.layout import Batch, SequenceLayout
from roberta.pretrained import load
from tests.builders import fairseq_batch


def test_metrics_are_bits_nats_and_perplexity():
    criterion = MaskedLMLoss(MaskedLMLossConfig(), "lm")
    assert criterion.metrics({"loss": 6.0 * math.log(2)}, 3) == pytest.approx(
        {"loss": 2, "nats": math.log(4), "ppl": 4}
    )


def test_the_loss_is_the_sum_over_targets(tiny_model):
    layout = SequenceLayout.from_lengths([3, 2])
    tokens = torch.tensor([0, 9, 2, 8, 2])
    batch = Batch(tokens, layout, torch.tensor([1, 3]), torch.tensor([7, 7]), 2, (0, 1))
    loss, sums = MaskedLMLoss(MaskedLMLossConfig(), "lm")(tiny_model, batch)
    log_probabilities = tiny_model(tokens, layout, "lm").log_softmax(-1)
    assert loss.item() == pytest.approx(-(log_probabilities[1, 7] + log_probabilities[3, 7]).item(), rel=1e-6)
    assert sums["loss"].item() == loss.item()
    assert not sums["loss"].requires_grad


@pytest.mark.parametrize("name", ["masked_lm_train", "masked_lm_valid"])
def test_losses_and_gradients_equal_fairseqs(shared, name):
    golden = torch.load(shared / f"golden/losses/{name}.pt", weights_only=True)
    model = load(shared / "golden/ckpt2019").model
    for result in golden["results"]:
        model.zero_grad()
        batch = fairseq_batch(result["batch"])
        loss, _ = MaskedLMLoss(MaskedLMLossConfig(), "lm")(model, batch)
        assert batch.num_targets == result["sample_size"]
        assert loss.item() == pytest.approx(result["loss_sum"], rel=1e-6)
        loss.backward()
        compare_gradients(model, result["grads"])


def compare_gradients(model, expected):
    assert len(expected) > 50
    prefix = "encoder.sentence_encoder."
    for name, gradient in expected.items():
        ours = name.replace(prefix, "encoder.").replace("encoder.lm_head.", "heads.lm.")
        for part, rows in (("q_proj", 0), ("k_proj", 1), ("v_proj", 2)):
            if part in ours:
                fused = model.get_parameter(ours.replace(part, "qkv_proj")).grad
                found = fused.chunk(3)[rows]
                break
        else:
            if ours.startswith("classification_heads."):
                continue
            found = model.get_parameter(ours).grad
        torch.testing.assert_close(found, gradient, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
