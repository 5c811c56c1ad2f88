"""Files that are written whole or not at all."""

import pytest

from roberta.files import write_text


def test_half_a_surrogate_pair_is_written_as_its_escape(tmp_path):
    write_text(tmp_path / "predictions.jsonl", '{"text": "cut \ud83d", "name": "caf\udce9é"}\n', escape=True)
    assert (tmp_path / "predictions.jsonl").read_bytes() == b'{"text": "cut \\ud83d", "name": "caf\\udce9\xc3\xa9"}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_elsewhere_it_is_an_error_that_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "vocab.json", "cut \ud83d")
    assert not list(tmp_path.iterdir())
