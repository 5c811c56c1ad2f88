"""Multiple-choice sets in JSONL, one question a line, with fields of any names; those of some known sets are here."""

from dataclasses import asdict, dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

from roberta.config import option
from roberta.data.examples import ChoiceExample
from roberta.data.readers.json_lines import Row, read_json_lines
from roberta.errors import ConfigError, DataError

AnswerForm = Literal["any", "label", "index", "number", "letter", "text"]


@dataclass(frozen=True)
class ChoiceFields:
    """The fields of a multiple-choice set; a dot in a name leads into an object, as `question.stem` does."""

    context_field: str | None = option(None, help="field of the text that the question is about")
    question_field: str | None = option("question", help="field of the question")
    option_fields: tuple[str, ...] = option(
        ("options",), help="field of the list of options (texts, or objects with label and text), or a field for each"
    )
    answer_field: str = option("answer", help="field of the answer")
    answer_form: AnswerForm = option(
        "any",
        help="what the answer is: label of the option, index from 0, number from 1, letter from A, text of the option; "
        "any: whichever of label, index, letter and text makes sense",
    )
    id_field: str = option("id", help="field of the question's name")
    question_texts: tuple[str, ...] = option(
        (), help="WORD=TEXT: the text of a question that is but a word, as in 'cause=What was the cause of this?'"
    )

    def __post_init__(self) -> None:
        if not self.context_field and not self.question_field:
            raise ConfigError("neither --context-field nor --question-field is given; name one of them")
        if not self.option_fields:
            raise ConfigError("--option-fields is empty; name the field of the list of options, or one for each")
        for pair in self.question_texts:
            word, _, text = pair.partition("=")
            if not word.strip() or not text.strip():
                raise ConfigError(f"--question-texts {pair!r}; expected WORD=TEXT, such as 'effect=What happened?'")

    def question(self, found: str) -> str:
        """Return the text of a question in place of its word, or the question as it is."""
        return dict(pair.split("=", 1) for pair in self.question_texts).get(found, found)


# arXiv:1811.00937; OpenBookQA (arXiv:1809.02789) and ARC (arXiv:1803.05457) have the same layout
COMMONSENSE_QA = ChoiceFields(
    question_field="question.stem", option_fields=("question.choices",), answer_field="answerKey", answer_form="label"
)
HELLASWAG = ChoiceFields(  # arXiv:1905.07830
    context_field="ctx",
    question_field=None,
    option_fields=("endings",),
    answer_field="label",
    answer_form="index",
    id_field="ind",
)
COPA = ChoiceFields(  # in SuperGLUE's form, arXiv:1905.00537
    context_field="premise",
    option_fields=("choice1", "choice2"),
    answer_field="label",
    answer_form="index",
    id_field="idx",
    question_texts=("cause=What was the cause of this?", "effect=What happened as a result?"),
)

# options of the task sentence_ranking by the name of a set
QUESTION_SETS: dict[str, dict[str, Any]] = {
    "race": {"data_layout": "race"},
    "commonsense_qa": asdict(COMMONSENSE_QA),
    "openbookqa": asdict(COMMONSENSE_QA),
    "arc": asdict(COMMONSENSE_QA),
    "hellaswag": asdict(HELLASWAG),
    "copa": asdict(COPA),
}


def read_choices(path: Path, fields: ChoiceFields) -> list[ChoiceExample]:
    """Return the questions of a JSONL file; those without an answer (no such field, null or "") have None.

    Raises:
        DataError: the file can't be read or has no questions, a field is missing or of a wrong type, an option is
            empty, or the answer is none of the options; the message names the line.
    """
    examples = [_example(row, fields) for row in read_json_lines(path)]
    if not examples:
        raise DataError(f"{path}: no questions; expected a JSON object a line")
    return examples


