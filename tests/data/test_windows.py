"""Windows of passages: their tokens, which window owns which token, and gold answers there and back again."""

import random
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from roberta.answers import trimmed
from roberta.data.readers.squad import Question, read_squad
from roberta.data.tokenizer import AlignedTokens, Tokenizer
from roberta.data.windows import EncodedPassage, Windows, WindowSizes, _owned, fitting_sizes
from roberta.errors import ConfigError
from roberta.metrics import normalize_answer

ODD = "\ufeffZoë\u00a0 paid  1,000\u2009€ 👩‍👩‍👧!\n\n\t“Ça va?”\u3000天気がいい\u2028e\u0301nd . \u0000x "
SIZES = WindowSizes(max_tokens=384, stride=128, max_question_tokens=64)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


def numbers(count: int) -> str:
    return "".join(f" {number}" for number in range(count))


def test_a_short_passage_is_one_sequence_of_two_texts(tokenizer: Tokenizer) -> None:
    windows = Windows(tokenizer, [" Who paid? ", ""], [ODD, "x"], SIZES)
    assert len(windows) == 2
    assert windows.tokens(0).tolist() == tokenizer.encode_sequence("Who paid?", ODD)
    assert windows.tokens(1).tolist() == tokenizer.encode_sequence("", "x")
    assert windows.sizes.tolist() == [len(windows.tokens(0)), len(windows.tokens(1))]


def test_an_empty_passage_is_a_sequence_without_places(tokenizer: Tokenizer) -> None:
    windows = Windows(tokenizer, ["Who?"], [""], SIZES)
    assert windows.tokens(0).tolist() == tokenizer.encode_sequence("Who?", "")
    (answers,) = windows.answers([np.zeros((6, 2))], max_answer_tokens=5, n_best=3)
    assert answers.best == ()
    assert len(Windows(tokenizer, [], [], SIZES)) == 0


@pytest.mark.parametrize(
    ("num_tokens", "max_tokens", "stride", "firsts", "lengths"),
    [
        (16, 24, 8, [0], [16]),
        (17, 24, 8, [0, 8], [16, 9]),
        (32, 24, 8, [0, 8, 16], [16, 16, 16]),
        (33, 24, 16, [0, 16, 32], [16, 16, 1]),
        (5, 9, 1, [0, 1, 2, 3, 4], [1, 1, 1, 1, 1]),
    ],
)
def test_windows_are_a_stride_apart_and_the_last_ends_with_the_passage(
    tokenizer: Tokenizer, num_tokens: int, max_tokens: int, stride: int, firsts: list[int], lengths: list[int]
) -> None:
    sizes = WindowSizes(max_tokens=max_tokens, stride=stride, max_question_tokens=4)
    windows = Windows(tokenizer, [" one two three four five"], [numbers(num_tokens)], sizes)
    assert windows.num_cut == 1
    assert windows.firsts.tolist() == firsts
    assert windows.lengths.tolist() == lengths
    passage = windows.passages[0].tokens.tolist()
    assert len(passage) == num_tokens
    question = tokenizer.encode("one two three four")
    for window, (first, length) in enumerate(zip(firsts, lengths, strict=True)):
        assert windows.tokens(window).tolist() == [0, *question, 2, 2, *passage[first : first + length], 2]
        assert windows.sizes[window] == len(windows.tokens(window)) <= max_tokens


@pytest.mark.parametrize("seed", range(25))
def test_every_token_belongs_to_the_window_that_sees_most_around_it(tokenizer: Tokenizer, seed: int) -> None:
    rng = random.Random(seed)
    room = rng.randint(1, 20)
    sizes = WindowSizes(max_tokens=room + 5, stride=rng.randint(1, room), max_question_tokens=1)
    counts = [rng.randint(1, 60) for _ in range(3)]
    windows = Windows(tokenizer, ["Who", "is", "he"], [numbers(count) for count in counts], sizes)
    for question, count in enumerate(counts):
        mine = np.flatnonzero(windows.question_ids == question).tolist()
        for token in range(count):
            scores = {}
            for window in mine:
                first, last = windows.firsts[window], windows.firsts[window] + windows.lengths[window] - 1
                if first <= token <= last:
                    scores[window] = min(token - first, last - token) + 0.01 * (last - first + 1)
            owner = max(scores, key=scores.__getitem__)
            assert [w for w in mine if windows.owned[w, 0] <= token < windows.owned[w, 1]] == [owner]


