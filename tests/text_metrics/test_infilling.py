"""Filling gaps: what is masked, what is asked of the model, and what is counted."""

import pytest
import sacrebleu

from roberta.errors import ConfigError, DataError
from roberta.hub.border import inference
from roberta.hub.filling import Fill, fill
from roberta.text_metrics import infilling
from roberta.text_metrics.infilling import infill
from roberta.text_metrics.options import InfillingConfig

LINES = ["the cat sat on", "two words", "no", "", "x" * 50 + " y", "a b c d e f g"]


def test_gaps_are_whole_words_with_a_mask_for_each_token(engine):
    result = infill(engine, LINES, InfillingConfig(span_words=3, beam=1))
    assert [gap.line for gap in result.gaps] == [1, 2, 6]
    assert result.num_skipped == 3
    for gap in result.gaps:
        before, after = gap.masked.split("<mask>")[0], gap.masked.split("<mask>")[-1]
        assert before + gap.original + after == LINES[gap.line - 1]
        assert 1 <= len(gap.original.split()) <= min(3, len(LINES[gap.line - 1].split()) - 1)
        space = " " if before else ""
        assert gap.masked.count("<mask>") == len((space + gap.original).encode())  # its tokens are bytes


def test_the_likeliest_filling_is_compared(engine):
    config = InfillingConfig(beam=3)
    result = infill(engine, LINES, config)
    with inference(engine.model):
        best = [fills[0] for fills in fill(engine, [gap.masked for gap in result.gaps], topk=3, joint="beam")]
    assert [gap.filled for gap in result.gaps] == ["".join(found.tokens).strip() for found in best]
    pairs = [gap.filled for gap in result.gaps], [[gap.original for gap in result.gaps]]
    assert result.chrf == pytest.approx(sacrebleu.corpus_chrf(*pairs).score)


def test_what_is_filled_exactly_is_counted(engine, monkeypatch):
    def knowing(engine, sentences, *, topk, joint):
        return [[Fill("", 1.0, (" c", "at"))], [Fill("", 1.0, (" no",))]]

    monkeypatch.setattr(infilling, "fill", knowing)
    result = infill(engine, ["a cat", "a cat"], InfillingConfig(span_words=1, seed=_seed_that_masks_the_second(engine)))
    assert [gap.original for gap in result.gaps] == ["cat", "cat"]
    assert result.exact == 0.5
    assert 0 < result.chrf < 100


def _seed_that_masks_the_second(engine) -> int:
    for seed in range(20):
        gaps = infill(engine, ["a cat", "a cat"], InfillingConfig(span_words=1, beam=1, seed=seed)).gaps
        if all(gap.masked.startswith("a <mask>") for gap in gaps):
            return seed
    raise AssertionError("no seed does")


def test_the_same_seed_masks_the_same_words_and_another_others(engine):
    masked = [
        tuple(gap.masked for gap in infill(engine, LINES, InfillingConfig(beam=1, seed=seed)).gaps)
        for seed in (1, 1, 2)
    ]
    assert masked[0] == masked[1] != masked[2]


def test_a_mask_in_the_text_is_refused_and_so_is_nothing_to_mask(engine):
    with pytest.raises(DataError, match="line 2 holds <mask>"):
        infill(engine, ["a b", "a <mask>"], InfillingConfig())
    with pytest.raises(DataError, match="none of 2 lines has two words"):
        infill(engine, ["a", "b"], InfillingConfig())
    with pytest.raises(ConfigError, match="--span-words 0"):
        InfillingConfig(span_words=0)
