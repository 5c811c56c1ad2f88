"""fairseq's binarised folders: written here, and the genuine ones where they are at hand."""

from pathlib import Path

import pytest

from roberta.data.dictionary import Dictionary
from roberta.data.indexed import IndexedWriter
from roberta.data.readers.binarized import binarized_dictionary, binarized_labels, read_binarized
from roberta.data.tokenizer import Tokenizer
from roberta.errors import DataError, VocabError

EOS = 2


def binarise(prefix: Path, *lines: list[int]) -> None:
    with IndexedWriter(prefix, 100) as writer:
        for line in lines:
            writer.add([*line, EOS])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two pairs, labelled b and a."""
    binarise(tmp_path / "input0" / "train", [7, 8, 9], [5])
    binarise(tmp_path / "input1" / "train", [], [6, 2, 6])
    (tmp_path / "label").mkdir()
    (tmp_path / "label" / "dict.txt").write_text("b 5\na 3\nmadeupword0000 0\n")
    binarise(tmp_path / "label" / "train", [4], [5])
    return tmp_path


def plain(folder: Path, split: str = "train", **options: bool) -> list[tuple]:
    return [
        ([piece.tolist() for piece in example.pieces], example.label, example.source, example.id)
        for example in read_binarized(folder, split, **options)
    ]


def test_pairs_come_with_the_names_of_their_classes(folder):
    assert plain(folder) == [
        ([[7, 8, 9], []], "b", f"{folder}/input0/train:1", "0"),
        ([[5], [6, 2, 6]], "a", f"{folder}/input0/train:2", "1"),
    ]
    assert binarized_labels(folder) == ("b", "a")


def test_numbers_are_lines_of_text(folder):
    (folder / "label" / "dict.txt").unlink()
    (folder / "label" / "train.label").write_text("0.25\n-3\n")
    assert [label for _, label, _, _ in plain(folder)] == [0.25, -3.0]
    assert binarized_labels(folder) == ()
    (folder / "label" / "train.label").write_text("0.25\nhigh\n")
    with pytest.raises(DataError, match=r"train\.label:2: label is \"high\"; expected a finite number"):
        read_binarized(folder, "train")


def test_labels_may_be_absent_where_they_are_not_needed(folder):
    binarise(folder / "input0" / "test", [7])
    assert plain(folder, "test", needs_labels=False) == [([[7]], None, f"{folder}/input0/test:1", "0")]
    with pytest.raises(DataError, match=r"label/test\.idx: can't be read"):
        read_binarized(folder, "test")


def test_parts_that_do_not_fit_are_refused(folder):
    binarise(folder / "input1" / "train", [6])
    with pytest.raises(DataError, match="input1/train: 1 examples, but .*input0/train has 2"):
        read_binarized(folder, "train")
    (folder / "input1" / "train.idx").unlink()
    binarise(folder / "label" / "train", [4], [5], [4])
    with pytest.raises(DataError, match="label/train: 3 examples, but .*input0/train has 2"):
        read_binarized(folder, "train")


@pytest.mark.parametrize("label", [[6], [3], [], [4, 4]])
def test_labels_outside_the_dictionary_are_refused(folder, label):
    binarise(folder / "label" / "train", [4], label)
    with pytest.raises(DataError, match="label/train:2: label .*expected one number from 0 to 1, for b, a"):
        read_binarized(folder, "train")


def test_missing_parts_are_named(folder):
    with pytest.raises(DataError, match=r"input0/valid\.idx: can't be read"):
        read_binarized(folder, "valid")
    with pytest.raises(VocabError, match=r"input0/dict\.txt"):
        binarized_dictionary(folder)
    binarise(folder / "input0" / "none")
    binarise(folder / "label" / "none")
    with pytest.raises(DataError, match="input0/none: no examples"):
        read_binarized(folder, "none")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_golden_pairs_are_the_raw_ones(shared, split):
    folder, raw = shared / "golden" / "glue", shared / "golden" / "glue" / "raw"
    prefix = "dev" if split == "valid" else split
    texts = [(raw / f"{prefix}.raw.input{i}").read_text(encoding="utf-8").splitlines() for i in range(2)]
    tokenizer = Tokenizer.load()
    pairs = read_binarized(folder / "PAIR-bin", split)
    decoded = [[tokenizer.decode(piece.tolist()) for piece in example.pieces] for example in pairs]
    assert decoded == [[text.strip() for text in pair] for pair in zip(*texts, strict=True)]
    assert [example.label for example in pairs] == (raw / f"{prefix}.label").read_text().split()
    scores = read_binarized(folder / "REG-bin", split)
    assert [example.label for example in scores] == list(map(float, (raw / f"{prefix}.score").read_text().split()))
    assert all((a.pieces[0] == b.pieces[0]).all() for a, b in zip(pairs, scores, strict=True))


def test_the_golden_classes_are_in_the_order_of_their_frequency(shared):
    assert binarized_labels(shared / "golden" / "glue" / "PAIR-bin") == ("neutral", "contradiction", "entailment")
    assert binarized_dictionary(shared / "golden" / "glue" / "PAIR-bin") == Dictionary.load_packaged()


def test_questions_with_options_are_refused(folder):
    (folder / "label" / "dict.txt").unlink()
    (folder / "label" / "train.label").write_text("0\n1\n")
    binarise(folder / "input2" / "train", [7], [8])
    with pytest.raises(
        DataError, match=r"3 inputs and numbers for labels, .* give the raw questions to roberta-finetune"
    ):
        read_binarized(folder, "train")
