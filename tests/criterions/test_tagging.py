"""The tagging loss against plain loops."""

import math

import pytest
import torch

from roberta.criterions.tagging import TaggingLoss, TaggingLossConfig
from roberta.errors import ConfigError
from roberta.layout import NO_TARGET, Batch, SequenceLayout
from roberta.models.heads import ClassificationHeadConfig, TaggingHeadConfig
from roberta.models.roberta import RobertaModel

LENGTHS = (5, 4)
TARGETS = [NO_TARGET, 2, NO_TARGET, 0, NO_TARGET, NO_TARGET, 1, 1, NO_TARGET]
CRITERION = TaggingLoss(TaggingLossConfig(), "tagging")


def batch(tokens: torch.Tensor | None = None) -> Batch:
    return Batch(
        tokens=torch.zeros(sum(LENGTHS), dtype=torch.int64) if tokens is None else tokens,
        layout=SequenceLayout.from_lengths(LENGTHS),
        select=None,
        targets=torch.tensor(TARGETS),
        num_targets=4,
        sample_ids=(0, 1),
    )


def test_the_loss_is_that_of_plain_loops():
    torch.manual_seed(1)
    outputs = 3 * torch.randn(sum(LENGTHS), 3)
    expected, correct = 0.0, 0
    for row, target in zip(outputs.tolist(), TARGETS, strict=True):
        if target != NO_TARGET:
            expected += math.log(sum(map(math.exp, row))) - row[target]
            correct += max(row) == row[target]
    loss, sums = CRITERION.loss(outputs, batch())
    assert loss.item() == sums["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert sums["correct"].item() == correct
    assert 0 < correct < 4


def test_tokens_without_a_label_neither_count_nor_learn():
    outputs = torch.zeros(sum(LENGTHS), 3, requires_grad=True)
    loss, _ = CRITERION.loss(outputs, batch())
    loss.backward()
    assert outputs.grad is not None
    assert [bool(row.any()) for row in outputs.grad] == [target != NO_TARGET for target in TARGETS]


def test_figures_are_means_over_words():
    assert CRITERION.metrics({"loss": 6.0, "correct": 3.0}, 4) == {"loss": 1.5, "accuracy": 0.75}
    assert CRITERION.metrics({"loss": 0.0, "correct": 0.0}, 0) == {"loss": 0.0, "accuracy": 0.0}


def test_a_model_with_a_tagging_head_learns_through_it(tiny_model: RobertaModel):
    tiny_model.register_head("tagging", TaggingHeadConfig(num_classes=3))
    given = batch(torch.randint(4, 90, (sum(LENGTHS),)))
    assert CRITERION.outputs(tiny_model, given).shape == (sum(LENGTHS), 3)
    loss, _ = CRITERION(tiny_model.train(), given)
    loss.backward()
    gradient = tiny_model.heads["tagging"].out_proj.weight.grad
    assert gradient is not None
    assert gradient.abs().sum(dim=1).all()


def test_a_head_that_labels_no_tokens_is_refused():
    TaggingLossConfig().check_fits(TaggingHeadConfig(num_classes=2))
    with pytest.raises(ConfigError, match="for heads that label tokens, not for ClassificationHeadConfig"):
        TaggingLossConfig().check_fits(ClassificationHeadConfig(num_classes=2))
