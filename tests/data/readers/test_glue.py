"""GLUE's files with their quirks, the genuine ones where they are at hand, and what is said of damaged ones."""

import gzip
import lzma
from collections import Counter
from pathlib import Path

import pytest

from roberta.data.examples import TextExample
from roberta.data.readers.glue import GLUE, MNLI_LABELS, glue_file, glue_set, read_glue
from roberta.errors import ConfigError, DataError
from roberta.metrics import METRICS

BOM = "\ufeff"


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")  # the last line has no end
    return path


@pytest.mark.parametrize("name", GLUE)
def test_a_row_of_the_table_is_whole(name):
    row = GLUE[name]
    assert (row.labels is None) != (row.scale is None)
    assert row.selects == row.metrics[0]
    assert set(row.metrics) <= set(METRICS)
    assert set(row.submissions) <= set(row.files)
    assert all(split.startswith("test") for split in row.submissions)
    assert len(row.spellings) == len(row.labels or ())


def test_the_order_of_mnlis_labels_is_that_of_the_published_head():
    assert GLUE["mnli"].labels == GLUE["ax"].labels == GLUE["cb"].labels == MNLI_LABELS
    assert MNLI_LABELS == ("contradiction", "neutral", "entailment")


def test_the_positive_class_of_f1_is_the_second_one():
    assert GLUE["mrpc"].spellings == {"0": "not_equivalent", "1": "equivalent"}
    assert GLUE["qqp"].spellings == {"0": "not_duplicate", "1": "duplicate"}


def test_quotes_are_text_and_columns_are_found_by_name(tmp_path):
    path = written(tmp_path / "dev.tsv", "label\tsentence2\tsentence1\tindex", 'entailment\tsaid "b\t"a\t7')
    assert read_glue(tmp_path, "rte", "valid") == [
        TextExample(texts=('"a', 'said "b'), label="entailment", source=f"{path}:2", id="7")
    ]


def test_cola_has_no_header_but_in_its_test_file(tmp_path):
    train = written(tmp_path / "train.tsv", "gj04\t1\t\tIt rains.", "gj04\t0\t*\tRains it it.")
    test = written(tmp_path / "test.tsv", "index\tsentence", "0\tIt snows.")
    assert read_glue(tmp_path, "cola", "train") == [
        TextExample(("It rains.",), "acceptable", f"{train}:1", "0"),
        TextExample(("Rains it it.",), "unacceptable", f"{train}:2", "1"),
    ]
    assert read_glue(tmp_path, "cola", "test") == [TextExample(("It snows.",), None, f"{test}:2", "0")]


def test_mrpc_may_begin_with_a_byte_order_mark_and_have_its_raw_name(tmp_path, caplog):
    header = f"{BOM}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    raw = written(tmp_path / "msr_paraphrase_test.txt", header, "1\t10\t11\tx\ty")
    assert read_glue(tmp_path, "mrpc", "test") == [TextExample(("x", "y"), "equivalent", f"{raw}:2", "0")]
    assert f"{raw} is read, for there is no test.tsv" in caplog.text
    path = written(tmp_path / "test.tsv", "index\t#1 ID\t#2 ID\t#1 String\t#2 String", "5\t10\t11\tx\ty")
    assert read_glue(tmp_path, "mrpc", "test") == [TextExample(("x", "y"), None, f"{path}:2", "5")]


def test_white_space_around_a_text_goes(tmp_path):
    written(tmp_path / "dev.tsv", "sentence\tlabel", "it 's fine . \t1")
    assert read_glue(tmp_path, "sst2", "valid")[0].texts == ("it 's fine .",)


def test_rows_without_a_gold_label_are_left_out_and_counted(tmp_path, caplog):
    rows = ["slate\ta\tb\t-", "fiction\tc\td\tneutral", "slate\te\tf\t-"]
    path = written(tmp_path / "dev_mismatched.tsv", "genre\tsentence1\tsentence2\tgold_label", *rows)
    examples = read_glue(tmp_path, "mnli", "valid1")
    assert examples == [TextExample(("c", "d"), "neutral", f"{path}:3", "1", "fiction")]
    assert f"{path}: 2 rows have no gold label (-), and are left out; the first one is {path}:2" in caplog.text


