"""Pseudo-log-likelihood against a slow loop."""

import pytest
import torch

from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError
from roberta.hub import RobertaHubInterface
from roberta.hub.border import Engine
from roberta.inspection import inspect
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.text_metrics.infilling import infill
from roberta.text_metrics.options import InfillingConfig
from roberta.text_metrics.rescoring import Candidate, rescore

TEXTS = ["Hello world!", "", "She’d unsatisfactorily 😀", "a"]


def slow(roberta: RobertaHubInterface, text: str, words: list[int]) -> list[float]:
    """Mask each token, and the later ones of the same number in `words`, in a forward pass of its own."""
    tokens = roberta.encode(text)
    values = []
    for position in range(1, len(tokens) - 1):
        masked = tokens.clone()
        masked[position] = roberta.tokenizer.dictionary.mask
        for later in range(position + 1, len(tokens) - 1):
            if words[later - 1] == words[position - 1]:
                masked[later] = roberta.tokenizer.dictionary.mask
        with torch.no_grad():
            logits = roberta.model.heads["lm"](roberta.extract_features(masked)[0, position])
        values.append(logits.log_softmax(dim=-1)[tokens[position]].item())
    return values


def words_of(roberta: RobertaHubInterface, text: str, parts: list[str]) -> list[int]:
    """Return the number of the part that each token stands in."""
    owner = [number for number, part in enumerate(parts) for _ in part]
    assert "".join(parts) == text
    return [owner[end - 1] for _, end in roberta.character_spans(text)[1:-1]]


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_scores_of_single_tokens_equal_a_slow_loop(roberta, batch_tokens):
    roberta.batch_tokens = batch_tokens
    for text, result in zip(TEXTS, roberta.score(TEXTS, within_word=False), strict=True):
        num_tokens = len(roberta.encode(text)) - 2
        assert result.text == text
        assert result.log_probabilities == pytest.approx(slow(roberta, text, list(range(num_tokens))), abs=1e-5)
        assert result.score == pytest.approx(sum(result.log_probabilities))
    roberta.batch_tokens = 4096


@pytest.mark.parametrize(
    "parts",
    [
        ["She’d", " unsatisfactorily", " 😀"],
        ["Don't", " preposterously", ",", " antidisestablishmentarianism", "!"],
        ["abc", "\n", "\n", "xyzzyx"],
    ],
)
def test_scores_within_words_mask_the_rest_of_the_word_too(roberta, parts):
    text = "".join(parts)
    words = words_of(roberta, text, parts)
    assert len(set(words)) < len(words)
    expected = slow(roberta, text, words)
    assert roberta.score(text).log_probabilities == pytest.approx(expected, abs=1e-5)
    assert roberta.score(text, within_word=False).log_probabilities != pytest.approx(expected, abs=1e-5)


def test_tokens_of_a_score_are_the_text(roberta):
    result = roberta.score("Hello world!")
    assert "".join(result.tokens) == "Hello world!"
    assert len(result.tokens) == len(result.log_probabilities) == 3
    assert roberta.score("").score == 0


def test_a_model_without_an_lm_head_is_refused(roberta):
    model = RobertaModel(RobertaConfig(encoder_layers=1, embed_dim=8, ffn_embed_dim=8, attention_heads=1))
    bare = RobertaHubInterface(model, roberta.tokenizer)
    for method in (bare.score, bare.fill_mask, bare.fill_masks, lambda text: bare.fill_candidates(text, ["a"])):
        with pytest.raises(ConfigError, match="the model has no head 'lm'"):
            method("a <mask>")


def test_a_head_of_that_name_for_other_things_is_refused():
    model = RobertaModel(RobertaConfig(encoder_layers=1, embed_dim=16, ffn_embed_dim=16, attention_heads=2))
    roberta = RobertaHubInterface(model.eval(), Tokenizer.load())
    roberta.register_classification_head("lm", 2)
    engine = Engine(roberta.model, roberta.tokenizer, 64)
    for call in (
        lambda: roberta.score("a"),
        lambda: roberta.fill_mask("a <mask>"),
        lambda: rescore(engine, [[Candidate("a", 0.0)]], (1.0,)),
        lambda: infill(engine, ["a b c"], InfillingConfig()),
        lambda: inspect(roberta, "a <mask>"),
    ):
        with pytest.raises(ConfigError, match="head 'lm' is no masked-LM head but one of ClassificationHeadConfig"):
            call()
