"""Texts to padded tokens and back: batches, truncation, windows, decoding; what is refused."""

import pytest
import torch

from roberta.errors import DataError
from roberta.hub.border import as_sequences


def test_a_batch_holds_what_encode_gives(roberta):
    items = ["Hello world!", "", ("Hello", "you"), ["a", "b", "c"]]
    batch = roberta.encode_batch(items)
    singles = [roberta.encode(*([item] if isinstance(item, str) else item)) for item in items]
    assert batch.shape == (4, max(map(len, singles)))
    for row, single in zip(batch, singles, strict=True):
        assert torch.equal(row[: len(single)], single)
        assert torch.all(row[len(single) :] == 1)


def test_an_empty_batch_has_no_rows(roberta):
    assert roberta.encode_batch([]).shape == (0, 0)


@pytest.mark.parametrize(
    "texts",
    [[1], ["a", None], [("a", 1)], [()], 3, [["a", ["b"]]]],
    ids=["int", "None", "in pair", "empty", "3", "deep"],
)
def test_a_batch_refuses_what_is_no_text(roberta, texts):
    with pytest.raises(DataError, match="item [01] is .*; expected a text, a tuple of texts such as a pair"):
        roberta.encode_batch(texts)


def test_a_tuple_of_texts_is_one_sequence_and_a_list_is_many():
    assert as_sequences(("a", "b")) == ([("a", "b")], True)
    assert as_sequences(["a", "b"]) == ([("a",), ("b",)], False)
    assert as_sequences([("a", "b")]) == ([("a", "b")], False)


@pytest.mark.parametrize("words", [29, 30, 31, 500])
def test_truncation_keeps_both_ends_and_fills_the_model(roberta, words):
    text = " ".join(["a"] * words)
    whole, cut = roberta.encode(text), roberta.encode(text, truncate=True)
    assert len(whole) == words + 2
    assert len(cut) == min(words + 2, 32)
    assert torch.equal(cut[:-1], whole[: len(cut) - 1])
    assert cut[-1] == 2
    assert roberta.extract_features(cut).shape == (1, len(cut), 16)


def test_truncation_of_a_pair_cuts_the_longer_text(roberta):
    long, short = " ".join(["a"] * 100), " ".join(["b"] * 5)
    for pair in ((long, short), (short, long)):
        first, second = roberta.decode(roberta.encode(*pair, truncate=True))
        assert {len(first.split()), len(second.split())} == {5, 32 - 4 - 5}
        assert pair[0].startswith(first)
        assert pair[1].startswith(second)
    assert len(roberta.encode(long, long, truncate=True)) == 32


def test_truncation_without_room_for_the_special_tokens_is_refused(roberta):
    with pytest.raises(DataError, match="too small to hold the special tokens of 20 texts"):
        roberta.encode(*["a"] * 20, truncate=True)


@pytest.mark.parametrize("length", [0, 1, 5, 6, 7, 12, 13, 40])
@pytest.mark.parametrize("stride", [1, 4, 6, None])
def test_windows_cover_every_token_and_fit(roberta, length, stride):
    inner = list(range(10, 10 + length))
    rows = roberta.windows(torch.tensor([0, *inner, 2]), max_tokens=8, stride=stride).tolist()
    windows = [[token for token in row if token != 1] for row in rows]
    assert all(window[0] == 0 and window[-1] == 2 and len(window) <= 8 for window in windows)
    assert all(window[1:-1] == inner[(stride or 6) * i :][:6] for i, window in enumerate(windows))
    assert windows[-1][1:-1][-1:] == inner[-1:]
    assert len(windows) == 1 or windows[-2][1:-1][-1:] != inner[-1:]


def test_windows_of_a_long_text_are_what_the_model_takes(roberta):
    tokens = roberta.encode(" ".join(["word"] * 100))
    assert roberta.extract_features(roberta.windows(tokens)).shape == (4, 32, 16)


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ([0, 5, 2], {"max_tokens": 2}, "windows of 2 tokens"),
        ([0, 5, 2], {"max_tokens": 33}, "the model takes 3 to 32"),
        ([0, 5, 2], {"max_tokens": 8, "stride": 7}, "tokens would be lost"),
        ([0, 5, 2], {"stride": 0}, "0 apart"),
        ([0, 5, 2, 2, 6, 2], {}, "tokens of one text"),
        ([5, 2], {}, "tokens of one text"),
        ([0, 5], {}, "tokens of one text"),
        ([], {}, "tokens of one text"),
        ([[0, 5, 2]], {}, "tokens of one text"),
    ],
)
def test_windows_that_make_no_sense_are_refused(roberta, tokens, options, message):
    with pytest.raises(DataError, match=message):
        roberta.windows(torch.tensor(tokens, dtype=torch.int64), **options)


def test_ids_that_are_no_tensor_are_refused(roberta):
    with pytest.raises(DataError, match="decode takes a tensor of token ids, not list"):
        roberta.decode([0, 5, 2])
    with pytest.raises(DataError, match="windows takes the 1-D tensor"):
        roberta.windows([0, 5, 2])


def test_decode_takes_pads_masks_pairs_and_batches(roberta):
    assert roberta.decode(torch.tensor([1, 1, 0, 31414, 2, 1])) == "Hello"
    assert roberta.decode(torch.tensor([0, 31414, 50264, 2])) == "Hello<mask>"
    assert roberta.decode(torch.tensor([1, 1], dtype=torch.int32)) == ""
    assert roberta.decode(torch.tensor([], dtype=torch.int64)) == ""
    assert roberta.decode(torch.empty((0, 4), dtype=torch.int64)) == []
    left_padded = torch.tensor([[1, 1, 1, 0, 31414, 2], [0, 31414, 2, 2, 232, 2]])
    assert roberta.decode(left_padded) == ["Hello", ["Hello", " world"]]


def test_an_empty_batch_of_tensors_is_refused(roberta):
    with pytest.raises(DataError, match="tokens are an empty batch"):
        roberta.extract_features(torch.empty((0, 4), dtype=torch.int64))


@pytest.mark.parametrize("method", ["embed", "encode_batch", "score", "fill_masks"])
def test_a_row_of_a_data_set_is_not_the_texts_of_its_keys(roberta, method):
    with pytest.raises(DataError, match="this is a mapping of .*'label'"):
        getattr(roberta, method)({"text": "a", "label": "b"})


def test_what_is_no_text_word_or_whole_number_is_refused(roberta):
    with pytest.raises(DataError, match="character_spans takes a text, not None"):
        roberta.character_spans(None)
    with pytest.raises(DataError, match="the words of a sentence are 5; expected a list"):
        roberta.extract_features_aligned_to_words("a", 5)
    for options in ({"max_tokens": 5.5}, {"stride": 1.5}, {"stride": True}):
        with pytest.raises(DataError, match="expected a whole number"):
            roberta.windows(roberta.encode("a b c"), **options)
