"""Winograd schemas in their four layouts, and files that are wrong."""

import json

import pytest

from roberta.data.examples import REJECTED
from roberta.data.readers.winograd import read_winograd_text, read_winogrande, read_wsc
from roberta.errors import DataError

WSC = {
    "text": "Mark told Pete that he left. He lied.",
    "target": {"span1_text": "Mark", "span1_index": 0, "span2_text": "He", "span2_index": 6},
    "idx": 4,
    "label": True,
}
WINOGRANDE = {"qID": "q-1", "sentence": "Ann beat Eve because _ is fast.", "option1": "Ann", "option2": "Eve"}
DPR = "The bee landed on the flower because it had pollen.\nit\nThe bee,the flower\nthe flower\n"


def write_lines(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def whole(example):
    return example.before + example.pronoun + example.after


def test_wsc_asks_whether_the_pronoun_stands_for_the_candidate(tmp_path):
    unlabelled = {name: value for name, value in WSC.items() if name != "label"}
    path = write_lines(tmp_path / "val.jsonl", WSC, {**WSC, "label": False}, unlabelled)
    examples = read_wsc(path)
    assert [example.answer for example in examples] == [0, REJECTED, None]
    assert (examples[0].before, examples[0].pronoun, examples[0].after) == (
        "Mark told Pete that he left. ",
        "He",
        " lied.",
    )
    assert examples[0].candidates == ("Mark",)
    assert (examples[0].id, examples[0].source) == ("4", f"{path}:1")


def test_a_pronoun_beside_its_index_is_found(tmp_path):
    target = {**WSC["target"], "span2_index": 5, "span2_text": "he"}
    (example,) = read_wsc(write_lines(tmp_path / "val.jsonl", {**WSC, "target": target}))
    assert example.before == "Mark told Pete that "


def test_punctuation_of_wsc_is_put_where_it_belongs(tmp_path):
    target = {"span1_text": "the  fire.", "span1_index": 3, "span2_text": "it,", "span2_index": 9}
    row = {**WSC, "text": "Days called for the fire , and when Ann lit it, all sat down .", "target": target}
    (example,) = read_wsc(write_lines(tmp_path / "val.jsonl", row))
    assert example.before == "Days called for the fire, and when Ann lit "
    assert (example.pronoun, example.after, example.candidates) == ("it", ", all sat down.", ("the fire",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": {**WSC["target"], "span2_text": "she"}}, "no word 'she' in"),
        ({"target": {**WSC["target"], "span2_text": ""}}, "no word '' in"),
        ({"target": {**WSC["target"], "span1_text": " "}}, "span1_text is empty"),
        ({"target": {}}, "no field 'target.span1_text'"),
        ({"idx": "one"}, "idx is 'one'; expected int"),
        ({"label": "yes"}, "label is 'yes'; expected bool"),
        ({"label": None}, "label is null; expected bool, or no such field"),
    ],
)
def test_a_wrong_line_of_wsc_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=f"val.jsonl:2: {message}"):
        read_wsc(write_lines(tmp_path / "val.jsonl", WSC, {**WSC, **change}))


