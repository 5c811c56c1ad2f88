import os
from pathlib import Path

import numpy as np
import pytest

from roberta.checkpoint import native
from roberta.data import binarize as module
from roberta.data.binarize import PreprocessConfig, binarize, preprocess
from roberta.data.indexed import IndexedDataset
from roberta.data.splits import Counts
from roberta.data.stream import open_split
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError
from roberta.models.roberta import RobertaConfig, RobertaModel


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
    monkeypatch.setattr(module, "PIECE_BYTES", characters)
    assert binarize([path], tmp_path / "pieces", tokenizer) == expected
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"pieces{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_progress_adds_up_to_the_bytes_of_text(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "PIECE_BYTES", 20)
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


def test_a_pipe_is_not_read_twice(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"a pipe \(.*pipe\) can be read once"):
        PreprocessConfig(trainpref=(tmp_path / "pipe",), train_bpe=300)


def test_text_that_is_trained_on_and_held_out_is_warned_of(tmp_path, caplog):
    path = written(tmp_path / "a.txt", documents(9))
    preprocess(PreprocessConfig(trainpref=(path,), validpref=(path,), destdir=tmp_path / "data-bin", workers=1))
    assert f"{path} is to be trained on and to be held out" in caplog.text


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
    assert not (tmp_path / "out").exists()


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
    monkeypatch.setattr(module, "PIECE_BYTES", 30)
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
    assert not (tmp_path / "out").exists()


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


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("options", [{}, {"valid_fraction": 0.25}])
def test_the_number_of_processes_changes_no_byte(tmp_path, monkeypatch, options):
    monkeypatch.setattr(module, "PIECE_BYTES", 100)
    paths = (written(tmp_path / "a.txt", documents(40)), written(tmp_path / "b.txt", "é\u2028\n" + documents(9)))
    for workers in (1, 2):
        preprocess(PreprocessConfig(trainpref=paths, destdir=tmp_path / str(workers), workers=workers, **options))
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def sharded(tmp_path: Path, *texts: str, **options: Path) -> dict[str, Counts]:
    paths = [tmp_path / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    return preprocess(PreprocessConfig(trainpref=tuple(paths), destdir=tmp_path / "out", shards=True, **options))


def test_every_training_file_can_be_a_shard_of_its_own(tmp_path, tokenizer):
    valid = written(tmp_path / "valid.txt", "held out\n")
    counts = sharded(tmp_path, "one\n", "two\n\nthree\n", "four\n", validpref=(valid,))
    assert list(counts) == ["train", "train1", "train2", "valid"]
    assert [count.documents for count in counts.values()] == [1, 2, 1, 1]
    assert lines_of(tmp_path / "out" / "train1", tokenizer) == ["two", "", "three"]
    assert open_split([tmp_path / "out"], "train").num_tokens == sum(counts[name].tokens for name in list(counts)[:3])


def test_shards_that_are_made_already_are_kept(tmp_path):
    counts = sharded(tmp_path, "one\n", "two\n")
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in ("train.bin", "train1.bin")}
    assert sharded(tmp_path, "one\n", "two changed\n") != counts
    assert (tmp_path / "out" / "train.bin").stat().st_mtime_ns == before["train.bin"]
    assert (tmp_path / "out" / "train1.bin").stat().st_mtime_ns != before["train1.bin"]


def test_shards_go_on_where_a_run_was_stopped(tmp_path):
    with pytest.raises(DataError, match=r"1\.txt: no text"):
        sharded(tmp_path, "one\n", "\n", "three\n")
    assert {path.name for path in (tmp_path / "out").glob("train*")} == {"train.bin", "train.idx"}
    before = (tmp_path / "out" / "train.bin").stat().st_mtime_ns
    counts = sharded(tmp_path, "one\n", "two\n", "three\n")
    assert (tmp_path / "out" / "train.bin").stat().st_mtime_ns == before
    for name in counts:
        alone = binarize([tmp_path / f"{name.removeprefix('train') or 0}.txt"], tmp_path / name, Tokenizer.load())
        assert counts[name] == alone
        assert (tmp_path / "out" / f"{name}.bin").read_bytes() == (tmp_path / f"{name}.bin").read_bytes()


@pytest.mark.parametrize("damaged", ["{", "[1]", "[" * 200_000])
def test_a_damaged_ledger_is_refused(tmp_path, damaged):
    sharded(tmp_path, "one\n")
    (tmp_path / "out" / "shards.json").write_text(damaged)
    with pytest.raises(DataError, match=r"shards\.json: .*remove it to make all shards anew"):
        sharded(tmp_path, "one\n")


