"""BERTScore against a twin of loops, and what it does at the edges."""

import math

import pytest
import torch

from roberta.errors import ConfigError, DataError
from roberta.models.heads import ClassificationHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.text_metrics import bertscore
from roberta.text_metrics.bertscore import Match, bert_score, layer_of
from roberta.text_metrics.options import BertScoreConfig
from roberta.text_metrics.parallel import parallel
from tests.reference import bertscore as twin
from tests.reference.encoder import hiddens

HYPOTHESES = ["the cat sat", "a dog", "on the mat", "the cat sat", "é!"]
REFERENCES = [["the cat sits", "the dog ran", "on a mat", "that cat sat", "e?"], ["a cat", "", "at it", "", "ö"]]


def tokens_of(engine, text: str) -> list[int]:
    """Return the bytes of a text behind a space, between the special tokens."""
    dictionary = engine.tokenizer.dictionary
    return [dictionary.bos, *engine.tokenizer.encode(" " + text), dictionary.eos]


def expected(engine, hypothesis: str, reference: str, layer: int, documents=None) -> tuple[float, float, float]:
    weights = {name: tensor.numpy() for name, tensor in engine.model.state_dict().items()}
    rows, counts = [], []
    for text in (hypothesis, reference):
        tokens = tokens_of(engine, text)
        rows.append(hiddens(tokens, weights, layers=3, heads=3)[layer].tolist())
        counts.append([1.0 if documents is None else twin.idf(documents, token) for token in tokens])
    return twin.score(*rows, *counts)


@pytest.mark.parametrize("idf", [False, True])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_every_line_scores_as_the_twin_says(engine, layer, idf):
    texts = parallel(HYPOTHESES, REFERENCES)
    found = bert_score(engine, texts, BertScoreConfig(layer=layer, idf=idf))
    documents = [tokens_of(engine, text) for lines in texts.references for text in lines] if idf else None
    for hypothesis, references, match in zip(texts.hypotheses, texts.references, found.matches, strict=True):
        scores = [expected(engine, hypothesis, reference, layer, documents) for reference in references]
        assert (match.precision, match.recall, match.f1) == pytest.approx(
            [max(figures) for figures in zip(*scores, strict=True)], abs=1e-10
        )
    assert found.mean.f1 == pytest.approx(sum(match.f1 for match in found.matches) / 5)
    assert found.layer == layer


def test_equal_texts_score_one_whatever_their_outer_space(engine):
    (match,) = bert_score(engine, parallel(["  so be it "], [["so be it"]]), BertScoreConfig()).matches
    assert (match.precision, match.recall, match.f1) == pytest.approx((1.0, 1.0, 1.0))


def test_precision_and_recall_change_places_with_hypothesis_and_reference(engine):
    texts, swapped = parallel(["long words here"], [["short"]]), parallel(["short"], [["long words here"]])
    (a,), (b,) = (bert_score(engine, pair, BertScoreConfig()).matches for pair in (texts, swapped))
    assert (a.precision, a.recall) == pytest.approx((b.recall, b.precision))
    assert a.precision != pytest.approx(a.recall)


def test_a_blank_hypothesis_scores_zero_and_changes_no_other_line(engine):
    alone = bert_score(engine, parallel(["a dog"], [["the dog"]]), BertScoreConfig()).matches[0]
    blank, other = bert_score(engine, parallel([" ", "a dog"], [["x", "the dog"]]), BertScoreConfig()).matches
    assert blank == Match(0.0, 0.0, 0.0)
    assert other.f1 == pytest.approx(alone.f1)


def test_texts_that_are_too_long_are_cut_and_counted(engine):
    start = "x" * 37  # 40 positions less <s>, the space, and </s>
    texts = parallel([start + "tail", start], [[start, start + "another"]])
    found = bert_score(engine, texts, BertScoreConfig())
    assert found.num_truncated == 2
    assert [match.f1 for match in found.matches] == pytest.approx([1.0, 1.0])


