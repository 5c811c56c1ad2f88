"""Checkpoints and runs under crashes, full disks, damage and rivals. Numbers are those of the table in SECURITY.md."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from safetensors.torch import load_file

from roberta import locking
from roberta.checkpoint import folders, native
from roberta.errors import CheckpointError, StorageError
from roberta.locking import locked
from roberta.manifest import MANIFEST
from roberta.trainer import Trainer
from tests.reliability.building import make_data, make_recipe, save_checkpoint
from tests.reliability.mutating import resum

ROOT = Path(__file__).parents[2]
HOLD = """import sys
from pathlib import Path
from roberta.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def summaries(module: str, *options: str, timeout: float = 240.0) -> list[dict]:
    """Run one of the programs beside this file and return the lines of JSON that it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"tests.reliability.{module}", *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    print(result.stdout)
    return [json.loads(line) for line in result.stdout.splitlines()]


def summary(module: str, *options: str, timeout: float = 240.0) -> dict:
    """Run one of the programs beside this file and return the line of JSON that it ends with."""
    return summaries(module, *options, timeout=timeout)[-1]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of three checkpoints, after 2, 4 and 6 updates."""
    for value in (2, 4, 6):
        save_checkpoint(tmp_path / "run" / native.step_name(value), float(value))
    return tmp_path / "run"


def value_of(folder: Path | None) -> float:
    assert folder is not None
    return next(iter(native.load(folder).model.state_dict().values())).flatten()[0].item()


def test_01_runs_killed_at_random_moments_end_bit_for_bit_as_if_they_had_not_been():
    found = summary("killing", "--kills", "200", "--seed", "5", timeout=900.0)
    assert found["kills"] >= 200
    assert found["identical"] == found["runs"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "kills"), [("SIGTERM", 50), ("SIGKILL", 2000)])
def test_01_many_runs_killed_at_random_moments(number, kills):
    found = summary("killing", "--kills", str(kills), "--seed", "1", "--signal", number, timeout=15.0 * kills)
    assert found["identical"] == found["runs"]


def test_02_a_save_that_crashes_at_a_moment_leaves_the_old_or_the_new_checkpoint():
    found = summary("crashing", "--every", "11")
    assert found["recovered"] == found["crashes"] >= 6


@pytest.mark.slow
def test_02_a_save_that_crashes_at_every_moment_leaves_the_old_or_the_new_checkpoint():
    found = summary("crashing", timeout=1200.0)
    assert found["recovered"] == found["crashes"] >= 60


def test_02_a_save_that_does_not_recover_is_counted_and_fails():
    """A save that takes the manifest away before it has another one."""
    code = (
        "import sys; from roberta.manifest import MANIFEST; from tests.reliability import crashing\n"
        "def careless(run):\n"
        "    path = run / 'step_0000004' / MANIFEST\n"
        "    content = path.read_bytes()\n"
        "    path.unlink(), path.write_bytes(content)\n"
        "crashing.next_save = careless\n"
        "sys.exit(crashing.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert (found["crashes"], found["recovered"]) == (2, 1)
    assert done.returncode == 1
    assert "after moment 2: Traceback" in done.stderr


def test_05_every_byte_is_on_the_disk_before_a_folder_gets_its_name(tmp_path, monkeypatch):
    """What a power failure may undo after the rename is nothing: files, then folder, then rename, then parent."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    folder = save_checkpoint(tmp_path / "run" / "step_0000006", 6.0)
    at = events.index("rename")
    assert {path.name for path in folder.iterdir()} <= set(events[:at])
    assert events[at - 1].startswith(".tmp-step_0000006")
    assert events[at + 1 :] == ["run"]


def test_05_a_file_cut_at_any_block_is_found_and_the_checkpoint_before_it_taken(run):
    for path in sorted((run / "step_0000006").iterdir()):
        whole = path.read_bytes()
        for size in range(0, len(whole), 4096):
            path.write_bytes(whole[:size])
            assert value_of(native.newest(run)) == 4.0
        path.write_bytes(whole)
    assert value_of(native.newest(run)) == 6.0


Usage = namedtuple("Usage", "total used free")


def test_06_without_space_for_a_checkpoint_nothing_is_written(run, monkeypatch):
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(StorageError, match=r"step_0000008: it takes \d{4,} bytes, and 1000 are free; free some space"):
        save_checkpoint(run / native.step_name(8), 8.0)
    assert value_of(native.newest(run)) == 6.0
    assert not list(run.glob(".tmp-*"))


@pytest.mark.parametrize("call", range(1, 9))
def test_06_a_disk_that_is_full_in_the_middle_leaves_the_checkpoints_before(run, monkeypatch, call):
    calls = 0
    fsync = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device.*free some space"):
        save_checkpoint(run / native.step_name(8), 8.0)
    monkeypatch.undo()
    assert value_of(native.newest(run)) == 6.0
    assert not list(run.glob(".tmp-*"))


@pytest.mark.slow
def test_06_disks_of_every_size_keep_what_was_there(tmp_path):
    """Fifty small disks, from one that takes no second checkpoint to one that takes it whole."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs; run as root")
    subprocess.run(["umount", str(place)], check=True)
    first = save_checkpoint(tmp_path / "first" / "step_0000002", 2.0)
    needed = sum(-(-path.stat().st_size // 4096) * 4096 for path in first.iterdir())
    saved = 0
    for number in range(50):
        size = needed + int(needed * 1.2 * number / 49) + 4096
        subprocess.run([*mount[:-3], f"size={size}", "tmpfs", str(place)], check=True)
        try:
            shutil.copytree(first, place / "run" / first.name)
            try:
                save_checkpoint(place / "run" / "step_0000004", 4.0)
                saved += 1
            except StorageError:
                assert [path.name for path in (place / "run").iterdir()] == [first.name]
            assert value_of(place / "run" / first.name) == 2.0
        finally:
            subprocess.run(["umount", str(place)], check=True)
    print(json.dumps({"disks": 50, "saved": saved, "first checkpoint intact": 50}))
    assert 0 < saved < 50


@pytest.mark.parametrize("cut", [0, 1, 8, 100, -1])
def test_09_a_cut_checkpoint_is_named_with_both_sizes_and_the_one_before_it_taken(run, cut):
    path = run / "step_0000006" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    message = rf"model\.safetensors: {len(whole[:cut])} bytes, MANIFEST\.json says {len(whole)}"
    with pytest.raises(CheckpointError, match=message):
        native.load(run / "step_0000006")
    assert value_of(native.newest(run)) == 4.0


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "config.json", "state.json", "dict.txt"]
)
def test_10_a_flip_of_any_byte_is_found(run, name):
    path = run / "step_0000006" / name
    whole = path.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(CheckpointError, match=re.escape(name)):
            native.verify(run / "step_0000006")
    path.write_bytes(whole)
    native.verify(run / "step_0000006")


