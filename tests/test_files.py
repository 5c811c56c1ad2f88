"""Files that are written whole or not at all."""

import os
from pathlib import Path

import pytest

from roberta.errors import StorageError
from roberta.files import check_name, make_folder, whole_file, write_text


def test_half_a_surrogate_pair_is_written_as_its_escape(tmp_path):
    write_text(tmp_path / "predictions.jsonl", '{"text": "cut \ud83d", "name": "caf\udce9é"}\n', escape=True)
    assert (tmp_path / "predictions.jsonl").read_bytes() == b'{"text": "cut \\ud83d", "name": "caf\\udce9\xc3\xa9"}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_elsewhere_it_is_an_error_that_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "vocab.json", "cut \ud83d")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file/x.json", f"{250 * 'x'}.json", 300 * "x"])
def test_a_place_that_can_not_be_written_is_one_error(tmp_path, name):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(StorageError, match="can't be written"):
        write_text(tmp_path / name, "new")
    with pytest.raises(StorageError, match="can't be made"):
        make_folder(tmp_path / "file" / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_was_there_stays_until_all_is_written(tmp_path):
    path = tmp_path / "picture.svg"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), whole_file(path) as part:
        part.write_text(2**16 * "half" + "\ud83d")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("picture.svg", "old")]


def test_links_and_devices_stay(tmp_path):
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    write_text(Path(os.devnull), "lost")
    assert Path(os.devnull).is_char_device()
    for folder in (Path("."), tmp_path):
        with pytest.raises(StorageError, match="can't be written"):
            write_text(folder, "x")


def test_names_that_are_not_utf8_are_refused(tmp_path):
    check_name(tmp_path / "dé")
    with pytest.raises(StorageError, match="the name is not UTF-8"):
        check_name(tmp_path / os.fsdecode(b"\xff"))
