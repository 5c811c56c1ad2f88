"""The dictionary: ids, fairseq's file format, damaged files."""

import hashlib
from pathlib import Path

import pytest

from roberta.bpe.gpt2 import VOCABULARY
from roberta.data.dictionary import Dictionary, _checked_fields, _plain_fields
from roberta.errors import StorageError, VocabError


@pytest.fixture(scope="module")
def packaged() -> Dictionary:
    return Dictionary.load_packaged()


def write(folder: Path, text: str) -> Path:
    path = folder / "dict.txt"
    path.write_bytes(text.encode())
    return path


def test_packaged_symbols_are_robertas(packaged: Dictionary) -> None:
    column = "".join(f"{symbol}\n" for symbol in packaged.symbols[4:-1])
    assert (
        hashlib.sha256(column.encode()).hexdigest()
        == "63d90bda16bcb4fafe7803524c5aa7b100ae09a7b5608935fbb5f54d149384df"
    )
    assert packaged.counts[4:-1] == [0] * 50260


def test_packaged_symbols_are_those_of_the_release(packaged: Dictionary, shared: Path) -> None:
    assert packaged == Dictionary.load(shared / "data/tok/gpt2_bpe/dict.txt")


def test_packaged_dictionary_has_the_known_size_and_ends(packaged: Dictionary) -> None:
    assert len(packaged) == 50265
    assert packaged.symbols[:6] == ["<s>", "<pad>", "</s>", "<unk>", "13", "262"]
    assert packaged.symbols[-3:] == ["madeupword0001", "madeupword0002", "<mask>"]


def test_special_symbols_have_fixed_ids(packaged: Dictionary) -> None:
    assert (packaged.bos, packaged.pad, packaged.eos, packaged.unk, packaged.mask) == (0, 1, 2, 3, 50264)


def test_index_is_the_place_of_a_symbol_or_unk(packaged: Dictionary) -> None:
    assert packaged.index("13") == 4
    assert packaged.index("<mask>") == 50264
    assert packaged.index("no such symbol") == 3


def test_file_order_is_id_order(tmp_path: Path) -> None:
    dictionary = Dictionary.load(write(tmp_path, "b 5\na 7\n"))
    assert dictionary.symbols == ["<s>", "<pad>", "</s>", "<unk>", "b", "a", "<mask>"]
    assert dictionary.counts == [1, 1, 1, 1, 5, 7, 1]


def test_saving_stores_no_special_symbols(tmp_path: Path) -> None:
    Dictionary(["b", "a"], [5, 7]).save(tmp_path / "dict.txt")
    assert (tmp_path / "dict.txt").read_bytes() == b"b 5\na 7\n"


def test_release_file_survives_load_and_save(tmp_path: Path, shared: Path) -> None:
    path = shared / "data/tok/gpt2_bpe/dict.txt"
    Dictionary.load(path).save(tmp_path / "dict.txt")
    assert (tmp_path / "dict.txt").read_bytes() == path.read_bytes()


def test_overwriting_symbol_takes_a_new_id(tmp_path: Path) -> None:
    dictionary = Dictionary.load(write(tmp_path, "a 1\nb 2\na 3 #fairseq:overwrite\n<s> 4 #fairseq:overwrite\n"))
    assert dictionary.index("a") == 6
    assert dictionary.index("<s>") == 7
    assert dictionary.bos == 0
    assert dictionary.counts[4:-1] == [1, 2, 3, 4]