def _example(row: Row, fields: ChoiceFields) -> ChoiceExample:
    options, labels = _options(row, fields.option_fields)
    context = row.get(fields.context_field, str).strip() if fields.context_field else ""
    question = fields.question(row.get(fields.question_field, str).strip()) if fields.question_field else ""
    if not context and not question:
        raise DataError(f"{row.source}: context and question are empty; mend the line or leave it out")
    answer = row.find(fields.answer_field)
    is_told = answer is not None and answer != ""
    index = _index(answer, options, labels, fields.answer_form, row.source) if is_told else None
    name = row.find(fields.id_field)
    return ChoiceExample(context, question, options, index, row.source, "" if name is None else str(name))


def _options(row: Row, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of the options, and their labels where they have some."""
    items: list[Any] = _items(row, names[0]) if len(names) == 1 else [row.get(name, str) for name in names]
    are_objects = bool(items) and all(isinstance(item, dict) for item in items)
    texts = [item.get("text") for item in items] if are_objects else items
    labels = _labels(items, row.source) if are_objects else ()
    if len(texts) < 2:
        raise DataError(f"{row.source}: {len(texts)} options; a question needs at least 2")
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{row.source}: option {number} is {text!r:.60}; expected a text that is not empty")
    return tuple(texts), labels


def _labels(items: list[dict[str, Any]], source: str) -> tuple[str, ...]:
    """Return the labels of options that are objects; none where none of them has one."""
    found = [item.get("label") for item in items]
    labels = ["" if label is None else str(label) for label in found]
    if not any(labels):
        return ()
    if not all(labels):
        raise DataError(f"{source}: option {labels.index('') + 1} has no label, and others have one; mend the line")
    if len(set(labels)) < len(labels):
        raise DataError(f"{source}: labels {', '.join(labels)}: one of them stands there twice; mend the line")
    return tuple(labels)


def _items(row: Row, name: str) -> list[Any]:
    """Return a list of options; {"text": [...], "label": [...]} is one too."""
    if not isinstance(row.find(name), dict):
        return row.get(name, list)
    texts, labels = row.get(f"{name}.text", list), row.get(f"{name}.label", list)
    if len(texts) != len(labels):
        raise DataError(f"{row.source}: {name} has {len(texts)} texts and {len(labels)} labels; mend the line")
    return [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]


def _index(answer: Any, options: tuple[str, ...], labels: tuple[str, ...], form: AnswerForm, source: str) -> int:
    """Return which option an answer names."""
    if isinstance(answer, bool) or not isinstance(answer, int | str):
        raise DataError(f"{source}: answer {answer!r:.60}; expected a number or a text")
    found = {index for reading in _readings(form, labels) for index in _named(str(answer), options, labels, reading)}
    if len(found) == 1:
        return found.pop()
    allowed = {
        "label": ", ".join(labels) or "labels, but the options have none",
        "index": f"0 to {len(options) - 1}",
        "number": f"1 to {len(options)}",
        "letter": ", ".join(ascii_uppercase[: len(options)]),
        "text": "the text of one option",
        "any": ", ".join(labels) or f"0 to {len(options) - 1}, a letter, or the text of one option",
    }[form]
    if found:
        raise DataError(
            f"{source}: answer {answer!r:.60} can mean each of the options {sorted(found)} (from 0); "
            "say with --answer-form what answers are"
        )
    raise DataError(f"{source}: answer {answer!r:.60} for {len(options)} options; allowed: {allowed}")


def _readings(form: AnswerForm, labels: tuple[str, ...]) -> tuple[AnswerForm, ...]:
    if form != "any":
        return (form,)
    return ("label",) if labels else ("index", "letter", "text")


def _named(answer: str, options: tuple[str, ...], labels: tuple[str, ...], form: AnswerForm) -> list[int]:
    """Return the options that an answer names if it is read in one way."""
    names = {
        "label": labels,
        "index": tuple(map(str, range(len(options)))),
        "number": tuple(map(str, range(1, len(options) + 1))),
        "letter": tuple(ascii_uppercase[: len(options)]),
        "text": options,
    }[form]
    return [index for index, name in enumerate(names) if name == answer]