def test_dpr_and_wsc273_have_four_lines_a_question(tmp_path):
    path = tmp_path / "wsc.txt"
    path.write_text(DPR + "\nIt fell  [MASK]  was big. \n[MASK]\n the  cup , the box\n the box \n", encoding="utf-8")
    first, second = read_winograd_text(path)
    assert whole(first) == "The bee landed on the flower because it had pollen."
    assert (first.candidates, first.answer) == (("The bee", "the flower"), 1)
    assert (second.before, second.after) == ("It fell ", " was big.")
    assert (second.candidates, second.answer, second.source) == (("the cup", "the box"), 1, f"{path}:6")


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("The bee says it saw the flower, but it left.", "The bee says it saw the flower, but "),
        ("It is said of it that The bee left the flower.", "It is said of "),
    ],
)
def test_of_several_pronouns_the_one_after_all_candidates_is_taken(tmp_path, text, before):
    path = tmp_path / "wsc.txt"
    path.write_text(f"{text}\nit\nThe bee,the flower\nthe flower\n", encoding="utf-8")
    (example,) = read_winograd_text(path)
    assert example.before == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nit\n", "\n", "wsc.txt:1: 3 lines up to the next empty one; expected four"),
        ("\nit\n", "\nshe\n", "wsc.txt:1: no 'she' in"),
        ("The bee,the flower", "the flower", "wsc.txt:3: candidates 'the flower'; expected two or more"),
        ("The bee,the flower", "the flower,", "wsc.txt:3: candidates"),
        ("The bee,the flower", "the flower,the  flower", "wsc.txt:3: candidate 'the flower' stands there twice"),
        ("\nthe flower\n", "\nthe flowers\n", "wsc.txt:4: answer 'the flowers'; .*did you mean the flower"),
    ],
)
def test_a_wrong_question_of_a_text_file_is_named(tmp_path, old, new, message):
    path = tmp_path / "wsc.txt"
    path.write_text(DPR.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_winograd_text(path)


def test_winogrande_has_a_blank_and_two_options(tmp_path):
    path = write_lines(tmp_path / "dev.jsonl", {**WINOGRANDE, "answer": "2"}, {**WINOGRANDE, "answer": ""}, WINOGRANDE)
    first, *others = read_winogrande(path)
    assert (first.before, first.pronoun, first.after) == ("Ann beat Eve because ", "_", " is fast.")
    assert (first.candidates, first.answer, first.id) == (("Ann", "Eve"), 1, "q-1")
    assert [example.answer for example in others] == [None, None]


@pytest.mark.parametrize("answer", [1, 2])
def test_an_answer_of_winogrande_may_be_a_number(tmp_path, answer):
    (example,) = read_winogrande(write_lines(tmp_path / "dev.jsonl", {**WINOGRANDE, "answer": answer}))
    assert example.answer == answer - 1


def test_the_labels_of_winogrande_may_stand_in_a_file(tmp_path):
    path, labels = write_lines(tmp_path / "test.jsonl", WINOGRANDE, WINOGRANDE), tmp_path / "test-labels.lst"
    labels.write_text("2\n1\n\n", encoding="utf-8")
    assert [example.answer for example in read_winogrande(path, labels)] == [1, 0]
    labels.write_text("2\n3\n", encoding="utf-8")
    with pytest.raises(DataError, match="test-labels.lst:2: answer '3'; allowed: 1, 2"):
        read_winogrande(path, labels)
    labels.write_text("2\n", encoding="utf-8")
    with pytest.raises(DataError, match="1 labels for the 2 questions"):
        read_winogrande(path, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentence": "Ann beat Eve."}, "0 blanks _ in"),
        ({"sentence": "_ beat _."}, "2 blanks _ in"),
        ({"option2": " "}, r"options \('Ann', ''\); an option must not be empty"),
        ({"option1": None}, "option1 is null; expected str"),
        ({"option1": "Eve", "option2": " Eve"}, "candidate 'Eve' stands there twice"),
        ({"answer": True}, "answer True; allowed: 1, 2"),
        ({"answer": 0}, "answer 0; allowed: 1, 2"),
        ({"answer": 1.0}, "answer 1.0; allowed: 1, 2"),
        ({"answer": "3"}, "answer '3'; allowed: 1, 2"),
        ({"answer": [1]}, r"answer \[1\]; allowed"),
    ],
)
def test_a_wrong_line_of_winogrande_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=f"dev.jsonl:1: {message}"):
        read_winogrande(write_lines(tmp_path / "dev.jsonl", {**WINOGRANDE, **change}))


@pytest.mark.parametrize("read", [read_wsc, read_winograd_text, read_winogrande])
def test_a_file_without_questions_is_refused(tmp_path, read):
    path = tmp_path / "empty"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="no questions"):
        read(path)


def test_the_genuine_files_are_read_whole(shared):
    data = shared / "data"
    counts = [len(read_wsc(data / f"superglue/WSC/{name}.jsonl")) for name in ("train", "val", "test")]
    assert counts == [554, 104, 146]
    texts = ("wsc273.txt", "train.c.txt", "test.c.txt")
    assert [len(read_winograd_text(data / f"winograd/{name}")) for name in texts] == [273, 1316, 564]
    folder = data / "winogrande_1.1"
    answered = read_winogrande(folder / "dev.converted.jsonl")
    assert len(answered) == 1267
    labelled = read_winogrande(folder / "dev.converted.jsonl", folder / "dev-labels.lst")
    assert [example.answer for example in labelled] == [example.answer for example in answered]
