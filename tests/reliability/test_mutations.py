"""Damaged files of every kind, read: each reader gives a documented error, and never something else without a word.

Numbers are those of SECURITY.md's table.
"""

import json
import random

import pytest

from tests.reliability.fuzz_readers import TARGETS
from tests.reliability.mutating import mutate
from tests.reliability.test_checkpoints import summaries

READERS = {  # by name, and whether a sum covers every byte
    "checkpoint": True,
    "checkpoint, sums forged": False,
    "fairseq .pt (zip)": True,
    "fairseq .pt (legacy)": False,
    "Hugging Face folder": False,
    "Hugging Face tokenizer": False,
    ".idx": True,
    ".bin, .idx and vocabulary with --verify": True,
    ".bin": False,
    "dict.txt": False,
    "vocab.bpe, encoder.json": False,
    "TSV (SST-2)": False,
    ".csv": False,
    ".jsonl": False,
    "log.jsonl": False,
    "SQuAD": False,
    "hub archive": True,
}


def check(trials: int, seed: int, timeout: float) -> None:
    found = summaries("mutating", "--trials", str(trials), "--seed", str(seed), timeout=timeout)
    assert [counts.pop("reader") for counts in found] == list(READERS)
    for counts, is_summed in zip(found, READERS.values(), strict=True):
        assert counts.pop("trials") == sum(counts.values()) == trials
        assert counts.keys() <= {"refused", "same", *(() if is_summed else ("other",))}
        assert counts["refused"] > trials // 4


def test_10_11_12_21_files_damaged_at_random_are_refused_or_read_as_they_were():
    check(trials=60, seed=3, timeout=240.0)


@pytest.mark.slow
def test_10_11_12_21_ten_thousand_damaged_files_for_each_reader():
    check(trials=10_000, seed=1, timeout=7200.0)


@pytest.mark.slow
def test_12_21_40_no_parser_raises_what_is_not_documented_however_its_files_are_bent():
    """A few seconds of coverage-guided fuzzing each; `fuzz_readers` alone does it for longer."""
    pytest.importorskip("atheris", reason="pip install atheris")
    found = summaries("fuzz_readers", "all", "-max_total_time=5", "-seed=1", timeout=600.0)
    assert [counts["parser"] for counts in found] == list(TARGETS)
    assert all(counts["runs"] > 50 for counts in found)


def test_damage_is_damage():
    """Of these mutations few may leave the bytes as they are."""
    raw = json.dumps(list(range(50))).encode()
    rng = random.Random(0)
    assert sum(mutate(raw, rng) == raw for _ in range(1000)) < 50
    assert mutate(b"", rng) != b""