def test_uneven_rows_of_qqp_are_left_out_and_counted_but_not_those_of_a_test_file(tmp_path, caplog):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    path = written(tmp_path / "train.tsv", header, "1\t2\t3\ta\tb\t1", "4\t5\t6\tc", "d\t0", "7\t8\t9\te\tf\t0")
    assert [(example.id, example.label) for example in read_glue(tmp_path, "qqp", "train")] == [
        ("1", "duplicate"),
        ("7", "not_duplicate"),
    ]
    assert f"{path}: 2 rows have too few or too many columns, and are left out; the first one is {path}:3" in (
        caplog.text
    )
    written(tmp_path / "test.tsv", "id\tquestion1\tquestion2", "0\ta\tb", "1\tc")
    with pytest.raises(DataError, match=r"test\.tsv:3: 2 columns; expected 3: id, question1, question2"):
        read_glue(tmp_path, "qqp", "test")


def test_an_empty_text_beside_another_one_is_kept_and_counted(tmp_path, caplog):
    path = written(tmp_path / "dev.tsv", "sentence1\tsentence2\tlabel", "a\t\t1", "a\tb\t0")
    assert read_glue(tmp_path, "wnli", "valid")[0].texts == ("a", "")
    assert f"{path}: 1 of 2 examples have an empty text beside another one, and are kept" in caplog.text
    written(tmp_path / "dev.tsv", "sentence1\tsentence2\tlabel", "a\tb\t1", " \t\t0")
    with pytest.raises(DataError, match=r"dev\.tsv:3: the text is empty"):
        read_glue(tmp_path, "wnli", "valid")


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_packed_files_and_parts_are_found(tmp_path, suffix, pack, caplog):
    written(tmp_path / "train.20k.tsv", "sentence\tlabel", "a part\t0")
    assert read_glue(tmp_path, "sst2", "train")[0].texts == ("a part",)
    assert "train.20k.tsv is read, for there is no train.tsv" in caplog.text
    (tmp_path / f"train.tsv{suffix}").write_bytes(pack(b"sentence\tlabel\nall\t0"))
    assert read_glue(tmp_path, "sst2", "train")[0].texts == ("all",)
    assert glue_file(tmp_path, "sst2", "train").name == f"train.tsv{suffix}"


def test_a_file_may_be_named_itself(tmp_path):
    path = written(tmp_path / "mine.txt", "sentence\tlabel", "good\t1")
    assert read_glue(path, "sst2", "valid") == [TextExample(("good",), "positive", f"{path}:2", "0")]


def test_scores_are_numbers_on_the_scale(tmp_path):
    header = "genre\tsentence1\tsentence2\tscore"
    written(tmp_path / "dev.tsv", header, "main-news\ta\tb\t3.250")
    example = read_glue(tmp_path, "stsb", "valid")[0]
    assert (example.label, example.group) == (3.25, "main-news")
    for score, message in (("5.1", "score is 5.1; expected 0.0 to 5.0"), ("nan", "finite"), ("high", "finite")):
        written(tmp_path / "dev.tsv", header, f"x\ta\tb\t{score}")
        with pytest.raises(DataError, match=rf"dev\.tsv:2: .*{message}"):
            read_glue(tmp_path, "stsb", "valid")


