"""Filling masks against trying every filling, one forward pass each."""

import math

import pytest
import torch

from roberta.errors import ConfigError, DataError
from roberta.hub import RobertaHubInterface
from roberta.hub.filling import MaskedText

TEXT = "ab <mask>, c<mask>d"
FIRST, SECOND = 3, 6  # the masks of its tokens: <s> a b <mask> , space c <mask> d </s>, the first space gone


def tokens_of(roberta: RobertaHubInterface, *fillings: int) -> torch.Tensor:
    """Return the tokens of TEXT with its first masks filled."""
    encode, mask = roberta.tokenizer.encode, roberta.tokenizer.dictionary.mask
    masks = [*fillings, mask, mask][:2]
    return torch.tensor([0, *encode("ab"), masks[0], *encode(", c"), masks[1], *encode("d"), 2])


@torch.no_grad()
def log_probabilities(roberta: RobertaHubInterface, tokens: torch.Tensor, position: int) -> torch.Tensor:
    features = roberta.extract_features(tokens)[:, position]
    return roberta.model.heads["lm"](features).log_softmax(dim=-1)  # (B, V)


@pytest.fixture
def first(byte_roberta) -> torch.Tensor:
    return log_probabilities(byte_roberta, tokens_of(byte_roberta), FIRST)[0]  # (V,)


@pytest.fixture
def joint(byte_roberta, first) -> torch.Tensor:
    """Return log p(first) + log p(second | first) of all pairs: (V, V)."""
    vocab_size = len(first)
    filled = torch.stack([tokens_of(byte_roberta, token) for token in range(vocab_size) if token != 1])
    rows = log_probabilities(byte_roberta, filled, SECOND + 1)
    rows = torch.cat([rows[:1], torch.full((1, vocab_size), -torch.inf), rows[1:]])  # <pad> can't be put in a tensor
    return first.unsqueeze(1) + rows


def found(roberta: RobertaHubInterface, fills) -> list[tuple[float, tuple[str, ...]]]:
    return [(math.log(fill.probability), fill.tokens) for fill in fills]


def best(roberta: RobertaHubInterface, scores: torch.Tensor, topk: int) -> list[tuple[float, tuple[str, ...]]]:
    values, cells = scores.flatten().topk(topk)
    pairs = [divmod(cell, scores.shape[1]) for cell in cells.tolist()]
    return [
        (value, tuple(roberta.tokenizer.decode([token]) for token in pair))
        for value, pair in zip(values.tolist(), pairs, strict=True)
    ]


def assert_same(ours, expected) -> None:
    assert [tokens for _, tokens in ours] == [tokens for _, tokens in expected]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in expected], abs=1e-9)


@pytest.mark.parametrize("topk", [1, 7, 262])
def test_independent_fillings_are_the_best_products_of_marginals(byte_roberta, first, topk):
    second = log_probabilities(byte_roberta, tokens_of(byte_roberta), SECOND + 1)[0]
    fills = byte_roberta.fill_masks(TEXT, topk=topk)
    assert_same(found(byte_roberta, fills), best(byte_roberta, first.unsqueeze(1) + second, topk))


def test_a_beam_as_wide_as_the_vocabulary_finds_the_best_pairs(byte_roberta, joint):
    fills = byte_roberta.fill_masks(TEXT, topk=262, joint="beam")
    assert_same(found(byte_roberta, fills)[:100], best(byte_roberta, joint, 100))


def test_a_narrow_beam_keeps_the_best_first_tokens(byte_roberta, first, joint):
    kept = first.topk(4).indices
    scores = torch.full_like(joint, -torch.inf)
    scores[kept] = joint[kept]
    assert_same(found(byte_roberta, byte_roberta.fill_masks(TEXT, topk=4, joint="beam")), best(byte_roberta, scores, 4))


def test_left_to_right_branches_at_the_first_mask_alone(byte_roberta, first, joint):
    scores = torch.full_like(joint, -torch.inf)
    for token in first.topk(4).indices:
        at = joint[token].argmax()
        scores[token, at] = joint[token, at]
    fills = byte_roberta.fill_masks(TEXT, topk=4, joint="left_to_right")
    assert_same(found(byte_roberta, fills), best(byte_roberta, scores, 4))


@pytest.mark.parametrize("joint", ["independent", "left_to_right", "beam"])
def test_lists_give_what_each_text_gives(roberta, joint):
    texts = ["A <mask>.", "<mask> and <mask> or <mask>", "one two <mask> four five<mask>"]
    for text, fills in zip(texts, roberta.fill_masks(texts, topk=3, joint=joint), strict=True):
        alone = roberta.fill_masks(text, topk=3, joint=joint)
        assert len(alone) == 3
        assert [fill.sequence for fill in fills] == [fill.sequence for fill in alone]
        assert [fill.probability for fill in fills] == pytest.approx([fill.probability for fill in alone], rel=1e-4)
    assert roberta.fill_masks([], joint=joint) == []


def test_one_space_before_each_mask_goes_with_it(roberta):
    for text in ("a <mask>, b<mask>  <mask>", "<mask> <mask>", "x\n<mask> <mask>"):
        parts = [part.removesuffix(" ") for part in text.split("<mask>")[:-1]]
        for fill in roberta.fill_masks(text, topk=2):
            assert fill.sequence == "".join(part + token for part, token in zip(parts, fill.tokens, strict=True))


