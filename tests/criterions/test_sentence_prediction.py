"""The sentence-prediction loss: fairseq's figures, formulas in plain Python, and R3F's smoothing."""

import dataclasses
import math

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from roberta.criterions.masked_lm import MaskedLMLossConfig
from roberta.criterions.sentence_prediction import SentencePredictionLoss, SentencePredictionLossConfig
from roberta.errors import ConfigError
from roberta.layout import Batch, SequenceLayout
from roberta.models.heads import ClassificationHeadConfig, RegressionHeadConfig
from roberta.optim.adam import AdamConfig, adam
from roberta.optim.schedules import PolynomialDecayConfig
from roberta.pretrained import load
from roberta.recipe import Recipe, TrainerConfig
from roberta.tasks.masked_lm import MaskedLMTaskConfig
from roberta.trainer import Trainer
from tests.builders import make_tiny_model

SEQUENCES = [[0, 9, 8, 2], [0, 7, 2], [0, 11, 12, 13, 14, 2]]


def criterion(head="topic", **options):
    return SentencePredictionLoss(SentencePredictionLossConfig(**options), head)


def batch_of(targets, sequences=SEQUENCES):
    layout = SequenceLayout.from_lengths([len(sequence) for sequence in sequences])
    tokens = torch.tensor([token for sequence in sequences for token in sequence])
    targets = torch.as_tensor(targets)
    return Batch(tokens, layout, layout.first, targets, len(targets), tuple(range(len(targets))))


def fairseq_batch(sample):
    """Return fairseq's right-padded batch in our packed form; targets are classes, or numbers."""
    rows = [row[row != 1].tolist() for row in sample["net_input"]["src_tokens"]]
    return batch_of(sample["target"].view(-1), rows)


def golden_model(shared, state_dict, name, config):
    model = load(shared / "golden/ckpt2019").model
    model.register_head(name, config)
    prefix = f"classification_heads.{name}."
    model.heads[name].load_state_dict({key.removeprefix(prefix): value for key, value in state_dict.items()})
    return model


@pytest.mark.parametrize(
    ("file", "name", "config"),
    [
        ("sentence_prediction_train", "mnli", ClassificationHeadConfig(num_classes=3)),
        ("sentence_prediction_valid", "mnli", ClassificationHeadConfig(num_classes=3)),
        ("sentence_prediction_regression", "stsb", RegressionHeadConfig()),
    ],
)
def test_losses_and_gradients_equal_fairseqs(shared, file, name, config):
    golden = torch.load(shared / f"golden/losses/{file}.pt", weights_only=True)
    model = golden_model(shared, golden["state_dict"], name, config)
    loss_of = criterion(name)
    for result in golden["results"]:
        model.zero_grad()
        batch = fairseq_batch(result["batch"])
        loss, sums = loss_of(model, batch)
        metrics = loss_of.metrics({key: value.item() for key, value in sums.items()}, batch.num_targets)
        assert batch.num_targets == result["sample_size"]
        assert loss.item() == pytest.approx(result["loss_sum"], rel=1e-5)
        assert metrics["loss"] / math.log(2) == pytest.approx(result["reduced"]["loss"], abs=1e-3)  # logged in bits
        if "accuracy" in result["reduced"]:
            assert sums["correct"].item() == result["log"]["ncorrect"]
            assert 100 * metrics["accuracy"] == pytest.approx(result["reduced"]["accuracy"])
        else:
            assert "accuracy" not in metrics
        if "grads" in result:
            loss.backward()
            compare_gradients(model, result["grads"], name)


def compare_gradients(model, expected, name):
    assert len(expected) > 50
    for theirs, gradient in expected.items():
        ours = theirs.replace("encoder.sentence_encoder.", "encoder.").replace("classification_heads.", "heads.")
        rows = next((k for k, part in enumerate(("q_proj", "k_proj", "v_proj")) if part in ours), None)
        if rows is None:
            found = model.get_parameter(ours).grad
        else:
            fused = ours.replace(("q_proj", "k_proj", "v_proj")[rows], "qkv_proj")
            found = model.get_parameter(fused).grad.chunk(3)[rows]
        # gradients of the batch reach 30: relative to that, 1e-4 of the golden files' own float32
        torch.testing.assert_close(found, gradient, atol=1e-4, rtol=1e-4, msg=lambda text, at=theirs: f"{at}: {text}")


