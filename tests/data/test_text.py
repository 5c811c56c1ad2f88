import gzip
import lzma
from pathlib import Path

import pytest

from roberta.data.text import read_lines, text_size
from roberta.errors import DataError


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
