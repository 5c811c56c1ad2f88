import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from roberta.data import encoding as module
from roberta.data.encoding import PieceEncoder, Workers, num_cores
from roberta.data.text import Piece, read_pieces
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError

TEXT = "Hello world!\n\n  white space \r\ntwo  spaces\n\u2003\nnaïve 日本語 <mask>\nlast"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


@pytest.fixture(params=["package", "with added symbols"])
def any_tokenizer(request, tokenizer) -> Tokenizer:
    return tokenizer if request.param == "package" else tokenizer.with_symbols(["<cat>", "spaces"])


def pieces_of(tmp_path: Path, count: int) -> Iterator[Piece]:
    (tmp_path / "a.txt").write_text("".join(f"line {i} of many\n" for i in range(count)), encoding="utf-8")
    return read_pieces(tmp_path / "a.txt", 16)


def test_a_line_is_its_tokens_and_an_end_of_sentence(any_tokenizer):
    encoded = PieceEncoder(any_tokenizer)(Piece(Path("a.txt"), 1, 0, TEXT.encode()))
    expected = [[*any_tokenizer.encode(line.strip()), 2] for line in TEXT.split("\n")]
    assert encoded.sizes.tolist() == [len(line) for line in expected]
    assert encoded.tokens.tolist() == [token for line in expected for token in line]
    assert encoded.starts_file


def test_tokens_have_the_type_they_are_written_in(tokenizer):
    assert PieceEncoder(tokenizer)(Piece(Path("a.txt"), 1, 0, b"a\n")).tokens.dtype == np.uint16


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_bytes_of_lines_are_those_of_the_file(tokenizer, end):
    raw = (TEXT + end).encode()
    encoded = PieceEncoder(tokenizer)(Piece(Path("a.txt"), 7, 100, raw))
    assert encoded.line_bytes.sum() == len(raw)
    assert encoded.line_bytes[:3].tolist() == [13, 1, 16]
    assert not encoded.starts_file


def test_lines_can_be_taken_with_their_tokens(tokenizer):
    encode = PieceEncoder(tokenizer)
    taken = encode(Piece(Path("a.txt"), 1, 0, b"one\ntwo words\nthree\n")).take(np.array([False, True, True]))
    expected = encode(Piece(Path("a.txt"), 2, 4, b"two words\nthree\n"))
    for name in ("tokens", "sizes", "line_bytes"):
        assert getattr(taken, name).tolist() == getattr(expected, name).tolist()


def test_processes_give_what_one_process_gives_in_the_same_order(tokenizer, tmp_path, monkeypatch):
    with Workers(1, tokenizer, None) as alone:
        expected = list(alone.encode(pieces_of(tmp_path, 60)))
    monkeypatch.setattr(module, "_FEW", 2)
    with Workers(2, tokenizer, None) as workers:
        encoded = list(workers.encode(pieces_of(tmp_path, 60)))
    assert len(encoded) == len(expected) > 20
    for ours, theirs in zip(encoded, expected, strict=True):
        assert np.array_equal(ours.tokens, theirs.tokens)
        assert np.array_equal(ours.sizes, theirs.sizes)


def test_few_pieces_start_no_process(tokenizer, tmp_path):
    workers = Workers(2, tokenizer, None)
    assert len(list(workers.encode(pieces_of(tmp_path, 3)))) == 3
    assert workers._executor is None


def test_pieces_are_read_only_as_they_are_needed(tokenizer, tmp_path, monkeypatch):
    read = []
    with Workers(1, tokenizer, None) as workers:
        encoded = workers.encode(piece for piece in pieces_of(tmp_path, 100) if not read.append(piece.number))
        next(encoded)
        assert len(read) <= module._FEW + 1


def test_an_error_in_a_process_names_file_and_line(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FEW", 2)
    pieces = [*pieces_of(tmp_path, 3), Piece(Path("b.txt"), 5, 40, b"fine\nb\xff\n")]
    with Workers(2, tokenizer, None) as workers, pytest.raises(DataError, match=r"b\.txt:6: byte offset 46: 0xff"):
        list(workers.encode(pieces))


def test_a_lost_process_is_an_error_with_a_remedy(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FEW", 2)

    def pieces() -> Iterator[Piece]:
        for number, piece in enumerate(pieces_of(tmp_path, 100)):
            if number == 5:
                for process in workers._executor._processes.values():
                    process.kill()
            yield piece

    with (
        Workers(2, tokenizer, None) as workers,
        pytest.raises(ConfigError, match="--workers 2 processes was lost.*give fewer"),
    ):
        list(workers.encode(pieces()))


def test_all_cores_are_the_default(tokenizer):
    assert Workers(None, tokenizer, None).count == num_cores() <= (os.cpu_count() or 1)