def test_a_corpus_is_not_written_over_a_model(tmp_path):
    path, out = written(tmp_path / "a.txt", "text\n"), tmp_path / "model"
    native.save(
        out,
        RobertaModel(RobertaConfig(encoder_layers=1, embed_dim=8, ffn_embed_dim=8, attention_heads=1)),
        Tokenizer.load(),
    )
    with pytest.raises(ConfigError, match=r"model: holds a model, model\.safetensors, and its vocabulary"):
        preprocess(PreprocessConfig(trainpref=(path,), destdir=out))
    native.verify(out)


def test_splits_of_another_vocabulary_are_not_left_behind(tmp_path):
    path, out = written(tmp_path / "a.txt", "text\n"), tmp_path / "out"
    preprocess(PreprocessConfig(trainpref=(path,), validpref=(path,), destdir=out))
    other = tmp_path / "other"
    preprocess(PreprocessConfig(trainpref=(path,), destdir=other))
    lines = (other / "dict.txt").read_text().splitlines(keepends=True)
    (other / "dict.txt").write_text("".join(reversed(lines)))
    before = files_of(out)
    with pytest.raises(ConfigError, match=f"out: holds valid of another vocabulary; .* --vocab {out}"):
        preprocess(PreprocessConfig(trainpref=(path,), destdir=out, vocab=other))
    with pytest.raises(ConfigError, match="holds train, valid of another vocabulary"):
        preprocess(PreprocessConfig(trainpref=(path,), validpref=(path,), destdir=out, vocab=other, shards=True))
    with pytest.raises(ConfigError, match="holds valid of another vocabulary"):
        preprocess(PreprocessConfig(trainpref=(path,), destdir=out, train_bpe=300))
    assert files_of(out) == before
    preprocess(PreprocessConfig(trainpref=(path,), validpref=(path,), destdir=out, vocab=other))
    preprocess(PreprocessConfig(testpref=(path,), destdir=out, vocab=out))
    assert (out / "dict.txt").read_bytes() == (other / "dict.txt").read_bytes()


def test_shards_of_an_earlier_run_are_not_mixed_with_a_new_split(tmp_path):
    sharded(tmp_path, "one\n", "two\n")
    config = PreprocessConfig(trainpref=(tmp_path / "0.txt",), destdir=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"train1\.idx would be taken for a shard of the new training split"):
        preprocess(config)


def test_a_vocabulary_is_learned_from_the_training_text(tmp_path):
    pytest.importorskip("tokenizers")
    train, valid = written(tmp_path / "a.txt", documents(30)), written(tmp_path / "b.txt", "a document, its é\n")
    out = tmp_path / "out"
    preprocess(PreprocessConfig(trainpref=(train,), validpref=(valid,), destdir=out, train_bpe=270))
    tokenizer = Tokenizer.load(out)
    assert len(tokenizer.bpe.symbols) == 270
    assert {"dict.txt", "vocab.bpe", "encoder.json"} <= {path.name for path in out.iterdir()}
    assert lines_of(out / "train", tokenizer) == documents(30).removesuffix("\n").split("\n")
    assert lines_of(out / "valid", tokenizer) == ["a document, its é"]
    counts = np.bincount(IndexedDataset(out / "train").tokens(0, 10**6), minlength=len(tokenizer.dictionary))
    assert counts[4:-1].tolist() == tokenizer.dictionary.counts[4:-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainpref": (Path("a"),), "shards": True, "valid_fraction": 0.1}, "--shards and --valid-fraction exclude"),
        ({"trainpref": (Path("a"),), "workers": 0}, "--workers 0; expected at least 1"),
        ({"trainpref": (Path("a"),), "train_bpe": 300, "vocab": Path("v")}, "give one of them"),
        ({"validpref": (Path("a"),), "train_bpe": 300}, "give --trainpref"),
        ({"trainpref": (Path("a"),), "train_bpe": 300, "shards": True}, "learn once, then give --vocab"),
        ({"trainpref": (Path("-"),), "validpref": (Path("-"),)}, "- is given more than once"),
        ({"trainpref": (Path("-"),), "shards": True}, r"a pipe \(-\) can be read once"),
        ({"trainpref": (Path("-"),), "train_bpe": 300}, r"a pipe \(-\) can be read once"),
    ],
)
def test_contradictory_ways_of_working_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PreprocessConfig(**options)


@pytest.mark.parametrize(
    ("text", "warned"), [("464 3290 318 1263\n", True), ("In 2019 it was 12 3\n", False), ("1 2 3\n", False)]
)
def test_texts_that_are_ids_already_are_told_of(text, warned, tmp_path, caplog):
    path = tmp_path / "train.bpe"
    path.write_text(10 * text, encoding="utf-8")
    preprocess(PreprocessConfig(trainpref=(path,), destdir=tmp_path / "data-bin", workers=1))
    assert ("train.bpe begins with numbers alone: ids of a BPE are text here" in caplog.text) == warned
