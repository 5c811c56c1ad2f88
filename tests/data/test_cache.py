import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roberta.data import cache as cache_module
from roberta.data.cache import binarized, is_raw_text, text_files
from roberta.data.indexed import IndexedDataset
from roberta.errors import ConfigError, DataError

DOCUMENTS = "\n".join(f"document {i}\n" for i in range(20))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(DOCUMENTS, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBERTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(text: Path, *, fraction: float = 0.1, valid: Path | None = None) -> Path:
    return binarized(text, vocab=None, valid_data=valid, valid_fraction=fraction)


def test_raw_text_is_binarised_with_a_share_held_out(text, cache):
    folder = made(text)
    assert folder.is_relative_to(cache)
    assert folder.name.startswith("corpus-")
    assert len(IndexedDataset(folder / "valid")) == 3
    assert len(IndexedDataset(folder / "train")) == 36
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_second_call_finds_what_the_first_made(text):
    folder = made(text)
    before = (folder / "train.bin").stat().st_mtime_ns
    assert made(text) == folder
    assert (folder / "train.bin").stat().st_mtime_ns == before


def test_another_text_or_share_is_made_anew_and_what_another_version_made(text, monkeypatch):
    folders = [made(text), made(text, fraction=0.2)]
    text.write_text(DOCUMENTS + "\nmore\n", encoding="utf-8")
    folders.append(made(text))
    monkeypatch.setattr(cache_module, "_VERSION", 0)
    folders.append(made(text))
    assert len(set(folders)) == 4


def test_a_folder_stands_for_its_text_files_in_order(tmp_path, text):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("b.txt", "a.txt.gz", "notes.md", "c.txt"):
        (folder / name).write_text("text\n", encoding="utf-8")
    (folder / "d.txt").mkdir()
    assert [path.name for path in text_files(folder)] == ["a.txt.gz", "b.txt", "c.txt"]
    assert text_files(text) == (text,)
    assert is_raw_text(folder)
    (folder / "dict.txt").write_text("a 1\n", encoding="utf-8")
    assert not is_raw_text(folder)
    assert not is_raw_text(tmp_path / "none")


def test_validation_text_of_its_own_leaves_the_training_text_whole(tmp_path, text):
    valid = tmp_path / "valid.txt"
    valid.write_text("held out\n", encoding="utf-8")
    folder = made(text, valid=valid)
    assert len(IndexedDataset(folder / "train")) == 39
    assert len(IndexedDataset(folder / "valid")) == 1


def test_bad_text_leaves_nothing_in_the_cache(tmp_path, text, cache):
    text.write_bytes(b"text\n\xff\n")
    with pytest.raises(DataError, match=r"corpus\.txt:2"):
        made(text)
    assert not list((cache / "data-bin").iterdir())


def test_a_process_that_is_too_late_takes_what_is_there(text, monkeypatch):
    rename = os.rename
    raced = []

    def lose(source: Path, target: Path) -> None:
        raced.append(target)
        rename(source, target)
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(os, "rename", lose)
    assert [made(text)] == raced


def test_what_a_killed_process_left_is_swept_and_what_is_being_made_is_not(text, cache):
    folder = made(text)
    stale, live = (folder.with_name(f"other-{16 * digit}.{32 * digit}.part") for digit in "01")
    for part in (stale, live, folder.with_name("mine.part")):
        part.mkdir()
        (part / "train.bin.part").write_bytes(b"half")
        os.utime(part / "train.bin.part", (0, 0))
        os.utime(part, (0, 0))
    os.utime(live / "train.bin.part")  # it is being written to
    text.write_text(DOCUMENTS + "\nmore\n", encoding="utf-8")
    names = {path.name for path in made(text).parent.iterdir()}
    assert names == {folder.name, made(text).name, live.name, "mine.part"}


def test_validation_text_among_the_training_text_is_not_trained_on(tmp_path, text):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, words in (("train.txt", "one two\n"), ("valid.txt", "three\n")):
        (folder / name).write_text(words, encoding="utf-8")
    target = made(folder, valid=folder / "valid.txt")
    assert [IndexedDataset(target / split).num_tokens for split in ("train", "valid")] == [3, 2]
    with pytest.raises(DataError, match=r"valid\.txt: all its text is that of --valid-data; nothing is left"):
        made(folder / "valid.txt", valid=folder)


def test_what_leaves_nothing_to_validate_on_is_refused(tmp_path, text):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "wiki.valid.tokens").write_text("words\n")
    with pytest.raises(DataError, match=r"empty: no \.txt files in it"):
        made(text, valid=tmp_path / "empty")
    with pytest.raises(ConfigError, match="give --valid-data, or a --valid-fraction above 0"):
        made(text, fraction=0.0)


def test_of_several_processes_one_makes_it_and_the_others_wait(text, monkeypatch):
    calls = []
    preprocess = cache_module.preprocess
    monkeypatch.setattr(cache_module, "preprocess", lambda config: calls.append(1) or preprocess(config))
    with ThreadPoolExecutor(4) as threads:
        folders = set(threads.map(made, [text] * 4))
    assert len(calls) == len(folders) == 1
    assert [path.name for path in folders.pop().parent.iterdir()] == [made(text).name]


def test_files_of_splits_among_the_training_text_are_told_of(tmp_path, text, caplog):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("train.txt", "dev.txt", "test.txt"):
        (folder / name).write_text(DOCUMENTS, encoding="utf-8")
    made(folder)
    assert caplog.text.count("is trained on as all others are") == 2
    assert "and name it with --valid-data" in caplog.text
    caplog.clear()
    made(folder, valid=folder / "dev.txt")
    assert caplog.text.count("is trained on as all others are") == 1
    made(text)
    assert caplog.text.count("is trained on as all others are") == 1
