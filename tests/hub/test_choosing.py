"""Choosing an option, and what a pronoun stands for, against single sequences through the model."""

import copy

import pytest
import torch

from roberta.errors import ConfigError, DataError
from roberta.hub import choosing
from roberta.models.heads import ChoiceHeadConfig, ClassificationHeadConfig

OPTIONS = ["wet and slippery", "dry", "hot"]
SENTENCE = "The trophy fell because [it] was big."


@pytest.fixture(scope="module")
def chooser(roberta):
    torch.manual_seed(2)
    chooser = copy.deepcopy(roberta)
    chooser.register_head("choice", ChoiceHeadConfig())
    with torch.no_grad():
        chooser.model.heads["choice"].out_proj.weight += torch.randn_like(chooser.model.heads["choice"].out_proj.weight)
    return chooser


def scores_of(chooser, sequences):
    with torch.no_grad():
        return torch.stack([chooser.predict("choice", torch.tensor(sequence))[0, 0] for sequence in sequences])


def mean_log_probability(roberta, before, candidate, after):
    """Return the score of a candidate: each of its tokens under a mask, its neighbours masked too."""
    start = roberta.encode(before.rstrip())[:-1]
    masked = roberta.encode(f"{before[len(before.rstrip()) :]}{candidate}")[1:-1]
    tokens = torch.cat([start, torch.full_like(masked, roberta.tokenizer.dictionary.mask), roberta.encode(after)[1:]])
    with torch.no_grad():
        logits = roberta.predict("lm", tokens, return_logits=True)[0]
    rows = logits.log_softmax(-1)[len(start) : len(start) + len(masked)]
    return rows.gather(1, masked.unsqueeze(1)).mean().item()


def test_probabilities_are_a_softmax_over_the_options_of_a_context(chooser):
    choice = chooser.choose("It rained.", "The street is _ .", OPTIONS)
    tokenizer = chooser.tokenizer
    scores = scores_of(chooser, [tokenizer.encode_sequence(f"The street is {o} .", "It rained.") for o in OPTIONS])
    assert choice.probabilities == pytest.approx(scores.softmax(0).tolist(), abs=1e-6)
    assert choice.index == scores.argmax().item()
    assert choice.option == OPTIONS[choice.index]


def test_without_a_context_the_form_is_that_of_commonsense_qa(chooser):
    choice = chooser.choose("", "How is it?", OPTIONS)
    sequences = [chooser.tokenizer.encode_sequence("Q: How is it?", f"A: {o}", separator=False) for o in OPTIONS]
    assert choice.probabilities == pytest.approx(scores_of(chooser, sequences).softmax(0).tolist(), abs=1e-6)


def test_permuting_the_options_permutes_the_probabilities(chooser):
    straight = chooser.choose("It rained.", "How is it?", OPTIONS)
    turned = chooser.choose("It rained.", "How is it?", OPTIONS[::-1])
    assert turned.probabilities == pytest.approx(straight.probabilities[::-1], abs=1e-6)
    assert turned.option == straight.option


def test_lists_give_lists_and_one_context_may_serve_all(chooser):
    questions, options = ["How is it?", "And there?"], [OPTIONS, ["cold", "warm"]]
    alone = [chooser.choose("It rained.", *pair) for pair in zip(questions, options, strict=True)]
    for context in ("It rained.", ["It rained."] * 2):
        together = chooser.choose(context, questions, options)
        assert [choice.option for choice in together] == [choice.option for choice in alone]
        assert together[1].probabilities == pytest.approx(alone[1].probabilities, abs=1e-6)
    assert chooser.choose("x", [], []) == []


def test_a_classification_head_of_one_output_chooses_too(chooser):
    model = copy.deepcopy(chooser)
    model.register_head("ranking", ClassificationHeadConfig(num_classes=1))
    model.model.heads["ranking"].load_state_dict(model.model.heads["choice"].state_dict())
    assert model.choose("x", "y", OPTIONS, head="ranking") == chooser.choose("x", "y", OPTIONS)


@pytest.mark.parametrize("head", ["mnli", "lm"])
def test_a_head_without_one_score_is_refused(chooser, head):
    with pytest.raises(ConfigError, match="gives no score to a sequence"):
        chooser.choose("x", "y", OPTIONS, head=head)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "y", "dry"), "options of question 0 are 'dry'; expected a list"),
        (("x", "y", ["dry"]), r"options of question 0 are \('dry',\); expected two or more"),
        (("x", "y", ["dry", ""]), "none empty"),
        (("x", "y", ["dry", 3]), "options of question 0: item 1 is 3"),
        (("x", ["y", "z"], [OPTIONS]), "2 contexts, 2 questions and 1 lists of options"),
        ((["x"], ["y", "z"], [OPTIONS] * 2), "1 contexts, 2 questions"),
        ((" ", "", OPTIONS), "question 0 and its context are empty"),
        ((3, "y", OPTIONS), "contexts are 3"),
        (("x", ["y"], None), "options are None; expected a list of options for each question"),
        (("x", "y", None), "options of question 0 are None; expected a list"),
    ],
)
def test_questions_that_are_none_are_refused(chooser, arguments, message):
    with pytest.raises(DataError, match=message):
        chooser.choose(*arguments)


