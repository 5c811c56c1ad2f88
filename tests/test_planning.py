"""A dry run: the numbers of a recipe before anything is trained."""

import json
from pathlib import Path

import pytest

from roberta_cli import train

OPTIONS = "--preset roberta.tiny --max-positions 64 --tokens-per-sample 64 --batch-size 4 --update-freq 2"


@pytest.fixture
def data_bin(tmp_path: Path) -> Path:
    from roberta_cli import preprocess

    text = "".join(f"This is sentence number {number} of a small text.\n" for number in range(200))
    (tmp_path / "text.txt").write_text(text)
    options = f"--trainpref {tmp_path}/text.txt --validpref {tmp_path}/text.txt --destdir {tmp_path}/bin"
    assert preprocess.main(options.split()) == 0
    return tmp_path / "bin"


def dry_run(data_bin: Path, capsys: pytest.CaptureFixture[str], options: str) -> dict:
    save_dir = data_bin.parent / "run"
    capsys.readouterr()
    command = f"{data_bin} --save-dir {save_dir} --device cpu --dry-run {OPTIONS} {options}"
    assert train.main(command.split()) == 0
    assert not save_dir.exists()
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_prints_what_a_run_takes_and_writes_nothing(data_bin, capsys):
    found = dry_run(data_bin, capsys, "--max-update 100")
    assert found["max_update"] == 100
    assert found["peak_flops"] is None
    assert found["hours"] is None
    assert 4 * 2 * 50 < found["tokens_per_update"] <= 4 * 2 * 64
    assert 0.9 * 100 * found["tokens_per_update"] < found["tokens"] <= 100 * found["tokens_per_update"]
    assert 6.5e6 < found["parameters"]["total"] < 7.5e6


def test_epochs_are_counted_in_updates_of_all_devices(data_bin, capsys, caplog):
    one = dry_run(data_bin, capsys, "--max-epoch 6")
    assert "epochs of this data end within updates" not in caplog.text
    two = dry_run(data_bin, capsys, "--max-epoch 6 --devices 2 --device-name H100 --precision bf16")
    assert one["max_update"] > two["max_update"] >= one["max_update"] // 2
    assert two["hours"] > 0
    seldom = dry_run(data_bin, capsys, "--max-epoch 6 --update-freq 64")  # more than an epoch has batches
    assert "epochs of this data end within updates" in caplog.text
    assert seldom["max_update"] == 6
    assert seldom["tokens"] == two["tokens"] == one["tokens"]
    assert dry_run(data_bin, capsys, "--max-epoch 6 --update-freq 1 2 64")["tokens"] == one["tokens"]


def test_hours_that_end_a_run_before_its_updates_are_told(data_bin, capsys, caplog):
    options = "--max-update 100 --device-name H100 --precision bf16"
    hours = dry_run(data_bin, capsys, f"{options} --max-hours 9")["hours"]
    assert not caplog.text
    assert dry_run(data_bin, capsys, f"{options} --max-hours {hours / 4}")["hours"] == hours
    assert "ends the run after about 25 of 100" in caplog.text


def test_muon_keeps_one_moment_where_adam_keeps_two(data_bin, capsys):
    adam = dry_run(data_bin, capsys, "--max-update 1")["memory"]["optimizer"]
    assert dry_run(data_bin, capsys, "--max-update 1 --optimizer muon")["memory"]["optimizer"] < adam


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--warmup-updates 100", "--warmup-updates 100 is more than the 10 updates"),
        ("--freeze encodr", "encodr"),
        ("--freeze heads.lm encoder", "--freeze heads.lm encoder: nothing is left to train"),
        ("--criterion sentence_prediction", "this loss is for heads that tell classes or a number"),
        ("--lr-scheduler wsd --decay-updates 50", "--decay-updates"),
    ],
)
def test_a_timetable_or_parts_that_make_no_sense_are_refused(data_bin, capsys, options, said):
    command = f"{data_bin} --save-dir {data_bin}/run --dry-run {OPTIONS} --max-update 10 {options}"
    assert train.main(command.split()) == 2
    assert said in capsys.readouterr().err


def test_what_training_would_refuse_a_dry_run_refuses(data_bin, capsys):
    command = f"{data_bin} --save-dir {data_bin}/run --dry-run --preset roberta.tiny --max-positions 32 --batch-size 4"
    assert train.main([*command.split(), "--max-update", "1"]) == 2
    assert "lower --tokens-per-sample" in capsys.readouterr().err


def test_a_model_to_begin_from_that_does_not_fit_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ROBERTA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("This is a sentence.\n\n" * 200)
    command = f"{tmp_path}/text.txt --save-dir {tmp_path}/run --dry-run {OPTIONS} --max-update 10 --valid-fraction 0.1"
    assert train.main([*command.split(), "--init-from", "roberta.mini"]) == 2
    assert "--init-from roberta.mini: it has max_positions 128 instead of 64" in capsys.readouterr().err
