"""What the training loop can do beside plain updates; each feature with its resume, on models of bytes."""

import dataclasses
import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from roberta import distributed
from roberta.checkpoint import native
from roberta.criterions.masked_lm import MaskedLMLossConfig
from roberta.errors import ConfigError, PreemptionError
from roberta.meter import Meter
from roberta.models.roberta import RobertaConfig
from roberta.optim.adam import AdamConfig, AdamWConfig
from roberta.optim.muon import MuonConfig
from roberta.optim.schedules import (
    CosineConfig,
    FixedConfig,
    InverseSqrtConfig,
    PolynomialDecayConfig,
    WarmupStableDecayConfig,
)
from roberta.pretrained import load
from roberta.recipe import Recipe, TrainerConfig
from roberta.tasks.masked_lm import MaskedLMTaskConfig
from roberta.trainer import Trainer

UPDATES = 6
HOUR = 3600.0


@pytest.fixture
def recipe(byte_data_bin: Path, tmp_path: Path) -> Recipe:
    """An epoch has 47 blocks of 33 tokens: 12 batches of 4."""
    return Recipe(
        task=MaskedLMTaskConfig(data=byte_data_bin, tokens_per_sample=33, sample_break_mode="none"),
        model=RobertaConfig(encoder_layers=2, embed_dim=16, ffn_embed_dim=32, attention_heads=2, max_positions=33),
        criterion=MaskedLMLossConfig(),
        optimizer=AdamConfig(),
        lr_scheduler=PolynomialDecayConfig(lr=1e-2, warmup_updates=1, total_num_update=40),
        trainer=TrainerConfig(
            save_dir=tmp_path / "run",
            max_update=UPDATES,
            batch_size=4,
            device="cpu",
            log_interval=1,
            validate_interval_updates=100,
            save_interval_updates=100,
        ),
    )


def with_options(recipe: Recipe, **options) -> Recipe:
    return dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, **options))


def with_model(recipe: Recipe, **options) -> Recipe:
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **options))


def with_schedule(recipe: Recipe, schedule) -> Recipe:
    return dataclasses.replace(recipe, lr_scheduler=schedule)


def trained(recipe: Recipe, **options) -> Trainer:
    trainer = Trainer(with_options(recipe, **options))
    trainer.train()
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def records(trainer: Trainer, kind: str) -> list[dict]:
    lines = (trainer.config.save_dir / "log.jsonl").read_text().splitlines()
    return [line[kind] for line in map(json.loads, lines) if kind in line]


def steps(trainer: Trainer) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in native.steps(trainer.config.save_dir)]


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def assert_resumes_bit_for_bit(recipe: Recipe, tmp_path: Path, cut: int = 3) -> Trainer:
    """Return the unbroken run, after checking that one cut in two ends with the same weights and optimizer."""
    whole = trained(recipe, save_dir=tmp_path / "whole")
    trained(recipe, max_update=cut)
    resumed = trained(recipe, resume=True)
    assert equal(weights(resumed), weights(whole))
    states = [native.load(native.newest(trainer.config.save_dir)).training for trainer in (whole, resumed)]
    assert equal(states[0].optimizer, states[1].optimizer)
    for state in states:
        del state.progress["seconds"]
    assert states[0].progress == states[1].progress
    return whole


class Clock:
    """A clock that goes on by a while whenever an update asks for the time it took."""

    def __init__(self, trainer: Trainer, seconds_per_update: float) -> None:
        self.now = 0.0
        trainer.meter = Meter(lambda: self.now)
        total = trainer.meter.training_seconds

        def training_seconds() -> float:
            self.now += seconds_per_update
            return total()

        trainer.meter.training_seconds = training_seconds


# Epochs