def test_scores_do_not_depend_on_how_lines_are_grouped(engine, monkeypatch):
    texts = parallel(HYPOTHESES, REFERENCES)
    together = bert_score(engine, texts, BertScoreConfig()).matches
    monkeypatch.setattr(bertscore, "_LINES", 2)
    apart = bert_score(engine, texts, BertScoreConfig()).matches
    assert [match.f1 for match in apart] == pytest.approx([match.f1 for match in together], abs=1e-12)


def test_idf_that_is_zero_everywhere_counts_all_tokens_alike(engine):
    texts = parallel(["abc"], [["abc"]])  # the one reference has all of its tokens
    (match,) = bert_score(engine, texts, BertScoreConfig(idf=True)).matches
    assert match.recall == pytest.approx(1.0)
    assert not math.isnan(match.f1)


def test_the_mode_of_the_model_is_restored(engine):
    engine.model.train()
    try:
        first = bert_score(engine, parallel(["a"], [["b"]]), BertScoreConfig()).matches
        assert engine.model.training
    finally:
        engine.model.eval()
    assert bert_score(engine, parallel(["a"], [["b"]]), BertScoreConfig()).matches == first


@pytest.mark.parametrize(
    ("layers", "mnli", "best"), [(12, False, 10), (24, False, 17), (24, True, 19), (6, False, 5), (1, False, 1)]
)
def test_the_layer_is_that_of_the_published_tool(layers, mnli, best):
    with torch.device("meta"):
        model = RobertaModel(
            RobertaConfig(vocab_size=5, encoder_layers=layers, embed_dim=4, ffn_embed_dim=4, attention_heads=1)
        )
        if mnli:
            model.register_head("mnli", ClassificationHeadConfig(num_classes=3))
    assert layer_of(model, None) == best


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_the_model_lacks_is_refused(engine, layer):
    with pytest.raises(ConfigError, match=rf"layer {layer}: the model has 3; give 0, the embeddings, to 3"):
        bert_score(engine, parallel(["a"], [["b"]]), BertScoreConfig(layer=layer))


BASELINES = "LAYER,P,R,F\n0,0.5,0.25,-1\n3,0.2,0.4,0.5\n"  # as the published tool ships them


def test_rescaling_makes_the_baselines_of_the_layer_zero(engine, tmp_path):
    (tmp_path / "tiny.tsv").write_text(BASELINES)
    texts = parallel(HYPOTHESES, REFERENCES)
    raw = bert_score(engine, texts, BertScoreConfig(layer=3)).matches
    rescaled = bert_score(engine, texts, BertScoreConfig(layer=3, rescale_with=tmp_path / "tiny.tsv"))
    for before, after in zip(raw, rescaled.matches, strict=True):
        assert after.precision == pytest.approx((before.precision - 0.2) / 0.8)
        assert after.recall == pytest.approx((before.recall - 0.4) / 0.6)
        assert after.f1 == pytest.approx((before.f1 - 0.5) / 0.5)
    assert rescaled.mean.f1 == pytest.approx((sum(match.f1 for match in raw) / 5 - 0.5) / 0.5)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (BASELINES, ConfigError, r"tiny.tsv: no baselines of layer 2; it has 0, 3"),
        ("LAYER,P,R,F\n", ConfigError, r"tiny.tsv: no baselines of layer 2; it has none"),
        ("LAYER,P,R,F\n2,0.1,0.2\n", DataError, r"tiny.tsv:2: '2,0.1,0.2'; expected LAYER,P,R,F, four numbers"),
        ("2,0.1,x,0.2\n", DataError, r"tiny.tsv:1: "),
        ("2,0.1,1.0,0.2\n", DataError, r"tiny.tsv:1: .* must be below 1"),
        ("2,0.1,nan,0.2\n", DataError, r"tiny.tsv:1: .* must be below 1"),
        (None, DataError, r"tiny.tsv: No such file"),
    ],
)
def test_a_file_of_baselines_that_does_not_fit_is_refused(engine, tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "tiny.tsv").write_text(content)
    with pytest.raises(error, match=message):
        bert_score(engine, parallel(["a"], [["b"]]), BertScoreConfig(layer=2, rescale_with=tmp_path / "tiny.tsv"))
