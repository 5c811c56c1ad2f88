import gzip
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from roberta.data import text as module
from roberta.data.text import identity, read_lines, read_pieces, text_size
from roberta.errors import ConfigError, DataError


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("data", ["a b", "a\x0bb", "a\x0cb", "a\x1cb", "a\x85b", "a\u2028b", "a\rb", "\x00", " a\t"])
def test_a_line_ends_at_a_line_feed_and_nowhere_else(tmp_path, data):
    assert list(read_lines(written(tmp_path / "a.txt", f"{data}\nnext".encode()))) == [data, "next"]


def test_carriage_returns_before_line_feeds_are_dropped(tmp_path):
    assert list(read_lines(written(tmp_path / "a.txt", b"a\r\n\r\nb\n"))) == ["a", "", "b"]


def test_a_byte_order_mark_is_dropped_once(tmp_path):
    content = "\ufeff\ufeffa\n\ufeffb\n".encode()
    assert list(read_lines(written(tmp_path / "a.txt", content))) == ["\ufeffa", "\ufeffb"]


def test_empty_lines_are_kept_and_a_final_line_feed_adds_none(tmp_path):
    assert list(read_lines(written(tmp_path / "a.txt", b"\na\n\n"))) == ["", "a", ""]


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_files_are_unpacked(tmp_path, suffix, pack):
    path = written(tmp_path / f"a.txt{suffix}", pack("é\nb".encode()))
    assert list(read_lines(path)) == ["é", "b"]
    assert text_size(path) is None


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_archives_are_named(tmp_path, suffix, pack, damage):
    packed = bytearray(pack(b"".join(b"%d\n" % i for i in range(5000))))
    if damage == "cut":
        packed = packed[:-30]
    else:
        packed[len(packed) // 2] ^= 0xFF
    path = written(tmp_path / f"a.txt{suffix}", bytes(packed))
    with pytest.raises(DataError, match=rf"a\.txt{suffix}:\d+: can't be read"):
        list(read_lines(path))


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"caf\xe9\n", "a.txt:1: byte offset 3: 0xe9"),
        (b"\xc3\xa9\na\xff", "a.txt:2: byte offset 4: 0xff"),
        (b"a\r\nb\n\xed\xa0\x80\n", "a.txt:3: byte offset 5: 0xed"),
    ],
)
def test_invalid_utf8_is_located(tmp_path, content, place):
    with pytest.raises(DataError, match=place):
        list(read_lines(written(tmp_path / "a.txt", content)))


def test_missing_empty_and_folder_are_told_apart(tmp_path):
    written(tmp_path / "empty.txt", b"")
    for name, problem in [("none.txt", "No such file"), ("empty.txt", "is empty"), ("", "is a folder")]:
        with pytest.raises(DataError, match=problem):
            list(read_lines(tmp_path / name))


def test_the_size_of_plain_text_is_known(tmp_path):
    assert text_size(written(tmp_path / "a.txt", b"abc\n")) == 4


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize("content", [b"one\ntwo\n\nthree", b"\n", b"x" * 30 + b"\nshort\n", b"a\r\nb\n"])
def test_pieces_are_whole_lines_and_make_up_the_file(tmp_path, content, size):
    pieces = list(read_pieces(written(tmp_path / "a.txt", content), size))
    assert b"".join(piece.raw for piece in pieces) == content
    assert all(piece.raw.endswith(b"\n") for piece in pieces[:-1])
    assert [piece.offset for piece in pieces] == [content.find(piece.raw, piece.offset) for piece in pieces]
    assert [piece.number for piece in pieces] == [content[: piece.offset].count(b"\n") + 1 for piece in pieces]
    assert [line for piece in pieces for line in piece.lines()] == list(read_lines(tmp_path / "a.txt"))


def test_invalid_utf8_is_located_in_a_later_piece(tmp_path):
    path = written(tmp_path / "a.txt", b"caf\xc3\xa9\nb\nc\xff\n")
    with pytest.raises(DataError, match=r"a\.txt:3: byte offset 9: 0xff"):
        [piece.lines() for piece in read_pieces(path, 2)]


def test_zstandard_files_are_unpacked(tmp_path):
    zstd = pytest.importorskip(module._ZSTD)
    path = written(tmp_path / "a.txt.zst", zstd.compress("é\n".encode()) + zstd.compress(b"b"))
    assert list(read_lines(path)) == ["é", "b"]
    assert text_size(path) is None


@pytest.mark.parametrize("content", ["cut", "other"])
def test_damaged_zstandard_files_are_named(tmp_path, content):
    packed = pytest.importorskip(module._ZSTD).compress(b"".join(b"%d\n" % i for i in range(5000)))
    path = written(tmp_path / "a.txt.zst", packed[:-30] if content == "cut" else b"no zstandard at all")
    with pytest.raises(DataError, match=r"a\.txt\.zst:1: can't be read"):
        list(read_lines(path))


def test_a_zstandard_file_without_the_package_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ZSTD", "no_such_package")
    with pytest.raises(ConfigError, match=r"a\.txt\.zst: .*pip install no_such_package"):
        text_size(written(tmp_path / "a.txt.zst", b"packed"))


def test_the_standard_input_is_a_text(tmp_path):
    code = "from roberta.data.text import *; print(list(read_lines(STANDARD_INPUT)), text_size(STANDARD_INPUT))"
    result = subprocess.run([sys.executable, "-c", code], input=b"a\n\nb", capture_output=True, check=True)
    assert result.stdout.decode().strip() == "['a', '', 'b'] None"


def test_a_file_has_another_identity_when_it_has_changed(tmp_path):
    path = written(tmp_path / "a.txt", b"abc\n")
    before = identity(path)
    assert identity(path) == before
    written(path, b"abcd\n")
    assert identity(path) != before


@pytest.mark.parametrize(("encoding", "named"), [("utf-16", "UTF-16"), ("latin-1", "LATIN1")])
def test_the_advice_names_the_likely_encoding(tmp_path, encoding, named):
    (tmp_path / "a.txt").write_bytes("\u00e9t\u00e9\n".encode(encoding))
    with pytest.raises(DataError, match=f"iconv -f {named} -t UTF-8"):
        list(read_lines(tmp_path / "a.txt"))
