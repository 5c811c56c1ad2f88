"""Folders of texts, one file a text: a small aclImdb, and the genuine one where it is at hand."""

import tarfile
from collections import Counter
from pathlib import Path

import pytest

from roberta.data.examples import TextExample
from roberta.data.readers.folders import read_folders
from roberta.data.readers.split_files import find_split_folder
from roberta.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    texts = {
        "neg/1_2.txt": "Bad.<br />Very.\n",
        "neg/0_1.txt": "\nWorse,\n\nnot better.",
        "pos/3_9.txt": "Good.",
        "unsup/0_0.txt": "Who knows?",
        "notes.txt": "not a label",
        "pos/urls.dat": "not a text",
    }
    for name, text in texts.items():
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_a_text_is_a_whole_file_labelled_by_its_folder(folder):
    train = folder / "train"
    assert read_folders(folder, "train") == [
        TextExample(("Worse,\n\nnot better.",), "neg", f"{train}/neg/0_1.txt:1", "0_1"),
        TextExample(("Bad.<br />Very.",), "neg", f"{train}/neg/1_2.txt:1", "1_2"),
        TextExample(("Good.",), "pos", f"{train}/pos/3_9.txt:1", "3_9"),
    ]


def test_unlabelled_folders_are_read_where_they_are_asked_for(folder):
    assert [example.label for example in read_folders(folder, "train", ("unsup", "pos"))] == ["unsup", "pos"]


def test_what_is_missing_is_named(folder):
    with pytest.raises(DataError, match="valid: no such folder, expected valid/LABEL/NAME.txt; allowed: train"):
        read_folders(folder, "valid")
    with pytest.raises(DataError, match=r"no folder of the label 'post'; allowed: neg, pos, unsup; did you mean pos\?"):
        read_folders(folder, "train", ("post",))
    (folder / "train" / "pos" / "3_9.txt").unlink()
    with pytest.raises(DataError, match=r"pos: no \.txt files"):
        read_folders(folder, "train")
    (folder / "train" / "pos" / "4_9.txt").write_text("")
    with pytest.raises(DataError, match=r"4_9\.txt: the file is empty"):
        read_folders(folder, "train")
    (folder / "train" / "pos" / "4_9.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"4_9\.txt:1: the text is empty"):
        read_folders(folder, "train")
    (folder / "test").mkdir()
    with pytest.raises(DataError, match="test: no folders of labels in it"):
        read_folders(folder, "test")


@pytest.mark.parametrize("name", ["valid", "dev", "val", "validation"])
def test_the_validation_split_has_several_names(folder, name):
    (folder / "train").rename(folder / name)
    assert len(read_folders(folder, "valid")) == 3
    (folder / "valid").mkdir(exist_ok=True)
    assert find_split_folder(folder, "valid") == folder / "valid"


def test_two_folders_that_could_be_the_split_are_refused(folder):
    for name in ("dev", "val"):
        (folder / name).mkdir()
    with pytest.raises(DataError, match="dev and val could each be the valid split; keep one of them"):
        read_folders(folder, "valid")


def test_the_genuine_sample_is_balanced(shared, tmp_path):
    with tarfile.open(shared / "data" / "imdb" / "aclImdb.sample.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for split, count in (("train", 1000), ("test", 500)):
        examples = read_folders(tmp_path / "aclImdb", split)
        assert Counter(example.label for example in examples) == {"neg": count, "pos": count}
        stars = {int(example.id.partition("_")[2]) for example in examples if example.label == "pos"}
        assert stars <= {7, 8, 9, 10}
