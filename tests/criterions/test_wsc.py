"""The losses over candidates, against loops over questions, each candidate alone in the model."""

import pytest
import torch

from roberta.criterions.wsc import WSCLoss, WSCLossConfig, candidate_scores
from roberta.errors import ConfigError
from roberta.layout import Batch, SequenceLayout

MASK = 96


def batch_of(candidates, num_candidates, answers):
    """Return a batch of (tokens with masks, the tokens they stand for), one for each candidate."""
    layout = SequenceLayout.from_lengths([len(tokens) for tokens, _ in candidates])
    tokens = torch.tensor([token for sequence, _ in candidates for token in sequence])
    targets = torch.tensor([*answers, *(token for _, masked in candidates for token in masked)])
    num_targets = sum(answer >= 0 for answer in answers)
    ids, groups = tuple(range(len(answers))), SequenceLayout.from_lengths(num_candidates)
    return Batch(tokens, layout, (tokens == MASK).nonzero().squeeze(1), targets, num_targets, ids, groups)


def losses(scores, num_candidates, answers, **options):
    candidates = [([MASK], [5])] * len(scores)
    criterion = WSCLoss(WSCLossConfig(**options), "lm")
    outputs = torch.tensor(scores, requires_grad=True)
    loss, sums = criterion.loss(outputs.unsqueeze(1), batch_of(candidates, num_candidates, answers))
    loss.backward()
    assert torch.isfinite(outputs.grad).all()
    return loss.item(), sums["correct"].item(), outputs.grad


def test_a_score_is_the_mean_log_probability_of_the_masked_tokens(tiny_model):
    candidates = [
        ([0, 9, MASK, MASK, 7, 2], [11, 12]),
        ([0, 9, MASK, 7, 2], [13]),
        ([0, MASK, MASK, MASK, 2], [14, 15, 16]),
    ]
    scores = WSCLoss(WSCLossConfig(), "lm").outputs(tiny_model, batch_of(candidates, (2, 1), [0, 0]))
    assert scores.shape == (3, 1)
    for score, (tokens, targets) in zip(scores.squeeze(1).tolist(), candidates, strict=True):
        alone = torch.tensor(tokens)
        log_probabilities = tiny_model(alone, SequenceLayout.from_lengths([len(tokens)]), "lm").log_softmax(-1)
        rows = (alone == MASK).nonzero().squeeze(1)
        expected = sum(log_probabilities[row, token].item() for row, token in zip(rows, targets, strict=True))
        assert score == pytest.approx(expected / len(targets), rel=1e-5)


def test_cross_entropy_is_over_the_candidates_of_each_question():
    scores = [-1.0, -3.0, -2.0, -1.5, -4.0]
    loss, correct, _ = losses(scores, (2, 3), [0, 2], wsc_cross_entropy=True)
    expected = -torch.tensor(scores[:2]).log_softmax(0)[0] - torch.tensor(scores[2:]).log_softmax(0)[2]
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert correct == 1


def test_the_margin_loss_is_summed_over_the_wrong_candidates():
    alpha, beta = 5.0, 0.4
    scores = [-1.0, -1.2, -2.0, -1.5, -4.0]
    loss, correct, _ = losses(scores, (2, 3), [0, 0], wsc_margin_alpha=alpha, wsc_margin_beta=beta)
    first = 1.0 + alpha * 0.2
    second = (2.0 + alpha * 0.9) + 2.0
    assert loss == pytest.approx(first + second, rel=1e-6)
    assert correct == 1


@pytest.mark.parametrize("cross_entropy", [True, False])
def test_a_question_without_a_right_candidate_counts_for_nothing(cross_entropy):
    told, _, _ = losses([-1.0, -3.0], (2,), [1], wsc_cross_entropy=cross_entropy)
    both, correct, gradient = losses([-1.0, -3.0, -2.0, -1.0, -4.0], (2, 3), [1, -1], wsc_cross_entropy=cross_entropy)
    assert both == told
    assert correct == 0
    assert gradient[2:].tolist() == [0, 0, 0]
    assert gradient[:2].abs().sum() > 0


@pytest.mark.parametrize("cross_entropy", [True, False])
def test_a_question_with_one_candidate_costs_nothing(cross_entropy):
    assert losses([-1.0], (1,), [0], wsc_cross_entropy=cross_entropy)[0] == 0


def test_permuting_the_candidates_permutes_the_scores_and_nothing_else(tiny_model):
    candidates = [([0, MASK, 8, 2], [11]), ([0, MASK, MASK, 8, 2], [12, 13]), ([0, MASK, 8, 2], [14])]
    criterion = WSCLoss(WSCLossConfig(wsc_margin_beta=0.5), "lm")
    order = [2, 0, 1]
    batches = [batch_of(candidates, (3,), [1]), batch_of([candidates[k] for k in order], (3,), [2])]
    scores = [criterion.outputs(tiny_model, batch) for batch in batches]
    torch.testing.assert_close(scores[1], scores[0][order], atol=1e-6, rtol=0)
    found = [criterion.loss(*pair)[0].item() for pair in zip(scores, batches, strict=True)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_gradients_reach_the_encoder(tiny_model):
    criterion = WSCLoss(WSCLossConfig(), "lm")
    loss, _ = criterion(tiny_model, batch_of([([0, MASK, 2], [11]), ([0, MASK, MASK, 2], [12, 13])], (2,), [0]))
    loss.backward()
    assert all(
        parameter.grad.abs().sum() > 0 for parameter in tiny_model.encoder.layers.parameters() if parameter.ndim > 1
    )


def test_metrics_are_means_over_questions_with_a_right_candidate():
    criterion = WSCLoss(WSCLossConfig(), "lm")
    assert criterion.metrics({"loss": 3.0, "correct": 1.0}, 2) == {"loss": 1.5, "accuracy": 0.5}
    assert criterion.metrics({"loss": 0.0, "correct": 0.0}, 0) == {"loss": 0.0, "accuracy": 0.0}


def test_scores_of_half_precision_logits_are_reckoned_in_single(tiny_model):
    tokens = torch.tensor([0, MASK, 2])
    scores = candidate_scores(
        lambda *_: torch.zeros(1, 97, dtype=torch.bfloat16),
        "lm",
        tokens,
        SequenceLayout.from_lengths([3]),
        torch.tensor([1]),
        torch.tensor([5]),
    )
    assert scores.item() == pytest.approx(-torch.tensor(97.0).log().item(), rel=1e-6)


def test_a_negative_weight_is_refused():
    with pytest.raises(ConfigError, match="--wsc-margin-alpha is -1"):
        WSCLossConfig(wsc_margin_alpha=-1)
    with pytest.raises(ConfigError, match="--wsc-margin-beta is nan; it must be finite"):
        WSCLossConfig(wsc_margin_beta=float("nan"))
