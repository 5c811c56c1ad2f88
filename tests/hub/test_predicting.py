"""Heads of all kinds side by side: what they say of tokens and of texts, and that checkpoints keep them."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch

from roberta.checkpoint import native
from roberta.criterions.sentence_ranking import SentenceRankingLossConfig
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError
from roberta.hub import RobertaHubInterface, from_pretrained
from roberta.models.heads import (
    ChoiceHeadConfig,
    ClassificationHeadConfig,
    RegressionHeadConfig,
    SpanHeadConfig,
    TaggingHeadConfig,
)
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.registry import HEADS

TEXTS = ["a", "one two three", ("b c", "d e f g h"), ""]
NLI = ("contradiction", "neutral", "entailment")


@pytest.fixture(scope="module")
def headed(roberta) -> RobertaHubInterface:
    torch.manual_seed(1)
    headed = copy.deepcopy(roberta)
    headed.register_head("stars", RegressionHeadConfig(minimum=1.0, maximum=5.0))
    headed.register_head("choice", ChoiceHeadConfig(inner_dim=8))
    headed.register_head("answer", SpanHeadConfig())
    headed.register_head("names", TaggingHeadConfig(num_classes=2, labels=("O", "entailment")))
    headed.register_classification_head("topic", num_classes=4)
    return headed


@pytest.mark.parametrize(("head", "outputs"), [("mnli", 3), ("topic", 4), ("stars", 1), ("choice", 1)])
def test_heads_of_sequences_see_the_first_row(headed, head, outputs):
    tokens = headed.encode_batch(TEXTS)
    logits = headed.predict(head, tokens, return_logits=True)
    assert logits.shape == (4, outputs)
    rows = torch.stack([headed.extract_features(text)[0] for text in TEXTS])
    torch.testing.assert_close(logits, headed.model.heads[head](rows), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("head", ["answer", "names"])
def test_heads_of_tokens_see_every_row(headed, head):
    tokens = headed.encode_batch(TEXTS)
    logits = headed.predict(head, tokens, return_logits=True)
    assert logits.shape == (4, tokens.shape[1], 2)
    for text, found in zip(TEXTS, logits, strict=True):
        expected = headed.model.heads[head](headed.extract_features(text))
        torch.testing.assert_close(found[: len(expected)], expected, atol=1e-6, rtol=1e-5)
        assert torch.all(found[len(expected) :] == 0)


def test_spans_are_distributions_over_the_tokens_of_each_sequence(headed):
    tokens = headed.encode_batch(TEXTS)
    log_probabilities = headed.predict("answer", tokens)
    torch.testing.assert_close(log_probabilities.exp().sum(dim=1), torch.ones(4, 2))
    assert torch.all(log_probabilities[tokens == 1] == -torch.inf)
    headed.zero_grad()
    log_probabilities[:, 0].sum().backward()
    assert headed.model.heads["answer"].out_proj.weight.grad.isfinite().all()
    headed.zero_grad()


def test_tags_are_distributions_over_the_classes_of_each_token(headed):
    log_probabilities = headed.predict("names", headed.encode("one two"))
    torch.testing.assert_close(log_probabilities.exp().sum(dim=-1), torch.ones(1, 4))


def test_tokens_are_distributions_over_the_vocabulary(headed):
    outputs = headed.predict("lm", headed.encode("one two"))
    torch.testing.assert_close(outputs.exp().sum(dim=-1), torch.ones(outputs.shape[:2]))


def test_values_of_a_regression_are_on_its_scale(headed):
    tokens = headed.encode_batch(TEXTS)
    logits = headed.predict("stars", tokens, return_logits=True)
    torch.testing.assert_close(headed.predict("stars", tokens), 1.0 + 4.0 * logits)
    assert torch.equal(headed.predict("choice", tokens), headed.predict("choice", tokens, return_logits=True))


@pytest.mark.parametrize("batch_tokens", [1, 4096])
@pytest.mark.parametrize(("head", "labels"), [("mnli", NLI), ("topic", (0, 1, 2, 3))])
def test_classes_of_texts_have_their_names_in_input_order(headed, head, labels, batch_tokens):
    headed.batch_tokens = batch_tokens
    results = headed.predict(head, TEXTS)
    headed.batch_tokens = 4096
    for text, result in zip(TEXTS, results, strict=True):
        tokens = headed.encode(*([text] if isinstance(text, str) else text))
        expected = headed.predict(head, tokens)[0].exp().tolist()
        assert tuple(result.probabilities) == labels
        assert list(result.probabilities.values()) == pytest.approx(expected, abs=1e-6)
        assert result.label == labels[expected.index(max(expected))]
        assert headed.predict(head, text).label == result.label


@pytest.mark.parametrize("head", ["stars", "choice"])
def test_numbers_of_texts_are_those_of_their_tokens(headed, head):
    results = headed.predict(head, TEXTS)
    expected = headed.predict(head, headed.encode_batch(TEXTS))[:, 0].tolist()
    assert [result.value for result in results] == pytest.approx(expected, abs=1e-6)
    assert headed.predict(head, TEXTS[2]).value == pytest.approx(expected[2], abs=1e-6)


def test_tags_of_a_text_say_where_each_token_lies(headed):
    text = "Zoë 😀 met"
    tags = headed.predict("names", text)
    assert [(tag.start, tag.end) for tag in tags] == headed.character_spans(text)[1:-1]
    rows = headed.predict("names", headed.encode(text))[0, 1:-1].exp()
    assert [tag.label for tag in tags] == [("O", "entailment")[best] for best in rows.argmax(dim=1).tolist()]
    assert [tag.probability for tag in tags] == pytest.approx(rows.amax(dim=1).tolist(), abs=1e-6)
    several = headed.predict("names", [text, "", "a b"])
    assert [tag.label for tag in several[0]] == [tag.label for tag in tags]
    assert several[1] == ()
    assert len(headed.predict("names", "word " * 100, truncate=True)) == 30


@pytest.mark.parametrize(
    ("head", "texts", "error", "message"),
    [
        ("answer", "a", ConfigError, "head 'answer' .SpanHeadConfig. says nothing of a text alone"),
        ("lm", "a", ConfigError, "head 'lm' .MaskedLMHeadConfig. says nothing"),
        ("names", ("a", "b"), DataError, "one text at a time, not 2"),
        ("mnli", [3], DataError, "item 0 is 3"),
        ("mnli", "a " * 60, DataError, "takes at most 32"),
        ("nli", "a", ConfigError, "no head 'nli'; .*did you mean mnli"),
    ],
)
def test_texts_that_a_head_can_not_judge_are_refused(headed, head, texts, error, message):
    with pytest.raises(error, match=message):
        headed.predict(head, texts)


def test_logits_of_texts_are_refused(headed):
    with pytest.raises(DataError, match="for logits give predict the tokens"):
        headed.predict("mnli", "a", return_logits=True)


def test_heads_of_all_kinds_survive_a_checkpoint(headed, tmp_path):
    native.save(tmp_path / "model", headed.model, headed.tokenizer)
    loaded = from_pretrained(tmp_path / "model")
    assert loaded.model.head_configs == headed.model.head_configs
    tokens = headed.encode_batch(TEXTS)
    for head in ("lm", "mnli", "topic", "stars", "choice", "answer", "names"):
        torch.testing.assert_close(loaded.predict(head, tokens), headed.predict(head, tokens), atol=1e-6, rtol=0)


def test_dropout_of_a_head_of_tokens_acts_in_training_alone(roberta):
    dropping = copy.deepcopy(roberta)
    dropping.register_head("names", TaggingHeadConfig(num_classes=2, dropout=0.5))
    rows = torch.ones(3, 16)
    head = dropping.model.heads["names"]
    assert torch.equal(head(rows), head(rows))
    dropping.train()
    assert not torch.equal(head(rows), head(rows))


def test_batches_of_a_head_of_tokens_have_the_rows_of_their_sequences(headed):
    sequences = [headed.encode(text).tolist() for text in ("a", "b c d", "e f")]
    for indices, logits in headed.predict_batches("names", sequences):
        expected = [headed.predict("names", torch.tensor(sequences[i]), return_logits=True)[0] for i in indices]
        torch.testing.assert_close(logits, torch.cat(expected).detach(), atol=1e-6, rtol=1e-5)


def test_zero_shot_is_the_entailment_of_each_label(headed):
    labels = ["sport", "politics", "art"]
    pairs = headed.encode_batch([("A goal!", f"It is about {label}.") for label in labels])
    logits = headed.predict("mnli", pairs, return_logits=True).detach()
    names = headed.model.head_config("mnli").labels
    contradiction, entailment = names.index("contradiction"), names.index("entailment")
    options = {"template": "It is about {}."}
    result = headed.zero_shot("A goal!", labels, multi_label=True, **options)
    alone = logits[:, [contradiction, entailment]].softmax(dim=1)[:, 1].tolist()
    assert list(result.probabilities) == labels
    assert list(result.probabilities.values()) == pytest.approx(alone, abs=1e-6)
    assert result.label == labels[alone.index(max(alone))]
    assert headed.zero_shot("A goal!", labels[:1], **options).probabilities == pytest.approx({"sport": alone[0]})
    shares = headed.zero_shot("A goal!", labels, **options).probabilities
    assert list(shares.values()) == pytest.approx(logits[:, entailment].softmax(dim=0).tolist(), abs=1e-6)


def test_zero_shot_without_a_contradiction_is_entailment_against_all_else():
    model = RobertaModel(RobertaConfig(encoder_layers=1, embed_dim=16, ffn_embed_dim=16, attention_heads=2))
    model.register_head("rte", ClassificationHeadConfig(num_classes=3, labels=("no", "entailment", "perhaps")))
    roberta = RobertaHubInterface(model.eval(), Tokenizer.load())
    found = roberta.zero_shot("A goal!", ["sport", "art"], multi_label=True).probabilities
    expected = roberta.predict("rte", ("A goal!", "This example is art.")).probabilities["entailment"]
    assert found["art"] == pytest.approx(expected)


def test_zero_shot_of_a_list_is_that_of_each_text(headed):
    texts = ["A goal!", "A long election night in the capital", ""]
    for text, result in zip(texts, headed.zero_shot(texts, ["sport", "politics"]), strict=True):
        alone = headed.zero_shot(text, ["sport", "politics"])
        assert result.label == alone.label
        assert result.probabilities == pytest.approx(alone.probabilities, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        ([], {}, DataError, "at least one name"),
        ("sport", {}, DataError, "expected a list"),
        ([1, 2], {}, DataError, "labels: item 0 is 1"),
        (["a", "a"], {}, DataError, "none of them twice"),
        (["a"], {"template": "about {x}"}, DataError, "has no {} for the label"),
        (["a"], {"template": None}, DataError, "template None has no {} for the label"),
        (["a"], {"head": "topic"}, ConfigError, "head 'topic' has no class 'entailment'"),
        (["a"], {"head": "lm"}, ConfigError, "head 'lm' has no class 'entailment'"),
        (["word " * 40], {}, DataError, "takes at most 32"),
        (["a"], {"head": "names"}, ConfigError, "head 'names' has no class 'entailment'"),
    ],
)
def test_zero_shot_without_sense_is_refused(headed, labels, options, error, message):
    with pytest.raises(error, match=message):
        headed.zero_shot("a", labels, **options)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (RegressionHeadConfig, {"minimum": 1.0, "maximum": 1.0}, "the minimum must be the smaller one"),
        (RegressionHeadConfig, {"maximum": float("inf")}, "must be finite"),
        (ChoiceHeadConfig, {"inner_dim": 0}, "inner_dim is 0"),
        (TaggingHeadConfig, {"num_classes": 0}, "a tagging head needs at least 1"),
        (TaggingHeadConfig, {"num_classes": 2, "labels": ("a",)}, "1 labels for num_classes 2"),
        (ClassificationHeadConfig, {"num_classes": 2, "labels": ("a", "a")}, "a name stands there twice"),
    ],
)
def test_contradictory_heads_are_refused(config, options, message):
    with pytest.raises(ConfigError, match=message):
        config(**options)


def test_zero_shot_finds_the_head_and_the_case_of_its_class():
    model = RobertaModel(RobertaConfig(encoder_layers=1, embed_dim=16, ffn_embed_dim=16, attention_heads=2))
    roberta = RobertaHubInterface(model.eval(), Tokenizer.load())
    with pytest.raises(ConfigError, match="zero-shot needs an NLI head, .* and the model has no head with one"):
        roberta.zero_shot("A goal!", ["sport"])
    names = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
    model.register_head("classification", ClassificationHeadConfig(num_classes=3, labels=names))
    found = roberta.zero_shot("A goal!", ["sport"], multi_label=True).probabilities["sport"]
    told = roberta.predict("classification", ("A goal!", "This example is sport.")).probabilities
    assert found == pytest.approx(told["ENTAILMENT"] / (told["ENTAILMENT"] + told["CONTRADICTION"]))
    model.register_head("rte", ClassificationHeadConfig(num_classes=2, labels=("entailment", "not_entailment")))
    with pytest.raises(ConfigError, match="the model has 2 heads with one: classification, rte; name one"):
        roberta.zero_shot("A goal!", ["sport"])
    model.register_head("mnli", ClassificationHeadConfig(num_classes=3, labels=names))
    assert roberta.zero_shot("A goal!", ["sport"]) == roberta.zero_shot("A goal!", ["sport"], head="mnli")


def test_padded_rows_and_texts_are_no_sequences(headed):
    grid = headed.encode_batch(["a", "b c d e f"])
    with pytest.raises(DataError, match="sequence 0 is .*expected token ids without <pad>"):
        list(headed.predict_batches("mnli", grid))
    with pytest.raises(DataError, match="sequence 0 is 'ab'; expected token ids"):
        list(headed.predict_batches("mnli", ["ab"]))


def test_sequences_of_a_generator_of_arrays_and_of_tensors_are_taken(headed):
    sequences = [headed.encode(text) for text in ("a", "b c d", "e f")]
    expected = torch.cat([headed.predict("mnli", tokens, return_logits=True) for tokens in sequences]).detach()
    arrays = [tokens.numpy() for tokens in sequences]
    rows = [list(tokens) for tokens in sequences]
    for given in ((ids.tolist() for ids in arrays), sequences, arrays, [list(ids) for ids in arrays], rows):
        found = torch.empty_like(expected)
        for indices, logits in headed.predict_batches("mnli", given):
            found[indices] = logits
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sequences", [[0, 5, 2], [[0.0, 5.5, 2.0]], [["a", "b"]], [b"ab"], [None]])
def test_what_holds_no_token_ids_is_refused(headed, sequences):
    with pytest.raises(DataError, match="sequence 0 is .*expected token ids"):
        list(headed.predict_batches("mnli", sequences))


def test_a_batch_has_no_more_tokens_than_are_asked_for_but_for_one_sequence(headed):
    sequences = [[0, 5, 2]] * 40 + [[0, *range(4, 24), 2]]
    counts = [len(indices) for indices, _ in headed.predict_batches("mnli", sequences, max_tokens=6)]
    assert counts == [1, *[7] * 5, 5]  # the longest alone has 22
    assert [len(indices) for indices, _ in headed.predict_batches("mnli", sequences[:4], max_tokens=6)] == [2, 2]


def test_no_head_is_found_before_a_batch_is_asked_for(headed):
    with pytest.raises(ConfigError, match="the model has no head 'nmli'"):
        headed.predict_batches("nmli", [[0, 2]])


@dataclass(frozen=True)
class OddHeadConfig:
    rows: ClassVar[str] = "first"


class OddHead(torch.nn.Linear):
    def __init__(self, config, encoder):
        super().__init__(encoder.embed_tokens.embedding_dim, 2)


def test_a_head_of_ones_own_gives_its_outputs_as_they_are(headed, monkeypatch):
    for table, value in (("_components", OddHead), ("_configs", OddHeadConfig)):
        monkeypatch.setattr(HEADS, table, getattr(HEADS, table) | {"odd": value})
    other = RobertaHubInterface(copy.deepcopy(headed.model), headed.tokenizer)
    other.register_head("odd", OddHeadConfig())
    tokens = other.encode_batch(["a", "b c"])
    assert torch.equal(other.predict("odd", tokens), other.predict("odd", tokens, return_logits=True))
    with pytest.raises(ConfigError, match="gives no score to a sequence"):
        other.choose("", "Who?", ["a", "b"], head="odd")
    with pytest.raises(ConfigError, match="not OddHeadConfig"):
        SentenceRankingLossConfig().check_fits(OddHeadConfig())


@pytest.mark.parametrize("number", [0, -5, "10", None, 2.0])
def test_batches_have_a_whole_number_of_tokens(headed, number):
    if number is not None:
        with pytest.raises(DataError, match="expected a whole number of at least 1"):
            list(headed.predict_batches("mnli", [[0, 2]], max_tokens=number))
    other = RobertaHubInterface(headed.model, headed.tokenizer, batch_tokens=number)
    with pytest.raises(DataError, match="expected a whole number of at least 1"):
        other.predict("mnli", "a")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 2, "labels": [0, 1]}, DataError, "labels: item 0 is 0; expected a string"),
        ({"num_classes": 3, "labels": "abc"}, DataError, "labels are 'abc'; expected a list of strings"),
        ({"num_classes": 2, "inner_dim": 0}, ConfigError, "inner_dim is 0"),
        ({"num_classes": 2, "inner_dim": 8.0}, ConfigError, "inner_dim: expected int, found 8.0"),
        ({"num_classes": 3.0}, ConfigError, "num_classes: expected int, found 3.0"),
    ],
)
def test_heads_that_could_not_be_saved_are_refused_before_they_are_trained(headed, options, error, message):
    with pytest.raises(error, match=message):
        headed.register_classification_head("x", **options)
    with pytest.raises(ConfigError, match="labels: expected str, found 0"):
        headed.register_head("x", ClassificationHeadConfig(num_classes=2, labels=(0, 1)))
    with pytest.raises(ConfigError, match="int64 is not JSON serializable; give plain numbers"):
        headed.register_head("x", RegressionHeadConfig(inner_dim=np.int64(8)))
    assert "x" not in headed.model.heads


def test_numpys_numbers_of_classes_are_numbers(headed, tmp_path):
    other = RobertaHubInterface(copy.deepcopy(headed.model), headed.tokenizer)
    other.register_classification_head("x", np.int64(3), inner_dim=np.int64(8))
    other.batch_tokens = np.int64(40)
    assert len(other.predict("x", ["a", "b"])) == 2
    other.save_pretrained(tmp_path / "model")
    assert from_pretrained(tmp_path / "model").model.head_config("x").num_classes == 3


def test_a_head_is_named_by_a_string(headed):
    with pytest.raises(ConfigError, match=r"the model has no head \['mnli'\]"):
        headed.predict(["mnli"], "a")


def test_tokens_can_not_be_truncated(headed):
    tokens = headed.encode("a")
    for compute in (partial(headed.predict, "mnli"), headed.extract_features):
        with pytest.raises(DataError, match="truncate=True is for texts"):
            compute(tokens, truncate=True)


def test_a_head_of_one_output_gives_a_number(headed):
    """As fairseq's files have those of regressions and choices."""
    other = RobertaHubInterface(copy.deepcopy(headed.model), headed.tokenizer)
    other.register_classification_head("sts", num_classes=1)
    other.eval()
    tokens = other.encode("a")
    logits = other.predict("sts", tokens, return_logits=True)
    assert torch.equal(other.predict("sts", tokens), logits)
    assert other.predict("sts", "a").value == pytest.approx(logits.item(), abs=1e-6)


def test_a_head_that_is_replaced_is_told_of(headed, caplog):
    other = RobertaHubInterface(copy.deepcopy(headed.model), headed.tokenizer)
    other.register_classification_head("new", num_classes=2)
    assert not caplog.text
    other.register_classification_head("new", num_classes=3)
    assert "the head 'new' that was there, ClassificationHeadConfig(" in caplog.text


def test_of_several_classes_those_hold_that_are_likelier_than_not(headed):
    other = RobertaHubInterface(copy.deepcopy(headed.model), headed.tokenizer)
    labels = ("a", "b", "c")
    other.register_head("tags", ClassificationHeadConfig(num_classes=3, labels=labels, multi_label=True))
    for biases, holding in (((9.0, 8.0, -9.0), ("a", "b")), ((-9.0, -8.0, -9.0), ())):
        torch.nn.init.zeros_(other.model.heads["tags"].out_proj.weight)
        other.model.heads["tags"].out_proj.bias.data.copy_(torch.tensor(biases))
        assert other.predict("tags", "x").labels == holding
    assert headed.predict("mnli", "x").labels == (headed.predict("mnli", "x").label,)
