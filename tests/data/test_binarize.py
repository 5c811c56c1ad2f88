from pathlib import Path

import numpy as np
import pytest

from roberta.data import binarize as module
from roberta.data.binarize import Counts, PreprocessConfig, binarize, preprocess
from roberta.data.indexed import IndexedDataset
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def lines_of(prefix: Path, tokenizer: Tokenizer) -> list[str]:
    dataset = IndexedDataset(prefix)
    assert all(dataset[i][-1] == tokenizer.dictionary.eos for i in range(len(dataset)))
    return [tokenizer.decode(dataset[i][:-1].tolist()) for i in range(len(dataset))]


def documents(count: int) -> str:
    return "\n".join(f"document {i}\nits end {i}\n" for i in range(count))


def test_a_line_is_its_tokens_and_an_end_of_sentence(tmp_path, tokenizer):
    binarize([written(tmp_path / "a.txt", "Hello world!\nHello")], tmp_path / "train", tokenizer)
    dataset = IndexedDataset(tmp_path / "train")
    assert [dataset[i].tolist() for i in range(len(dataset))] == [[31414, 232, 328, 2], [31414, 2]]


def test_white_space_around_a_line_is_dropped_and_inside_it_kept(tmp_path, tokenizer):
    binarize([written(tmp_path / "a.txt", " a  b\u2028c \t\n\u3000\n\nd\n")], tmp_path / "train", tokenizer)
    assert lines_of(tmp_path / "train", tokenizer) == ["a  b\u2028c", "", "", "d"]


def test_counts_tell_lines_documents_tokens_and_bytes(tmp_path, tokenizer):
    path = written(tmp_path / "a.txt", "\n\nHello world!\nHello\n\n\nHello\n")
    counts = binarize([path], tmp_path / "train", tokenizer)
    assert counts == Counts(lines=7, documents=2, tokens=12, text_bytes=path.stat().st_size)


def test_a_document_does_not_run_from_one_file_into_the_next(tmp_path, tokenizer):
    paths = [
        written(tmp_path / "a.txt", "a\n"),
        written(tmp_path / "b.txt", "b\n\n"),
        written(tmp_path / "c.txt", "c\n"),
    ]
    assert binarize(paths, tmp_path / "train", tokenizer).documents == 3
    assert lines_of(tmp_path / "train", tokenizer) == ["a", "", "b", "", "c"]


@pytest.mark.parametrize("characters", [1, 7, 50])
def test_the_size_of_the_pieces_changes_nothing(tmp_path, tokenizer, monkeypatch, characters):
    path = written(tmp_path / "a.txt", documents(9))
    expected = binarize([path], tmp_path / "whole", tokenizer)
    monkeypatch.setattr(module, "_PIECE_CHARACTERS", characters)
    assert binarize([path], tmp_path / "pieces", tokenizer) == expected
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"pieces{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_progress_adds_up_to_the_bytes_of_text(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "_PIECE_CHARACTERS", 20)
    done: list[int] = []
    path = written(tmp_path / "a.txt", documents(9) + "é\n")
    counts = binarize([path], tmp_path / "train", tokenizer, progress=done.append)
    assert len(done) > 5
    assert sum(done) == counts.text_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n\n", "no text, only empty lines"),
        (b"text\n\xff\n", "a.txt:2: byte offset 5"),
    ],
)
def test_bad_text_leaves_nothing_behind(tmp_path, tokenizer, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        binarize([tmp_path / "a.txt"], tmp_path / "data-bin" / "train", tokenizer)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "a.txt"]


def test_a_missing_file_is_found_before_any_work(tmp_path, tokenizer):
    path = written(tmp_path / "a.txt", "text")
    with pytest.raises(DataError, match=r"none\.txt: No such file"):
        binarize([path, tmp_path / "none.txt"], tmp_path / "data-bin" / "train", tokenizer)
    assert not (tmp_path / "data-bin").exists()


