"""SQuAD's JSON: the real sets, and files that are not as they should be."""

import copy
import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roberta.data.readers.squad import (
    Question,
    Version,
    num_out_of_place,
    read_squad,
    version_of,
    with_answers_in_place,
)
from roberta.errors import DataError

V1: dict[str, Any] = {
    "version": "1.1",
    "data": [
        {
            "title": "Caf\u00e9",
            "paragraphs": [
                {
                    "context": "\U0001f600 Ada \u00a0was born in 1815.",
                    "qas": [
                        {"id": "x", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 2}]},
                        {"id": "y", "question": "When? ", "answers": [{"text": "1815", "answer_start": 19}]},
                    ],
                }
            ],
        }
    ],
}


def asked(data: dict[str, Any], number: int = 0) -> dict[str, Any]:
    return data["data"][0]["paragraphs"][0]["qas"][number]


def v2() -> dict[str, Any]:
    data = copy.deepcopy(V1) | {"version": "v2.0"}
    asked(data)["is_impossible"] = False
    asked(data, 1).update(is_impossible=True, answers=[], plausible_answers=[{"text": "Ada", "answer_start": 2}])
    return data


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def write(data: Any) -> Path:
        path = tmp_path / "set.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data, ensure_ascii=False), encoding="utf-8")
        return path

    return write


def test_questions_come_in_order_with_their_places(write: Callable[[Any], Path]) -> None:
    path = write(V1)
    first, second = read_squad(path, "1.1")
    assert first == Question(
        id="x",
        title="Café",
        context="😀 Ada \u00a0was born in 1815.",
        question="Who?",
        answers=(("Ada", 2),),
        is_impossible=None,
        source=f"{path}: data[0].paragraphs[0].qas[0]",
    )
    assert second.question == "When? "
    assert version_of([first, second]) == "1.1"
    assert with_answers_in_place([first, second]) == [first, second]


def test_questions_without_answer_are_told_from_those_with(write: Callable[[Any], Path]) -> None:
    first, second = read_squad(write(v2()), "2.0")
    assert (first.is_impossible, second.is_impossible) == (False, True)
    assert version_of([first, second]) == "2.0"
    assert second.answers == ()  # the plausible ones are wrong
    assert with_answers_in_place([first, second]) == [first, second]


def test_a_packed_file_is_the_same_file(write: Callable[[Any], Path], tmp_path: Path) -> None:
    path = write(V1)
    packed = tmp_path / "set.json.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
    assert [question.id for question in read_squad(packed)] == ["x", "y"]