def test_a_trajectory_equals_fairseqs(shared, tmp_path):
    """20 updates on fairseq's own batches from its own weights: the loss of each agrees."""
    golden = torch.load(shared / "golden/losses/traj_sentpred_wd0.1_lr1e-3_warm6_tot20.pt", weights_only=True)
    start = golden_model(shared, golden["init_heads"], "mnli", ClassificationHeadConfig(num_classes=3))
    trainer = Trainer(
        Recipe(
            task=MaskedLMTaskConfig(data=shared / "golden/mlm/data-bin", tokens_per_sample=128),
            model=dataclasses.replace(start.config, dropout=0.0, attention_dropout=0.0),
            criterion=MaskedLMLossConfig(),
            optimizer=AdamConfig(adam_betas=(0.9, 0.98), adam_eps=1e-6, weight_decay=0.1),
            lr_scheduler=PolynomialDecayConfig(lr=1e-3, warmup_updates=6),
            trainer=TrainerConfig(save_dir=tmp_path, max_update=20, batch_size=8, device="cpu"),
        )
    )
    trainer.model.register_head("mnli", start.head_configs["mnli"])
    trainer.model.load_state_dict(start.state_dict())
    trainer.criterion = criterion("mnli")
    trainer.optimizer = adam(trainer.recipe.optimizer, trainer.model.named_parameters())
    for micro_batches, record in zip(golden["batches"], golden["records"], strict=True):
        trainer.train_step([fairseq_batch(sample) for sample in micro_batches])
        metrics = trainer.meter.read(trainer.criterion)
        assert metrics["loss"] / math.log(2) == pytest.approx(record["loss_base2_per_token"], abs=1e-4)
        assert trainer.gradients.read(trainer.position.num_updates) == pytest.approx(
            record["gnorm"], rel=1e-3, abs=2e-3
        )


@pytest.mark.parametrize("weights", [None, (1.0, 0.25, 3.0)])
def test_classes_lose_their_weighted_negative_log_likelihoods(weights):
    logits = [[1.0, 2.0, -1.0], [0.0, 0.5, 0.25], [3.0, 0.0, 1.0]]
    targets = [2, 1, 0]
    loss, sums = criterion(class_weights=weights).loss(torch.tensor(logits), batch_of(targets))
    expected = 0.0
    for row, target in zip(logits, targets, strict=True):
        probability = math.exp(row[target]) / sum(map(math.exp, row))
        expected -= (1.0 if weights is None else weights[target]) * math.log(probability)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert sums["loss"].item() == loss.item()
    assert sums["correct"].item() == 2
    assert criterion().metrics({"loss": 3.0, "correct": 2.0}, 3) == {"loss": 1.0, "accuracy": 2 / 3}


def test_several_classes_lose_their_cross_entropies_each_for_itself():
    logits, targets = [[1.0, -2.0], [0.5, 3.0]], [[1.0, 0.0], [0.0, 1.0]]
    expected = 0.0
    for row, flags in zip(logits, targets, strict=True):
        for logit, flag, weight in zip(row, flags, (2.0, 1.0), strict=True):
            probability = 1 / (1 + math.exp(-logit))
            expected -= weight * math.log(probability if flag else 1 - probability)
    batch = batch_of(targets, SEQUENCES[:2])
    loss, sums = criterion(class_weights=(2.0, 1.0)).loss(torch.tensor(logits), batch)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert set(sums) == {"loss"}
    assert criterion().metrics({"loss": 3.0}, 2) == {"loss": 1.5}


def test_numbers_lose_their_squared_errors():
    loss, _ = criterion().loss(torch.tensor([[0.5], [1.0], [-1.0]]), batch_of([0.25, 1.0, 0.0]))
    assert loss.item() == pytest.approx(0.25**2 + 0.0 + 1.0)


def test_half_precision_outputs_are_compared_in_single():
    outputs = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.bfloat16)
    loss, _ = criterion().loss(outputs, batch_of([2], SEQUENCES[:1]))
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "head", "message"),
    [
        ({"class_weights": (1.0,)}, ClassificationHeadConfig(num_classes=2, labels=("no", "yes")), "labels: no, yes"),
        ({"class_weights": (1.0, 2.0)}, RegressionHeadConfig(), "--class-weights are for classes"),
        ({"r3f_lambda": 1.0}, RegressionHeadConfig(), "--r3f-lambda compares distributions over classes"),
        ({"r3f_lambda": 1.0}, ClassificationHeadConfig(num_classes=2, multi_label=True), "several of these classes"),
    ],
)
def test_options_can_be_held_against_a_head_before_training(options, head, message):
    with pytest.raises(ConfigError, match=message):
        SentencePredictionLossConfig(**options).check_fits(head)
    SentencePredictionLossConfig().check_fits(head)
    SentencePredictionLossConfig(class_weights=(1.0, 0.0)).check_fits(ClassificationHeadConfig(num_classes=2))


@pytest.mark.parametrize(
    "options", [{"r3f_lambda": -1.0}, {"r3f_eps": math.inf}, {"class_weights": (1.0, -1.0)}, {"r3f_lambda": math.nan}]
)
def test_impossible_options_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ConfigError, match="--" + name.replace("_", "-")):
        SentencePredictionLossConfig(**options)