def test_a_run_of_epochs_has_the_updates_of_its_epochs(recipe):
    recipe = with_schedule(recipe, PolynomialDecayConfig(lr=1e-2))
    options = {"max_update": None, "max_epoch": 2, "validate_interval_updates": 0, "save_interval_updates": 0}
    trainer = trained(recipe, **options)
    per_epoch = math.ceil(len(trainer.train_samples) / 4)
    assert per_epoch > 5
    assert trainer.position.num_updates == trainer.timetable.max_update == 2 * per_epoch
    assert [record["num_updates"] for record in records(trainer, "valid")] == [per_epoch, 2 * per_epoch]
    assert steps(trainer) == [per_epoch, 2 * per_epoch]
    assert records(trainer, "train")[-1]["lr"] == pytest.approx(1e-2 / (2 * per_epoch))  # decayed over the epochs


def test_the_smaller_limit_of_updates_and_epochs_ends_a_run(recipe):
    assert Trainer(with_options(recipe, max_update=5, max_epoch=1)).timetable.max_update == 5
    one_epoch = Trainer(with_options(recipe, max_update=None, max_epoch=1)).timetable.max_update
    assert Trainer(with_options(recipe, max_update=1000, max_epoch=1)).timetable.max_update == one_epoch


def test_accumulation_may_grow_from_epoch_to_epoch(recipe):
    options = {"max_update": None, "max_epoch": 4, "update_freq": (1, 2, 4), "batch_size": 8}
    trainer = Trainer(with_options(recipe, **options))
    batches = math.ceil(len(trainer.train_samples) / 8)
    assert trainer.timetable.max_update == batches + math.ceil(batches / 2) + 2 * math.ceil(batches / 4)
    seen: dict[int, list[int]] = {}
    for sample_ids in trainer._updates():
        seen.setdefault(trainer.position.epoch, []).append(len(sample_ids))
        trainer.position.num_updates += 1
    assert [max(counts) for counts in seen.values()] == [1, 2, 4, 4]
    assert [sum(counts) for counts in seen.values()] == [batches] * 4


def test_a_run_of_epochs_resumed_with_another_accumulation_still_ends_with_its_last_epoch(recipe):
    options = {"max_update": None, "max_epoch": 2, "save_interval_updates": 5}
    trainer = Trainer(with_options(recipe, **options))
    per_epoch = trainer.timetable.max_update // 2
    save = trainer._save

    def save_and_be_killed() -> None:
        save()
        raise KeyboardInterrupt

    trainer._save = save_and_be_killed
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed = trained(recipe, **options, resume=True, update_freq=(2,))
    assert resumed.position.num_updates == 5 + math.ceil((per_epoch - 5) / 2) + math.ceil(per_epoch / 2)
    assert (resumed.position.epoch, resumed.position.next_batch) == (2, per_epoch)


def test_a_finished_run_of_epochs_can_be_prolonged_by_an_epoch(recipe):
    options = {"max_update": None, "batch_size": 16}
    first = trained(recipe, **options, max_epoch=1)
    second = trained(recipe, **options, max_epoch=2, resume=True)
    assert second.position.num_updates == 2 * first.position.num_updates


# Schedules


@pytest.mark.parametrize(
    "schedule",
    [
        PolynomialDecayConfig(lr=1.0, warmup_ratio=0.25),
        CosineConfig(lr=1.0, warmup_ratio=0.25),
        InverseSqrtConfig(lr=1.0, warmup_ratio=0.25),
        FixedConfig(lr=1.0, warmup_ratio=0.25),
        WarmupStableDecayConfig(lr=1.0, warmup_ratio=0.25, decay_updates=2),
    ],
)
def test_a_warmup_may_be_a_share_of_the_run(recipe, schedule):
    trainer = Trainer(with_schedule(with_options(recipe, max_update=16), schedule))
    assert [trainer.timetable.lr(n) for n in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_adamw_trains_in_torchs_form(recipe):
    """One update of the trainer is one of torch's own optimizer on the same gradient."""
    optimizer = AdamWConfig(adam_betas=(0.8, 0.9), adam_eps=1e-2, weight_decay=0.1)
    recipe = with_schedule(dataclasses.replace(recipe, optimizer=optimizer), FixedConfig(lr=1e-2))
    trainer = Trainer(recipe)
    twins = {name: torch.nn.Parameter(value.detach().clone()) for name, value in trainer.model.named_parameters()}
    torchs = torch.optim.AdamW(twins.values(), lr=1e-2, betas=(0.8, 0.9), eps=1e-2, weight_decay=0.1)
    batch = trainer.train_samples.batch(np.arange(4), seed=1, epoch=1)
    step = trainer.optimizer.step

    def step_both() -> None:
        for name, parameter in trainer.model.named_parameters():
            twins[name].grad = parameter.grad.clone()
        torchs.step()
        step()

    trainer.optimizer.step = step_both
    for _ in range(3):
        trainer.train_step([batch])
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter, twins[name], atol=1e-6, rtol=1e-5)