def test_single_masks_fill_alike_one_by_one_and_in_a_list(roberta):
    texts = ["Paris is <mask>.", "<mask>", "It is a <mask> day in June, is it not?"]
    for text, fills in zip(texts, roberta.fill_mask(texts, topk=4), strict=True):
        alone = roberta.fill_mask(text, topk=4)
        assert [(filled, token) for filled, _, token in fills] == [(filled, token) for filled, _, token in alone]
        assert [p for _, p, _ in fills] == pytest.approx([p for _, p, _ in alone], rel=1e-4)
        joint = [(fill.sequence, fill.probability, fill.tokens[0]) for fill in roberta.fill_masks(text, topk=4)]
        assert joint == alone


def test_candidates_of_several_pieces_are_the_product_of_their_pieces(byte_roberta):
    encode, mask = byte_roberta.tokenizer.encode, byte_roberta.tokenizer.dictionary.mask
    fills = byte_roberta.fill_candidates("ab <mask>!", ["x", "yz", "é"])
    assert [fill.probability for fill in fills] == sorted((fill.probability for fill in fills), reverse=True)
    assert {fill.sequence for fill in fills} == {"ab x!", "ab yz!", "ab é!"}
    for fill in fills:
        pieces = encode(fill.sequence[2:-1])
        assert len(fill.tokens) == len(pieces)
        expected = 0.0
        for number, piece in enumerate(pieces):
            masks = [mask] * (len(pieces) - number)
            tokens = torch.tensor([0, *encode("ab"), *pieces[:number], *masks, *encode("!"), 2])
            expected += log_probabilities(byte_roberta, tokens, 3 + number)[0, piece].item()
        assert math.log(fill.probability) == pytest.approx(expected, abs=1e-9)


def test_candidates_of_one_piece_have_the_probabilities_of_fill_mask(roberta):
    text = "Paris is in <mask>."
    ranked = roberta.fill_mask(text, topk=6)
    fills = roberta.fill_candidates(text, [token.strip() for _, _, token in reversed(ranked)])
    ours = {fill.sequence: fill.probability for fill in fills if len(fill.tokens) == 1}
    compared = 0
    for filled, probability, token in ranked:
        if token.startswith(" ") and roberta.tokenizer.encode(token) == [roberta.tokenizer.encode(token)[0]]:
            assert ours[filled] == pytest.approx(probability, rel=1e-4)
            compared += 1
    assert compared


def test_candidates_fill_each_text_of_a_list(roberta):
    texts = ["I <mask> it.", "<mask> it is."]
    assert roberta.fill_candidates(texts, ["like", "see"]) == [
        roberta.fill_candidates(text, ["like", "see"]) for text in texts
    ]


def test_the_space_before_a_mask_goes_to_the_candidate_once(roberta):
    for candidate in ("France", " France"):
        (fill,) = roberta.fill_candidates("It is <mask>.", [candidate])
        assert fill.sequence == "It is France."
        assert fill.tokens == (" France",)
    (fill,) = roberta.fill_candidates("<mask> it is.", ["France"])
    assert fill.tokens == ("France",)
    assert roberta.fill_candidates("<mask>", []) == []


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("none", {}, DataError, "no <mask> in 'none'"),
        (["<mask>", "none"], {}, DataError, "no <mask> in 'none'"),
        (3, {}, DataError, "expected a text or a list of texts"),
        ("<mask>", {"topk": 0}, DataError, "topk is 0; expected a whole number between 1 and"),
        ("<mask>", {"topk": 2.0}, DataError, "topk is 2.0; expected a whole number between 1 and"),
        ("<mask>", {"topk": 50266}, DataError, "the vocabulary's 50265"),
        ("<mask>", {"joint": "beem"}, ConfigError, "joint is 'beem'.*did you mean beam"),
        ("a " * 40 + "<mask>", {}, DataError, "the model takes at most 32"),
    ],
)
def test_what_can_not_be_filled_is_refused(roberta, text, options, error, message):
    with pytest.raises(error, match=message):
        roberta.fill_masks(text, **options)


@pytest.mark.parametrize(
    ("text", "candidates", "message"),
    [
        ("<mask> <mask>", ["a"], "one <mask>, not 2"),
        ("none", ["a"], "no <mask>"),
        ("<mask>", ["a", " "], "candidate ' ' is empty"),
        ("<mask>", ["a " * 40], "the model takes at most 32"),
        ("<mask>", "like", "candidates are 'like'; expected a list"),
        ("<mask>", ["a", 2], "candidates: item 1 is 2"),
        (["<mask>", 3], ["a"], "expected a text or a list of texts"),
    ],
)
def test_candidates_that_can_not_fill_are_refused(roberta, text, candidates, message):
    with pytest.raises(DataError, match=message):
        roberta.fill_candidates(text, candidates)


def test_masks_apart_take_one_pass_and_no_more_pairs_than_are_asked_for(byte_roberta, monkeypatch):
    passes = []
    forward = type(byte_roberta.model).forward
    monkeypatch.setattr(type(byte_roberta.model), "forward", lambda *args: passes.append(1) or forward(*args))
    fills = byte_roberta.fill_masks("a <mask> b <mask> c <mask>", topk=200)
    assert len(passes) == 1
    assert len(fills) == 200
    tokens = MaskedText.encode(byte_roberta.tokenizer, "a <mask> b <mask> c <mask>")
    rows = [log_probabilities(byte_roberta, torch.tensor([tokens.tokens]), place)[0] for place in tokens.masks]
    every = (rows[0][:, None, None] + rows[1][:, None] + rows[2]).flatten()
    assert [math.log(fill.probability) for fill in fills] == pytest.approx(every.topk(200).values.tolist(), abs=1e-9)
