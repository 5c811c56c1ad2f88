"""The sentence-ranking loss, against fairseq's figures and loops over questions."""

import pytest
import torch

from roberta.criterions.sentence_ranking import SentenceRankingLoss, SentenceRankingLossConfig
from roberta.layout import Batch, SequenceLayout
from roberta.models.heads import ChoiceHeadConfig
from roberta.pretrained import load

CRITERION = SentenceRankingLoss(SentenceRankingLossConfig(), "choice")


def batch_of(sequences, num_options, targets):
    layout = SequenceLayout.from_lengths([len(sequence) for sequence in sequences])
    return Batch(
        tokens=torch.tensor([token for sequence in sequences for token in sequence]),
        layout=layout,
        select=layout.first,
        targets=torch.tensor(targets),
        num_targets=sum(target >= 0 for target in targets),
        sample_ids=tuple(range(len(targets))),
        groups=SequenceLayout.from_lengths(num_options),
    )


def scored(scores, num_options, targets):
    return CRITERION.loss(torch.tensor(scores).unsqueeze(1), batch_of([[0]] * len(scores), num_options, targets))


def test_each_question_is_a_softmax_over_its_own_options():
    scores = [1.0, 3.0, 2.0, -1.0, 0.5]
    loss, sums = scored(scores, (2, 3), [1, 0])
    expected = -torch.tensor(scores[:2]).log_softmax(0)[1] - torch.tensor(scores[2:]).log_softmax(0)[0]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert sums["correct"].item() == 2
    assert CRITERION.metrics({"loss": 3.0, "correct": 1.0}, 2) == {"loss": 1.5, "accuracy": 0.5}
    assert CRITERION.metrics({"loss": 0.0, "correct": 0.0}, 0) == {"loss": 0.0, "accuracy": 0.0}


def test_a_question_without_an_answer_counts_for_nothing():
    told, _ = scored([1.0, 3.0], (2,), [0])
    both, sums = scored([1.0, 3.0, 2.0, 5.0, 1.0], (2, 3), [0, -1])
    assert both.item() == told.item()
    assert sums["correct"].item() == 0


def test_an_empty_cell_of_a_shorter_question_gets_no_gradient():
    scores = torch.tensor([[1.0], [3.0], [2.0], [0.0], [1.0]], requires_grad=True)
    loss, _ = CRITERION.loss(scores, batch_of([[0]] * 5, (2, 3), [1, 2]))
    loss.backward()
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[:2].sum().item() == pytest.approx(0, abs=1e-6)


def test_permuting_the_options_permutes_the_scores_and_nothing_else(tiny_model):
    tiny_model.register_head("choice", ChoiceHeadConfig())
    options = [[0, 9, 8, 2], [0, 7, 2], [0, 11, 12, 13, 14, 2], [0, 6, 2]]
    order = [2, 0, 3, 1]
    scores = CRITERION.outputs(tiny_model, batch_of(options, (4,), [2]))
    permuted = CRITERION.outputs(tiny_model, batch_of([options[k] for k in order], (4,), [0]))
    torch.testing.assert_close(permuted, scores[order], atol=1e-12, rtol=0)
    losses = [
        CRITERION.loss(scores, batch_of(options, (4,), [2]))[0],
        CRITERION.loss(permuted, batch_of(options, (4,), [0]))[0],
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


def test_losses_and_gradients_equal_fairseqs(shared):
    golden = torch.load(shared / "golden/losses/sentence_ranking_train.pt", weights_only=True)
    model = load(shared / "golden/ckpt2019").model
    model.register_head("choice", ChoiceHeadConfig())
    prefix = "classification_heads.sentence_classification_head."
    model.heads["choice"].load_state_dict(
        {name.removeprefix(prefix): value for name, value in golden["state_dict"].items()}
    )
    for result in golden["results"]:
        model.zero_grad()
        batch = ranking_batch(result["batch"])
        loss, sums = CRITERION(model, batch)
        assert batch.num_targets == result["sample_size"]
        assert loss.item() == pytest.approx(result["loss_sum"], rel=1e-6)
        assert sums["correct"].item() == result["log"]["ncorrect"]
        loss.backward()
        compare_gradients(model, result["grads"], prefix)


def ranking_batch(sample):
    """Return fairseq's padded batch, a grid for each option, with the options of a question side by side."""
    grids = [sample[f"net_input{number}"]["src_tokens"] for number in range(1, 5)]
    num_questions = len(sample["target"])
    sequences = [grid[k][grid[k] != 1].tolist() for k in range(num_questions) for grid in grids]
    return batch_of(sequences, (4,) * num_questions, sample["target"].tolist())


def compare_gradients(model, expected, prefix):
    assert len(expected) > 50
    for name, gradient in expected.items():
        ours = name.replace("encoder.sentence_encoder.", "encoder.").replace(prefix, "heads.choice.")
        rows = next((rows for rows, part in enumerate(("q_proj", "k_proj", "v_proj")) if part in ours), None)
        if rows is None:
            found = model.get_parameter(ours).grad
        else:
            part = ("q_proj", "k_proj", "v_proj")[rows]
            found = model.get_parameter(ours.replace(part, "qkv_proj")).grad.chunk(3)[rows]
        torch.testing.assert_close(found, gradient, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