def test_muon_trains_and_resumes_bit_for_bit(recipe, tmp_path):
    whole = assert_resumes_bit_for_bit(dataclasses.replace(recipe, optimizer=MuonConfig()), tmp_path)
    losses = [record["nats"] for record in records(whole, "train")]
    assert losses[-1] < losses[0]
    kept = native.load(native.newest(whole.config.save_dir)).training.optimizer
    assert "momentum_buffer.encoder.layers.1.fc1.weight" in kept
    assert "exp_avg_sq.encoder.layers.1.fc1.weight" not in kept
    assert "exp_avg_sq.encoder.embed_tokens.weight" in kept


# Time


def timed(recipe: Recipe, seconds_per_update: float, **options) -> Trainer:
    trainer = Trainer(with_options(recipe, **options))
    Clock(trainer, seconds_per_update)
    trainer.train()
    return trainer


def test_a_run_whose_time_is_over_validates_saves_and_stops(recipe):
    trainer = timed(recipe, HOUR / 4, max_hours=1.1, max_update=100)
    assert trainer.position.num_updates == 5
    assert trainer.position.seconds == pytest.approx(1.25 * HOUR)
    assert steps(trainer) == [5]
    assert [record["num_updates"] for record in records(trainer, "valid")] == [5]
    assert records(trainer, "train")[-1]["hours"] == pytest.approx(1.25)
    assert timed(recipe, HOUR, max_hours=1.1, max_update=100, resume=True).position.num_updates == 5


def test_more_hours_let_a_run_go_on_as_if_it_had_never_stopped(recipe, tmp_path):
    """Though its learning rates follow from --max-update, which the time cut short."""
    recipe = with_schedule(recipe, PolynomialDecayConfig(lr=1e-2))
    whole = timed(recipe, HOUR / 4, save_dir=tmp_path / "whole", max_hours=2.0, max_update=20)
    timed(recipe, HOUR / 4, max_hours=1.0, max_update=20)
    resumed = timed(recipe, HOUR / 4, max_hours=2.0, max_update=20, resume=True)
    assert resumed.position.num_updates == whole.position.num_updates == 8
    assert equal(weights(resumed), weights(whole))


def test_wsd_decays_in_time(recipe):
    recipe = with_schedule(recipe, WarmupStableDecayConfig(lr=1e-2, warmup_updates=2, decay_updates=4))
    trainer = timed(recipe, HOUR / 10, max_hours=1.0, max_update=1000)
    assert trainer.position.num_updates == 10
    lrs = [record["lr"] for record in records(trainer, "train")]
    assert lrs == pytest.approx([0.0, 5e-3, *[1e-2] * 5, 7.5e-3, 5e-3, 2.5e-3])


@pytest.mark.parametrize("cut", [4, 8])
def test_the_end_that_time_set_survives_a_resume_bit_for_bit(recipe, tmp_path, cut):
    """A resumed process may be faster or slower: once the decay has begun its end stands."""
    schedule = WarmupStableDecayConfig(lr=1e-2, warmup_ratio=0.002, decay_updates=4)
    recipe = with_schedule(with_options(recipe, max_hours=1.0, max_update=1000), schedule)
    whole = timed(recipe, HOUR / 10, save_dir=tmp_path / "whole")
    trainer = Trainer(recipe)
    Clock(trainer, HOUR / 10)
    train_step = trainer.train_step
    trainer.train_step = lambda batches, **_: train_step(batches, interrupted=trainer.position.num_updates == cut - 1)
    with pytest.raises(PreemptionError, match=f"stopped after update {cut}, and saved"):
        trainer.train()
    assert (trainer.position.end is None) == (cut == 4)
    resumed = timed(recipe, HOUR / 10 if cut == 4 else HOUR, resume=True)
    assert resumed.position.num_updates == whole.position.num_updates == 10
    assert equal(weights(resumed), weights(whole))