def test_rows_point_at_the_tokens_of_the_answer_or_at_the_beginning(tokenizer: Tokenizer) -> None:
    sizes = WindowSizes(max_tokens=24, stride=8, max_question_tokens=4)
    windows = Windows(tokenizer, ["one two three four", "Why?"], [numbers(32)] * 2, sizes)
    rows = windows.rows([(9, 16), None])
    assert rows[windows.question_ids == 1].tolist() == [[0, 0]] * 3
    assert rows[:3].tolist() == [[0, 0], [8, 15], [0, 0]]  # whole in the second window alone, behind 7 other rows
    first, last = rows[1]
    assert windows.tokens(1)[first : last + 1].tolist() == windows.passages[0].tokens[9:17].tolist()


def test_any_range_of_characters_is_within_its_tokens(tokenizer: Tokenizer) -> None:
    passage = Windows(tokenizer, ["?"], [ODD], SIZES).passages[0]
    assert passage.text == ODD
    for start in range(len(ODD)):
        for end in range(start + 1, len(ODD) + 1):
            if not ODD[start].isspace() and not ODD[end - 1].isspace():
                first, last = passage.token_span(start, end)
                assert passage.character_spans[first, 0] <= start < passage.character_spans[first, 1]
                assert passage.character_spans[last, 0] < end <= passage.character_spans[last, 1]


def test_what_lies_on_the_edges_of_tokens_comes_back_exactly(tokenizer: Tokenizer) -> None:
    passage = Windows(tokenizer, ["?"], [ODD], SIZES).passages[0]
    for word in ("Zoë", "1,000", "👩‍👩‍👧", "Ça va", "天気がいい"):
        start = ODD.index(word)
        assert text_of(passage.token_span(start, start + len(word)), passage) == (word, start)


def test_sizes_that_are_not_given_fit_short_sequences_too() -> None:
    for max_tokens, stride, max_question_tokens in ((512, 128, 64), (1024, 128, 64), (128, 32, 64), (32, 8, 16)):
        assert fitting_sizes(max_tokens) == WindowSizes(max_tokens, stride, max_question_tokens)
    assert fitting_sizes(128, stride=9, max_question_tokens=20) == WindowSizes(128, 9, 20)
    with pytest.raises(ConfigError, match="windows are 61 apart"):
        fitting_sizes(128, stride=61)


def test_a_passage_is_encoded_once_however_many_questions_it_has(tokenizer: Tokenizer) -> None:
    encoded = []

    class Counting(Tokenizer):
        def align(self, text: str) -> AlignedTokens:
            encoded.append(text)
            return super().align(text)

    counting = Counting(tokenizer.bpe, tokenizer.dictionary)
    windows = Windows(counting, ["a", "b", "c"], ["one", "two", "one"], SIZES)
    assert encoded == ["one", "two"]
    assert windows.passages[0] is windows.passages[2]


