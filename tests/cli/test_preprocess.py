import json
import subprocess
import sys
from pathlib import Path

import pytest

from roberta.data.indexed import IndexedDataset
from roberta.errors import VocabError
from roberta.pretrained import SHIPPED
from roberta_cli.preprocess import main

BAD_INPUT, STORAGE = 2, 5


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_counts_are_one_line_of_json(tmp_path, capsys):
    train = written(tmp_path / "train.txt", "Hello world!\n\nHello\n")
    valid = written(tmp_path / "valid.txt", "Hello\n")
    assert main(["--trainpref", train, train, "--validpref", valid, "--destdir", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert printed.out.count("\n") == 1
    assert (result["files"], result["lines"], result["documents"], result["tokens"]) == (3, 8, 5, 17)
    assert result["splits"]["valid"] == {"lines": 1, "documents": 1, "tokens": 2, "text_bytes": 6}
    assert result["seconds"] >= 0
    assert result["mb_per_second"] >= 0
    assert len(IndexedDataset(tmp_path / "out" / "train")) == 7


def test_existing_files_are_replaced(tmp_path, capsys):
    for text in ("one\ntwo\n", "three\n"):
        train = written(tmp_path / "train.txt", text)
        assert main(["--trainpref", train, "--destdir", str(tmp_path / "out")]) == 0
    assert len(IndexedDataset(tmp_path / "out" / "train")) == 1
    assert not list((tmp_path / "out").glob("*.part"))


def test_a_vocabulary_of_ones_own_is_used(tmp_path, capsys):
    train = written(tmp_path / "train.txt", "Hello\n")
    assert main(["--trainpref", train, "--destdir", str(tmp_path / "first")]) == 0
    lines = (tmp_path / "first" / "dict.txt").read_text().splitlines()
    (tmp_path / "first" / "dict.txt").write_text("\n".join(reversed(lines)) + "\n")
    options = ["--vocab", str(tmp_path / "first"), "--destdir", str(tmp_path / "second")]
    assert main(["--trainpref", train, *options]) == 0
    hello = IndexedDataset(tmp_path / "first" / "train")[0][0]
    assert IndexedDataset(tmp_path / "second" / "train")[0].tolist() == [len(lines) + 7 - hello, 2]


def test_the_vocabulary_of_the_shipped_model_has_its_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = written(tmp_path / "train.txt", "Hello\n")
    assert main(["--trainpref", train, "--destdir", "out", "--vocab", "roberta.mini"]) == 0
    for name in ("dict.txt", "encoder.json", "vocab.bpe"):
        assert (tmp_path / "out" / name).read_bytes() == (SHIPPED["roberta.mini"] / name).read_bytes()
    assert main(["--trainpref", train, "--destdir", "other", "--vocab", "roberta.min"]) == VocabError.exit_code
    assert "roberta.min: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"", "is empty"), (b"a\n\xff", "byte offset 2: 0xff")]
)
def test_bad_input_is_one_line_and_leaves_no_file(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    assert main(["--trainpref", str(tmp_path / "a.txt"), "--destdir", str(tmp_path / "out")]) == BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "a.txt"]


def test_no_input_is_one_line(capsys):
    assert main([]) == BAD_INPUT
    assert capsys.readouterr().err == "error: nothing to do; give --trainpref, --validpref or --testpref\n"


def test_a_destination_that_cannot_be_written_is_one_line(tmp_path, capsys):
    train = written(tmp_path / "train.txt", "Hello\n")
    assert main(["--trainpref", train, "--destdir", train]) == STORAGE
    assert "can't be made" in capsys.readouterr().err
    assert (tmp_path / "train.txt").read_text() == "Hello\n"


def test_help_has_an_example_and_needs_no_torch():
    start = "import sys; from roberta_cli.preprocess import main"
    code = f"{start}\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "roberta-preprocess --trainpref" in result.stdout
    assert "--valid-fraction" in result.stdout
    assert "--train-bpe" in result.stdout


def run_command(*arguments: str, text: bytes = b"") -> dict:
    command = [sys.executable, "-m", "roberta_cli.preprocess", *arguments]
    return json.loads(subprocess.run(command, input=text, capture_output=True, check=True).stdout)


def test_text_can_come_through_a_pipe(tmp_path):
    result = run_command("--trainpref", "-", "--destdir", str(tmp_path), text=b"Hello world!\n\nHello\n")
    assert (result["lines"], result["tokens"], result["text_bytes"]) == (3, 7, 20)
    assert IndexedDataset(tmp_path / "train")[0].tolist() == [31414, 232, 328, 2]


def test_processes_work_when_the_command_is_run_as_a_user_does(tmp_path):
    text = b"".join(b"%d is the number of this line, and nothing else.\n" % i for i in range(400_000))
    for workers in ("1", "2"):
        result = run_command("--trainpref", "-", "--destdir", str(tmp_path / workers), "--workers", workers, text=text)
        assert result["lines"] == 400_000
    for name in ("train.bin", "train.idx"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_shards_are_counted_one_by_one(tmp_path, capsys):
    paths = [written(tmp_path / f"{name}.txt", f"{name}\n") for name in ("one", "two")]
    assert main(["--trainpref", *paths, "--shards", "--destdir", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["splits"]) == ["train", "train1"]
    assert result["lines"] == 2


def test_a_folder_without_a_vocabulary_is_refused(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("Hello world!\n")
    (tmp_path / "empty").mkdir()
    arguments = ["--trainpref", tmp_path / "a.txt", "--vocab", tmp_path / "empty", "--destdir", tmp_path / "bin"]
    assert main([str(argument) for argument in arguments]) != 0
    assert "empty: none of dict.txt, vocab.bpe" in capsys.readouterr().err
    assert not (tmp_path / "bin").exists()