def test_a_run_branches_into_decays_of_other_lengths_before_one_has_begun(recipe, tmp_path):
    """From one trunk, as wsd is meant to be used; each branch is the run that had its decay from the beginning."""
    long = with_schedule(recipe, WarmupStableDecayConfig(lr=1e-2, decay_updates=5))
    whole = Trainer(with_options(long, save_dir=tmp_path / "whole", max_update=7))
    whole.train()
    short = with_schedule(recipe, WarmupStableDecayConfig(lr=1e-2, decay_updates=1))
    Trainer(with_options(short, max_update=3)).train()
    branch = Trainer(with_options(long, max_update=7, resume=True))
    branch.train()
    assert equal(weights(branch), weights(whole))
    with pytest.raises(
        ConfigError, match="^--decay-updates was 5, is 1, and .* 7 follow from it; .* the old --decay-updates$"
    ):
        Trainer(with_options(short, max_update=7, resume=True)).train()


def test_a_decay_that_has_begun_can_not_be_put_off(recipe):
    recipe = with_schedule(recipe, WarmupStableDecayConfig(lr=1e-2, decay_updates=4))
    timed(recipe, HOUR / 10, max_hours=1.0, max_update=1000)
    with pytest.raises(
        ConfigError, match="was to end after update 10, now 1000, and the learning rates up to update 10 follow"
    ):
        timed(recipe, HOUR / 10, max_hours=2.0, max_update=1000, resume=True)


def test_time_that_is_over_within_the_warmup_of_wsd_ends_the_run(recipe):
    recipe = with_schedule(recipe, WarmupStableDecayConfig(lr=1e-2, warmup_updates=50, decay_updates=4))
    assert timed(recipe, HOUR, max_hours=2.5, max_update=1000).position.num_updates == 3


def test_time_left_to_wsd_beyond_its_updates_changes_nothing(recipe):
    recipe = with_schedule(recipe, WarmupStableDecayConfig(lr=1e-2, decay_updates=2))
    trainer = timed(recipe, HOUR, max_hours=100.0)
    assert (trainer.position.num_updates, trainer.position.end) == (UPDATES, None)


def test_validation_and_saving_cost_a_run_no_time(recipe):
    trainer = Trainer(with_options(recipe, max_hours=1.0, validate_interval_updates=1, save_interval_updates=1))
    clock = Clock(trainer, 60.0)
    evaluate = trainer._evaluate

    def slow_evaluate() -> dict[str, float]:
        clock.now += HOUR
        return evaluate()

    trainer._evaluate = slow_evaluate
    trainer.train()
    assert trainer.position.seconds == pytest.approx(60.0 * UPDATES)


# Averages of weights


def test_an_average_of_the_weights_is_validated_and_kept_as_the_best(recipe):
    trainer = trained(recipe, ema_decay=0.5, validate_interval_updates=UPDATES, keep_best=True)
    best = load(trainer.config.save_dir).model.state_dict()
    assert equal(best, trainer.average.values)
    assert not equal(best, weights(trainer))
    (valid,) = records(trainer, "valid")
    trainer.model.load_state_dict(best)
    trainer.average = None
    assert trainer._evaluate()["nats"] == valid["nats"]


def test_an_average_that_would_be_lost_is_refused(recipe):
    with pytest.raises(ConfigError, match="--ema-decay without --keep-best"):
        with_options(recipe, ema_decay=0.5)


