"""Winograd schemas: SuperGLUE's WSC, WSC273 and DPR, WinoGrande, each in the layout of its download."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from roberta.data.examples import REJECTED, PronounExample
from roberta.data.readers.json_lines import Row, read_json_lines
from roberta.data.text import read_lines
from roberta.errors import DataError, choices

# options of the task wsc by the name of a set, with the files of the sets whose names don't tell the split
PRONOUN_SETS: dict[str, dict[str, Any]] = {
    "wsc": {"data_layout": "wsc"},
    "winogrande": {"data_layout": "winogrande"},
    "dpr": {"data_layout": "text", "train_file": Path("train.c.txt"), "valid_file": Path("test.c.txt")},
    "wsc273": {"data_layout": "text", "valid_file": Path("wsc273.txt")},
}

_BLANK = "_"
_WORD = re.compile(r"\S+")
_PUNCTUATION = '.,"'  # that a pronoun of WSC's may end with
_SPACED = re.compile(r" +(?=[.,;:!?])")
_MARK = "|"  # stands for the pronoun while white space is squeezed
_NUM_OPTIONS = 2  # of WinoGrande


def read_wsc(path: Path) -> list[PronounExample]:
    """Return the questions of SuperGLUE's WSC (arXiv:1905.00537): does the pronoun stand for the one candidate?

    Its `span2_index` counts words between white space; where another word stands there, the nearest such word is taken.
    As RoBERTa was tuned on it, the comma or full stop that a candidate ends with goes, that of a pronoun belongs to the
    text after it, and there are no spaces before punctuation.

    Raises:
        DataError: the file can't be read, a field is missing or of a wrong type, or the pronoun is not in the text;
            the message names the line.
    """
    examples: list[PronounExample] = []
    for row in read_json_lines(path):
        text, query = row.get("text", str), row.get("target.span1_text", str)
        marked = row.get("target.span2_text", str)
        start = _word_start(text, marked, row.get("target.span2_index", int), row.source)
        pronoun = marked.rstrip(_PUNCTUATION) or marked
        query = _squeezed(query)
        query = query[:-1] if query.endswith((".", ",")) else query
        if not query:
            raise DataError(f"{row.source}: span1_text is empty; mend the line or leave it out")
        label = row.get("label", bool) if "label" in row.fields else None
        examples.append(
            PronounExample(
                before=_SPACED.sub("", text[:start]),
                pronoun=pronoun,
                after=_SPACED.sub("", text[start + len(pronoun) :]),
                candidates=(query,),
                answer=None if label is None else 0 if label else REJECTED,
                source=row.source,
                id=str(row.get("idx", int) if "idx" in row.fields else len(examples)),
            )
        )
    return _checked(examples, path)


def read_winograd_text(path: Path) -> list[PronounExample]:
    """Return the questions of WSC273's or DPR's text files: a text, the pronoun, `candidate,candidate`, the answer.

    Each is followed by an empty line. Of several words like the pronoun the first one after all candidates is taken,
    or else the first one: nothing tells which is meant, and in DPR it mostly opens the clause after both.

    Raises:
        DataError: the file can't be read, a question has other than four lines, its text no such pronoun, or its answer
            is no candidate; the message names the line.
    """
    examples = []
    for number, (text, pronoun, names, answer) in _records(path):
        source = f"{path}:{number}"
        found = list(re.finditer(rf"(?<!\w){re.escape(pronoun)}(?!\w)", text))
        if not found:
            raise DataError(
                f"{source}: no {pronoun!r} in {text!r:.60}; the second line must be the pronoun in the text"
            )
        candidates = tuple(_squeezed(name) for name in names.split(","))
        if len(candidates) < 2 or not all(candidates):
            raise DataError(f"{path}:{number + 2}: candidates {names!r:.60}; expected two or more, with commas between")
        _check_distinct(candidates, f"{path}:{number + 2}")
        if _squeezed(answer) not in candidates:
            raise DataError(f"{path}:{number + 3}: answer {answer!r:.60}; {choices(_squeezed(answer), candidates)}")
        named = max(text.lower().rfind(name.strip().lower()) for name in names.split(","))
        place = next((place for place in found if place.start() > named), found[0])
        examples.append(
            PronounExample(
                before=_squeezed(text[: place.start()] + _MARK)[:-1],
                pronoun=pronoun,
                after=_squeezed(_MARK + text[place.end() :])[1:],
                candidates=candidates,
                answer=candidates.index(_squeezed(answer)),
                source=source,
            )
        )
    return _checked(examples, path)


def read_winogrande(path: Path, labels: Path | None = None) -> list[PronounExample]:
    """Return the questions of WinoGrande (arXiv:1907.10641); the pronoun is the blank `_`.

    labels: a file with the answers, 1 or 2 a line, such as `dev-labels.lst`, where the questions have none.

    Raises:
        DataError: a file can't be read, a field is missing or of a wrong type, a sentence has not one blank, an option
            is empty, an answer is neither 1 nor 2, or there are not as many labels; the message names the line.
    """
    rows = list(read_json_lines(path))
    answers: list[tuple[object, str]] = [(row.find("answer"), row.source) for row in rows]
    if labels is not None:
        lines = [line for line in read_lines(labels) if line.strip()]
        if len(lines) != len(rows):
            raise DataError(f"{labels}: {len(lines)} labels for the {len(rows)} questions of {path}; get both again")
        answers = [(line.strip(), f"{labels}:{number}") for number, line in enumerate(lines, start=1)]
    examples = [_winogrande(row, *answer) for row, answer in zip(rows, answers, strict=True)]
    return _checked(examples, path)


def _winogrande(row: Row, answer: object, answer_source: str) -> PronounExample:
    sentence = row.get("sentence", str)
    if sentence.count(_BLANK) != 1:
        raise DataError(f"{row.source}: {sentence.count(_BLANK)} blanks {_BLANK} in {sentence!r:.60}; expected one")
    candidates = tuple(row.get(f"option{number}", str).strip() for number in range(1, _NUM_OPTIONS + 1))
    if not all(candidates):
        raise DataError(f"{row.source}: options {candidates}; an option must not be empty")
    _check_distinct(candidates, row.source)
    if isinstance(answer, bool | float) or answer not in (None, "", "1", "2", 1, 2):
        raise DataError(f"{answer_source}: answer {answer!r:.60}; allowed: 1, 2")
    before, _, after = sentence.partition(_BLANK)
    name = row.find("qID")
    return PronounExample(
        before=before,
        pronoun=_BLANK,
        after=after,
        candidates=candidates,
        answer=None if answer in (None, "") else int(str(answer)) - 1,
        source=row.source,
        id="" if name is None else str(name),
    )


def _word_start(text: str, pronoun: str, index: int, source: str) -> int:
    """Return the character at which the word number `index`, or the nearest one that is the pronoun, begins."""
    starts = [
        (number, word.start())
        for number, word in enumerate(_WORD.finditer(text))
        if pronoun.strip() and re.match(rf"{re.escape(pronoun)}(?!\w)", word.group())
    ]
    if not starts:
        raise DataError(f"{source}: no word {pronoun!r} in {text!r:.60}; mend the line or leave it out")
    return min(starts, key=lambda found: abs(found[0] - index))[1]


def _records(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the number of the first line, and the four lines, of each question."""
    record: list[str] = []
    for number, line in enumerate(chain(read_lines(path), [""]), start=1):
        if line.strip():
            record.append(line.strip())
        elif record:
            first = number - len(record)
            if len(record) != 4:
                raise DataError(
                    f"{path}:{first}: {len(record)} lines up to the next empty one; "
                    "expected four: text, pronoun, candidates, answer"
                )
            yield first, tuple(record)
            record = []


def _check_distinct(candidates: tuple[str, ...], source: str) -> None:
    if len(set(candidates)) < len(candidates):
        twice = next(name for name in candidates if candidates.count(name) > 1)
        raise DataError(f"{source}: candidate {twice!r:.60} stands there twice; nothing tells the two apart: mend it")


def _squeezed(text: str) -> str:
    """Return a text with single spaces between its words."""
    return " ".join(text.split())


def _checked(examples: list[PronounExample], path: Path) -> list[PronounExample]:
    if not examples:
        raise DataError(f"{path}: no questions; get the file again")
    return examples
