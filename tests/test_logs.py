"""The records of a run: JSON lines, TensorBoard where asked for, and what a resumed run forgets."""

import json
import sys
from pathlib import Path

import pytest

from roberta.errors import ConfigError
from roberta.logs import Logs, forget_after


def test_a_record_is_a_line_at_once(tmp_path):
    path = tmp_path / "log.jsonl"
    with Logs(path) as logs:
        logs.write("train", {"num_updates": 1, "loss": 2.5})
        assert json.loads(path.read_text()) == {"train": {"num_updates": 1, "loss": 2.5}}
        logs.write("valid", {"num_updates": 1, "loss": 3.5})
    with Logs(path) as logs:
        logs.write("train", {"num_updates": 2, "loss": 1.5})
    assert [list(json.loads(line)) for line in path.read_text().splitlines()] == [["train"], ["valid"], ["train"]]


def write_lines(path: Path, *updates: int, tail: str = "") -> None:
    path.write_text("".join(json.dumps({"train": {"num_updates": update}}) + "\n" for update in updates) + tail)


@pytest.mark.parametrize(("after", "kept"), [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_records_after_an_update_are_forgotten(tmp_path, after, kept):
    path = tmp_path / "log.jsonl"
    write_lines(path, 1, 2, 3)
    forget_after(path, after)
    assert [json.loads(line)["train"]["num_updates"] for line in path.read_text().splitlines()] == kept
    assert [found.name for found in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_line_that_a_crash_cut_off_is_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    write_lines(path, 1, tail='{"train": {"num_upd')
    forget_after(path, 9)
    assert path.read_text().count("\n") == len(path.read_text().splitlines()) == 1


def test_without_a_log_there_is_nothing_to_forget(tmp_path):
    forget_after(tmp_path / "log.jsonl", 3)
    assert not list(tmp_path.iterdir())


def test_tensorboard_that_is_not_installed_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError, match="--tensorboard-logdir needs a package: .*; run: pip install tensorboard"):
        Logs(tmp_path / "log.jsonl", tmp_path / "board")
    assert not list(tmp_path.iterdir())
