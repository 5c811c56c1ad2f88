"""The training loop: what an update is, and that a run can be cut and resumed anywhere."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from roberta.checkpoint import native
from roberta.criterions.masked_lm import MaskedLMLossConfig
from roberta.errors import ConfigError, DataError, TrainingError
from roberta.models.roberta import RobertaConfig
from roberta.optim.adam import AdamConfig
from roberta.optim.schedules import PolynomialDecayConfig
from roberta.pretrained import load
from roberta.tasks.masked_lm import MaskedLMTaskConfig
from roberta.trainer import Recipe, Trainer, TrainerConfig
from tests.builders import fairseq_batch

UPDATES = 7


@pytest.fixture
def recipe(data_bin: Path, tmp_path: Path) -> Recipe:
    return Recipe(
        task=MaskedLMTaskConfig(data=data_bin, tokens_per_sample=64),
        model=RobertaConfig(encoder_layers=2, embed_dim=16, ffn_embed_dim=32, attention_heads=2, max_positions=64),
        criterion=MaskedLMLossConfig(),
        optimizer=AdamConfig(),
        schedule=PolynomialDecayConfig(lr=1e-2, warmup_updates=2, total_num_update=20),
        trainer=TrainerConfig(save_dir=tmp_path / "run", max_update=UPDATES, batch_size=8, update_freq=2, device="cpu"),
    )


def with_options(recipe: Recipe, **options) -> Recipe:
    return dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, **options))


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_training_lowers_the_loss_and_leaves_log_and_checkpoints(recipe):
    recipe = with_options(recipe, log_interval=1, save_interval_updates=3, validate_interval_updates=4)
    metrics = Trainer(recipe).train()
    records = [json.loads(line) for line in (recipe.trainer.save_dir / "log.jsonl").read_text().splitlines()]
    train = [record["train"] for record in records if "train" in record]
    valid = [record["valid"] for record in records if "valid" in record]
    assert [record["num_updates"] for record in train] == list(range(1, UPDATES + 1))
    assert [record["num_updates"] for record in valid] == [4, UPDATES]
    assert train[0]["lr"] == 0.0  # as in fairseq, the first update of a warm-up has rate 0
    assert train[-1]["nats"] < train[0]["nats"]
    assert metrics == valid[-1]
    assert [path.name for path in native.steps(recipe.trainer.save_dir)] == ["step_0000006", "step_0000007"]


@pytest.mark.parametrize("cut", [1, 3, 4, 6])
def test_a_resumed_run_is_bit_for_bit_the_unbroken_one(recipe, tmp_path, cut):
    """With dropout, with accumulation, within an epoch and across its end (an epoch has 3 or 4 updates here)."""
    whole = Trainer(with_options(recipe, save_dir=tmp_path / "whole"))
    whole.train()
    assert whole.position.epoch > 1
    Trainer(with_options(recipe, max_update=cut)).train()
    resumed = Trainer(with_options(recipe, resume=True))
    resumed.train()
    assert_same(weights(resumed), weights(whole))
    assert dataclasses.asdict(resumed.position) == dataclasses.asdict(whole.position)
    last = [native.load(folder / native.step_name(UPDATES)) for folder in (recipe.trainer.save_dir, tmp_path / "whole")]
    assert_same(last[0].training.optimizer, last[1].training.optimizer)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(recipe, tmp_path):
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trainer = Trainer(with_options(recipe, save_dir=tmp_path / name, seed=seed, max_update=3))
        trainer.train()
        runs.append(weights(trainer))
    assert_same(runs[0], runs[1])
    assert not torch.equal(runs[0]["encoder.embed_tokens.weight"], runs[2]["encoder.embed_tokens.weight"])


def test_accumulating_micro_batches_equals_one_large_batch(recipe, tmp_path):
    """The mean is over targets, not over micro-batches, so uneven ones weigh as they should."""
    model = dataclasses.replace(recipe.model, dropout=0.0, attention_dropout=0.0)
    recipe = dataclasses.replace(recipe, model=model)
    large = Trainer(with_options(recipe, save_dir=tmp_path / "large", batch_size=30, update_freq=1, max_update=3))
    small = Trainer(with_options(recipe, save_dir=tmp_path / "small", batch_size=10, update_freq=3, max_update=3))
    large.train()
    small.train()
    for name, tensor in weights(large).items():
        torch.testing.assert_close(
            weights(small)[name], tensor, atol=2e-4, rtol=0, msg=lambda text, at=name: f"{at}: {text}"
        )


def test_every_sample_is_seen_once_per_epoch(recipe):
    trainer = Trainer(with_options(recipe, batch_size=7, update_freq=4, max_update=10**6))
    seen = []
    for sample_ids in trainer._updates():
        if trainer.position.epoch > 1 and trainer.position.next_batch <= 4:
            break
        seen += [index for ids in sample_ids for index in ids.tolist()]
    assert sorted(seen) == list(range(len(trainer.train_samples)))


def test_a_folder_that_holds_a_run_is_not_overwritten(recipe):
    Trainer(with_options(recipe, max_update=1)).train()
    with pytest.raises(ConfigError, match="already holds a run; add --resume"):
        Trainer(recipe).train()


def test_a_finished_run_can_be_resumed_for_its_metrics(recipe):
    first = Trainer(recipe).train()
    assert Trainer(with_options(recipe, resume=True)).train() == first


def test_resuming_with_other_options_is_refused_with_the_difference(recipe):
    Trainer(with_options(recipe, max_update=1)).train()
    with pytest.raises(ConfigError, match="trainer --batch-size was 8, is 4; trainer --seed was 1, is 2"):
        Trainer(with_options(recipe, resume=True, seed=2, batch_size=4)).train()


def test_resuming_on_other_data_is_refused(recipe, data_bin, tmp_path):
    Trainer(with_options(recipe, max_update=1)).train()
    trainer = Trainer(with_options(recipe, resume=True))
    trainer.train_samples.sizes = trainer.train_samples.sizes[:-1]
    with pytest.raises(DataError, match="trained on other data"):
        trainer.train()


def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing(recipe):
    trainer = Trainer(with_options(recipe, log_interval=1))
    with torch.no_grad():
        trainer.model.encoder.embed_tokens.weight[5:].fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss nan, .* at update 1 .*lower --lr"):
        trainer.train()
    assert native.steps(recipe.trainer.save_dir) == []


def test_samples_longer_than_the_model_are_refused_before_training(recipe):
    model = dataclasses.replace(recipe.model, max_positions=32)
    with pytest.raises(ConfigError, match="samples of up to 64 tokens, but the model takes 32"):
        Trainer(dataclasses.replace(recipe, model=model))


def test_clipping_bounds_the_update(recipe, tmp_path):
    trainer = Trainer(with_options(recipe, clip_norm=1e-3))
    batch = trainer.train_samples.batch(torch.arange(4).numpy(), seed=1, epoch=1)
    seen = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters()]).item())
    )
    trainer.train_step([batch])
    assert trainer.grad_norm.item() > 1e-3
    assert seen == [pytest.approx(1e-3, rel=1e-2)]


def test_bf16_trains_close_to_fp32(recipe, tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = Trainer(with_options(recipe, save_dir=tmp_path / precision, precision=precision, max_update=5))
        losses[precision] = trainer.train()["nats"]
        assert next(trainer.model.parameters()).dtype == torch.float32
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": None}, "--batch-size, --max-tokens"),
        ({"max_update": 0}, "--max-update is 0"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_impossible_options_are_refused(recipe, options, message):
    with pytest.raises(ConfigError, match=message):
        with_options(recipe, **options)


def test_a_trajectory_equals_fairseqs(shared, tmp_path):
    """20 updates on fairseq's own batches from its own weights: the loss of each agrees."""
    golden = torch.load(shared / "golden/losses/traj_mlm_wd0.01_lr5e-4_warm5_tot20.pt", weights_only=True)
    start = load(shared / "golden/ckpt2019").model
    model = dataclasses.replace(start.config, dropout=0.0, attention_dropout=0.0)
    trainer = Trainer(
        Recipe(
            task=MaskedLMTaskConfig(data=shared / "golden/mlm/data-bin", tokens_per_sample=128),
            model=model,
            criterion=MaskedLMLossConfig(),
            optimizer=AdamConfig(adam_betas=(0.9, 0.98), adam_eps=1e-6, weight_decay=0.01),
            schedule=PolynomialDecayConfig(lr=5e-4, warmup_updates=5),
            trainer=TrainerConfig(save_dir=tmp_path, max_update=20, batch_size=8, device="cpu"),
        )
    )
    trainer.model.register_head("mnli", start.head_configs["mnli"])
    trainer.model.load_state_dict(start.state_dict())
    for micro_batches, record in zip(golden["batches"], golden["records"], strict=True):
        trainer.train_step([fairseq_batch(sample) for sample in micro_batches])
        metrics = trainer.meter.read(trainer.criterion)
        assert metrics["loss"] == pytest.approx(record["loss_base2_per_token"], abs=1e-4)
        assert trainer.grad_norm.item() == pytest.approx(record["gnorm"], abs=2e-3)