def test_an_average_leaves_training_alone(recipe, tmp_path):
    plain = trained(recipe, save_dir=tmp_path / "plain", validate_interval_updates=2)
    averaged = trained(recipe, ema_decay=0.9, validate_interval_updates=2, keep_best=True)
    assert equal(weights(plain), weights(averaged))
    kept = native.load(native.newest(plain.config.save_dir)).training.optimizer
    assert not any(name.startswith("average.") for name in kept)


def test_an_average_resumes_bit_for_bit(recipe, tmp_path):
    whole = assert_resumes_bit_for_bit(with_options(recipe, ema_decay=0.9, keep_best=True), tmp_path)
    kept = native.load(native.newest(whole.config.save_dir)).training.optimizer
    assert {name.removeprefix("average.") for name in kept if name.startswith("average.")} == set(weights(whole))


# What is trained


def test_a_frozen_part_stays_and_the_rest_learns(recipe):
    trainer = Trainer(with_options(recipe, freeze=("encoder.embed_tokens", "encoder.layers.0")))
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    is_frozen = {name: name.startswith(("encoder.embed_tokens.", "encoder.layers.0.")) for name in before}
    assert sum(is_frozen.values()) > 10
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) == is_frozen[name], name


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("encoder.layer",), "--freeze encoder.layer: the model has no such part; .*did you mean encoder.layers?"),
        (("encoder.layers.1.fc",), "--freeze encoder.layers.1.fc: .*did you mean encoder.layers.1.fc"),
        (("encoder", "heads"), "--freeze encoder heads: nothing is left to train"),
    ],
)
def test_freezing_what_is_not_there_or_everything_is_refused(recipe, parts, message):
    with pytest.raises(ConfigError, match=message):
        Trainer(with_options(recipe, freeze=parts))


def test_lower_layers_move_less_with_a_decay_of_the_rate(recipe):
    """With Adam the first update of each element is about its learning rate."""
    recipe = dataclasses.replace(recipe, optimizer=AdamConfig(layer_lr_decay=0.5, weight_decay=0.0))
    trainer = Trainer(with_schedule(recipe, FixedConfig(lr=1e-3)))
    before = weights(trainer)
    trainer.train_step([trainer.train_samples.batch(np.arange(4), seed=1, epoch=1)])
    moved = {name: (tensor - before[name]).abs().max().item() for name, tensor in weights(trainer).items()}
    expected = {"heads.lm.dense.weight": 1.0, "encoder.layers.1.fc1.weight": 0.5, "encoder.layers.0.fc1.weight": 0.25}
    for name, share in {**expected, "encoder.embed_positions.weight": 0.125}.items():
        assert moved[name] == pytest.approx(1e-3 * share, rel=0.05), name


# Precision


def test_fp16_trains_close_to_fp32_with_a_scaled_loss(recipe, tmp_path):
    half = trained(recipe, save_dir=tmp_path / "half", precision="fp16")
    full = trained(recipe)
    ours, theirs = records(half, "train"), records(full, "train")
    assert [record["nats"] for record in ours] == pytest.approx([record["nats"] for record in theirs], abs=0.02)
    assert [record["gnorm"] for record in ours] == pytest.approx([record["gnorm"] for record in theirs], rel=0.05)
    assert ours[-1]["loss_scale"] == 128.0
    assert "loss_scale" not in theirs[-1]


def test_gradients_of_fp16_do_not_vanish_among_many_targets(recipe, tmp_path, monkeypatch):
    total = distributed.World.total
    monkeypatch.setattr(distributed.World, "total", lambda world, values: [1e8 * values[0], *total(world, values)[1:]])
    half, full = (
        trained(recipe, save_dir=tmp_path / precision, precision=precision, max_update=1)
        for precision in ("fp16", "fp32")
    )
    (ours,), (theirs,) = records(half, "train"), records(full, "train")
    assert theirs["gnorm"] < 1e-6
    assert ours["gnorm"] == pytest.approx(theirs["gnorm"], rel=0.05)