def test_overwriting_symbol_survives_save_and_load(tmp_path: Path) -> None:
    text = "a 1\nb 2\na 3 #fairseq:overwrite\n"
    Dictionary.load(write(tmp_path, text)).save(tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_text() == text


def test_mask_in_the_file_keeps_its_place(tmp_path: Path) -> None:
    dictionary = Dictionary.load(write(tmp_path, "a 1\n<mask> 1\nb 2\n"))
    assert (dictionary.mask, len(dictionary)) == (5, 7)
    dictionary.save(tmp_path / "again.txt")
    assert Dictionary.load(tmp_path / "again.txt") == dictionary


def test_mask_at_the_end_of_the_file_is_not_appended_again(tmp_path: Path) -> None:
    assert Dictionary.load(write(tmp_path, "a 1\n<mask> 1\n")) == Dictionary(["a"], [1])


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    symbols = ["a\u2028b", "\u0085", "\u00a0", "c d", "\x0c"]
    dictionary = Dictionary.load(write(tmp_path, "".join(f"{symbol} 1\n" for symbol in symbols)))
    assert dictionary.symbols[4:-1] == symbols


def test_file_of_windows_is_read(tmp_path: Path) -> None:
    assert Dictionary.load(write(tmp_path, "\ufeffa 1\r\nb 2\r\n")) == Dictionary(["a", "b"], [1, 2])


def test_last_line_may_lack_its_line_feed(tmp_path: Path) -> None:
    assert Dictionary.load(write(tmp_path, "a 1\nb 2")) == Dictionary(["a", "b"], [1, 2])


@pytest.mark.parametrize("line", ["b", "b two", "b -1", "b 1.5", "", " 5", "b 1 #fairseq:other", "b " + "9" * 5000])
def test_line_that_is_no_symbol_and_count_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(VocabError, match=r"dict\.txt:2: .*expected SYMBOL COUNT"):
        Dictionary.load(write(tmp_path, f"a 1\n{line}\nc 3\n"))


@pytest.mark.parametrize("symbol", ["a", "<s>", "<unk>"])
def test_symbol_that_stands_there_twice_is_refused(tmp_path: Path, symbol: str) -> None:
    with pytest.raises(VocabError, match=rf"dict\.txt:3: symbol '{symbol}' is already there; .*#fairseq:overwrite"):
        Dictionary.load(write(tmp_path, f"a 1\nb 2\n{symbol} 3\n"))


def test_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabError, match=r"dict\.txt:1: ''"):
        Dictionary.load(write(tmp_path, ""))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabError, match=r"dict\.txt: there is no such file; put it there"):
        Dictionary.load(tmp_path / "dict.txt")


def test_cut_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt.xz"
    path.write_bytes((VOCABULARY / "dict.txt.xz").read_bytes()[:5000])
    with pytest.raises(VocabError, match=r"dict\.txt\.xz: can't be read"):
        Dictionary.load(path)


def test_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be written"):
        Dictionary(["a"], [1]).save(tmp_path / "nowhere" / "dict.txt")


def test_equality_is_of_symbols_and_their_order() -> None:
    assert Dictionary(["a", "b"], [1, 2]) == Dictionary(["a", "b"], [3, 4])
    assert Dictionary(["a", "b"], [1, 2]) != Dictionary(["b", "a"], [1, 2])
    assert Dictionary(["a"], [1]) != ["a"]


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ("13 9\n262 8\nmadeupword0001 0\n", True),
        ("a 1\n<mask> 0\nb 2\n", True),
        ("a 1\nb 2", False),  # the last line feed is missing
        ("a 1\nb 2 \n", False),
        ("a 1\nb c 2\n", False),  # the symbol has a space
        ("a 1\na 2 #fairseq:overwrite\n", False),
        ("a 1\n<pad> 2 #fairseq:overwrite\n", False),
    ],
)
def test_plain_files_have_a_short_way_that_reads_the_same(text: str, is_plain: bool) -> None:
    plain = _plain_fields(text)
    assert (plain is not None) == is_plain
    assert plain in (None, _checked_fields(text, Path("dict.txt")))


@pytest.mark.parametrize("text", ["", "\n", "a\n", "a b\n", "a 1\na 2\n", "<s> 1\n", "a 1\n\nb 2\n", f"a {'1' * 19}\n"])
def test_the_short_way_takes_no_faulty_file(text: str) -> None:
    assert _plain_fields(text) is None
    with pytest.raises(VocabError):
        _checked_fields(text, Path("dict.txt"))
