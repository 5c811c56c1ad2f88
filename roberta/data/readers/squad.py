"""SQuAD 1.1 and 2.0 in their JSON (arXiv:1606.05250, arXiv:1806.03822): questions, passages, and where answers begin.

The two versions differ in `is_impossible`, which only 2.0 has. Offsets count characters, as Python does.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from roberta.data.readers.json_lines import read_value
from roberta.errors import DataError

Version = Literal["1.1", "2.0"]

_TRAITS: dict[Version, str] = {
    "1.1": "all questions of 1.1 have answers, so nothing in it teaches or tests when to give none: "
    "use squad (roberta-finetune squad)",
    "2.0": "some questions of 2.0 have no answer, which a model for 1.1 can't say: "
    "use squad2 (roberta-finetune squad2)",
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A question about a passage, and its gold answers: none if it can't be answered, or if they are not told."""

    id: str
    title: str
    context: str
    question: str
    answers: tuple[tuple[str, int], ...]  # text, and the character of the context at which it starts
    is_impossible: bool | None  # None in 1.1, where no question is
    source: str  # `file: place in the JSON`


def read_squad(path: Path, version: Version | None = None) -> list[Question]:
    """Return the questions of a SQuAD file in its order; with a `version`, of that version alone.

    Answers are given as they stand there, also where the context reads otherwise; see `with_answers_in_place`.

    Raises:
        DataError: the file can't be read, is not SQuAD's JSON, is of the other version, or holds an id twice or an
            empty id or context; the message names the place.
    """
    contents = read_value(path)
    questions = list(_questions(contents, path))
    if not questions:
        raise DataError(f"{path}: no questions there; get the file again")
    found = version_of(questions)
    _check_version(contents, found, version, path)
    if found == "2.0":
        questions = [q if q.is_impossible is not None else replace(q, is_impossible=False) for q in questions]
    first: dict[str, str] = {}
    for question in questions:
        if question.id in first:
            raise DataError(f"{question.source}: id {question.id!r} is that of {first[question.id]} too; drop one")
        first[question.id] = question.source
    return questions


def version_of(questions: Sequence[Question]) -> Version:
    """Return the version of SQuAD that questions are of: 2.0 if one of them says whether it is impossible."""
    return "1.1" if all(question.is_impossible is None for question in questions) else "2.0"


def with_answers_in_place(questions: Sequence[Question]) -> list[Question]:
    """Return the questions that can be learnt from, without answers that do not stand where they are said to start.

    What is left out is counted in the log: such answers, questions that have none left, and those that never had one.
    """
    kept = []
    for question in questions:
        answers = tuple(answer for answer in question.answers if _is_in_place(question, answer))
        if answers or question.is_impossible:
            kept.append(question if len(answers) == len(question.answers) else replace(question, answers=answers))
    place = _file_of(questions)
    untold = sum(not question.answers and not question.is_impossible for question in questions)
    if lost_answers := num_out_of_place(questions):
        logger.warning(
            "%s: %d answers do not stand where they are said to start; with them, %d of %d questions are left out",
            place,
            lost_answers,
            len(questions) - len(kept) - untold,
            len(questions),
        )
    if untold:
        logger.warning("%s: %d of %d questions have no answer told, and are left out", place, untold, len(questions))
    return kept


def num_out_of_place(questions: Sequence[Question]) -> int:
    """Return how many gold answers do not stand where they are said to start."""
    return sum(not _is_in_place(question, answer) for question in questions for answer in question.answers)


def _is_in_place(question: Question, answer: tuple[str, int]) -> bool:
    text, start = answer
    return bool(text) and question.context.startswith(text, start)


def _file_of(questions: Sequence[Question]) -> str:
    return questions[0].source.partition(": ")[0] if questions else ""


def _questions(contents: Any, path: Path) -> Iterator[Question]:
    place = f"{path}: "
    for i, article in enumerate(_member(contents, "data", list, f"{path}: the file")):
        title = _member(article, "title", str, f"{place}data[{i}]", default="")
        for j, paragraph in enumerate(_member(article, "paragraphs", list, f"{place}data[{i}]")):
            inner = f"{place}data[{i}].paragraphs[{j}]"
            context = _member(paragraph, "context", str, inner)
            if not context.strip():
                raise DataError(f"{inner}: the context is empty; leave the paragraph out")
            for k, asked in enumerate(_member(paragraph, "qas", list, inner)):
                yield _question(asked, title, context, f"{inner}.qas[{k}]")


def _question(asked: Any, title: str, context: str, source: str) -> Question:
    name = _member(asked, "id", str, source)
    if not name.strip():
        raise DataError(f"{source}: the id is empty; predictions are told apart by it: give the question one")
    is_impossible = _member(asked, "is_impossible", bool, source) if "is_impossible" in asked else None
    answers = tuple(
        (
            _member(answer, "text", str, f"{source}.answers[{number}]"),
            _member(answer, "answer_start", int, f"{source}.answers[{number}]"),
        )
        for number, answer in enumerate(_member(asked, "answers", list, source, default=[]))
    )
    if negative := [start for _, start in answers if start < 0]:
        raise DataError(f"{source}: answer_start is {negative[0]}; it counts characters of the context from 0")
    if is_impossible and answers:
        raise DataError(f"{source}: is_impossible is true, but there are {len(answers)} answers; remove either")
    return Question(name, title, context, _member(asked, "question", str, source), answers, is_impossible, source)


def _member(values: Any, name: str, kind: type, source: str, default: Any = None) -> Any:
    """Return a member of a JSON object, checked to be of a type."""
    if not isinstance(values, dict):
        raise DataError(f"{source}: expected an object, found {type(values).__name__}; is it SQuAD's JSON?")
    value = values.get(name, default)
    if type(value) is not kind:
        found = f"found {value!r:.40}" if name in values else "it is missing"
        raise DataError(f"{source}: expected {name} of type {kind.__name__}, {found}; is it SQuAD's JSON?")
    return value


def _check_version(contents: dict[str, Any], found: Version, wanted: Version | None, path: Path) -> None:
    """Refuse a file of another version than is wanted, or than it says itself."""
    said = str(contents.get("version", "")).removeprefix("v")
    if said in get_args(Version) and said != found:
        have = "have" if found == "2.0" else "don't have"
        raise DataError(f"{path}: its version is {said}, but its questions {have} is_impossible; correct one of them")
    if wanted is not None and found != wanted:
        raise DataError(f"{path}: this is SQuAD {found}, but {wanted} is asked for; {_TRAITS[found]}")
