"""The training loop: what an update is, and that a run can be cut and resumed anywhere."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from roberta import identity, manifest
from roberta.checkpoint import native
from roberta.criterions.masked_lm import MaskedLMLossConfig
from roberta.distributed import SINGLE, World
from roberta.errors import CheckpointError, ConfigError, DataError, StorageError, TrainingError
from roberta.identity import conditions, settle_engine, warn_of_conditions
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.optim.adam import AdamConfig
from roberta.optim.schedules import PolynomialDecayConfig
from roberta.pretrained import load
from roberta.recipe import Recipe, TrainerConfig
from roberta.tasks.masked_lm import MaskedLMTaskConfig
from roberta.trainer import Trainer
from tests.builders import fairseq_batch

UPDATES = 7


@pytest.fixture
def recipe(data_bin: Path, tmp_path: Path) -> Recipe:
    return Recipe(
        task=MaskedLMTaskConfig(data=data_bin, tokens_per_sample=64),
        model=RobertaConfig(encoder_layers=2, embed_dim=16, ffn_embed_dim=32, attention_heads=2, max_positions=64),
        criterion=MaskedLMLossConfig(),
        optimizer=AdamConfig(),
        lr_scheduler=PolynomialDecayConfig(lr=1e-2, warmup_updates=2, total_num_update=20),
        trainer=TrainerConfig(
            save_dir=tmp_path / "run", max_update=UPDATES, batch_size=8, update_freq=(2,), device="cpu"
        ),
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
    timeless = [dataclasses.replace(trainer.position, seconds=0.0) for trainer in (resumed, whole)]
    assert timeless[0] == timeless[1]
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
    large = Trainer(with_options(recipe, save_dir=tmp_path / "large", batch_size=30, update_freq=(1,), max_update=3))
    small = Trainer(with_options(recipe, save_dir=tmp_path / "small", batch_size=10, update_freq=(3,), max_update=3))
    large.train()
    small.train()
    for name, tensor in weights(large).items():
        torch.testing.assert_close(
            weights(small)[name], tensor, atol=2e-4, rtol=0, msg=lambda text, at=name: f"{at}: {text}"
        )


def test_every_sample_is_seen_once_per_epoch(recipe):
    trainer = Trainer(with_options(recipe, batch_size=7, update_freq=(4,), max_update=10**6))
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


def test_resuming_on_other_data_is_refused_with_the_difference(recipe):
    Trainer(with_options(recipe, max_update=1)).train()
    trainer = Trainer(with_options(recipe, resume=True))
    count = len(trainer.train_samples.sizes)
    trainer.train_samples.sizes = trainer.train_samples.sizes[:-1]
    with pytest.raises(DataError, match=f"trained on other data than .*: samples was {count}, is {count - 1}; tokens"):
        trainer.train()


def test_resuming_on_other_data_of_the_same_lengths_is_refused(recipe, data_bin, tmp_path):
    Trainer(with_options(recipe, max_update=1)).train()
    shutil.copytree(data_bin, tmp_path / "changed")
    tokens = np.fromfile(data_bin / "train.bin", dtype=np.uint16)
    tokens[len(tokens) // 2] += 1
    tokens.tofile(tmp_path / "changed" / "train.bin")
    changed = dataclasses.replace(recipe, task=dataclasses.replace(recipe.task, data=tmp_path / "changed"))
    with pytest.raises(DataError, match=r"other data than .*\): contents was \d+, is \d+; resume with its own"):
        Trainer(with_options(changed, resume=True)).train()


def test_resuming_under_other_conditions_says_so(recipe, caplog, monkeypatch):
    Trainer(with_options(recipe, max_update=1)).train()
    Trainer(with_options(recipe, max_update=2, resume=True)).train()
    assert "other conditions" not in caplog.text
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    Trainer(with_options(recipe, max_update=3, resume=True)).train()
    assert f"resumed under other conditions (threads was {threads}, is {threads + 1})" in caplog.text


def test_numpy_trains_as_torch_and_resumes_bit_for_bit(recipe, caplog):
    caplog.set_level("INFO")
    plain = Trainer(with_options(recipe, max_update=4)).train()
    whole = with_options(recipe, max_update=4, cpu_engine="numpy", save_dir=recipe.trainer.save_dir / "whole")
    by_numpy = Trainer(whole).train()
    assert "matrices by numpy" in caplog.text
    assert by_numpy == pytest.approx(plain, rel=1e-4)
    parted = with_options(whole, save_dir=recipe.trainer.save_dir / "parted")
    Trainer(with_options(parted, max_update=2)).train()
    assert Trainer(with_options(parted, resume=True)).train() == by_numpy
    assert "other conditions" not in caplog.text


def test_a_run_goes_on_with_the_engine_that_was_measured_at_its_start(recipe, caplog, monkeypatch):
    Trainer(with_options(recipe, max_update=1, cpu_engine="numpy")).train()
    monkeypatch.setattr("roberta.models.roberta.fastest_engine", lambda *_: "torch")
    trainer = Trainer(with_options(recipe, max_update=2, resume=True, cpu_engine="auto"))
    trainer.train()
    assert trainer.model.cpu_engine == "numpy"
    Trainer(with_options(recipe, max_update=3, resume=True, cpu_engine="torch")).train()
    assert "other conditions (cpu_engine was numpy, is torch)" in caplog.text


@pytest.mark.parametrize("before", [{}, {"arithmetic": "2026-11-30"}])
def test_a_run_that_began_with_other_arithmetic_of_this_package_is_told_so(before, caplog):
    found = conditions(SINGLE, "torch")
    warn_of_conditions(found, found)
    assert not caplog.text
    warn_of_conditions({name: value for name, value in found.items() if name != "arithmetic"} | before, found)
    then = before.get("arithmetic", "older")
    assert f"other conditions (arithmetic was {then}, is {found['arithmetic']})" in caplog.text


@pytest.mark.parametrize("serial", [False, True])
def test_who_draws_the_masks_of_dropout_is_a_condition_and_was_torch_at_first(serial, caplog, monkeypatch):
    monkeypatch.setattr(identity, "torch_draws_one_by_one", lambda: serial)
    found = conditions(SINGLE, "torch")
    assert found["dropout"] == ("numpy" if serial else "torch")
    warn_of_conditions({name: value for name, value in found.items() if name != "dropout"}, found)
    assert ("other conditions (dropout was torch, is numpy)" in caplog.text) == serial


def test_the_hardware_is_a_condition_and_was_not_told_at_first(caplog):
    found = conditions(SINGLE, "torch")
    warn_of_conditions({name: value for name, value in found.items() if name != "hardware"}, found)
    assert not caplog.text
    warn_of_conditions({**found, "hardware": "ABACUS"}, found)
    assert f"other conditions (hardware was ABACUS, is {found['hardware']})" in caplog.text


@pytest.mark.parametrize(("recorded", "measured", "taken"), [(None, "numpy", "torch"), ("onednn", "numpy", "numpy")])
def test_a_run_goes_on_where_its_engine_is_not_told_or_cannot_be_had(recipe, monkeypatch, recorded, measured, taken):
    Trainer(with_options(recipe, max_update=1)).train()
    state = recipe.trainer.save_dir / "step_0000001" / "state.json"
    values = json.loads(state.read_text())
    values["conditions"].pop("cpu_engine")
    values["conditions"] |= {} if recorded is None else {"cpu_engine": recorded}
    state.write_text(json.dumps(values))
    manifest.write(state.parent, [state.name])
    monkeypatch.setattr("roberta.models.roberta.fastest_engine", lambda *_: measured)
    trainer = Trainer(with_options(recipe, max_update=2, resume=True, cpu_engine="auto"))
    trainer.train()
    assert trainer.model.cpu_engine == taken


@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_take_the_engine_that_the_first_one_measured(monkeypatch, rank):
    measured = {0: "numpy", 1: "torch"}
    monkeypatch.setattr("roberta.models.roberta.fastest_engine", lambda *_: measured[rank])
    monkeypatch.setattr(World, "gather", lambda self, value: ["numpy", None] if self.rank else [value, None])
    model = RobertaModel(RobertaConfig(encoder_layers=1, embed_dim=8, ffn_embed_dim=8, attention_heads=1))
    settle_engine(model, None, World(rank, 2, torch.device("cpu")))
    assert model.cpu_engine == "numpy"


def test_numpys_version_is_a_condition_of_its_products():
    assert "numpy" not in conditions(SINGLE, "torch")
    assert conditions(SINGLE, "numpy")["numpy"] == np.__version__


@pytest.mark.parametrize(("option", "value"), [("compile", True), ("precision", "bf16"), ("parallelism", "fsdp")])
def test_engines_are_for_whole_models_in_fp32_without_a_compiler(recipe, option, value):
    with pytest.raises(ConfigError, match=f"--cpu-engine auto multiplies .* can't be had with --{option}.*; leave out"):
        with_options(recipe, cpu_engine="auto", **{option: value})


def test_resuming_where_there_is_nothing_says_so(recipe, caplog):
    Trainer(with_options(recipe, max_update=1, resume=True)).train()
    assert f"there is no checkpoint in {recipe.trainer.save_dir}; training begins anew" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_updates": "1"}, "num_updates: expected int, found '1'; restore it"),
        ({"epochs": 1}, "unknown option 'epochs'"),
        ({"best": [1]}, r"best: expected float, found \[1\]"),
        ({"data": None}, "the state of the run lacks data; it can't go on"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused(recipe, change, message):
    """Of another version, or forged together with its sums."""
    Trainer(with_options(recipe, max_update=1)).train()
    folder = native.newest(recipe.trainer.save_dir)
    state = json.loads((folder / "state.json").read_text()) | change
    (folder / "state.json").write_text(json.dumps({k: v for k, v in state.items() if k not in change or v is not None}))
    manifest.write(folder, ["state.json"])
    with pytest.raises(CheckpointError, match=message):
        Trainer(with_options(recipe, resume=True)).train()


def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing(recipe):
    trainer = Trainer(with_options(recipe, log_interval=1))
    with torch.no_grad():
        trainer.model.encoder.embed_tokens.weight[5:].fill_(float("nan"))
    with pytest.raises(
        TrainingError, match="gradient norm nan at update 1, on samples .* and 8 more of rank 0: .*lower --lr"
    ):
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
    assert trainer.gradients.read(trainer.position.num_updates) > 1e-3
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
        ({"clip_norm": -1.0}, "--clip-norm is -1"),
        ({"clip_norm": math.nan}, "--clip-norm is nan"),
        ({"patience": 0}, "--patience"),
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
            lr_scheduler=PolynomialDecayConfig(lr=5e-4, warmup_updates=5),
            trainer=TrainerConfig(save_dir=tmp_path, max_update=20, batch_size=8, device="cpu"),
        )
    )
    trainer.model.register_head("mnli", start.head_configs["mnli"])
    trainer.model.load_state_dict(start.state_dict())
    for micro_batches, record in zip(golden["batches"], golden["records"], strict=True):
        trainer.train_step([fairseq_batch(sample) for sample in micro_batches])
        metrics = trainer.meter.read(trainer.criterion)
        assert metrics["loss"] == pytest.approx(record["loss_base2_per_token"], abs=1e-4)
        assert trainer.gradients.read(trainer.position.num_updates) == pytest.approx(record["gnorm"], abs=2e-3)


def test_dropout_masks_differ_from_update_to_update(recipe):
    trainer = Trainer(recipe)
    trainer.timetable.lr = lambda num_updates: 0.0
    batch = trainer.train_samples.batch(torch.arange(4).numpy(), seed=1, epoch=1)
    losses = []
    for _ in range(2):
        trainer.train_step([batch])
        losses.append(trainer.meter.read(trainer.criterion)["loss"])
    assert losses[0] != losses[1]


def test_the_seed_decides_the_initial_weights(recipe):
    first, same, other = (Trainer(with_options(recipe, seed=seed)) for seed in (1, 1, 2))
    assert_same(weights(first), weights(same))
    assert not torch.equal(weights(first)["encoder.layers.0.fc1.weight"], weights(other)["encoder.layers.0.fc1.weight"])


def test_validation_computes_in_the_precision_of_training(recipe):
    losses = {}
    for precision in ("fp32", "bf16"):
        losses[precision] = Trainer(with_options(recipe, precision=precision))._evaluate()["loss"]
    assert losses["fp32"] != losses["bf16"]
    assert losses["fp32"] == pytest.approx(losses["bf16"], rel=1e-2)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": None, "max_tokens": 10}])
def test_batch_limits_that_do_not_fit_are_refused_before_anything_is_written(recipe, options):
    with pytest.raises((ConfigError, DataError), match="--batch-size is 0|--max-tokens allows 10"):
        Trainer(with_options(recipe, **options))
    assert not recipe.trainer.save_dir.exists()


def test_a_new_max_update_that_would_have_changed_the_rates_is_refused(recipe):
    recipe = dataclasses.replace(recipe, lr_scheduler=PolynomialDecayConfig(lr=1e-2))
    Trainer(with_options(recipe, max_update=2)).train()
    with pytest.raises(ConfigError, match="end after update 2, now 4, and the learning rates .* --total-num-update"):
        Trainer(with_options(recipe, max_update=4, resume=True)).train()


def test_a_run_can_be_moved_together_with_its_data(recipe, data_bin, tmp_path):
    Trainer(with_options(recipe, max_update=1)).train()
    shutil.copytree(data_bin, tmp_path / "moved")
    moved = dataclasses.replace(recipe, task=dataclasses.replace(recipe.task, data=tmp_path / "moved"))
    assert Trainer(with_options(moved, max_update=2, resume=True)).train()["num_updates"] == 2


def test_a_log_holds_each_update_once_after_a_crash_and_a_resume(recipe):
    recipe = with_options(recipe, log_interval=1, save_interval_updates=2)
    trainer = Trainer(recipe)
    report = trainer._report

    def crash_at_update_5(log, bar):
        report(log, bar)
        if trainer.position.num_updates == 5:
            raise KeyboardInterrupt

    trainer._report = crash_at_update_5
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    Trainer(with_options(recipe, resume=True)).train()
    lines = [json.loads(line) for line in (recipe.trainer.save_dir / "log.jsonl").read_text().splitlines()]
    assert [line["train"]["num_updates"] for line in lines if "train" in line] == list(range(1, UPDATES + 1))


def test_updates_that_are_not_finite_are_skipped_and_counted_if_asked(recipe, caplog):
    trainer = Trainer(with_options(recipe, nonfinite="skip"))
    before = weights(trainer)
    batch = trainer.train_samples.batch(torch.arange(4).numpy(), seed=1, epoch=1)
    bias = trainer.model.heads["lm"].bias
    bias.data[0] = math.inf
    trainer.train_step([batch])
    bias.data[0] = 0.0
    assert_same(weights(trainer), before)
    assert trainer.position.num_skipped == 1
    assert re.search(r"gradient norm \S+ at update 1, on samples 0, 1, 2, 3 of rank 0: skipped", caplog.text)
    trainer.position.num_updates = 5
    trainer.train_step([batch])
    assert not torch.equal(weights(trainer)["heads.lm.bias"], before["heads.lm.bias"])


def test_a_run_whose_updates_are_all_skipped_ends(recipe):
    trainer = Trainer(with_options(recipe, nonfinite="skip", max_update=1000))
    trainer.model.heads["lm"].bias.data[0] = math.nan
    with pytest.raises(TrainingError, match=r"at update 25, on samples .*, as in the 24 updates before: start again"):
        trainer.train()
    assert trainer.position.num_skipped == 25


def test_a_gradient_that_is_not_finite_is_named_when_a_save_comes_before_a_log_record(recipe):
    Trainer(with_options(recipe, max_update=1)).train()
    trainer = Trainer(with_options(recipe, resume=True, log_interval=100, save_interval_updates=1))
    step, bias = trainer.train_step, trainer.model.heads["lm"].bias

    def step_from_nan(*args, **kwargs):
        bias.data[0] = math.nan
        return step(*args, **kwargs)

    trainer.train_step = step_from_nan
    with pytest.raises(
        TrainingError, match=r"gradient norm nan at update 2, on samples .*from .*step_0000001, its new"
    ):
        trainer.train()


def test_validations_that_are_not_finite_lose_patience(recipe):
    recipe = with_options(recipe, max_update=50, validate_interval_updates=1, patience=3, log_interval=100)
    trainer = Trainer(recipe)
    trainer._evaluate = lambda: {"num_updates": trainer.position.num_updates, "loss": math.nan}
    trainer.train()
    assert trainer.position.num_updates == 3
    assert trainer.position.best is None
    lines = [json.loads(line) for line in (recipe.trainer.save_dir / "log.jsonl").read_text().splitlines()]
    assert [line["train"]["num_updates"] for line in lines if "train" in line] == [3]


def test_training_stops_when_patience_is_lost(recipe):
    recipe = with_options(recipe, max_update=50, validate_interval_updates=1, patience=2)
    recipe = dataclasses.replace(recipe, lr_scheduler=PolynomialDecayConfig(lr=1e-30, total_num_update=100))
    trainer = Trainer(recipe)
    trainer.train()
    assert trainer.position.num_updates == 3  # the first is the best, two more are no better
    assert [path.name for path in native.steps(recipe.trainer.save_dir)] == ["step_0000003"]


def test_weights_of_another_run_start_a_new_one(recipe, tmp_path):
    Trainer(recipe).train()
    config = {"save_dir": tmp_path / "new", "init_from": str(recipe.trainer.save_dir), "max_update": 1}
    trainer = Trainer(with_options(recipe, **config))
    assert_same(weights(trainer), native.load(native.newest(recipe.trainer.save_dir)).model.state_dict())
    assert trainer.position.num_updates == 0


def test_weights_of_another_shape_are_refused(recipe, tmp_path):
    Trainer(with_options(recipe, max_update=1)).train()
    other = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder_layers=1, dropout=0.3))
    with pytest.raises(ConfigError, match="encoder_layers 2 instead of 1"):
        Trainer(with_options(other, save_dir=tmp_path / "new", init_from=str(recipe.trainer.save_dir)))


def test_a_folder_that_can_not_be_made_is_a_storage_error(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--save-dir .* can't be made"):
        Trainer(with_options(recipe, save_dir=tmp_path / "file" / "run")).train()


def test_patience_lost_stays_lost_after_a_resume(recipe):
    recipe = with_options(recipe, max_update=50, validate_interval_updates=1, patience=2)
    recipe = dataclasses.replace(recipe, lr_scheduler=PolynomialDecayConfig(lr=1e-30, total_num_update=100))
    Trainer(recipe).train()
    again = Trainer(with_options(recipe, resume=True))
    again.train()
    assert again.position.num_updates == 3
    assert [path.name for path in native.steps(recipe.trainer.save_dir)] == ["step_0000003"]


def test_a_damaged_newer_checkpoint_does_not_outlive_the_good_one(recipe):
    recipe = with_options(recipe, max_update=2, save_interval_updates=1, keep_checkpoints=2)
    Trainer(recipe).train()
    run = recipe.trainer.save_dir
    (run / "step_0000002" / "model.safetensors").write_bytes(b"")
    (run / "step_12").write_text("not a folder")
    resumed = Trainer(with_options(recipe, resume=True, keep_checkpoints=1))
    resumed.train()
    assert native.newest(run).name == "step_0000002"
    assert [path.name for path in native.steps(run)] == ["step_0000002"]


def test_a_resumed_run_does_not_need_the_model_it_began_with(recipe, tmp_path):
    Trainer(with_options(recipe, max_update=1)).train()
    source = {"init_from": str(recipe.trainer.save_dir), "save_dir": tmp_path / "new"}
    Trainer(with_options(recipe, max_update=1, **source)).train()
    shutil.rmtree(recipe.trainer.save_dir)
    assert Trainer(with_options(recipe, max_update=2, resume=True, **source)).train()["num_updates"] == 2
