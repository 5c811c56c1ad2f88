"""Submission files: their names, headers and spellings are those of the official sites."""

import json

import pytest

from roberta.data.examples import TextExample
from roberta.data.readers.glue import GLUE, read_glue
from roberta.data.submission import write_submission
from roberta.errors import ConfigError, DataError, StorageError

OFFICIAL = {  # of gluebenchmark.com and super.gluebenchmark.com
    "cola": ["CoLA.tsv"],
    "sst2": ["SST-2.tsv"],
    "mrpc": ["MRPC.tsv"],
    "stsb": ["STS-B.tsv"],
    "qqp": ["QQP.tsv"],
    "mnli": ["MNLI-m.tsv", "MNLI-mm.tsv"],
    "qnli": ["QNLI.tsv"],
    "rte": ["RTE.tsv"],
    "wnli": ["WNLI.tsv"],
    "ax": ["AX.tsv"],
    "boolq": ["BoolQ.jsonl"],
    "cb": ["CB.jsonl"],
    "wic": ["WiC.jsonl"],
}


def examples_of(*ids: str) -> list[TextExample]:
    return [TextExample(("a", "b"), None, f"test.tsv:{line}", name) for line, name in enumerate(ids, start=2)]


def test_the_files_have_their_official_names():
    assert {name: list(row.submissions.values()) for name, row in GLUE.items()} == OFFICIAL


@pytest.mark.parametrize(
    ("name", "split", "predictions", "expected"),
    [
        ("cola", "test", ["acceptable", "unacceptable"], "1 0"),
        ("sst2", "test", ["negative", "positive"], "0 1"),
        ("mrpc", "test", ["equivalent", "not_equivalent"], "1 0"),
        ("qqp", "test", ["duplicate", "not_duplicate"], "1 0"),
        ("wnli", "test", ["entailment", "not_entailment"], "1 0"),
        ("rte", "test", ["entailment", "not_entailment"], "entailment not_entailment"),
        ("qnli", "test", ["not_entailment", "entailment"], "not_entailment entailment"),
        ("mnli", "test1", ["neutral", "contradiction"], "neutral contradiction"),
        ("ax", "test", ["entailment", "neutral"], "entailment neutral"),
        ("stsb", "test", [5.2, 1.23456], "5.000 1.235"),
        ("stsb", "test", [-0.5, 3], "0.000 3.000"),
        ("stsb", "test", [-0.0, 5.0004], "0.000 5.000"),
    ],
)
def test_predictions_are_spelt_as_the_site_wants_them(tmp_path, name, split, predictions, expected):
    path = write_submission(tmp_path / "new", name, split, examples_of("0", "1"), predictions)
    assert path == tmp_path / "new" / GLUE[name].submissions[split]
    first, second = expected.split()
    assert path.read_bytes() == f"index\tprediction\n0\t{first}\n1\t{second}\n".encode()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_superglue_takes_objects(tmp_path):
    path = write_submission(tmp_path, "boolq", "test", examples_of("0", "17"), ["true", "false"])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"idx": 0, "label": "true"},
        {"idx": 17, "label": "false"},
    ]


@pytest.mark.parametrize(
    ("name", "predictions", "message"),
    [
        ("rte", ["entailment"], r"RTE\.tsv: 1 predictions for 2 examples"),
        ("rte", ["entailment", None], r"test\.tsv:3: no prediction"),
        ("rte", ["entailment", "entailed"], r"test\.tsv:3: predicted 'entailed'; .*did you mean entailment\?"),
        ("cola", ["acceptable", "1"], r"test\.tsv:3: predicted '1'; allowed: acceptable, unacceptable"),
        ("stsb", [1.0, float("nan")], r"test\.tsv:3: predicted nan; expected a finite number"),
        ("stsb", [1.0, "2"], r"test\.tsv:3: predicted '2'; expected a finite number"),
    ],
)
def test_missing_and_unknown_predictions_are_refused_and_nothing_is_written(tmp_path, name, predictions, message):
    with pytest.raises(DataError, match=message):
        write_submission(tmp_path, name, "test", examples_of("0", "1"), predictions)
    assert not list(tmp_path.iterdir())


def test_ids_must_differ_and_splits_must_be_known(tmp_path):
    with pytest.raises(DataError, match=r"test\.tsv:3: id 4 stands there twice"):
        write_submission(tmp_path, "rte", "test", examples_of("4", "4"), ["entailment"] * 2)
    with pytest.raises(ConfigError, match="RTE has no submission for 'valid'; allowed: test"):
        write_submission(tmp_path, "rte", "valid", [], [])


@pytest.mark.parametrize("place", ["a-file", "RTE.tsv"])
def test_a_place_that_can_not_be_written_is_named(tmp_path, place):
    (tmp_path / "a-file").write_text("")
    (tmp_path / "RTE.tsv").mkdir()
    folder = tmp_path / "a-file" if place == "a-file" else tmp_path
    with pytest.raises(StorageError, match="can't be (made|written)"):
        write_submission(folder, "rte", "test", examples_of("0"), ["entailment"])


@pytest.mark.parametrize(
    ("name", "folder", "rows"), [("rte", "RTE", 3000), ("stsb", "STS-B", 1379), ("ax", "diagnostic", 1104)]
)
def test_the_genuine_test_files_are_answered_row_by_row(shared, tmp_path, name, folder, rows):
    examples = read_glue(shared / "data" / "glue_data" / folder, name, "test")
    labels = GLUE[name].labels
    path = write_submission(tmp_path, name, "test", examples, [labels[0] if labels else 2.5] * len(examples))
    assert [line.split("\t")[0] for line in path.read_text().splitlines()] == ["index", *map(str, range(rows))]
