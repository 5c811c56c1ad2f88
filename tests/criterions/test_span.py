"""The span loss against plain loops."""

import math

import pytest
import torch

from roberta.criterions.span import SpanLoss, SpanLossConfig
from roberta.layout import Batch, SequenceLayout
from roberta.models.heads import SpanHeadConfig
from roberta.models.roberta import RobertaModel

LENGTHS = (9, 7, 6)
ROWS = [(5, 7, 4), (0, 0, 3), (3, 3, 3)]  # first and last row of the answer, first row of the passage


def batch_of(sequences: list[int], tokens: torch.Tensor | None = None) -> Batch:
    lengths = [LENGTHS[index] for index in sequences]
    return Batch(
        tokens=torch.zeros(sum(lengths), dtype=torch.int64) if tokens is None else tokens,
        layout=SequenceLayout.from_lengths(lengths),
        select=None,
        targets=torch.tensor([ROWS[index] for index in sequences]),
        num_targets=len(sequences),
        sample_ids=tuple(sequences),
    )


def by_hand(outputs: torch.Tensor) -> tuple[float, float]:
    """Return the span loss and the loss of answerability, row by row."""
    span = answerability = 0.0
    offset = 0
    for length, (first, last, begin) in zip(LENGTHS, ROWS, strict=True):
        rows = outputs[offset : offset + length].tolist()
        allowed = [0, *range(begin, length - 1)]
        for column, row in ((0, first), (1, last)):
            total = math.log(sum(math.exp(rows[other][column]) for other in allowed))
            span += (total - rows[row][column]) / 2
        probability = 1 / (1 + math.exp(-rows[0][2]))
        answerability -= math.log(probability if first else 1 - probability)
        offset += length
    return span, answerability


def random_outputs(columns: int) -> torch.Tensor:
    torch.manual_seed(1)
    return 3 * torch.randn(sum(LENGTHS), columns)


@pytest.mark.parametrize("columns", [2, 3])
def test_the_loss_is_that_of_plain_loops(columns: int) -> None:
    outputs = random_outputs(3)
    loss, sums = SpanLoss(SpanLossConfig(), "span").loss(outputs[:, :columns], batch_of([0, 1, 2]))
    span, answerability = by_hand(outputs)
    if columns == 2:
        assert set(sums) == {"loss", "correct"}
        answerability = 0.0
    else:
        assert sums["span_loss"].item() == pytest.approx(span, rel=1e-5)
        assert sums["answerability_loss"].item() == pytest.approx(answerability, rel=1e-5)
    assert loss.item() == sums["loss"].item() == pytest.approx(span + answerability, rel=1e-5)


def test_a_batch_has_the_losses_of_its_sequences() -> None:
    outputs, criterion = random_outputs(3), SpanLoss(SpanLossConfig(), "span")
    whole, _ = criterion.loss(outputs, batch_of([0, 1, 2]))
    parts = [criterion.loss(part, batch_of([index]))[0] for index, part in enumerate(outputs.split(LENGTHS))]
    torch.testing.assert_close(whole, torch.stack(parts).sum())


def test_rows_of_the_question_and_separators_neither_count_nor_learn() -> None:
    outputs = random_outputs(3).requires_grad_()
    criterion = SpanLoss(SpanLossConfig(), "span")
    loss, _ = criterion.loss(outputs, batch_of([0, 1, 2]))
    loss.backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    rows = outputs.grad.split(LENGTHS)
    for gradient, (_, _, begin) in zip(rows, ROWS, strict=True):
        assert not gradient[1:begin, :].any()
        assert not gradient[-1].any()
        assert not gradient[1:, 2].any()  # the answerability is that of <s>
        assert gradient[begin:-1, :2].all()
        assert gradient[0].all()


def test_a_sequence_counts_as_right_if_both_ends_win() -> None:
    outputs = torch.zeros(sum(LENGTHS), 2)
    offsets = (0, 9, 16)
    for offset, (first, last, _) in zip(offsets, ROWS, strict=True):
        outputs[offset + first, 0] = outputs[offset + last, 1] = 5.0
    outputs[1] = outputs[8] = 99.0  # rows that may not be answers
    criterion = SpanLoss(SpanLossConfig(), "span")
    _, sums = criterion.loss(outputs, batch_of([0, 1, 2]))
    assert sums["correct"].item() == 3
    outputs[offsets[2] + 4, 1] = 6.0
    _, sums = criterion.loss(outputs, batch_of([0, 1, 2]))
    assert sums["correct"].item() == 2
    metrics = criterion.metrics({"loss": 6.0, "correct": 2.0, "span_loss": 3.0}, 3)
    assert metrics == {"loss": 2.0, "span_accuracy": 2 / 3, "span_loss": 1.0}


@pytest.mark.parametrize(("answerable", "columns"), [(False, 2), (True, 3)])
def test_a_model_with_a_span_head_learns_through_it(tiny_model: RobertaModel, answerable: bool, columns: int) -> None:
    tiny_model.register_head("span", SpanHeadConfig(answerable=answerable))
    batch = batch_of([0, 1, 2], torch.randint(4, 90, (sum(LENGTHS),)))
    criterion = SpanLoss(SpanLossConfig(), "span")
    assert criterion.outputs(tiny_model, batch).shape == (sum(LENGTHS), columns)
    loss, _ = criterion(tiny_model.train(), batch)
    loss.backward()
    weight = tiny_model.heads["span"].out_proj.weight
    assert weight.shape[0] == columns
    assert weight.grad is not None
    assert weight.grad.abs().sum(dim=1).all()
