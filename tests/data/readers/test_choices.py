"""Multiple-choice sets in JSONL: the layouts of known sets, answers in every form, and lines that are wrong."""

import json

import pytest

from roberta.data.readers.choices import COMMONSENSE_QA, COPA, HELLASWAG, ChoiceFields, read_choices
from roberta.errors import ConfigError, DataError

ROW = {"question": "Who barks?", "options": ["cat", "dog", "B"], "answer": 1}


def read(tmp_path, *rows, fields=None):
    path = tmp_path / "set.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return read_choices(path, fields or ChoiceFields())


def test_options_may_be_texts_or_objects_or_lists_or_fields(tmp_path):
    labelled = [{"label": "A", "text": "cat"}, {"label": "B", "text": "dog"}]
    fields = ChoiceFields(option_fields=("one", "two"))
    for row, named in [
        ({"options": ["cat", "dog"], "answer": 1}, None),
        ({"options": labelled, "answer": "B"}, None),
        ({"options": {"text": ["cat", "dog"], "label": ["1", "2"]}, "answer": "2"}, None),
        ({"one": "cat", "two": "dog", "answer": "dog"}, fields),
    ]:
        (example,) = read(tmp_path, {"question": "Who barks?", **row}, fields=named)
        assert (example.options, example.answer) == (("cat", "dog"), 1)


@pytest.mark.parametrize(
    ("form", "answer", "expected"),
    [
        ("any", 2, 2),
        ("any", "0", 0),
        ("any", "C", 2),
        ("any", "cat", 0),
        ("index", 1, 1),
        ("number", 1, 0),
        ("number", "3", 2),
        ("letter", "B", 1),
        ("text", "B", 2),
    ],
)
def test_an_answer_is_read_as_the_form_says(tmp_path, form, answer, expected):
    (example,) = read(tmp_path, {**ROW, "answer": answer}, fields=ChoiceFields(answer_form=form))
    assert example.answer == expected


def test_the_number_of_options_may_vary(tmp_path):
    examples = read(tmp_path, ROW, "", {**ROW, "options": list("abcdefg"), "answer": 6})
    assert [(len(example.options), example.answer) for example in examples] == [(3, 1), (7, 6)]
    assert examples[1].source.endswith("set.jsonl:3")


@pytest.mark.parametrize("answer", [None, ""])
def test_an_answer_may_be_untold(tmp_path, answer):
    (example,) = read(tmp_path, {**ROW, "answer": answer})
    assert example.answer is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 3}, "answer 3 for 3 options; allowed: 0 to 2, a letter, or the text"),
        ({"answer": -1}, "answer -1 for 3 options"),
        ({"answer": "B"}, r"answer 'B' can mean each of the options \[1, 2\].*--answer-form"),
        ({"answer": True}, "answer True; expected a number or a text"),
        ({"answer": [1]}, r"answer \[1\]; expected"),
        ({"options": ["cat", ""]}, "option 2 is ''; expected a text that is not empty"),
        ({"options": ["cat", None]}, "option 2 is None"),
        ({"options": ["cat"]}, "1 options; a question needs at least 2"),
        ({"options": "cat"}, "options is 'cat'; expected list"),
        ({"options": {"text": ["a"], "label": []}}, "options has 1 texts and 0 labels"),
        ({"options": None}, "options is null; expected list, or no such field"),
        ({"question": " "}, "context and question are empty"),
        ({"question": 7}, "question is 7; expected str"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=f"set.jsonl:2: {message}"):
        read(tmp_path, ROW, {**ROW, **change})


def test_a_label_that_no_option_has_is_refused(tmp_path):
    options = [{"label": "A", "text": "cat"}, {"label": "B", "text": "dog"}]
    with pytest.raises(DataError, match="set.jsonl:1: answer 'F' for 2 options; allowed: A, B"):
        read(tmp_path, {"question": "Who?", "options": options, "answer": "F"})
    with pytest.raises(DataError, match="set.jsonl:1: option 2 has no label, and others have one"):
        read(tmp_path, {"question": "Who?", "options": [options[0], {"text": "dog"}], "answer": "A"})
    with pytest.raises(DataError, match="set.jsonl:1: labels A, A: one of them stands there twice"):
        read(tmp_path, {"question": "Who?", "options": [options[0]] * 2, "answer": "A"})
    (example,) = read(tmp_path, {"question": "Who?", "options": [{"text": "cat"}, {"text": "dog"}], "answer": "dog"})
    assert example.answer == 1
    with pytest.raises(DataError, match="allowed: labels, but the options have none"):
        read(tmp_path, ROW, fields=ChoiceFields(answer_form="label"))


def test_a_missing_field_names_the_nearest(tmp_path):
    with pytest.raises(DataError, match="no field 'one'; allowed: ones; did you mean one"):
        read(tmp_path, {"ones": "x"}, fields=ChoiceFields(option_fields=("one", "two")))


@pytest.mark.parametrize(
    ("line", "message"), [("{", "set.jsonl:2: not JSON"), ("[]", "set.jsonl:2: '\\[\\]'; expected")]
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, ROW, line)


def test_a_file_without_questions_is_refused(tmp_path):
    with pytest.raises(DataError, match="no questions"):
        read(tmp_path, "")


def test_fields_must_name_a_question_and_options():
    with pytest.raises(ConfigError, match="--context-field nor --question-field"):
        ChoiceFields(question_field=None)
    with pytest.raises(ConfigError, match="--option-fields is empty"):
        ChoiceFields(option_fields=())
    for pair in ("cause", "=x", "effect= "):
        with pytest.raises(ConfigError, match=f"--question-texts '{pair}'; expected WORD=TEXT"):
            ChoiceFields(question_texts=(pair,))


def test_questions_of_one_word_are_asked_in_full(tmp_path):
    fields = ChoiceFields(question_texts=("why=Why, = how so?", "how=How?"))
    examples = [read(tmp_path, {**ROW, "question": question}, fields=fields)[0] for question in ("why", "how", "who?")]
    assert [example.question for example in examples] == ["Why, = how so?", "How?", "who?"]


def test_hellaswag_has_a_context_and_endings(tmp_path):
    row = {
        "ind": 24,
        "ctx": "Roof shingle removal: A man is sitting on a roof. he",
        "endings": list("wxyz"),
        "label": 3,
    }
    (example,) = read(tmp_path, row, fields=HELLASWAG)
    assert (example.context[:4], example.question, example.answer, example.id) == ("Roof", "", 3, "24")


def test_commonsense_qa_is_read_whole(shared):
    folder = shared / "data/CommonsenseQA"
    dev = read_choices(folder / "dev_rand_split.jsonl", COMMONSENSE_QA)
    assert len(dev) == 1221
    assert dev[0].options == ("bank", "library", "department store", "mall", "new york")
    assert dev[0].answer == 0
    test = read_choices(folder / "test_rand_split_no_answers.jsonl", COMMONSENSE_QA)
    assert len(test) == 1140
    assert {example.answer for example in test} == {None}
    assert len(read_choices(folder / "train_rand_split.jsonl.xz", COMMONSENSE_QA)) == 9741


def test_copa_is_read(shared):
    examples = read_choices(shared / "data/FewGLUE/COPA/train.jsonl", COPA)
    assert len(examples) == 32
    assert examples[1].options == ("His stubble grew.", "His stubble disappeared.")
    assert (examples[1].context, examples[1].question, examples[1].answer) == (
        "The man slid the razor across his chin.",
        "What happened as a result?",
        1,
    )