def test_splits_appear_together_or_not_at_all(tmp_path):
    train = written(tmp_path / "train.txt", "text\n")
    (tmp_path / "valid.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"valid\.txt:1"):
        preprocess(PreprocessConfig(trainpref=(train,), validpref=(tmp_path / "valid.txt",), destdir=tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_folder_holds_the_splits_and_a_tokenizer_that_loads(tmp_path, tokenizer):
    path = written(tmp_path / "a.txt", "text\n")
    preprocess(PreprocessConfig(trainpref=(path,), validpref=(path,), testpref=(path,), destdir=tmp_path / "out"))
    names = {item.name for item in (tmp_path / "out").iterdir()}
    assert names >= {f"{split}.{suffix}" for split in ("train", "valid", "test") for suffix in ("bin", "idx")}
    assert "dict.txt" in names
    again = Tokenizer.load(tmp_path / "out")
    assert again.dictionary == tokenizer.dictionary
    assert again.encode("text") == tokenizer.encode("text")


@pytest.mark.parametrize(("fraction", "expected"), [(0.25, [3, 7, 11]), (0.1, [9]), (0.5, [1, 3, 5, 7, 9, 11])])
def test_a_fraction_of_the_documents_is_held_out_whole(tmp_path, tokenizer, monkeypatch, fraction, expected):
    monkeypatch.setattr(module, "_PIECE_CHARACTERS", 30)
    path = written(tmp_path / "a.txt", documents(12))
    counts = preprocess(PreprocessConfig(trainpref=(path,), valid_fraction=fraction, destdir=tmp_path / "out"))
    assert counts["valid"].documents == len(expected)
    assert counts["train"].documents == 12 - len(expected)
    for split, held_out in (("train", False), ("valid", True)):
        text = [f"{part} {i}" for i in range(12) if (i in expected) == held_out for part in ("document", "its end")]
        assert [line for line in lines_of(tmp_path / "out" / split, tokenizer) if line] == text


def test_held_out_and_kept_documents_stay_apart_from_their_neighbours(tmp_path, tokenizer):
    path = written(tmp_path / "a.txt", "a\n\nb\n\nc\n\nd\n")
    preprocess(PreprocessConfig(trainpref=(path,), valid_fraction=0.5, destdir=tmp_path / "out"))
    assert lines_of(tmp_path / "out" / "train", tokenizer) == ["a", "", "c", ""]
    assert lines_of(tmp_path / "out" / "valid", tokenizer) == ["b", "", "d"]


def test_too_few_documents_to_hold_any_out_are_refused(tmp_path):
    path = written(tmp_path / "a.txt", documents(5))
    with pytest.raises(DataError, match=r"5 documents can't give a validation split of --valid-fraction 0\.1"):
        preprocess(PreprocessConfig(trainpref=(path,), valid_fraction=0.1, destdir=tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to do; give --trainpref"),
        ({"trainpref": (Path("a"),), "valid_fraction": 1.0}, "--valid-fraction 1.0; expected"),
        ({"trainpref": (Path("a"),), "valid_fraction": -0.1}, "--valid-fraction -0.1; expected"),
        ({"trainpref": (Path("a"),), "validpref": (Path("b"),), "valid_fraction": 0.1}, "leave out --validpref"),
        ({"testpref": (Path("a"),), "valid_fraction": 0.1}, "splits the text of --trainpref"),
    ],
)
def test_contradictory_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PreprocessConfig(**options)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_golden_text_gives_the_golden_corpus_byte_for_byte(shared: Path, tmp_path: Path, tokenizer, split: str):
    golden = shared / "golden/mlm"
    binarize([golden / "raw" / f"{split}.raw"], tmp_path / split, tokenizer)
    for suffix in (".bin", ".idx"):
        assert (tmp_path / (split + suffix)).read_bytes() == (golden / "data-bin" / (split + suffix)).read_bytes()


def test_text_of_many_scripts_is_decoded_to_itself(tmp_path, tokenizer):
    rng = np.random.default_rng(0)
    points = rng.integers(33, 0x3000, size=(50, 20))
    lines = ["".join(map(chr, row)).strip() for row in points]
    binarize([written(tmp_path / "a.txt", "\n".join(lines))], tmp_path / "train", tokenizer)
    assert lines_of(tmp_path / "train", tokenizer) == lines