@pytest.mark.parametrize("kind", ["classes", "flags", "numbers"])
def test_padded_and_packed_batches_have_the_same_loss(tiny_model, kind):
    """Each sequence alone in a batch, all of them packed, and all padded to the longest by another implementation."""
    heads = {
        "classes": (ClassificationHeadConfig(num_classes=3), [2, 0, 1]),
        "flags": (ClassificationHeadConfig(num_classes=2, multi_label=True), [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]),
        "numbers": (RegressionHeadConfig(), [0.5, 1.0, 0.0]),
    }
    config, targets = heads[kind]
    torch.manual_seed(0)
    tiny_model.float().register_head("topic", config)
    packed, _ = criterion()(tiny_model, batch_of(targets))
    alone = [criterion()(tiny_model, batch_of([t], [s]))[0] for s, t in zip(SEQUENCES, targets, strict=True)]
    assert packed.item() == pytest.approx(sum(loss.item() for loss in alone), abs=1e-6)
    longest = max(map(len, SEQUENCES))
    grid = torch.tensor([sequence + [1] * (longest - len(sequence)) for sequence in SEQUENCES])
    features = padded_features(tiny_model, grid)
    padded, _ = criterion().loss(tiny_model.heads["topic"](features[:, 0]), batch_of(targets))
    assert packed.item() == pytest.approx(padded.item(), abs=1e-6)


def padded_features(model, grid):
    """Return the features (B, S, C) of a right-padded grid, computed with masked attention over the whole grid."""
    is_token = grid != 1
    positions = torch.cumsum(is_token, dim=1) * is_token + 1
    encoder = model.encoder
    x = encoder.layernorm_embedding(encoder.embed_tokens(grid) + encoder.embed_positions(positions))
    for layer in encoder.layers:
        batch, length, width = x.shape
        q, k, v = layer.self_attn.qkv_proj(x).view(batch, length, 3, layer.self_attn.attention_heads, -1).unbind(2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        shares = scores.masked_fill(~is_token[:, None, None], -torch.inf).softmax(-1)
        context = torch.einsum("bhqk,bkhd->bqhd", shares, v).reshape(batch, length, width)
        x = layer.self_attn_layer_norm(x + layer.self_attn.out_proj(context))
        x = layer.final_layer_norm(x + layer.fc2(torch.nn.functional.gelu(layer.fc1(x))))
    return x


# R3F


def noised_logits(model, batch, noise):
    """Return the logits of a batch whose token embeddings have a noise added."""
    return model(batch.tokens, batch.layout, "topic", batch.select, perturb=lambda x: x + noise)


@pytest.mark.parametrize("noise", ["uniform", "normal"])
def test_r3f_adds_the_symmetric_divergence_to_noised_outputs(tiny_model, noise):
    options = {"r3f_noise": noise, "r3f_eps": 0.1}
    batch = batch_of([2, 0, 1])
    plain, plain_sums = criterion()(tiny_model.train(), batch)
    torch.manual_seed(3)
    smoothed, sums = criterion(r3f_lambda=2.0, **options)(tiny_model, batch)
    torch.manual_seed(3)
    drawn = torch.empty(len(batch.tokens), 24, dtype=torch.float64)
    drawn = drawn.uniform_(-0.1, 0.1) if noise == "uniform" else drawn.normal_(std=0.1)
    p = tiny_model(batch.tokens, batch.layout, "topic", batch.select).softmax(1)
    q = noised_logits(tiny_model, batch, drawn).softmax(1)
    divergence = (p * (p / q).log()).sum() + (q * (q / p).log()).sum()
    assert divergence > 1e-4
    assert (smoothed - plain).item() == pytest.approx(2.0 * divergence.item(), rel=1e-4)
    assert sums["loss"].item() == plain_sums["loss"].item()  # what is logged is the loss itself


def test_r3f_reaches_the_embeddings_and_teaches_through_both_passes(tiny_model):
    batch = batch_of([2, 0, 1])
    loss_of = criterion(r3f_lambda=1.0, r3f_eps=0.5)
    assert not torch.equal(*(noised_logits(tiny_model, batch, noise) for noise in (0.0, 0.5)))
    gradients = []
    for loss in (criterion(), loss_of):
        tiny_model.train().zero_grad()
        torch.manual_seed(1)
        loss(tiny_model, batch)[0].backward()
        gradients.append(tiny_model.encoder.embed_tokens.weight.grad.clone())
    assert not torch.allclose(*gradients, atol=1e-6)


def test_r3f_of_weight_0_or_in_evaluation_adds_nothing(tiny_model):
    batch = batch_of([2, 0, 1])
    expected, _ = criterion()(tiny_model, batch)
    assert torch.equal(criterion(r3f_lambda=1.0, r3f_eps=0.5)(tiny_model.eval(), batch)[0], expected)
    calls = []
    tiny_model.register_forward_pre_hook(lambda *_: calls.append(None))
    assert torch.equal(criterion(r3f_lambda=0.0, r3f_eps=0.5)(tiny_model.train(), batch)[0], expected)
    assert len(calls) == 1


def test_several_processes_that_drop_layers_refuse_two_passes(tiny_config, tmp_path):
    """DDP looks for the parameters without a gradient in one of the passes alone."""
    model = make_tiny_model(dataclasses.replace(tiny_config, encoder_layerdrop=0.5)).train()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        forward = DistributedDataParallel(model, find_unused_parameters=True)
        criterion()(forward, batch_of([0, 1, 2]))
        with pytest.raises(ConfigError, match="--r3f-lambda computes each batch twice, .* --encoder-layerdrop 0"):
            criterion(r3f_lambda=1.0)(forward, batch_of([0, 1, 2]))
    finally:
        torch.distributed.destroy_process_group()