def test_the_real_sets_are_read_whole(shared: Path) -> None:
    folder = shared / "data/squad"
    sets: list[tuple[str, Version, int, int]] = [
        ("dev-v1.1.json.xz", "1.1", 10_570, 0),
        ("train-v1.1.44articles.json.xz", "1.1", 11_877, 0),
        ("dev-v2.0.reconstructed.json.xz", "2.0", 11_873, 5_945),
    ]
    for name, version, total, impossible in sets:
        questions = read_squad(folder / name, version)
        assert (len(questions), sum(q.is_impossible or 0 for q in questions)) == (total, impossible), name
        assert with_answers_in_place(questions) == questions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("data"), r"set.json: the file: expected data of type list, it is missing; is it SQuAD's JSON"),
        (lambda d: d.update(data=[]), r"set.json: no questions there; get the file again"),
        (lambda d: d["data"].insert(0, "x"), r"data\[0\]: expected an object, found str"),
        (lambda d: d["data"][0].pop("paragraphs"), r"data\[0\]: expected paragraphs of type list, it is missing"),
        (
            lambda d: d["data"][0]["paragraphs"][0].update(context=" \n"),
            r"set.json: data\[0\].paragraphs\[0\]: the context is empty",
        ),
        (lambda d: asked(d, 1).update(id=7), r"qas\[1\]: expected id of type str, found 7"),
        (lambda d: asked(d, 1).update(id="x"), r"qas\[1\]: id 'x' is that of \S+set.json: data\[0\]\S+\[0\] too"),
        (lambda d: asked(d, 1).update(id=" "), r"qas\[1\]: the id is empty; predictions are told apart by it"),
        (lambda d: asked(d).pop("question"), r"qas\[0\]: expected question of type str, it is missing"),
        (
            lambda d: asked(d)["answers"][0].update(answer_start="2"),
            r"qas\[0\].answers\[0\]: expected answer_start of type int, found '2'",
        ),
        (lambda d: asked(d)["answers"][0].update(answer_start=-1), r"qas\[0\]: answer_start is -1; it counts"),
        (lambda d: asked(d).update(is_impossible=True), r"is_impossible is true, but there are 1 answers"),
        (
            lambda d: d.update(version="v2.0"),
            r"its version is 2.0, but its questions don't have is_impossible; correct",
        ),
        (lambda d: asked(d).update(is_impossible=None), r"qas\[0\]: expected is_impossible of type bool, found None"),
        (lambda d: asked(d).update(is_impossible=False), r"its version is 1.1, but its questions have is_impossible"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    write: Callable[[Any], Path], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    data = copy.deepcopy(V1)
    change(data)
    with pytest.raises(DataError, match=message):
        read_squad(write(data))


def test_a_file_that_is_no_json_is_refused(write: Callable[[Any], Path]) -> None:
    with pytest.raises(DataError, match=r"set.json: not JSON: Expecting .* line 2 .*; get the file again"):
        read_squad(write('{"data":\n tru'))
    with pytest.raises(DataError, match="set.json: the file: expected an object, found list"):
        read_squad(write([]))


def test_the_other_version_is_refused(write: Callable[[Any], Path]) -> None:
    with pytest.raises(
        DataError,
        match=r"this is SQuAD 1.1, but 2.0 is asked for; all questions .*: use squad \(roberta-finetune squad\)",
    ):
        read_squad(write(V1), "2.0")
    with pytest.raises(
        DataError, match=r"this is SQuAD 2.0, but 1.1 is asked for; some .*: use squad2 \(roberta-finetune squad2\)"
    ):
        read_squad(write(v2()), "1.1")


def test_the_version_shows_where_the_file_does_not_say_it(write: Callable[[Any], Path]) -> None:
    with pytest.raises(DataError, match=r"this is SQuAD 2.0"):
        read_squad(write(v2() | {"version": "my own"}), "1.1")
    assert len(read_squad(write(V1 | {"version": None}), "1.1")) == 2
    mixed = v2()
    asked(mixed).pop("is_impossible")
    assert [question.is_impossible for question in read_squad(write(mixed))] == [False, True]


def test_answers_out_of_place_are_left_out_and_counted(
    write: Callable[[Any], Path], caplog: pytest.LogCaptureFixture
) -> None:
    data = copy.deepcopy(V1)
    asked(data)["answers"] += [{"text": "Ada", "answer_start": 3}, {"text": "", "answer_start": 0}]
    asked(data, 1)["answers"] = [{"text": "1815", "answer_start": 99}]
    questions = read_squad(write(data))
    assert [len(question.answers) for question in questions] == [3, 1]  # a scorer wants them as they stand
    with caplog.at_level(logging.WARNING):
        kept = with_answers_in_place(questions)
    assert [(question.id, question.answers) for question in kept] == [("x", (("Ada", 2),))]
    assert "set.json: 3 answers do not stand where they are said to start; with them, 1 of 2 questions" in caplog.text
    assert num_out_of_place(questions) == 3


def test_questions_without_answers_are_counted_apart(
    write: Callable[[Any], Path], caplog: pytest.LogCaptureFixture
) -> None:
    data = copy.deepcopy(V1)
    asked(data, 1)["answers"] = []
    with caplog.at_level(logging.WARNING):
        assert [question.id for question in with_answers_in_place(read_squad(write(data)))] == ["x"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("set.json: 1 of 2 questions have no answer told, and are left out")
    assert with_answers_in_place([]) == []