def test_an_overflow_halves_the_scale_skips_the_update_and_is_counted(recipe, caplog):
    trainer = Trainer(with_options(recipe, precision="fp16", ema_decay=0.5, keep_best=True))
    trainer.gradients.loss_scale.scale = 2.0**40
    before = weights(trainer)
    trainer.train()
    assert trainer.position.num_skipped == UPDATES
    assert trainer.gradients.loss_scale.scale == 2.0 ** (40 - UPDATES)
    assert equal(weights(trainer), before)
    assert equal(trainer.average.values, before)
    record = records(trainer, "train")[-1]
    assert (record["skipped"], record["loss_scale"]) == (UPDATES, 2.0 ** (40 - UPDATES))
    assert "gnorm" not in record
    assert re.search(r"at update 1, on samples .*: skipped", caplog.text)


def test_the_loss_scale_survives_a_resume(recipe, tmp_path):
    recipe = with_options(recipe, precision="fp16")
    for name, cut in (("whole", UPDATES), ("run", 2)):
        trainer = Trainer(with_options(recipe, save_dir=tmp_path / name, max_update=cut))
        trainer.gradients.loss_scale.scale, trainer.gradients.loss_scale.clean_updates = 2.0**16, 7
        trainer.train()
    whole = native.load(native.newest(tmp_path / "whole")).training.progress
    resumed = trained(recipe, resume=True)
    assert 1 <= whole["num_skipped"] < UPDATES
    assert dataclasses.asdict(resumed.gradients.loss_scale) == whole["loss_scale"]
    assert resumed.position.num_skipped == whole["num_skipped"]
    assert equal(weights(resumed), native.load(native.newest(tmp_path / "whole")).model.state_dict())


# Layers


def test_dropped_layers_differ_from_update_to_update_and_resume_bit_for_bit(recipe, tmp_path):
    recipe = with_model(recipe, encoder_layers=3, encoder_layerdrop=0.5)
    assert_resumes_bit_for_bit(recipe, tmp_path)
    trainer = Trainer(with_options(recipe, save_dir=tmp_path / "new"))
    kept, choose = [], trainer.model.encoder._kept_layers

    def watched() -> list:
        layers = choose()
        kept.append(tuple(id(layer) for layer in layers))
        return layers

    trainer.model.encoder._kept_layers = watched
    batch = trainer.train_samples.batch(np.arange(4), seed=1, epoch=1)
    for _ in range(20):
        trainer.train_step([batch])
    assert len(set(kept)) > 3
    assert 0.25 < sum(map(len, kept)) / (3 * len(kept)) < 0.75
    kept.clear()
    trainer._evaluate()
    assert {len(layers) for layers in kept} == {3}


def test_sharded_models_refuse_to_drop_layers(recipe):
    trainer = Trainer(with_model(recipe, encoder_layerdrop=0.5))
    world = distributed.World(0, 2, torch.device("cpu"))
    with pytest.raises(ConfigError, match="--encoder-layerdrop and --parallelism fsdp exclude each other"):
        distributed.parallelise(trainer.model, trainer.model.encoder, world, "fsdp")


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    found = {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: found.update({name: value.grad.clone() for name, value in trainer.model.named_parameters()})
    )
    trainer.train_step([trainer.train_samples.batch(np.arange(4), seed=1, epoch=1)])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recomputed_activations_give_the_same_gradients_with_dropout(recipe, tmp_path, dtype):
    recipe = with_model(recipe, activation_dropout=0.1)
    calls, found = [], {}
    for checkpointed in (False, True):
        trainer = Trainer(with_options(recipe, save_dir=tmp_path, checkpoint_activations=checkpointed))
        trainer.model.to(dtype)
        trainer.model.encoder.layers[0].register_forward_pre_hook(lambda *_: calls.append(None))
        found[checkpointed] = gradients(trainer)
    assert len(calls) == 3  # once, and twice where it is recomputed
    assert equal(found[True], found[False])


