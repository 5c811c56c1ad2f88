"""CoNLL's files: columns, sentences, the names of splits, and what is said of damaged ones."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roberta.data.readers.conll import ConllFormat, find_conll, has_conll, read_conll
from roberta.errors import ConfigError, DataError

CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER


-DOCSTART- -X- -X- O

BRUSSELS NNP B-NP B-LOC
"""
CONLLU = """# sent_id = 1
# text = Don't go
1-2\tDon't\t_\t_\t_
1\tDo\tdo\tAUX\t_
2\tn't\tnot\tPART\t_
2.1\tyou\tyou\tPRON\t_
3\t#\t#\tSYM\t_

# sent_id = 2
1\tStop\tstop\tVERB\t_
"""


def write(folder: Path, text: str | bytes, name: str = "train.txt") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_first_column_is_the_word_and_the_last_one_its_label(tmp_path):
    path = write(tmp_path, CONLL_2003)
    first, second, third = read_conll(path, ConllFormat())
    assert (first.words, first.labels) == (("EU", "rejects"), ("B-ORG", "O"))
    assert (second.words, second.labels) == (("Peter", "Blackburn"), ("B-PER", "I-PER"))
    assert second.sources == (f"{path}:6", f"{path}:7")
    assert third.words == ("BRUSSELS",)  # with no empty line behind it


@pytest.mark.parametrize(
    ("options", "labels"),
    [({"label_column": 2}, ("NNP", "VBZ")), ({"label_column": -2}, ("B-NP", "B-VP"))],
)
def test_columns_can_be_named_from_either_end(tmp_path, options, labels):
    assert read_conll(write(tmp_path, CONLL_2003), ConllFormat(**options))[0].labels == labels
    swapped = ConllFormat(word_column=-1, label_column=1)
    assert read_conll(write(tmp_path, CONLL_2003), swapped)[0].words == ("B-ORG", "O")


def test_a_line_with_tabs_may_have_spaces_in_its_words(tmp_path):
    path = write(tmp_path, "New York\tB-LOC\r\nis\tO\r\n \r\n#\tO\r\n", "train.tsv")
    first, second = read_conll(path, ConllFormat())
    assert (first.words, first.labels) == (("New York", "is"), ("B-LOC", "O"))
    assert second.words == ("#",)  # a comment in .conllu alone


def test_words_of_universal_dependencies_are_those_with_a_number(tmp_path):
    path = write(tmp_path, CONLLU, "xx-ud-train.conllu")
    first, second = read_conll(path, ConllFormat(word_column=2, label_column=4))
    assert (first.words, first.labels) == (("Do", "n't", "#"), ("AUX", "PART", "SYM"))
    assert second.sources == (f"{path}:10",)
    with pytest.raises(
        ConfigError, match=r"train.conllu: the first column of a .conllu numbers the words; give --word"
    ):
        read_conll(path, ConllFormat())


def test_labels_may_be_absent_where_they_are_not_needed(tmp_path):
    words = write(tmp_path, "a\nb\n\nc\n")
    assert [example.labels for example in read_conll(words, ConllFormat(), needs_labels=False)] == [None, None]
    three = write(tmp_path, "a X Y\n")
    assert read_conll(three, ConllFormat(label_column=4), needs_labels=False)[0].labels is None
    assert read_conll(three, ConllFormat(), needs_labels=False)[0].labels == ("Y",)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a O\nb\n", {}, "train.txt:2: 1 columns; expected 2, as in the first line; mend the line"),
        ("a O\n\nb X O\n", {}, "train.txt:3: 3 columns; expected 2"),
        (
            "a\n",
            {},
            r"train.txt:1: 1 columns; expected the word in column 1 and its label in column -1 \(-1 is the last",
        ),
        (
            "a O\n",
            {"label_column": 4},
            "train.txt:1: 2 columns; expected the word in column 1 and its label in column 4",
        ),
        ("a O\n", {"word_column": 3}, "train.txt:1: 2 columns; expected the word in column 3"),
        ("a O\n", {"label_column": -3}, "train.txt:1: 2 columns; .* in column -3"),
        ("a\tO\n\tO\n", {}, "train.txt:2: a word or a label is empty"),
        ("a\tO\nb\t\n", {}, "train.txt:2: a word or a label is empty"),
        ("\n-DOCSTART- O\n\n", {}, "train.txt: no sentences; expected a word and its label on each line"),
        (b"a O\n\xe9 O\n", {}, "train.txt:2: byte offset 4: 0xe9 is not valid UTF-8"),
        ("", {}, "train.txt: the file is empty"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, text, options, message):
    with pytest.raises(DataError, match=message):
        read_conll(write(tmp_path, text), ConllFormat(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"word_column": 0}, "--word-column is 0; columns count from 1"),
        ({"label_column": 0}, "--label-column is 0; columns count from 1"),
        ({"label_column": 1}, "--word-column and --label-column are both 1; name two columns"),
    ],
)
def test_columns_that_are_none_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ConllFormat(**options)


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "valid.txt", "test.txt"),
        ("eng.train", "eng.testa", "eng.testb"),
        ("esp.train.gz", "esp.testa.gz", "esp.testb.gz"),
        ("train.conll", "dev.conll", "test.conll"),
        ("en_ewt-ud-train.conllu", "en_ewt-ud-dev.conllu", "en_ewt-ud-test.conllu"),
        ("wnut17train.iob", "emerging.dev.iob", "emerging.test.iob"),
        ("train.bio", "dev.bio", "test.bio"),
        ("train.tsv", "dev.tsv", "test.tsv"),
    ],
)
def test_splits_are_found_by_their_names(tmp_path, names):
    for name in names:
        write(tmp_path, "a O\n", name)
    found = [find_conll(tmp_path, split).name for split in ("train", "valid", "test")]
    assert found == list(names)
    assert has_conll(tmp_path, "test")
    (tmp_path / names[2]).unlink()
    assert not has_conll(tmp_path, "test")


