"""N-best lists: how they are read, and which candidate is taken."""

import pytest

from roberta.errors import ConfigError, DataError
from roberta.hub.border import Engine, inference
from roberta.hub.scoring import pseudo_likelihoods
from roberta.models.roberta import RobertaModel
from roberta.text_metrics.rescoring import Candidate, read_nbest, rescore

LISTS = [[Candidate("a cat", -1.0), Candidate("the cat", -1.5), Candidate("cats", -4.0)], [Candidate("yes", 0.0)]]


def test_lists_are_read_with_their_first_and_last_fields(tmp_path):
    path = tmp_path / "nbest.txt"
    path.write_text("0 ||| a cat ||| lm=1 tm=2 ||| -1.5\n0 ||| the cat ||| -2\n1 ||| yes ||| 1e-1\n", encoding="utf-8")
    assert read_nbest(path) == [[Candidate("a cat", -1.5), Candidate("the cat", -2.0)], [Candidate("yes", 0.1)]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat\n", r"nbest:1: 'a cat'; expected number \|\|\| text \|\|\| score"),
        ("9" * 5000 + " ||| a ||| 1\n", "nbest:1: '9+'; expected number"),
        ("0 ||| a ||| b\n", "nbest:1: the score is 'b', no number"),
        ("0 ||| a ||| nan\n", "nbest:1: the score is nan; it must be finite"),
        ("0 ||| a ||| 1\n2 ||| b ||| 1\n", "nbest:2: list 2 after list 0; expected that or 1"),
        ("1 ||| a ||| 1\n", "nbest:1: list 1 after list -1; expected that or 0"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, text, message):
    (tmp_path / "nbest").write_text(text)
    with pytest.raises(DataError, match=message):
        read_nbest(tmp_path / "nbest")


def test_the_greatest_sum_of_score_and_weighted_likelihood_is_taken(engine):
    with inference(engine.model):
        likelihood = {
            c.text: pseudo_likelihoods(engine, [c.text], within_word=True)[0].score for c in LISTS[0] + LISTS[1]
        }
    weights = (0.0, 0.01, 0.1, 3.0, -3.0)
    taken = rescore(engine, LISTS, weights)
    for weight, texts in zip(weights, taken, strict=True):
        sums = {c.text: c.score + weight * likelihood[c.text] for c in LISTS[0]}
        assert texts == [max(sums, key=sums.__getitem__), "yes"]
    assert taken[0] == ["a cat", "yes"]
    assert len({texts[0] for texts in taken}) > 1


def test_an_empty_text_is_taken_only_where_nothing_else_is_there_or_the_model_has_no_say(engine):
    lists = [[Candidate("a cat", -9.0), Candidate("", -1.0)], [Candidate("", -1.0)]]
    assert rescore(engine, lists, (0.0, 0.1)) == [["", ""], ["a cat", ""]]


def test_a_model_without_the_head_is_refused(engine, tiny_config):
    bare = Engine(RobertaModel(tiny_config), engine.tokenizer, 64)
    with pytest.raises(ConfigError, match="the model has no head 'lm'"):
        rescore(bare, LISTS, (1.0,))
