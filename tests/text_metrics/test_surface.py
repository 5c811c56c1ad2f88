"""BLEU, chrF and TER: literals worked out by hand, and signatures that say how."""

import math

import pytest

from roberta.errors import ConfigError
from roberta.text_metrics.parallel import parallel
from roberta.text_metrics.surface import SurfaceConfig, surface_score

TEXTS = parallel(["the cat sat on the mat", "a dog"], [["the cat sat on a mat", "the dog barked"]])


def test_bleu_is_the_geometric_mean_of_its_precisions_with_the_brevity_penalty():
    score = surface_score("bleu", TEXTS, SurfaceConfig())
    precisions = [6 / 8, 3 / 6, 2 / 4, 1 / 3]  # of 1- to 4-grams: 5 + 1 of 6 + 2, 3 + 0 of 5 + 1, 2 of 4, 1 of 3
    expected = 100 * math.prod(precisions) ** 0.25 * math.exp(1 - 9 / 8)
    assert score.score == pytest.approx(expected)
    assert score.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_ter_counts_edits_of_words():
    score = surface_score("ter", TEXTS, SurfaceConfig(), per_line=True)
    assert score.score == pytest.approx(100 * 3 / 9)
    assert score.lines == pytest.approx((100 / 6, 200 / 3))


@pytest.mark.parametrize(("name", "words"), [("chrf", "nw:0"), ("chrf++", "nw:2")])
def test_chrf_of_equal_texts_is_100_and_its_signature_tells_the_kind(name, words):
    score = surface_score(name, parallel(["so be it"], [["so be it"]]), SurfaceConfig())
    assert score.score == pytest.approx(100.0)
    assert words in score.signature


def test_capitals_are_taken_for_small_letters_if_asked_for():
    texts = parallel(["SO BE IT NOW"], [["so be it now"]])
    for name, worst, best in (("bleu", 0.0, 100.0), ("chrf", 0.0, 100.0), ("ter", 100.0, 0.0)):
        assert surface_score(name, texts, SurfaceConfig()).score == pytest.approx(worst)
        assert surface_score(name, texts, SurfaceConfig(lowercase=True)).score == pytest.approx(best)


def test_bleu_of_a_short_line_takes_the_n_grams_it_has():
    texts = parallel(["a dog"], [["a dog"]])
    assert surface_score("bleu", texts, SurfaceConfig(), per_line=True).lines == pytest.approx((100.0,))


def test_the_better_of_several_references_counts_and_missing_ones_do_not():
    texts = parallel(["a dog here now", "a cat sat down"], [["x y z w", "a cat sat down"], ["a dog here now", ""]])
    score = surface_score("bleu", texts, SurfaceConfig())
    assert score.score == pytest.approx(100.0)
    assert score.signature.startswith("nrefs:var|")


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no metric 'blue'; allowed: bleu, chrf, chrf\+\+, ter; did you mean bleu"):
        surface_score("blue", TEXTS, SurfaceConfig())