@given(
    content=st.lists(
        st.sampled_from([b"a", b" ", b"\t", b"\n", b"\n\n", b"O", b"\r\n", b"\xff", b"\xc2\xa0", b"-DOCSTART-"])
    )
)
def test_any_bytes_are_words_with_labels_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(b"".join(content))
    try:
        examples = read_conll(path, ConllFormat())
    except DataError:
        return
    for example in examples:
        assert len(example.words) == len(example.labels) == len(example.sources) > 0
        assert all(word and label for word, label in zip(example.words, example.labels, strict=True))


def test_packed_files_are_read(tmp_path):
    path = write(tmp_path, gzip.compress(CONLLU.encode()), "train.conllu.gz")
    assert len(read_conll(path, ConllFormat(word_column=2, label_column=4))) == 2


def test_several_files_of_a_split_are_refused(tmp_path):
    for name in ("eng.testa", "deu.testa", "train.txt", "train.conll"):
        write(tmp_path, "a O\n", name)
    with pytest.raises(DataError, match="deu.testa and eng.testa could each be the valid split; name one"):
        find_conll(tmp_path, "valid", advice="name one")
    with pytest.raises(DataError, match="train.conll and train.txt could each be it; keep one of them"):
        find_conll(tmp_path, "train")
    with pytest.raises(DataError, match="no file of the test split"):
        find_conll(tmp_path, "test")


def test_comments_are_left_out_if_that_is_asked_for_and_not_taken_for_words(tmp_path):
    path = write(tmp_path, b"# id 1\nAnn B-PER\n\n# id 2\nran O\n")
    with pytest.raises(DataError, match=r":1: a comment\? then give --comment '# '; if it is a word, --comment ''"):
        read_conll(path, ConllFormat())
    assert [example.words for example in read_conll(path, ConllFormat(comment="# "))] == [("Ann",), ("ran",)]
    path = write(tmp_path, b"# O\nAnn B-PER\n# a b\n")
    with pytest.raises(DataError, match=r":3: 3 columns; expected 2, .*; if it is a comment, give --comment"):
        read_conll(path, ConllFormat(comment=""))


def test_white_space_that_parts_no_columns_stays_in_words(tmp_path):
    path = write(tmp_path, "10\u00a0000 \t O\n\u3000\tO\n".encode())
    assert read_conll(path, ConllFormat())[0].words == ("10\u00a0000", "\u3000")
    path = write(tmp_path, "10\u00a0000  O\n".encode())
    assert read_conll(path, ConllFormat())[0].words == ("10\u00a0000",)


def test_a_conllu_goes_before_the_bare_text_beside_it(tmp_path):
    for name in ("en-ud-train.conllu", "en-ud-train.txt", "a.test.iob2"):
        (tmp_path / name).write_text(CONLLU, encoding="utf-8")
    assert find_conll(tmp_path, "train").name == "en-ud-train.conllu"
    assert has_conll(tmp_path, "test")