@pytest.mark.slow  # compiling takes half a minute
@pytest.mark.filterwarnings("ignore")  # within torch's compiler, which breaks off where they are errors
def test_compiled_layers_compute_the_same(recipe, tmp_path):
    torch._dynamo.reset()
    recipe = with_model(recipe, dropout=0.0, attention_dropout=0.0)
    plain = trained(recipe, save_dir=tmp_path / "plain")
    try:
        compiled = trained(recipe, compile=True)
    except torch._inductor.exc.InductorError as error:
        pytest.skip(f"torch can't compile here: {error}")
    ours, theirs = records(compiled, "train"), records(plain, "train")
    assert [record["nats"] for record in ours] == pytest.approx([record["nats"] for record in theirs], abs=1e-4)
    assert load(compiled.config.save_dir).model.state_dict().keys() == weights(plain).keys()


# Which checkpoints are kept


def test_the_best_validation_is_kept_and_opened_first(recipe):
    """The loss rises from the third validation on, as the rate grows out of bounds."""
    recipe = with_options(recipe, validate_interval_updates=2, max_update=8, keep_best=True)
    trainer = Trainer(recipe)
    trainer.timetable.lr = lambda n: 1e-2 if n < 4 else 10.0
    trainer.train()
    losses = {record["num_updates"]: record["loss"] for record in records(trainer, "valid")}
    best = min(losses, key=losses.__getitem__)
    assert best in (2, 4)
    assert (trainer.position.best_update, trainer.position.best) == (best, losses[best])
    opened = load(trainer.config.save_dir)
    assert not equal(opened.model.state_dict(), weights(trainer))
    trainer.model.load_state_dict(opened.model.state_dict())
    assert trainer._evaluate()["loss"] == losses[best]
    assert not (trainer.config.save_dir / "best" / "optimizer.safetensors").exists()


def test_the_best_model_of_updates_that_are_undone_is_not_taken_for_that_of_an_earlier_one(recipe):
    options = {"save_interval_updates": 2, "keep_checkpoints": 9, "keep_best": True}
    killed = trained(recipe, max_update=4, validate_interval_updates=2, **options)
    assert killed.position.best_update == 4
    shutil.rmtree(killed.config.save_dir / native.step_name(4))
    trainer = Trainer(with_options(recipe, resume=True, max_update=8, validate_interval_updates=3, **options))
    evaluate = trainer._evaluate
    trainer._evaluate = lambda: evaluate() | {"loss": 10.0 + evaluate()["loss"]}  # worse than updates 2 and 4 were
    trainer.train()
    assert trainer.position.best_update in (3, 6, 8)
    trainer.model.load_state_dict(load(trainer.config.save_dir).model.state_dict())
    assert trainer._evaluate()["loss"] == trainer.position.best


def test_a_damaged_best_model_is_replaced_and_so_is_a_missing_one(recipe):
    ended = trained(recipe, validate_interval_updates=1, max_update=2, keep_best=True)
    (ended.config.save_dir / "best" / "config.json").write_text('{"form')
    trained(recipe, resume=True, validate_interval_updates=1, max_update=3, keep_best=True)
    assert load(ended.config.save_dir)
    (ended.config.save_dir / "best").rename(ended.config.save_dir.parent / "elsewhere")
    resumed = trained(recipe, resume=True, validate_interval_updates=1, max_update=4, keep_best=True)
    assert resumed.position.best_update == 4
    assert (ended.config.save_dir / "best").is_dir()


def test_without_keep_best_the_newest_checkpoint_is_opened(recipe):
    trainer = trained(recipe)
    assert not (trainer.config.save_dir / "best").exists()
    assert equal(load(trainer.config.save_dir).model.state_dict(), weights(trainer))


def test_a_better_model_that_is_not_kept_leaves_none_that_was_the_best_before(recipe):
    trained(recipe, max_update=2, keep_best=True)
    assert (recipe.trainer.save_dir / "best").exists()
    trainer = trained(recipe, resume=True)
    assert trainer.position.best_update == UPDATES
    assert not (recipe.trainer.save_dir / "best").exists()
    assert equal(load(recipe.trainer.save_dir).model.state_dict(), weights(trainer))


