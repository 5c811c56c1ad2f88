"""The sample text: complete, clean, split without overlap."""

from collections import Counter
from collections.abc import Callable

import pytest

from roberta.data.sample import MAX_PASSAGE, MIN_PASSAGE, NOVELS, sample_corpus, sample_passages, sample_text
from roberta.errors import DataError

CHAPTERS = {
    "Emma": 55,
    "Mansfield Park": 48,
    "Northanger Abbey": 31,
    "Persuasion": 24,
    "Pride and Prejudice": 61,
    "Sense and Sensibility": 50,
}


@pytest.fixture(scope="module")
def novels() -> dict[str, str]:
    return sample_text()


@pytest.fixture(scope="module")
def documents() -> dict[str, list[str]]:
    return {split: sample_corpus(split).removesuffix("\n").split("\n\n") for split in ("train", "valid")}


def test_every_chapter_of_six_novels_is_there(novels: dict[str, str]) -> None:
    assert {title: text.count("\n\n") + 1 for title, text in novels.items()} == CHAPTERS


def test_sample_is_about_four_million_characters_in_one_megabyte(novels: dict[str, str]) -> None:
    assert sum(map(len, novels.values())) == 3_999_553
    assert NOVELS.stat().st_size < 1_050_000


def test_novels_begin_with_their_first_words(novels: dict[str, str]) -> None:
    assert novels["Emma"].startswith("Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy")
    assert novels["Pride and Prejudice"].startswith("It is a truth universally acknowledged, that a single man")


def test_paragraphs_are_lines_of_clean_text(novels: dict[str, str]) -> None:
    for text in novels.values():
        for line in text.replace("\n\n", "\n").split("\n"):
            assert line == " ".join(line.split())
            assert line
            assert "_" not in line


def test_splits_share_no_chapter_and_hold_all(novels: dict[str, str], documents: dict[str, list[str]]) -> None:
    chapters = [chapter for text in novels.values() for chapter in text.split("\n\n")]
    assert sorted(documents["train"] + documents["valid"]) == sorted(chapters)
    assert len(documents["valid"]) == 14


def test_passages_come_from_the_chapters_of_their_split(documents: dict[str, list[str]]) -> None:
    for split in ("train", "valid"):
        words = "\n".join(documents[split]).replace("\n", " ")
        assert all(passage in words for passage, _ in sample_passages(split)[::50])


@pytest.mark.parametrize("split", ["train", "valid"])
def test_passages_have_bounded_lengths_and_all_titles(split: str) -> None:
    passages = sample_passages(split)
    lengths = [len(passage.split(" ")) for passage, _ in passages]
    assert min(lengths) >= MIN_PASSAGE
    assert max(lengths) <= MAX_PASSAGE
    titles = Counter(title for _, title in passages)
    assert titles.keys() == CHAPTERS.keys()
    assert max(titles.values()) < 3 * min(titles.values())


@pytest.mark.parametrize("reader", [sample_corpus, sample_passages])
def test_unknown_split_is_refused(reader: Callable[[str], object]) -> None:
    with pytest.raises(DataError, match="no split 'dev' of the sample text; allowed: train, valid"):
        reader("dev")
