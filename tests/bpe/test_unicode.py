"""All of Unicode through the BPE: every character alone, and a million strings mixed from many scripts.

What is expected comes from tiktoken with its own pattern and its own reading of GPT-2's two files.
"""

import random
import sys
import time
from collections.abc import Iterator, Sequence

import pytest
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str

from roberta.bpe import GPT2BPE

SURROGATES = range(0xD800, 0xE000)
SAMPLE_STEP = 16
STRINGS = 100_000
# First and last character of what the strings are mixed from.
BLOCKS = {
    "ascii": " ~",
    "control": "\x00\x1f",
    "more control": "\x7f\xa0",
    "latin": "\xa1\u024f",
    "combining": "\u0300\u036f",
    "greek and cyrillic": "\u0370\u052f",
    "hebrew and arabic": "\u0590\u06ff",
    "indic": "\u0900\u0d7f",
    "thai": "\u0e00\u0e7f",
    "spaces and joiners": "\u2000\u206f",
    "numbers": "\u2150\u218b",
    "symbols": "\u2190\u27bf",
    "kana": "\u3040\u30ff",
    "han": "\u4e00\u9fff",
    "hangul": "\uac00\ud7a3",
    "private": "\ue000\uf8ff",
    "forms and specials": "\ufb00\uffff",
    "old scripts": "\U00010000\U00010fff",
    "mathematics": "\U0001d400\U0001d7ff",
    "emoji": "\U0001f300\U0001faff",
    "tags": "\U000e0000\U000e01ef",
    "last plane": "\U0010ff00\U0010ffff",
}
FRAGMENTS = ["'s", "'ll", "'T", "  ", "   ", "\n\n", "\r\n", " the", "ing", "1234", "٣٤", "\u00a0", "\u200d"]


@pytest.fixture(scope="module")
def bpe() -> GPT2BPE:
    return GPT2BPE.load()


@pytest.fixture(scope="module")
def other(bpe: GPT2BPE, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiktoken.Encoding]:
    """Return tiktoken's own GPT-2 encoding; that the files are GPT-2's is sealed by a test of `GPT2BPE.save`."""
    folder = tmp_path_factory.mktemp("gpt2")
    bpe.save(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
        yield tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})


def mixed_strings(count: int, *, seed: int) -> list[str]:
    """Return strings of 1 to 40 parts, each string from one to four blocks of Unicode and the fragments."""
    rng = random.Random(seed)
    pools = [[chr(code) for code in range(ord(first), ord(last) + 1)] for first, last in BLOCKS.values()]
    pools += [FRAGMENTS, [" "]]
    strings = []
    for _ in range(count):
        chosen = rng.choices(pools, k=rng.randint(1, 4))
        length = rng.randint(1, 40)
        parts = [part for pool in chosen for part in rng.choices(pool, k=length // len(chosen) + 1)]
        rng.shuffle(parts)
        strings.append("".join(parts))
    return strings


def check(bpe: GPT2BPE, other: tiktoken.Encoding, texts: Sequence[str]) -> None:
    """Compare the ids of each text with tiktoken's, and what they decode to with the text."""
    ids = bpe.encode_batch(texts)
    wrong = [text for text, found in zip(texts, ids, strict=True) if found != other.encode_ordinary(text)]
    assert wrong == [], f"{len(wrong)} texts have other ids than tiktoken gives"
    lost = [text for text, found in zip(texts, ids, strict=True) if bpe.decode_bytes(found) != text.encode()]
    assert lost == [], f"{len(lost)} texts did not survive"


def characters(start: int, step: int) -> list[str]:
    """Return every `step`-th Unicode scalar value from `start`."""
    return [chr(code) for code in range(start, sys.maxunicode + 1, step) if code not in SURROGATES]


def test_a_sample_of_all_characters_has_tiktokens_ids_and_survives(bpe: GPT2BPE, other: tiktoken.Encoding) -> None:
    sample = characters(0, SAMPLE_STEP)
    assert len(sample) == 1_112_064 // SAMPLE_STEP
    check(bpe, other, sample)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(SAMPLE_STEP))
def test_every_character_has_tiktokens_ids_and_survives(bpe: GPT2BPE, other: tiktoken.Encoding, start: int) -> None:
    check(bpe, other, characters(start, SAMPLE_STEP))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_mixed_strings_have_tiktokens_ids_and_survive(bpe: GPT2BPE, other: tiktoken.Encoding, seed: int) -> None:
    strings = mixed_strings(STRINGS, seed=seed)
    assert len(set(strings)) > 0.95 * STRINGS
    check(bpe, other, strings)


@pytest.mark.parametrize("character", ["0", "z", "\x00", "\t", "\u00a0", "é", "\u0301", "日", "\U0001f600"])
def test_a_million_equal_characters_take_less_than_two_seconds(bpe: GPT2BPE, character: str) -> None:
    bpe.encode("warm up")
    started = time.process_time()
    ids = bpe.encode(character * 1_000_000)
    assert time.process_time() - started < 2
    assert bpe.decode_bytes(ids) == character.encode() * 1_000_000
