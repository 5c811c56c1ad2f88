"""A trained BPE against the package that trained it, and against what a BPE must be."""

import sys

import pytest

from roberta.bpe import GPT2BPE
from roberta.bpe.train import MIN_SYMBOLS, train_bpe
from roberta.data.sample import sample_corpus
from roberta.errors import ConfigError, DataError

tokenizers = pytest.importorskip("tokenizers")
NUM_SYMBOLS = 1500
UNSEEN = ["naïve café", "日本語 テキスト", "  two  spaces\tand tabs ", "I've 3.14 don't", "<|endoftext|>", "👩‍👩‍👧"]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return sample_corpus("train")[:200_000].split("\n")


@pytest.fixture(scope="module")
def bpe(lines: list[str]) -> GPT2BPE:
    return train_bpe(lines, NUM_SYMBOLS)


def test_a_bpe_has_as_many_symbols_as_were_asked_for(bpe):
    assert len(bpe.symbols) == len(bpe.encoder) == NUM_SYMBOLS
    assert len(bpe.merges) == NUM_SYMBOLS - MIN_SYMBOLS


def test_the_most_frequent_pair_is_merged_first(lines):
    assert train_bpe(["ab ab ab cd"], MIN_SYMBOLS + 1).merges == ["a b"]


def test_frequent_words_become_one_symbol(bpe):
    for word in (" the", " and", " Emma", " was"):
        assert len(bpe.encode(word)) == 1


def test_text_is_encoded_as_the_training_package_does_it(bpe, lines):
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(bpe.encoder, [tuple(merge.split()) for merge in bpe.merges]))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for line in [*lines, *sample_corpus("valid").split("\n"), *UNSEEN]:
        assert bpe.encode(line) == theirs.encode(line).ids


@pytest.mark.parametrize("text", UNSEEN)
def test_any_text_survives_encoding(bpe, text):
    assert bpe.decode_bytes(bpe.encode(text)) == text.encode()


def test_the_same_lines_give_the_same_bpe(bpe, lines):
    assert train_bpe(iter(lines), NUM_SYMBOLS).merges == bpe.merges


def test_saved_files_load_as_the_same_bpe(bpe, tmp_path):
    bpe.save(tmp_path)
    again = GPT2BPE.load(tmp_path)
    assert again.encoder == bpe.encoder
    assert again.encode("She was a very good woman.") == bpe.encode("She was a very good woman.")


def test_too_few_symbols_are_refused():
    with pytest.raises(ConfigError, match="--train-bpe 256; expected at least 257"):
        train_bpe(["text"], 256)


def test_too_little_text_is_refused():
    with pytest.raises(DataError, match="--train-bpe 1000: the text gives only 258 symbols"):
        train_bpe(["ab"], 1000)


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match="pip install tokenizers"):
        train_bpe(["text"], 300)