def test_the_best_model_of_a_run_without_checkpoints_is_not_taken_for_another_run_s(recipe):
    for step in native.steps(trained(recipe, max_update=2, keep_best=True).config.save_dir):
        step.rename(recipe.trainer.save_dir.parent / step.name)
    with pytest.raises(ConfigError, match="already holds a run"):
        Trainer(recipe).train()
    assert (recipe.trainer.save_dir / "best").exists()
    (recipe.trainer.save_dir / "run.json").rename(recipe.trainer.save_dir / "kept")
    with pytest.raises(ConfigError, match="holds the best model of other runs"):
        trained(recipe, resume=True)
    (recipe.trainer.save_dir / "kept").rename(recipe.trainer.save_dir / "run.json")
    trained(recipe, resume=True)  # as a run does that was killed before its first checkpoint
    assert not (recipe.trainer.save_dir / "best").exists()


def test_checkpoints_of_an_interval_outlive_the_newest(recipe):
    trainer = trained(recipe, max_update=9, save_interval_updates=1, keep_checkpoints=2, keep_interval_updates=3)
    assert steps(trainer) == [3, 6, 8, 9]


# Records


def test_a_run_says_what_it_was_made_with(recipe, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["roberta-train", "data-bin"])
    trainer = trained(recipe, max_update=1)
    run = json.loads((trainer.config.save_dir / "run.json").read_text())
    assert run["command"] == ["roberta-train", "data-bin"]
    assert run["versions"]["torch"] == torch.__version__
    assert run["recipe"] == trainer.recipe.to_json()
    assert run["recipe"]["model"]["vocab_size"] == len(trainer.task.tokenizer.dictionary)
    assert run["recipe"]["trainer"]["batch_size"] == 4


def test_a_resumed_run_says_how_each_of_its_starts_was_made(recipe, monkeypatch):
    for updates, resume in ((1, False), (2, True), (4, True)):
        monkeypatch.setattr(sys, "argv", ["roberta-train", "--max-update", str(updates)])
        trainer = trained(recipe, max_update=updates, resume=resume)
        run = json.loads((trainer.config.save_dir / "run.json").read_text())
        assert ("earlier" in run) == resume
    assert run["command"] == ["roberta-train", "--max-update", "4"]
    assert run["recipe"]["trainer"]["max_update"] == 4
    assert [(start["command"][-1], start["num_updates"]) for start in run["earlier"]] == [("1", 1), ("2", 2)]
    assert [start["versions"] for start in run["earlier"]] == [run["versions"]] * 2


def test_figures_that_are_not_finite_are_null_in_the_log(recipe):
    trainer = Trainer(with_options(recipe, max_update=1))
    figures = {"num_updates": 1, "loss": math.nan, "ppl": math.inf, "num_targets": 9}
    trainer._evaluate = lambda: dict(figures)
    assert trainer.train().keys() == figures.keys()
    assert records(trainer, "valid") == [{"num_updates": 1, "loss": None, "ppl": None, "num_targets": 9}]


def test_tensorboard_gets_the_records(recipe, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = trained(recipe, max_update=3, tensorboard_logdir=tmp_path / "board")
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    found = [(event.step, event.value) for event in board.Scalars("train/loss")]
    expected = [(record["num_updates"], pytest.approx(record["loss"])) for record in records(trainer, "train")]
    assert found == expected
    assert board.Scalars("valid/loss")[0].step == 3


def test_a_resumed_run_keeps_the_clock_of_the_first(recipe):
    timed(recipe, 60.0, max_update=2)
    resumed = timed(recipe, 30.0, resume=True)
    assert resumed.position.seconds == pytest.approx(2 * 60.0 + (UPDATES - 2) * 30.0)
    first = records(resumed, "train")[0]
    assert first["hours_left"] == pytest.approx(first["hours"])


def test_updates_that_take_other_batches_after_a_resume_are_told_of(recipe, caplog):
    trained(recipe, max_update=2)
    trained(recipe, max_update=3, resume=True)
    assert "batches now" not in caplog.text
    trained(recipe, max_update=4, resume=True, update_freq=(2,))
    assert "an update takes 2 batches now, where it took 1 (processes times --update-freq)" in caplog.text