def test_a_long_context_is_refused_or_cut(chooser):
    with pytest.raises(DataError, match="the model takes at most 32"):
        chooser.choose("rain " * 40, "How is it?", OPTIONS)
    cut = chooser.choose("rain " * 40, "How is it?", OPTIONS, truncate=True)
    fitting = [("rain " * (32 - 4 - len(chooser.encode(f"How is it? {o}")) + 2)).strip() for o in OPTIONS]
    sequences = [
        chooser.tokenizer.encode_sequence(f"How is it? {o}", text) for o, text in zip(OPTIONS, fitting, strict=True)
    ]
    assert {len(sequence) for sequence in sequences} == {32}
    assert cut.probabilities == pytest.approx(scores_of(chooser, sequences).softmax(0).tolist(), abs=1e-5)


@pytest.mark.parametrize("candidates", [["the cup", "the suitcase and all"], ["Bob", "the cup", "a shelf"]])
def test_the_candidate_with_the_best_mean_log_probability_wins(roberta, candidates):
    expected = max(
        candidates, key=lambda name: mean_log_probability(roberta, "The trophy fell because ", name, " was big.")
    )
    assert roberta.disambiguate_pronoun(SENTENCE, candidates) == expected
    assert roberta.disambiguate_pronoun(SENTENCE, candidates[::-1]) == expected


def test_a_candidate_counts_though_a_query_is_a_part_of_a_word_of_it(roberta, monkeypatch):
    compared = []
    monkeypatch.setattr(
        choosing, "_scores", lambda engine, candidates: compared.append(len(candidates)) or [-1.0] * len(candidates)
    )
    roberta.disambiguate_pronoun("_Ann_ thanked Joanna as [she] was kind.", ["Joanna", "Ann Lee", "ann"])
    assert compared == [2]  # the query and Joanna


def test_a_query_is_compared_with_the_other_candidates(roberta):
    names = ["the cup", "the suitcase and all"]
    best = roberta.disambiguate_pronoun(SENTENCE, names)
    for name in names:
        sentence = f"He saw _{name}_ because [it] was big."
        expected = name == roberta.disambiguate_pronoun(sentence.replace("_", ""), names)
        assert roberta.disambiguate_pronoun(sentence, names) is expected
    assert best in names


def test_a_tie_goes_to_the_query(roberta, monkeypatch):
    monkeypatch.setattr(choosing, "_scores", lambda engine, candidates: [-1.0] * len(candidates))
    assert roberta.disambiguate_pronoun("The _cup_ fell as [it] was big.", ["Bob"]) is True


def test_many_sentences_are_scored_in_one_go(roberta):
    sentences = [SENTENCE, "Ann _Lee_ slept, for [she] was tired and so on.", "[He] lied."]
    candidates = [["the cup", "the shelf"], ["Ann", "Bob", "the night before"], ["Bob", "Mark Twain"]]
    single = [roberta.disambiguate_pronoun(*pair) for pair in zip(sentences, candidates, strict=True)]
    assert roberta.disambiguate_pronoun(sentences, candidates) == single
    assert type(single[1]) is bool


def test_noun_phrases_are_the_candidates_where_none_are_given(roberta, monkeypatch):
    found = {"The trophy fell because it was big.": ["The trophy", "a fall"]}
    monkeypatch.setattr(choosing, "noun_phrases", lambda text: found.get(text, []))
    assert roberta.disambiguate_pronoun(SENTENCE) == roberta.disambiguate_pronoun(SENTENCE, ["The trophy", "a fall"])
    marked = SENTENCE.replace("trophy", "_trophy_")
    assert roberta.disambiguate_pronoun(marked) is roberta.disambiguate_pronoun(marked, ["a fall"])
    with pytest.raises(DataError, match="no candidates for 'It fell.'"):
        roberta.disambiguate_pronoun("[It] fell.")


@pytest.mark.parametrize(
    ("sentence", "candidates", "message"),
    [
        ("It fell.", ["a"], "0 pronouns"),
        (SENTENCE, [], "no candidates for"),
        (SENTENCE, "the cup", "candidates are 'the cup'; expected a list"),
        (SENTENCE, ["the cup", ""], "sentence 0: candidate '' is empty"),
        (SENTENCE.replace("trophy", "_trophy_"), ["The trophy"], "no candidates beside 'trophy'"),
        ([SENTENCE], [["a"], ["b"]], "2 lists of candidates for 1 sentences"),
        (3, ["a"], "item 0 is 3"),
        ([SENTENCE], 5, "candidates are 5; expected a list of them for each sentence"),
        ([SENTENCE], "ab", "candidates are 'ab'; expected a list of them for each sentence"),
        (SENTENCE, 5, "candidates are 5; expected a list of strings"),
    ],
)
def test_sentences_and_candidates_that_are_wrong_are_refused(roberta, sentence, candidates, message):
    with pytest.raises(DataError, match=message):
        roberta.disambiguate_pronoun(sentence, candidates)


def test_a_long_sentence_is_refused_or_cut(roberta):
    sentence = "very " * 40 + SENTENCE
    with pytest.raises(DataError, match="the model takes at most 32"):
        roberta.disambiguate_pronoun(sentence, ["the cup", "Bob"])
    assert roberta.disambiguate_pronoun(sentence, ["the cup", "Bob"], truncate=True) in ("the cup", "Bob")


def test_a_model_without_a_masked_lm_head_says_so(roberta):
    model = copy.deepcopy(roberta)
    del model.model.heads["lm"], model.model.head_configs["lm"]
    with pytest.raises(ConfigError, match="no head 'lm'"):
        model.disambiguate_pronoun(SENTENCE, ["a", "b"])


def test_the_mode_of_the_model_is_kept(chooser):
    model = copy.deepcopy(chooser).train()
    first = model.choose("x", "y", OPTIONS)
    assert first == model.choose("x", "y", OPTIONS)
    assert model.training