def test_superglue_has_objects_with_words_and_truth_values(tmp_path):
    wic = '{"word": "run", "sentence1": "I run.", "sentence2": "A run.", "idx": 3, "label": false, "start1": 2}'
    path = written(tmp_path / "val.jsonl", wic)
    assert read_glue(tmp_path, "wic", "valid") == [TextExample(("run", "I run.", "A run."), "false", f"{path}:1", "3")]
    written(tmp_path / "test.jsonl", '{"premise": "a", "hypothesis": "b", "idx": 0}')
    assert read_glue(tmp_path, "cb", "test")[0].label is None
    written(tmp_path / "train.jsonl", '{"question": "is it", "passage": "It is.", "idx": 0, "label": true}')
    assert read_glue(tmp_path, "boolq", "train")[0].label == "true"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["index\tsentence\tsentence2\tlabel", "0\ta\tb\tentailment"], "dev.tsv:1: no column 'sentence1'.*sentence2"),
        (["index\tsentence1\tsentence2", "0\ta\tb"], "dev.tsv:1: no column 'label'; allowed: index, sentence1"),
        (["a\tb"], "dev.tsv:1: no column 'sentence1', 'sentence2', 'label'"),
        (["sentence1\tsentence2\tlabel", "a\tb\tentails"], "dev.tsv:2: label is 'entails'.*did you mean entailment"),
        (["sentence1\tsentence2\tlabel", "a\tb\t-"], "dev.tsv:2: label is '-'; allowed: entailment, not_entailment"),
        (["sentence1\tsentence2\tlabel", "a\tb\t"], 'dev.tsv:2: label is ""'),
        (["sentence1\tsentence2\tlabel", "a\tb\tentailment", "a\tb"], "dev.tsv:3: 2 columns; expected 3"),
        (["sentence1\tsentence2\tlabel", "a\tb\tentailment\tc"], "dev.tsv:2: 4 columns; expected 3"),
        (["sentence1\tsentence1\tlabel", "a\tb\tentailment"], "dev.tsv:1: column 'sentence1' stands there twice"),
        (["sentence1\tsentence2\tlabel"], "dev.tsv: no examples"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path, lines, message):
    written(tmp_path / "dev.tsv", *lines)
    with pytest.raises(DataError, match=message):
        read_glue(tmp_path, "rte", "valid")


def test_unknown_names_are_refused_with_the_nearest_one(tmp_path):
    with pytest.raises(ConfigError, match=r"no set 'sst-2'; allowed: .*did you mean sst2\?"):
        glue_set("sst-2")
    with pytest.raises(ConfigError, match=r"RTE has no split 'dev'; allowed: test, train, valid"):
        read_glue(tmp_path, "rte", "dev")
    (tmp_path / "RTE").mkdir()
    with pytest.raises(DataError, match=r"no dev\.tsv there.*did you mean .*RTE\?"):
        read_glue(tmp_path, "rte", "valid")


COUNTS = [
    ("cola", "CoLA", "train", 8551, {"acceptable": 6023}),
    ("cola", "CoLA", "valid", 1043, {"acceptable": 721}),
    ("cola", "CoLA", "test", 1063, {None: 1063}),
    ("sst2", "SST-2", "train", 67349, {"positive": 37569}),
    ("sst2", "SST-2", "valid", 872, {"positive": 444}),
    ("mrpc", "MRPC", "train", 3668, {"equivalent": 2474}),
    ("mrpc", "MRPC", "valid", 408, {"equivalent": 279}),
    ("mrpc", "MRPC", "test", 1725, {None: 1725}),
    ("stsb", "STS-B", "train", 5749, {}),
    ("stsb", "STS-B", "valid", 1500, {}),
    ("qqp", "QQP", "valid", 1000, {"duplicate": 383}),
    ("mnli", "MNLI", "valid", 1000, {"entailment": 333}),
    ("qnli", "QNLI", "valid", 5463, {"entailment": 2702}),
    ("rte", "RTE", "train", 2490, {"entailment": 1249}),
    ("rte", "RTE", "valid", 277, {"entailment": 146}),
    ("wnli", "WNLI", "valid", 71, {"entailment": 31}),
    ("ax", "diagnostic", "test", 1104, {None: 1104}),
]


@pytest.mark.parametrize(("name", "folder", "split", "count", "labels"), COUNTS)
def test_the_genuine_files_have_their_published_sizes(shared, name, folder, split, count, labels):
    examples = read_glue(shared / "data" / "glue_data" / folder, name, split)
    assert len(examples) == count
    found = Counter(example.label for example in examples)
    assert {label: found[label] for label in labels} == labels
    assert all("\t" not in text and not text.startswith(BOM) for example in examples for text in example.texts)
