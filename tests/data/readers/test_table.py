"""Tables of all kinds give the same examples, and what is wrong in one is said with its line."""

import csv
import gzip
import io
import json
import lzma
import random
from pathlib import Path

import pytest

from roberta.data.examples import TextExample
from roberta.data.readers.split_files import find_split_file, has_split_file
from roberta.data.readers.table import KINDS, TableFormat, read_table
from roberta.errors import ConfigError, DataError

PAIR = TableFormat(text_columns=("premise", "claim"), label_column="gold", id_column="key")


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", 'key\tgold\tclaim\tpremise\nk1\tyes\tIt said "hi".\tIt, too.\n'),
        ("a.csv", 'key,gold,claim,premise\r\nk1,yes,"It said ""hi"".","It, too."\r\n'),
        ("a.jsonl", '{"key": "k1", "gold": "yes", "claim": "It said \\"hi\\".", "premise": "It, too."}'),
    ],
)
@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_every_kind_of_table_gives_the_same_examples(tmp_path, name, text, suffix, pack):
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(pack(f"\ufeff{text}".encode()))
    line = 1 if name == "a.jsonl" else 2
    assert read_table(path, PAIR) == [TextExample(("It, too.", 'It said "hi".'), "yes", f"{path}:{line}", "k1")]


def test_cells_of_a_csv_may_hold_lines_and_the_line_numbers_stay_right(tmp_path):
    path = written(tmp_path / "a.csv", 'text,label\n"one\n\ntwo",a\nthree,b\n"four\n",c\nfive,d')
    examples = read_table(path, TableFormat())
    assert [(example.texts[0], example.source) for example in examples] == [
        ("one\n\ntwo", f"{path}:2"),
        ("three", f"{path}:5"),
        ("four", f"{path}:6"),
        ("five", f"{path}:8"),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_csv_of_any_texts_is_read_as_it_was_written(tmp_path, seed):
    rng = random.Random(seed)
    texts = ["x" + "".join(rng.choices('ab",\n \té', k=rng.randrange(12))) + "x" for _ in range(rng.randrange(1, 9))]
    stream = io.StringIO()
    csv.writer(stream).writerows([("label", "text"), *((str(i), text) for i, text in enumerate(texts))])
    path = written(tmp_path / "a.csv", stream.getvalue())
    examples = read_table(path, TableFormat())
    assert [(example.label, example.texts) for example in examples] == [
        (str(i), (text,)) for i, text in enumerate(texts)
    ]
    lines = path.read_text(encoding="utf-8").split("\n")
    for example in examples:
        assert lines[int(example.source.rpartition(":")[2]) - 1].startswith(f"{example.label},")


def test_a_file_without_header_has_the_columns_that_the_format_names(tmp_path):
    path = written(tmp_path / "news.tsv", "Oil is up.\tBusiness\nGoal!\tSports\n")
    examples = read_table(path, TableFormat(columns=("text", "label")))
    assert examples == [
        TextExample(("Oil is up.",), "Business", f"{path}:1", "0"),
        TextExample(("Goal!",), "Sports", f"{path}:2", "1"),
    ]


@pytest.mark.parametrize(("value", "label"), [('"pos "', "pos"), ("3", "3"), ("true", "true"), ("-1", "-1")])
def test_classes_of_json_are_named_as_they_are_spelt(tmp_path, value, label):
    path = written(tmp_path / "a.jsonl", f'{{"text": "a", "label": {value}}}\n')
    assert read_table(path, TableFormat())[0].label == label


@pytest.mark.parametrize(
    ("name", "cell", "labels"),
    [
        ("a.tsv", "joy; fear;joy", ("joy", "fear")),
        ("a.tsv", "", ()),
        ("a.jsonl", '["joy", "fear"]', ("joy", "fear")),
        ("a.jsonl", "[1, 2]", ("1", "2")),
        ("a.jsonl", "[]", ()),
        ("a.jsonl", '"joy;fear"', ("joy", "fear")),
    ],
)
def test_an_example_may_have_several_classes_or_none(tmp_path, name, cell, labels):
    text = f"text\tlabel\na\t{cell}" if name == "a.tsv" else f'{{"text": "a", "label": {cell}}}'
    several = TableFormat(kind="multi_label", label_separator=";")
    assert read_table(written(tmp_path / name, text), several)[0].label == labels


@pytest.mark.parametrize(
    ("name", "cell", "value"), [("a.tsv", " 2.5", 2.5), ("a.jsonl", "3", 3.0), ("a.csv", "-1e3", -1e3)]
)
def test_a_label_may_be_a_number(tmp_path, name, cell, value):
    separator = "\t" if name == "a.tsv" else ","
    row = f'{{"text": "a", "label": {cell}}}' if name == "a.jsonl" else f"text{separator}label\na{separator}{cell}"
    assert read_table(written(tmp_path / name, row), TableFormat(kind="regression"))[0].label == value


@pytest.mark.parametrize("kind", ["classification", "multi_label", "regression"])
def test_labels_may_be_absent_where_they_are_not_needed(tmp_path, kind):
    of_kind = TableFormat(kind=kind)
    path = written(tmp_path / "test.tsv", "text\na\n")
    assert read_table(path, of_kind, needs_labels=False)[0].label is None
    path = written(tmp_path / "test.jsonl", '{"text": "a", "label": null}\n')
    assert read_table(path, of_kind, needs_labels=False)[0].label is None
    with pytest.raises(DataError, match=r"test\.tsv:1: no column 'label'; allowed: text"):
        read_table(tmp_path / "test.tsv", of_kind)
    with pytest.raises(DataError, match=r"test\.jsonl:1: label is null"):
        read_table(path, of_kind)
    path = written(tmp_path / "blank.tsv", "text\tlabel\na\t \n")
    told = read_table(path, of_kind, needs_labels=False)[0].label
    assert told == (() if kind == "multi_label" else None)


@pytest.mark.parametrize(
    ("name", "text", "kind", "message"),
    [
        ("a.tsv", "texts\tlabel\na\tb", "classification", r"a\.tsv:1: no column 'text'; .*did you mean texts\?"),
        ("a.tsv", "text\tlabel\na\tb\tc", "classification", r"a\.tsv:2: 3 columns; expected 2: text, label"),
        ("a.tsv", "text\tlabel\na\tb\n\n", "classification", r"a\.tsv:3: 1 columns; expected 2"),
        ("a.tsv", "text\tlabel\na\t ", "classification", r"a\.tsv:2: label is \" \"; expected a name"),
        ("a.tsv", "text\tlabel\n \tb", "classification", r"a\.tsv:2: the text is empty"),
        ("a.tsv", "text\tlabel", "classification", r"a\.tsv: no examples"),
        ("a.tsv", "text\tlabel\na\t4,5", "regression", r"a\.tsv:2: label is \"4,5\"; expected a finite number"),
        ("a.tsv", "text\tlabel\na\tinf", "regression", r"a\.tsv:2: label is \"inf\"; expected a finite number"),
        ("a.tsv", "text\tlabel\na\tx,,y", "multi_label", r"a\.tsv:2: label is \"\"; expected a name"),
        ("a.csv", "text,label\nb,c\na\n", "classification", r"a\.csv:3: 1 columns; expected 2"),
        ("a.csv", 'text,label\n"a\nb" c,d\n', "classification", r"a\.csv:2: not a row of comma-separated cells"),
        ("a.csv", 'text,label\na,b\n"c,d\ne,f\n', "classification", r"a\.csv:3: not a row.*end of data"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text"', "classification", r"a\.jsonl:2: not JSON"),
        ("a.jsonl", '["a", "b"]', "classification", r"a\.jsonl:1: .*expected a JSON object"),
        ("a.jsonl", '{"label": "b"}', "classification", r"a\.jsonl:1: no column 'text'; allowed: label"),
        (
            "a.jsonl",
            '{"text": ["a"], "label": "b"}',
            "classification",
            r"a\.jsonl:1: text is \[\"a\"\]; expected a str",
        ),
        ("a.jsonl", '{"text": "a", "label": ["b"]}', "classification", r"a\.jsonl:1: label is \[\"b\"\]"),
        ("a.jsonl", '{"text": "a", "label": 3}', "multi_label", r"a\.jsonl:1: label is 3; expected a list of classes"),
        ("a.jsonl", '{"text": "a", "label": true}', "regression", r"a\.jsonl:1: label is true; expected a finite"),
        ("a.jsonl", '{"text": "a", "label": null}', "regression", r"a\.jsonl:1: label is null; expected a finite"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, name, text, kind, message):
    with pytest.raises(DataError, match=message):
        read_table(written(tmp_path / name, text), TableFormat(kind=kind))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_columns": ()}, "--text-columns is empty"),
        ({"label_separator": ""}, "--label-separator is empty"),
        ({"columns": ("txt", "label")}, r"--columns has no 'text'; .*did you mean txt\?"),
        ({"columns": ("text", "label"), "id_column": "key"}, "--columns has no 'key'"),
    ],
)
def test_contradictory_formats_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TableFormat(**options)


def test_a_jsonl_names_its_columns_itself(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"text": "a", "label": "b"}')
    with pytest.raises(ConfigError, match=r"a\.jsonl: --columns name what a file without a header has"):
        read_table(path, TableFormat(columns=("text", "label")))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_cell_may_be_as_long_as_several_books(tmp_path, monkeypatch, name):
    before = csv.field_size_limit(2**17)  # csv's own
    comma = "," if name == "a.csv" else "\t"
    text = "word " * 2_200_000 + "end"
    path = written(tmp_path / name, f"text{comma}label\na{comma}b\n{text}{comma}c\n")
    try:
        assert [example.texts for example in read_table(path, TableFormat())] == [("a",), (text,)]
        assert csv.field_size_limit() >= 2**17
        csv.field_size_limit(2**31)
        read_table(path, TableFormat())
        assert csv.field_size_limit() == 2**31  # what another part of the program has raised stays
    finally:
        csv.field_size_limit(before)


def test_the_name_of_a_file_tells_its_kind(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.txt: can't tell what kind of table this is; expected .*\.tsv, \.csv"):
        read_table(written(tmp_path / "a.txt", "text\tlabel\na\tb"), TableFormat())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("split", "stem"),
    [*(("valid", stem) for stem in ("valid", "dev", "validation", "val")), ("train", "train"), ("fold3", "fold3")],
)
def test_the_file_of_a_split_is_found(tmp_path, kind, split, stem):
    path = written(tmp_path / f"{stem}{kind}.gz", "")
    written(tmp_path / "notes.txt", "")
    assert find_split_file(tmp_path, split, KINDS) == path


def test_a_split_that_is_missing_or_there_twice_is_refused(tmp_path):
    message = r"no file of the valid split; expected one named valid or dev .* with \.tsv or \.csv .*found: nothing"
    with pytest.raises(DataError, match=message):
        find_split_file(tmp_path, "valid", KINDS)
    with pytest.raises(DataError, match="no such folder"):
        find_split_file(tmp_path / "nowhere", "train", KINDS)
    written(tmp_path / "dev.tsv", "")
    written(tmp_path / "valid.csv", "")
    with pytest.raises(DataError, match=r"no file of the train split;.*found: dev\.tsv, valid\.csv"):
        find_split_file(tmp_path, "train", KINDS)
    with pytest.raises(DataError, match=r"dev\.tsv and valid\.csv could each be it; keep one of them"):
        find_split_file(tmp_path, "valid", KINDS)


def test_a_test_split_that_two_files_could_be_is_there_and_refused(tmp_path):
    written(tmp_path / "Easy-Test.jsonl", "")
    written(tmp_path / "Hard-Test.jsonl.xz", "")
    assert has_split_file(tmp_path, "test", (".jsonl",))
    with pytest.raises(
        DataError, match=r"Easy-Test\.jsonl and Hard-Test\.jsonl\.xz could each be it; keep one of them"
    ):
        find_split_file(tmp_path, "test", (".jsonl",))
    assert not has_split_file(tmp_path, "test", (".tsv", ".csv"))
    written(tmp_path / "test.jsonl", "")
    assert find_split_file(tmp_path, "test", (".csv", ".jsonl")) == tmp_path / "test.jsonl"


def test_json_and_tab_separated_rows_agree_on_random_texts(tmp_path):
    rng = random.Random(0)
    texts = ["x" + "".join(rng.choices('ab" ,;é\u2028\x0b', k=8)) + "x" for _ in range(50)]
    as_tsv = written(tmp_path / "a.tsv", "text\tlabel\n" + "".join(f"{text}\ty\n" for text in texts))
    as_json = written(tmp_path / "a.jsonl", "".join(json.dumps({"text": text, "label": "y"}) + "\n" for text in texts))
    assert [example.texts[0] for example in read_table(as_tsv, TableFormat())] == texts
    assert [example.texts[0] for example in read_table(as_json, TableFormat())] == texts


def test_the_genuine_ag_news_is_read(shared):
    path = shared / "data" / "agnews" / "dev.tsv.xz"
    examples = read_table(path, TableFormat(columns=("text", "label")))
    assert {example.label for example in examples} == {"World", "Sports", "Business", "Sci/Tech"}


def test_a_name_of_two_splits_is_refused(tmp_path):
    (tmp_path / "my_train_dev.csv").touch()
    for split in ("train", "valid"):
        with pytest.raises(DataError, match=r"my_train_dev\.csv: its name says train and valid; rename it"):
            find_split_file(tmp_path, split, KINDS)
    assert not has_split_file(tmp_path, "test", KINDS)


def test_a_header_where_columns_are_named_is_no_row(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\na\tb\n")
    with pytest.raises(DataError, match=r"a\.tsv:1: the file has a header, with the names of --columns"):
        read_table(tmp_path / "a.tsv", TableFormat(columns=("text", "label")))
