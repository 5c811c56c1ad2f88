"""RACE: its folders, and files that are not as they should be."""

import json
import tarfile
from collections import Counter

import pytest

from roberta.data.readers.race import find_race_split, is_race_split, read_race
from roberta.errors import DataError

PASSAGE = {
    "id": "high7.txt",
    "article": "Dogs bark.\nCats do not.",
    "questions": ["Who barks?", "Cats  _  ."],
    "options": [["dogs", "cats", "cows", "birds"], ["bark", "do not bark", "fly", "read"]],
    "answers": ["A", "B"],
}


def write(folder, level, name, passage):
    path = folder / level / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(passage if isinstance(passage, str) else json.dumps(passage), encoding="utf-8")
    return path


def test_each_question_of_each_passage_is_an_example(tmp_path):
    path = write(tmp_path, "high", "7.txt", PASSAGE)
    write(tmp_path, "middle", "3.txt", {**PASSAGE, "id": "middle3.txt", "answers": ["D", "C"]})
    examples = read_race(tmp_path)
    assert [example.group for example in examples] == ["middle", "middle", "high", "high"]
    assert [example.answer for example in examples] == [3, 2, 0, 1]
    last = examples[-1]
    assert (last.context, last.question) == (PASSAGE["article"], "Cats  _  .")
    assert last.options == ("bark", "do not bark", "fly", "read")
    assert (last.id, last.source) == ("high7.txt#2", f"{path}: question 2")


def test_passages_come_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 100):
        write(tmp_path, "high", f"{number}.txt", {**PASSAGE, "id": str(number)})
    assert [example.id for example in read_race(tmp_path)[::2]] == ["9#1", "10#1", "100#1"]


def test_a_passage_may_have_no_answers(tmp_path):
    write(tmp_path, "high", "7.txt", {name: value for name, value in PASSAGE.items() if name != "answers"})
    assert [example.answer for example in read_race(tmp_path)] == [None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": ["A"]}, "2 questions, 2 lists of options and 1 answers"),
        ({"answers": ["A", "E"]}, "question 2: answer 'E'; allowed: A, B, C, D"),
        ({"answers": ["A", ""]}, "question 2: answer ''"),
        ({"answers": ["A", 1]}, "question 2: answer 1"),
        ({"options": [["a", "b"], ["a"]]}, r"question 2: options \['a'\]; expected a list of 2 to 4"),
        ({"options": [["a", "b", "c", "d"], ["a", "b", " ", "d"]]}, "question 2: option C is ' '"),
        ({"questions": "Who?"}, "questions is 'Who\\?'; expected list"),
        ({"questions": ["Who?", None]}, "question 2: None; expected a text"),
        ({"article": "\n"}, "the article is empty"),
        ({"article": 5}, "article is 5; expected str"),
    ],
)
def test_a_wrong_passage_is_named_with_its_path(tmp_path, change, message):
    path = write(tmp_path, "middle", "8.txt", {**PASSAGE, **change})
    with pytest.raises(DataError, match=message) as caught:
        read_race(tmp_path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("text", "message"), [('{"article": "x', "not JSON"), ("[1]", "expected a JSON object")])
def test_a_malformed_file_among_many_is_named(tmp_path, text, message):
    for number in range(50):
        write(tmp_path, "high", f"{number}.txt", PASSAGE)
    path = write(tmp_path, "high", "31.txt", text)
    with pytest.raises(DataError, match=message) as caught:
        read_race(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    write(tmp_path, "high", "1.txt", "").write_bytes(b'{"article": "caf\xe9"}')
    with pytest.raises(DataError, match=r"1\.txt:1: byte offset 16: 0xe9 is not valid UTF-8"):
        read_race(tmp_path)


def test_a_folder_without_levels_or_questions_is_refused(tmp_path):
    with pytest.raises(DataError, match="no folder middle or high there; give a split"):
        read_race(tmp_path)
    (tmp_path / "high").mkdir()
    with pytest.raises(DataError, match="no questions"):
        read_race(tmp_path)


def test_the_folder_of_a_split_is_found_and_told_from_that_of_all(tmp_path):
    for split in ("train", "dev"):
        write(tmp_path, f"{split}/high", "1.txt", PASSAGE)
    assert find_race_split(tmp_path, "train") == tmp_path / "train"
    assert find_race_split(tmp_path, "valid") == find_race_split(tmp_path, "dev") == tmp_path / "dev"
    assert (is_race_split(tmp_path), is_race_split(tmp_path / "dev")) == (False, True)
    with pytest.raises(DataError, match="dev: this is one split of RACE; give the folder that holds train and dev"):
        find_race_split(tmp_path / "dev", "train")
    write(tmp_path, "val/high", "1.txt", PASSAGE)
    with pytest.raises(DataError, match="dev and val could each be the valid split"):
        find_race_split(tmp_path, "valid")


def test_the_genuine_folders_are_read(shared, tmp_path):
    with tarfile.open(shared / "data/race/RACE.sample.tar.xz") as archive:
        members = [member for member in archive.getmembers() if member.name.startswith("RACE/dev/")]
        archive.extractall(tmp_path, members, filter="data")
    examples = read_race(tmp_path / "RACE/dev")
    assert Counter(example.group for example in examples) == {"middle": 1436, "high": 3451}
    assert all(len(example.options) == 4 and example.answer in range(4) for example in examples)
