"""Texts beside their references, and what is said where they do not fit."""

import pytest

from roberta.errors import DataError
from roberta.text_metrics.parallel import parallel, read_parallel


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_blank_references_are_none_and_blank_hypotheses_are_counted(tmp_path):
    files = [write(tmp_path / "a", "A", " ", "C"), write(tmp_path / "b", "", "b", "c")]
    texts = read_parallel(write(tmp_path / "h", "a", "", "c"), files)
    assert texts.references == (("A",), ("b",), ("C", "c"))
    assert texts.num_empty == 1
    assert texts.num_references == "var"
    assert texts.reference_sets == [["A", "b", "C"], [None, None, "c"]]


def test_the_number_of_references_is_said_where_it_is_one():
    assert parallel(["a", "b"], [["A", "B"], ["α", "β"]]).num_references == "2"


def test_different_numbers_of_lines_are_both_named(tmp_path):
    hypotheses, reference = write(tmp_path / "h", "a", "b"), write(tmp_path / "r", "A", "B", "C")
    with pytest.raises(DataError, match=r"/h has 2 lines, .*/r has 3; each line needs its counterpart"):
        read_parallel(hypotheses, [reference])


def test_a_line_without_any_reference_is_named(tmp_path):
    files = [write(tmp_path / "r", "A", ""), write(tmp_path / "s", "B", "  ")]
    with pytest.raises(DataError, match=r"line 2 is blank in .*/r and .*/s; a line needs a reference"):
        read_parallel(write(tmp_path / "h", "a", "b"), files)


def test_nothing_to_compare_is_refused():
    with pytest.raises(DataError, match="the hypotheses: 0 lines and 1 sets"):
        parallel([], [[]])
    with pytest.raises(DataError, match="1 lines and 0 sets of references"):
        parallel(["a"], [])