@pytest.mark.parametrize(
    ("max_tokens", "stride", "max_question_tokens", "message"),
    [
        (
            20,
            17,
            2,
            r"sequences of 20 tokens with questions of up to 2 leave 14 for the passage, and windows are 17 ap",
        ),
        (20, 0, 2, "windows are 0 apart"),
        (20, 1, 16, "leave 0 for the passage"),
        (20, 1, 30, "leave 0 for the passage"),
        (20, 1, 0, "questions of up to 0"),
    ],
)
def test_sizes_that_would_lose_tokens_are_refused(
    max_tokens: int, stride: int, max_question_tokens: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        WindowSizes(max_tokens=max_tokens, stride=stride, max_question_tokens=max_question_tokens)


def text_of(tokens: tuple[int, int], passage: EncodedPassage) -> tuple[str, int]:
    first, last = tokens
    start, end = trimmed(passage.text, int(passage.character_spans[first, 0]), int(passage.character_spans[last, 1]))
    return passage.text[start:end], start


def decoded(questions: list[Question], windows: Windows, number: int) -> list[str | None]:
    """Return what decoding gives back for gold answer `number` of each question, given logits that point at it."""
    spans = []
    for question, passage in zip(questions, windows.passages, strict=True):
        text, start = question.answers[number] if len(question.answers) > number else ("", None)
        spans.append(None if start is None else passage.token_span(start, start + len(text)))
    longest = max(last - first + 1 for first, last in filter(None, spans))
    outputs = []
    for size, (first, last) in zip(windows.sizes.tolist(), windows.rows(spans).tolist(), strict=True):
        logits = np.zeros((size, 2), dtype=np.float32)
        logits[first, 0] += 50.0
        logits[last, 1] += 50.0
        outputs.append(logits)
    answers = windows.answers(outputs, max_answer_tokens=longest, n_best=1)
    return [None if span is None else found.text() for span, found in zip(spans, answers, strict=True)]


UNCHANGED = "unchanged"
PUNCTUATED = "with punctuation of the same token, which no scorer sees"
WITHIN_A_TOKEN = "with other characters of the same token"


def kind(text: str, found: str) -> str:
    """Return how an answer came back."""
    if found == text:
        return UNCHANGED
    if normalize_answer(found) == normalize_answer(text):
        return PUNCTUATED
    return WITHIN_A_TOKEN


def survivors(path: Path, tokenizer: Tokenizer, limit: int | None = None) -> Counter[str]:
    questions = read_squad(path)[:limit]
    windows = Windows(tokenizer, [q.question for q in questions], [q.context for q in questions], SIZES)
    kinds: Counter[str] = Counter()
    for number in range(max(len(question.answers) for question in questions)):
        for question, found in zip(questions, decoded(questions, windows, number), strict=True):
            if found is not None:
                text = question.answers[number][0]
                assert text in found, question.id
                kinds[kind(text, found)] += 1
    return kinds


def test_gold_answers_survive_or_are_counted(tokenizer: Tokenizer, shared: Path) -> None:
    kinds = survivors(shared / "data/squad/dev-v1.1.json.xz", tokenizer, 500)
    assert kinds == {UNCHANGED: 1500, PUNCTUATED: 1, WITHIN_A_TOKEN: 10}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dev-v1.1.json.xz", {UNCHANGED: 34_412, PUNCTUATED: 245, WITHIN_A_TOKEN: 69}),
        ("dev-v2.0.reconstructed.json.xz", {UNCHANGED: 20_119, PUNCTUATED: 154, WITHIN_A_TOKEN: 29}),
    ],
)
def test_all_gold_answers_survive_or_are_counted(
    tokenizer: Tokenizer, shared: Path, name: str, expected: dict[str, int]
) -> None:
    assert survivors(shared / "data/squad" / name, tokenizer) == expected


@pytest.mark.parametrize("seed", range(20))
def test_each_token_belongs_to_the_window_that_sees_most_around_it(seed):
    """Against all windows and tokens at once, which takes memory that grows with their product."""
    rng = np.random.default_rng(seed)
    room, stride = sorted(rng.integers(1, 12, size=2))[::-1]
    num_tokens = int(rng.integers(1, 60))
    firsts = np.arange(0, max(1, num_tokens - room + stride), stride)
    lengths = np.minimum(room, num_tokens - firsts)
    before, behind = np.arange(num_tokens) - firsts[:, None], (firsts + lengths)[:, None] - 1 - np.arange(num_tokens)
    context = np.minimum(before, behind) + 0.01 * lengths[:, None]
    context[(before < 0) | (behind < 0)] = -np.inf
    owner = context.argmax(axis=0)
    for window, (start, end) in enumerate(_owned(firsts, lengths).tolist()):
        assert np.flatnonzero(owner == window).tolist() == list(range(start, end))


def test_windows_of_a_long_passage_take_memory_that_grows_with_its_length():
    firsts = np.arange(0, 100_000, 32)
    tracemalloc.start()
    _owned(firsts, np.minimum(60, 100_000 - firsts))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * 100_000
