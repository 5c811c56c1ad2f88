"""Lines at once against the same lines one by one."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roberta.bpe import GPT2BPE
from roberta.bpe import lines as module
from roberta.bpe.lines import LineEncoder

SPACES = "ab1'é \t\u00a0\u2003\u3000\x1c\x85\u2028\u200b日😀"
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=20)
LINES = st.lists(st.one_of(TEXT, st.text(st.sampled_from(SPACES))).map(lambda line: line.replace("\n", "").strip()))


@pytest.fixture(scope="module")
def bpe() -> GPT2BPE:
    return GPT2BPE.load()


@pytest.fixture(scope="module")
def encode(bpe: GPT2BPE) -> LineEncoder:
    return LineEncoder(bpe)


def assert_equal(encode: LineEncoder, bpe: GPT2BPE, lines: list[str]) -> None:
    ids, sizes = encode(lines)
    expected = bpe.encode_batch(lines)
    assert ids.dtype == np.uint32
    assert sizes.tolist() == [len(line) for line in expected]
    assert ids.tolist() == [index for line in expected for index in line]


@given(lines=LINES)
def test_lines_have_the_ids_that_each_has_alone(encode, bpe, lines):
    assert_equal(encode, bpe, lines)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [""],
        ["", "a", "", "", "b  c", ""],
        ["two  spaces", "one space", "tab\t\tand\u00a0 more"],
        ["I've we'll they're ''s 's't", "'", "''"],
        ["<|endoftext|>", "a <|endoftext|> b", "<s> <mask>"],
        ["x" * 200_000, "a" + " " * 150_000 + "b"],
        [f"{'x' * size} {'x' * size} y" for size in range(45)],
        ["é" * 7, f"é {'é' * 7} {'é' * 8} {'a' * 15} {'a' * 15}é", "a a a", "a"],
        ["abcdefgh abcdefgh1 abcdefgh2 abcdefgh", "abcdefghijklmno1 abcdefghijklmno2 abcdefghijklmno"],
        ["a a\0 a\0\0 a", "\0", "a\0a"],
        ["a\tb a\u00a0b\u00a0 \u00a0c", "a\x1cb \x1cc", "\u200b a\u200b \u200bb"],
    ],
)
def test_odd_lines_have_the_ids_that_each_has_alone(encode, bpe, lines):
    assert_equal(encode, bpe, lines)


def test_words_are_encoded_once(bpe, monkeypatch):
    encode, texts = LineEncoder(bpe), []
    monkeypatch.setattr(encode._whole_lines, "encode_text", lambda text: texts.append(text) or original(text))
    original = module.WholeLineEncoder(bpe).encode_text
    for _ in range(2):
        assert_equal(encode, bpe, ["a word, and a word", "word,", "", "a word"])
    assert texts == ["a\n word,\n and\n a\n word\nword,\n\n"]


@pytest.mark.parametrize(("slot_bits", "most_words"), [(1, 2**19), (3, 20), (19, 0)])
def test_words_that_drive_each_other_out_or_are_forgotten_keep_their_ids(bpe, monkeypatch, slot_bits, most_words):
    monkeypatch.setattr(module, "_SLOT_BITS", slot_bits)
    monkeypatch.setattr(module, "_SLOT_SHIFT", np.uint64(64 - slot_bits))
    monkeypatch.setattr(module, "_MOST_WORDS", most_words)
    encode = LineEncoder(bpe)
    words = [f"{'word' * (number % 7)}{number}" for number in range(50)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert_equal(encode, bpe, [" ".join(rng.choice(words, size)) for size in rng.integers(0, 9, size=5)])


def test_the_ids_of_an_encoder_of_its_own_are_kept(bpe):
    merges = ["a b", "Ġ ab"]
    plain = GPT2BPE(merges)
    backwards = {token: len(plain.encoder) - 1 - index for token, index in plain.encoder.items()}
    other = GPT2BPE(merges, backwards)
    assert_equal(LineEncoder(other), other, ["ab ab a", "b", "ab  ab"])


def test_real_lines_have_the_ids_that_each_has_alone(encode, bpe, shared: Path):
    for name in ("data/odd/python_source_sample.txt", "data/odd/blns/blns.txt", "golden/mlm/raw/train.raw"):
        assert_equal(encode, bpe, [line.strip() for line in (shared / name).read_text("utf-8").split("\n")])
