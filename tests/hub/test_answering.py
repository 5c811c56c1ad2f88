"""Answers from contexts of any length, against a search over all spans of the head's logits."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from roberta.answers import Answer
from roberta.checkpoint import hf_format
from roberta.errors import ConfigError, DataError
from roberta.hub import RobertaHubInterface, from_pretrained
from roberta.models.heads import SpanHeadConfig

CONTEXT = "Ada 👩‍💻 was\u00a0born in 1815."
LONG = " ".join(f"word{number}" for number in range(60)) + "."


@pytest.fixture(scope="module")
def finder(roberta: RobertaHubInterface) -> RobertaHubInterface:
    torch.manual_seed(3)
    finder = copy.deepcopy(roberta)
    finder.register_head("span", SpanHeadConfig())
    finder.register_head("span2", SpanHeadConfig(answerable=True))
    for name in ("span", "span2"):
        torch.nn.init.normal_(finder.model.heads[name].out_proj.weight)
    return finder


def every_answer(finder: RobertaHubInterface, question: str, context: str, longest: int, head: str) -> dict[str, float]:
    """Return the score of each answer in a context of one window."""
    tokens = finder.encode(question, context)
    logits = finder.predict(head, tokens, return_logits=True)[0].double()
    first = len(finder.encode(question)) + 1
    spans = finder.tokenizer.align(context).character_spans
    scores: dict[str, float] = {}
    for i, (start, _) in enumerate(spans):
        for j in range(i, min(i + longest, len(spans))):
            text = context[start : spans[j][1]].strip()
            score = (logits[first + i, 0] + logits[first + j, 1]).item()
            scores[text] = max(score, scores.get(text, -math.inf))
    return scores


def test_the_answer_is_the_best_of_all_spans(finder: RobertaHubInterface) -> None:
    scores = every_answer(finder, "When?", CONTEXT, 4, "span")
    expected = sorted(scores, key=lambda text: -scores[text])[:5]
    found = finder.answer("When?", CONTEXT, topk=5, max_answer_tokens=4)
    assert [answer.text for answer in found] == expected
    for answer in found:
        assert CONTEXT[answer.start : answer.end] == answer.text
        assert answer.start_logit + answer.end_logit == pytest.approx(scores[answer.text], abs=1e-4)
    ratio = math.exp(scores[expected[0]] - scores[expected[1]])
    assert found[0].probability / found[1].probability == pytest.approx(ratio, rel=1e-3)
    assert sum(answer.probability for answer in finder.answer("When?", CONTEXT, topk=999, max_answer_tokens=4)) <= 1
    assert finder.answer("When?", CONTEXT, max_answer_tokens=4) == found[0]


def test_a_list_gives_a_list_of_what_each_gives_alone(finder: RobertaHubInterface) -> None:
    questions, contexts = ["When?", "Who is that?", ""], [CONTEXT, LONG, "x y"]
    found = finder.answer(questions, contexts)
    assert [answer.text for answer in found] == [
        finder.answer(question, context).text for question, context in zip(questions, contexts, strict=True)
    ]
    shared = finder.answer(questions, LONG, topk=2)
    assert [len(answers) for answers in shared] == [2, 2, 2]
    assert shared[1][0].text == found[1].text
    assert finder.answer([], []) == []
    assert finder.answer("When?", [CONTEXT]) == [finder.answer("When?", CONTEXT)]


def test_a_long_context_is_read_to_its_end(finder: RobertaHubInterface) -> None:
    assert len(finder.encode(LONG)) > 3 * finder.max_tokens
    pieces = finder.answer(["Who?"], LONG, topk=400, max_answer_tokens=1)[0]
    ids = finder.tokenizer.align(LONG).character_spans
    assert {answer.text for answer in pieces} == {LONG[start:end].strip() for start, end in ids}
    for stride in (1, 12):
        answer = finder.answer("Who?", LONG, stride=stride)
        assert LONG[answer.start : answer.end] == answer.text != ""


def test_a_head_that_tells_answerability_may_give_no_answer(finder: RobertaHubInterface) -> None:
    logits = finder.predict("span2", finder.encode("When?", CONTEXT), return_logits=True)[0]
    none = 1 / (1 + math.exp(logits[0, 2].item()))
    answers = finder.answer("When?", CONTEXT, topk=3, head="span2", threshold=none + 1e-3)
    assert answers[0].text != ""
    refused = finder.answer("When?", CONTEXT, head="span2", threshold=none - 1e-3)
    assert (refused.text, refused.start, refused.end) == ("", None, None)
    assert refused.probability == pytest.approx(none, abs=1e-5)
    assert (finder.answer("When?", CONTEXT, head="span2").text == "") == (none > 0.5)
    assert sum(answer.probability for answer in finder.answer("When?", CONTEXT, topk=9999, head="span2")) <= 1 + 1e-6


def test_a_head_without_it_takes_the_beginning_for_no_answer_where_asked(finder: RobertaHubInterface) -> None:
    best = finder.answer("When?", CONTEXT, topk=999)
    assert "" not in {answer.text for answer in best}
    logits = finder.predict("span", finder.encode("When?", CONTEXT), return_logits=True)[0, 0]
    margin = best[0].start_logit + best[0].end_logit - logits.sum().item()
    none = next(answer for answer in finder.answer("When?", CONTEXT, topk=999, threshold=1.0) if not answer.text)
    assert none.probability == pytest.approx(1 / (1 + math.exp(margin)), abs=1e-5)


def test_an_empty_context_has_no_answer(finder: RobertaHubInterface) -> None:
    assert finder.answer("When?", "") == Answer("", None, None, 1.0)
    assert finder.answer("When?", " \n ", topk=3) == [Answer("", None, None, 1.0)]


def test_answers_are_the_same_in_training_mode_and_leave_it_on(finder: RobertaHubInterface) -> None:
    expected = finder.answer("When?", CONTEXT)
    finder.train()
    assert finder.answer("When?", CONTEXT) == expected
    assert finder.training
    finder.eval()


@pytest.mark.parametrize(
    ("question", "context", "options", "error", "message"),
    [
        ("When?", CONTEXT, {"head": "mnli"}, ConfigError, r"head 'mnli' \(ClassificationHeadConfig\) finds no spans"),
        ("When?", CONTEXT, {"head": "spam"}, ConfigError, "no head 'spam'; .*did you mean span"),
        ("When?", CONTEXT, {"topk": 0}, DataError, "topk is 0; it must be at least 1"),
        ("When?", CONTEXT, {"max_answer_tokens": 0}, DataError, "max_answer_tokens is 0"),
        ("When?", CONTEXT, {"topk": 2.5}, DataError, "topk is 2.5; expected a whole number"),
        ("When?", CONTEXT, {"topk": "3"}, DataError, "topk is '3'; expected a whole number"),
        ("When?", CONTEXT, {"topk": None}, DataError, "topk is None; expected a whole number"),
        ("When?", CONTEXT, {"topk": True}, DataError, "topk is True; expected a whole number"),
        ("When?", CONTEXT, {"max_answer_tokens": "9"}, DataError, "max_answer_tokens is '9'; expected a whole"),
        ("When?", CONTEXT, {"stride": 1.5}, DataError, "stride is 1.5; expected a whole number"),
        ("When?", CONTEXT, {"stride": 0}, ConfigError, "windows are 0 apart"),
        ("When?", CONTEXT, {"threshold": "low"}, DataError, "threshold is 'low'; expected a probability"),
        ("When?", CONTEXT, {"stride": 13}, ConfigError, "windows are 13 apart"),
        (["When?"] * 2, [CONTEXT], {}, DataError, "2 questions and 1 contexts; give one context for each, or one for"),
        (["When?"], [3], {}, DataError, "item 0 is 3; expected a text"),
        ("When " * 17, CONTEXT, {}, DataError, "1 of the questions have more than 16 tokens; no room is left"),
    ],
)
def test_what_can_not_be_answered_is_refused(finder, question, context, options, error, message) -> None:
    with pytest.raises(error, match=message):
        finder.answer(question, context, **options)


def test_predictions_are_spans_also_where_the_head_tells_answerability(finder: RobertaHubInterface) -> None:
    tokens = finder.encode_batch(["one two", "three"])
    log_probabilities = finder.predict("span2", tokens)
    assert log_probabilities.shape == (*tokens.shape, 2)
    torch.testing.assert_close(log_probabilities.exp().sum(dim=1), torch.ones(2, 2))


def test_a_checkpoint_keeps_what_answers_and_a_foreign_folder_refuses_it(
    finder: RobertaHubInterface, tmp_path: Path
) -> None:
    finder.save_pretrained(tmp_path / "model")
    loaded = from_pretrained(tmp_path / "model")
    expected = finder.answer("When?", CONTEXT, head="span2")
    found = loaded.answer("When?", CONTEXT, head="span2")
    assert found.text == expected.text
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-6)
    with pytest.raises(
        ConfigError, match="head 'span2' tells whether there is an answer; a Hugging Face folder has no"
    ):
        hf_format.write(tmp_path / "hf", finder.model, finder.tokenizer, "span2")
