"""New symbols: where they go, how they begin, and that texts and checkpoints know them."""

import copy

import pytest
import torch

from roberta.checkpoint import native
from roberta.errors import DataError, VocabError
from roberta.hub import RobertaHubInterface, from_pretrained
from roberta.models.heads import MaskedLMHeadConfig

SYMBOLS = ["<gene>", "<gene>s", "new york", "♥"]


@pytest.fixture
def grown(roberta) -> RobertaHubInterface:
    grown = copy.deepcopy(roberta)
    with torch.no_grad():
        grown.model.heads["lm"].bias.normal_()
    grown.model.register_head("own", MaskedLMHeadConfig(tied=False))
    grown.add_tokens(SYMBOLS)
    return grown


def test_texts_are_split_at_new_symbols_the_longest_first(grown, roberta):
    text = "Old <gene>s and <gene> in new york♥."
    tokens = grown.encode(text)
    assert [token for token in tokens.tolist() if token >= 50265] == [50266, 50265, 50267, 50268]
    assert grown.decode(tokens) == text
    assert grown.encode("Hello <mask> world").tolist() == roberta.encode("Hello <mask> world").tolist()
    assert grown.encode_batch([text])[0].tolist() == tokens.tolist()
    assert grown.tokenizer.encode_batch([text]) == [tokens.tolist()[1:-1]]


def test_spans_of_new_symbols_are_their_characters(grown):
    text = "é♥ <gene>s"
    spans = grown.character_spans(text)
    tokens = grown.encode(text).tolist()
    assert text[slice(*spans[tokens.index(50268)])] == "♥"
    assert text[slice(*spans[tokens.index(50266)])] == "<gene>s"


def test_old_tokens_keep_their_ids_and_rows_and_new_ones_begin_as_the_mean(grown, roberta):
    assert grown.tokenizer.dictionary.symbols[:50265] == roberta.tokenizer.dictionary.symbols
    assert grown.tokenizer.dictionary.mask == 50264
    assert grown.model.config.vocab_size == grown.model.encoder.embed_tokens.num_embeddings == 50269
    embedding = grown.model.encoder.embed_tokens.weight
    assert torch.equal(embedding[:50265], roberta.model.encoder.embed_tokens.weight)
    for matrix in (embedding, grown.model.heads["lm"].bias, grown.model.heads["own"].weight):
        for row in matrix[50265:]:
            torch.testing.assert_close(row, matrix[:50265].mean(dim=0))
    tokens = grown.encode("Hello world!")
    torch.testing.assert_close(grown.extract_features(tokens), roberta.extract_features(tokens))


def test_new_symbols_can_fill_masks_and_learn(grown):
    filled = grown.fill_mask("a <mask>", topk=50269)
    assert {"♥", "new york"} <= {token for _, _, token in filled}
    grown.extract_features(grown.encode("♥")).sum().backward()
    assert grown.model.encoder.embed_tokens.weight.grad[50268].abs().sum() > 0


def test_checkpoints_keep_new_symbols(grown, tmp_path):
    native.save(tmp_path / "model", grown.model, grown.tokenizer)
    loaded = from_pretrained(tmp_path / "model")
    text = "a <gene> in new york"
    assert loaded.tokenizer.dictionary == grown.tokenizer.dictionary
    assert torch.equal(loaded.encode(text), grown.encode(text))
    features = grown.extract_features(grown.encode(text))
    torch.testing.assert_close(loaded.extract_features(loaded.encode(text)), features, atol=1e-6, rtol=0)
    loaded.add_tokens(["<more>"])
    assert loaded.encode("<more>").tolist() == [0, 50269, 2]


@pytest.mark.parametrize(
    ("symbols", "error", "message"),
    [
        (["<mask>"], VocabError, "'<mask>' is already in the dictionary"),
        (["a", "a"], VocabError, "'a' is already in the dictionary"),
        (["13"], VocabError, "already in the dictionary"),
        (["999999"], VocabError, "can't stand in a dictionary"),
        ([""], VocabError, "can't stand"),
        ([" x"], VocabError, "no space at either end"),
        (["a\nb"], VocabError, "printable"),
        ("abc", DataError, "symbols are 'abc'; expected a list"),
    ],
)
def test_symbols_that_can_not_be_added_leave_the_model_as_it_was(roberta, symbols, error, message):
    with pytest.raises(error, match=message):
        roberta.add_tokens(symbols)
    assert roberta.model.config.vocab_size == len(roberta.tokenizer.dictionary) == 50265


def test_half_precision_models_grow_too(roberta):
    half = copy.deepcopy(roberta).half()
    half.add_tokens(["♥"])
    assert half.model.encoder.embed_tokens.weight.dtype == torch.float16
    assert half.extract_features(half.encode("♥")).isfinite().all()


def test_a_frozen_model_stays_frozen(roberta):
    roberta.model.requires_grad_(False)
    roberta.add_tokens(["<more>"])
    assert not any(parameter.requires_grad for parameter in roberta.model.parameters())