def test_20_a_signal_during_a_save_lets_it_finish(tmp_path, monkeypatch):
    """The next update, or a later one if the save in the background began late, is the last; each is saved once."""
    from roberta.errors import PreemptionError
    from roberta.trainer import Trainer

    data, saves = make_data(tmp_path / "data"), []
    save = native.save

    def interrupted(folder: Path, *arguments: object) -> None:
        import signal

        if folder.name == "step_0000003":
            signal.raise_signal(signal.SIGTERM)
        saves.append(folder.name)
        save(folder, *arguments)

    monkeypatch.setattr(native, "save", interrupted)
    with pytest.raises(PreemptionError, match=r"stopped after update [456], and saved") as stopped:
        Trainer(make_recipe(data, tmp_path / "run", 9)).train()
    last = native.step_name(int(re.findall(r"\d+", str(stopped.value))[0]))
    assert saves == ["step_0000003", last]
    assert [folder.name for folder in native.steps(tmp_path / "run")] == saves
    for name in saves:
        native.verify(tmp_path / "run" / name)


def test_30_a_second_process_is_refused_and_told_who_is_there(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        message = rf"in use by process {holder.pid} on \S+ since \d{{4}}-\S+ \S+ UTC \(-c .*\); wait for it, stop it"
        with pytest.raises(StorageError, match=message), locked(tmp_path):
            pytest.fail("the lock was given twice")
        holder.kill()
        holder.wait()
        assert (tmp_path / locking.FILE_NAME).exists()
        with locked(tmp_path):  # who was killed holds nothing
            pass
    assert list(tmp_path.iterdir()) == []


def test_30_one_process_can_not_lock_a_folder_twice_but_one_after_the_other(tmp_path):
    for _ in range(2):
        with locked(tmp_path), pytest.raises(StorageError, match=f"process {os.getpid()} "), locked(tmp_path):
            pytest.fail("the lock was given twice")
    assert list(tmp_path.iterdir()) == []


def unsupported(descriptor: int, operation: int) -> None:
    """Say what a file system without locks says."""
    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


@pytest.mark.parametrize(
    ("holder", "is_free"),
    [
        ({"pid": 2**22 + 1, "host": locking.socket.gethostname()}, True),
        ({"pid": os.getppid(), "host": locking.socket.gethostname()}, False),
        ({"pid": 1, "host": "another"}, False),
        ({}, True),
    ],
)
def test_30_without_locks_of_the_kernel_the_named_process_counts(tmp_path, monkeypatch, holder, is_free):
    """Some network file systems have no locks."""
    monkeypatch.setattr(locking.fcntl, "flock", unsupported)
    (tmp_path / locking.FILE_NAME).write_text(json.dumps(holder) if holder else "")
    if is_free:
        with locked(tmp_path):
            assert json.loads((tmp_path / locking.FILE_NAME).read_text())["pid"] == os.getpid()
    else:
        with pytest.raises(StorageError, match=f"process {holder['pid']} on {holder['host']}"), locked(tmp_path):
            pytest.fail("the lock was given twice")


@pytest.mark.parametrize("content", ["[" * 60_000, '{"pid": ' + "9" * 5000 + "}"], ids=["nested", "huge"])
def test_30_a_lock_file_that_can_not_be_read_names_nobody(tmp_path, monkeypatch, content):
    path = tmp_path / locking.FILE_NAME
    with locked(tmp_path):
        path.write_text(content)
        with pytest.raises(StorageError, match="in use by process unknown on unknown host"), locked(tmp_path):
            pytest.fail("the lock was given twice")
    monkeypatch.setattr(locking.fcntl, "flock", unsupported)
    path.write_text(content)
    with locked(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_30_a_folder_that_can_not_be_written_can_not_be_locked(tmp_path):
    with pytest.raises(StorageError, match=r"gone: can't be written: No such file"), locked(tmp_path / "gone"):
        pytest.fail("locked a folder that is not there")


def test_45_a_half_deleted_checkpoint_is_never_seen(run, monkeypatch):
    """A kill during the deletion of an old checkpoint: its name is gone before its files."""

    def killed(path: Path, **options: object) -> None:
        next(path.iterdir()).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(folders.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        native.prune(run, keep=2)
    monkeypatch.undo()
    assert [folder.name for folder in native.steps(run)] == ["step_0000004", "step_0000006"]
    assert len(list(run.glob(".tmp-*"))) == 1
    native.forget_after(run, 6)
    assert not list(run.glob(".tmp-*"))


def test_45_damaged_checkpoints_do_not_count_among_those_to_keep(run):
    (run / "step_0000006" / MANIFEST).unlink()
    native.prune(run, keep=2)
    assert {folder.name for folder in native.steps(run)} == {"step_0000002", "step_0000004", "step_0000006"}
    assert value_of(native.newest(run)) == 4.0


def test_45_the_number_of_updates_decides_and_not_the_clock(run):
    os.utime(run / "step_0000002", (2**31, 2**31))
    os.utime(run / "step_0000006", (0, 0))
    native.prune(run, keep=1)
    assert [folder.name for folder in native.steps(run)] == ["step_0000006"]


def test_45_a_best_model_that_a_crash_took_away_comes_back(run):
    """Between two renames the old one lies under a name of its own and the new one is not there yet."""
    save_checkpoint(run / native.BEST, 2.0)
    (run / native.BEST).rename(run / ".tmp-best-0123456789abcdef0123456789abcdef-replaced")
    native.forget_after(run, 6)
    assert value_of(run / native.BEST) == 2.0
    assert not list(run.glob(".tmp-*"))


@pytest.mark.parametrize("part", ["optimizer.safetensors", "state.json"])
def test_46_a_run_without_its_optimizer_can_not_be_resumed(run, part):
    (run / "step_0000006" / part).unlink()
    with pytest.raises(CheckpointError, match=f"{part}: listed in MANIFEST.json but missing"):
        native.load(run / "step_0000006")


@pytest.mark.parametrize("stripped", [("exp_avg",), ("exp_avg", "exp_avg_sq", "step")])
def test_46_a_run_without_a_moment_can_not_be_resumed_even_if_the_sums_are_right(stripped, tmp_path):
    data, run, name = make_data(tmp_path / "data"), tmp_path / "run", "encoder.layers.0.fc1.weight"
    Trainer(make_recipe(data, run, 3)).train()
    folder = run / native.step_name(3)
    tensors = load_file(folder / native.OPTIMIZER)
    for kind in stripped:
        del tensors[f"{kind}.{name}"]
    folders.write_tensors(folder / native.OPTIMIZER, tensors)
    resum(folder)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        Trainer(make_recipe(data, run, 6)).train()


def test_39_a_checkpoint_that_declares_more_than_it_holds_is_refused_before_it_is_built(run):
    folder = run / "step_0000006"
    config = json.loads((folder / "config.json").read_text())
    for name, value in (("encoder_layers", 10**9), ("embed_dim", 2**40), ("max_positions", 2**60), ("vocab_size", -1)):
        changed = {**config, "model": {**config["model"], name: value}}
        (folder / "config.json").write_text(json.dumps(changed))
        (folder / MANIFEST).unlink()
        native._write_manifest(folder)
        with pytest.raises(CheckpointError, match=name):
            native.load(folder)
