"""Features, embeddings and attentions of texts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from roberta.errors import ConfigError, DataError
from roberta.layout import SequenceLayout
from roberta.models.attention import attention

TEXTS = ["a", "one two three", "", ("b c", "d e f g h"), "x y"]


def as_tuple(text):
    return (text,) if isinstance(text, str) else text


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_features_of_a_list_are_those_of_each_text_in_input_order(roberta, batch_tokens):
    roberta.batch_tokens = batch_tokens
    together, layers = roberta.extract_features(TEXTS), roberta.extract_features(TEXTS, return_all_hiddens=True)
    roberta.batch_tokens = 4096
    for text, rows, hiddens in zip(TEXTS, together, layers, strict=True):
        expected = roberta.extract_features(roberta.encode(*as_tuple(text)), return_all_hiddens=True)
        torch.testing.assert_close(rows, expected[-1][0], atol=1e-6, rtol=1e-5)
        assert len(hiddens) == 3
        for found, wanted in zip(hiddens, expected, strict=True):
            torch.testing.assert_close(found, wanted[0], atol=1e-6, rtol=1e-5)


def test_texts_are_computed_in_evaluation_mode_without_gradients_and_tensors_as_in_training(roberta):
    roberta.train()
    rows = roberta.extract_features("some words")
    assert torch.equal(rows, roberta.extract_features("some words"))
    assert not rows.requires_grad
    assert roberta.model.training
    tokens = roberta.encode("some words")
    features = roberta.extract_features(tokens)
    assert features.requires_grad
    assert not torch.equal(features, roberta.extract_features(tokens))
    roberta.eval()


def test_a_text_that_is_too_long_is_refused_or_cut(roberta):
    text = "word " * 100
    for method in (roberta.extract_features, roberta.embed, roberta.score, roberta.attentions):
        with pytest.raises(DataError, match="sequence 0 has 10[23] tokens; .*truncate=True"):
            method(text)
    assert roberta.extract_features(text, truncate=True).shape == (32, 16)
    assert roberta.embed(text, truncate=True).shape == (16,)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [False, True])
def test_embeddings_pool_the_tokens_of_each_text(roberta, pooling, normalize):
    vectors = roberta.embed(TEXTS, pooling=pooling, normalize=normalize)
    assert vectors.shape == (5, 16)
    for text, vector in zip(TEXTS, vectors, strict=True):
        rows = roberta.extract_features(text)
        expected = {"mean": rows.mean(dim=0), "cls": rows[0], "max": rows.amax(dim=0)}[pooling]
        expected = F.normalize(expected, dim=0) if normalize else expected
        torch.testing.assert_close(vector, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(roberta.embed(text, pooling=pooling, normalize=normalize), expected)


def test_embeddings_can_be_inputs_of_a_trained_layer(roberta):
    layer = torch.nn.Linear(16, 1)
    layer(roberta.embed(["a", "b"])).sum().backward()
    assert layer.weight.grad is not None


def test_no_texts_have_no_embeddings(roberta):
    assert roberta.embed([]).shape == (0, 16)
    assert roberta.extract_features([]) == []


def test_an_unknown_pooling_is_refused(roberta):
    with pytest.raises(ConfigError, match="pooling is 'means'; allowed: cls, max, mean; did you mean mean"):
        roberta.embed("a", pooling="means")


def test_attentions_are_distributions_that_reproduce_each_layer(byte_roberta):
    tokens = byte_roberta.encode("some text")
    layout = SequenceLayout.from_lengths([len(tokens)])
    attentions = byte_roberta.attentions(tokens)
    hiddens = byte_roberta.extract_features(tokens, return_all_hiddens=True)
    assert len(attentions) == 2
    for layer, hidden, probabilities in zip(byte_roberta.model.encoder.layers, hiddens[:-1], attentions, strict=True):
        assert probabilities.shape == (3, len(tokens), len(tokens))
        torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(3, len(tokens)).double())
        q, k, v = layer.self_attn.qkv(hidden[0], layout)
        context = (probabilities @ v.transpose(0, 1)).transpose(0, 1)
        torch.testing.assert_close(context, attention(q, k, v, layout), atol=1e-12, rtol=0)
        torch.testing.assert_close(context.flatten(1), layer.self_attn(hidden[0], layout), atol=1e-12, rtol=0)


def test_attentions_of_a_text_are_those_of_its_tokens(roberta):
    for ours, wanted in zip(
        roberta.attentions(("a", "b c")), roberta.attentions(roberta.encode("a", "b c")), strict=True
    ):
        assert torch.equal(ours, wanted)
        assert not ours.requires_grad


def test_attentions_of_several_sequences_are_refused(roberta):
    with pytest.raises(DataError, match="one sequence, not 2"):
        roberta.attentions(roberta.encode_batch(["a", "b"]))
    with pytest.raises(DataError, match="item 0"):
        roberta.attentions([3])


def test_attentions_are_of_one_sequence(roberta):
    with pytest.raises(DataError, match="attentions takes one text or a tuple of texts, not a list of 2"):
        roberta.attentions(["a", "b"])


def test_features_of_a_text_do_not_keep_those_of_the_others(roberta):
    for rows in roberta.extract_features(TEXTS):
        assert rows.untyped_storage().nbytes() == rows.nbytes
    for hiddens in roberta.extract_features(TEXTS, return_all_hiddens=True):
        assert all(hidden.untyped_storage().nbytes() == hidden.nbytes for hidden in hiddens)


@pytest.mark.parametrize("table", [np.array([["a", "b"]]), np.array("a")])
def test_tables_are_no_lists_of_texts(roberta, table):
    for compute in (roberta.embed, roberta.fill_mask):
        with pytest.raises(DataError, match=f"this ndarray has {table.ndim} dimensions; give a column"):
            compute(table)
    assert len(roberta.embed(np.array(["a", "b"]))) == 2
