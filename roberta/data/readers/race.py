"""RACE in its download layout (arXiv:1704.04683): a folder a split, in it middle/ and high/, a JSON file a passage."""

from collections.abc import Iterator
from pathlib import Path

from roberta.data.examples import ChoiceExample
from roberta.data.readers.json_lines import read_json
from roberta.data.readers.split_files import find_split_folder
from roberta.errors import DataError

_LEVELS = ("middle", "high")
_LETTERS = "ABCD"


def is_race_split(folder: Path) -> bool:
    """Tell whether a folder is one split of RACE, not that of all of them."""
    return bool(_levels(folder))


def find_race_split(folder: Path, split: str) -> Path:
    """Return the folder of a split in that of RACE, where the one for validation is called dev.

    Raises:
        DataError: the folder is one split itself, or several folders could be the split.
    """
    found = find_split_folder(folder, split)
    if not found.is_dir() and is_race_split(folder):
        raise DataError(f"{folder}: this is one split of RACE; give the folder that holds train and dev")
    return found


def read_race(folder: Path) -> list[ChoiceExample]:
    """Return the questions of a split such as `RACE/dev`, those of middle schools first; the level is their group.

    Where one of the levels is missing, the other is read. An answer may be missing from all questions of a passage.

    Raises:
        DataError: there are no passages, or a file is no passage of RACE; the message names the file and question.
    """
    levels = _levels(folder)
    if not levels:
        raise DataError(f"{folder}: no folder middle or high there; give a split of RACE such as RACE/train")
    examples = [example for level in levels for path in _passages(level) for example in _questions(path)]
    if not examples:
        raise DataError(f"{folder}: no questions in its .txt files; get RACE again")
    return examples


def _levels(folder: Path) -> list[Path]:
    """Return the folders of the levels that a split has."""
    return [folder / level for level in _LEVELS if (folder / level).is_dir()]


def _passages(level: Path) -> list[Path]:
    """Return the files of a level in the order of their numbers."""
    return sorted(level.glob("*.txt"), key=lambda path: (len(path.name), path.name))


def _questions(path: Path) -> Iterator[ChoiceExample]:
    row = read_json(path)
    article, questions, options = row.get("article", str), row.get("questions", list), row.get("options", list)
    answers = row.get("answers", list) if "answers" in row.fields else [None] * len(questions)
    if not len(questions) == len(options) == len(answers):
        raise DataError(
            f"{path}: {len(questions)} questions, {len(options)} lists of options and {len(answers)} answers; "
            "there must be as many of each; get the file again"
        )
    if not article.strip():
        raise DataError(f"{path}: the article is empty; get the file again")
    name = row.find("id") or path.name
    for number, (question, texts, letter) in enumerate(zip(questions, options, answers, strict=True), start=1):
        source = f"{path}: question {number}"
        if not isinstance(question, str):
            raise DataError(f"{source}: {question!r:.60}; expected a text")
        choices = _options(texts, source)
        answer = None if letter is None else _answer(letter, len(choices), source)
        yield ChoiceExample(article, question, choices, answer, source, f"{name}#{number}", path.parent.name)


def _options(texts: object, source: str) -> tuple[str, ...]:
    if not isinstance(texts, list) or not 2 <= len(texts) <= len(_LETTERS):
        raise DataError(f"{source}: options {texts!r:.60}; expected a list of 2 to {len(_LETTERS)} texts")
    for letter, text in zip(_LETTERS, texts, strict=False):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{source}: option {letter} is {text!r:.60}; expected a text that is not empty")
    return tuple(texts)


def _answer(letter: object, num_options: int, source: str) -> int:
    allowed = _LETTERS[:num_options]
    if not isinstance(letter, str) or len(letter) != 1 or letter not in allowed:
        raise DataError(f"{source}: answer {letter!r:.60}; allowed: {', '.join(allowed)}")
    return allowed.index(letter)
