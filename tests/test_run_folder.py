"""The folder of a run: what is written down of its starts, and that damage there is no reason not to go on."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from roberta.checkpoint import native
from roberta.errors import ConfigError
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.recipe import TrainerConfig
from roberta.run_folder import RUN, RunFolder
from roberta.versions import versions
from tests.builders import make_byte_tokenizer

SHAPE = {"encoder_layers": 1, "embed_dim": 8, "ffn_embed_dim": 8, "attention_heads": 1, "max_positions": 16}
FIRST = {"command": ["roberta-train", "first"], "versions": {"torch": "2.0", "commit": None}}
SECOND = {"command": ["roberta-train", "second"], "versions": {"torch": "2.1"}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run that has a checkpoint of update 5, and no run.json."""
    tokenizer = make_byte_tokenizer()
    model = RobertaModel(RobertaConfig(vocab_size=len(tokenizer.dictionary), **SHAPE))
    native.save(tmp_path / "run" / native.step_name(5), model, tokenizer)
    return tmp_path / "run"


def begin(run: Path, num_updates: int = 5, resume: bool = True) -> dict[str, Any]:
    """Start a run in a folder, and return what is written down of it."""
    config = TrainerConfig(save_dir=run, max_update=10, batch_size=1, resume=resume)
    RunFolder(config, is_main=True).begin(num_updates, {"trainer": {}})
    written = json.loads((run / RUN).read_text())
    assert isinstance(written, dict)
    return written


def test_a_start_is_written_down_with_its_command_its_versions_and_its_options(tmp_path):
    assert begin(tmp_path, 0, resume=False) == {
        "command": sys.argv,
        "versions": versions(),
        "recipe": {"trainer": {}},
    }


def test_a_resumed_run_keeps_its_earlier_starts_oldest_first(run):
    (run / RUN).write_text(json.dumps({**FIRST, "recipe": {"seed": 1}}))
    assert begin(run)["earlier"] == [{**FIRST, "num_updates": 5}]
    told = {**SECOND, "recipe": {}, "earlier": [{**FIRST, "num_updates": 3}]}
    (run / RUN).write_text(json.dumps(told))
    written = begin(run)
    assert written["earlier"] == [{**FIRST, "num_updates": 3}, {**SECOND, "num_updates": 5}]
    assert (written["command"], written["recipe"]) == (sys.argv, {"trainer": {}})


def test_a_run_that_begins_anew_has_no_earlier_starts(tmp_path):
    """It died before its first checkpoint, so nothing of that start is in it."""
    (tmp_path / RUN).write_text(json.dumps(FIRST))
    assert "earlier" not in begin(tmp_path, 0, resume=True)


def test_a_run_goes_on_without_the_file_that_tells_of_its_starts(run, caplog):
    assert "earlier" not in begin(run)
    assert not caplog.records


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"command": ["roberta-train"',
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 200_000,
        b'{"earlier": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"command": ' + b"9" * 5000 + b"}",
        b"{}",
        b'{"command": "roberta-train", "versions": {}}',
        b'{"command": [1], "versions": {}}',
        b'{"command": [], "versions": []}',
        b'{"command": [], "versions": {"torch": 2}}',
        b'{"command": [], "versions": {"torch": NaN}}',
    ],
    ids=lambda content: content[:40].decode(errors="replace"),
)
def test_a_file_that_is_damaged_or_edited_costs_the_earlier_starts_and_no_more(run, content, caplog):
    (run / RUN).write_bytes(content)
    assert "earlier" not in begin(run)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(run / RUN) in record.getMessage()


@pytest.mark.parametrize(
    "earlier",
    [
        5,
        "first",
        {"0": 1},
        [None, [], "first", {}],
        [{**FIRST, "num_updates": "3"}, {**FIRST, "num_updates": True}, {**FIRST, "num_updates": 3.5}, FIRST],
    ],
    ids=str,
)
def test_earlier_starts_that_are_none_are_left_out_and_counted(run, earlier, caplog):
    (run / RUN).write_text(json.dumps({**SECOND, "earlier": earlier}))
    assert begin(run)["earlier"] == [{**SECOND, "num_updates": 5}]
    count = len(earlier) if isinstance(earlier, list) else 1
    assert f"{count} of {count + 1} starts are not as they were written, and are left out" in caplog.text


def test_what_is_not_of_a_start_is_not_kept(run):
    (run / RUN).write_text(json.dumps({**SECOND, "note": 1, "earlier": [{**FIRST, "num_updates": 3, "note": 2}]}))
    assert begin(run)["earlier"] == [{**FIRST, "num_updates": 3}, {**SECOND, "num_updates": 5}]


def test_a_best_model_that_is_to_be_kept_and_is_not_there_is_lost(run):
    for keep_best in (False, True):
        config = TrainerConfig(save_dir=run, max_update=10, batch_size=1, resume=True, keep_best=keep_best)
        folder = RunFolder(config, is_main=True)
        assert folder.has_lost_best(4) == keep_best
        assert not folder.has_lost_best(0)


def test_the_folder_of_binarised_data_is_no_run_s(tmp_path):
    (tmp_path / "train.idx").touch()
    config = TrainerConfig(save_dir=tmp_path, max_update=10, batch_size=1)
    with pytest.raises(ConfigError, match="holds binarised data; choose another --save-dir"):
        RunFolder(config, is_main=True).check_is_free()
