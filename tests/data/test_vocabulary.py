from collections import Counter
from pathlib import Path

import pytest

from roberta.data.dictionary import Dictionary
from roberta.data.sample import sample_corpus
from roberta.data.tokenizer import Tokenizer
from roberta.data.vocabulary import fingerprint, train_tokenizer

NUM_SYMBOLS = 400


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(sample_corpus("train")[:50_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(text: Path) -> Tokenizer:
    return train_tokenizer([text], NUM_SYMBOLS, workers=1)


def test_symbols_stand_in_fairseqs_order_with_their_counts(tokenizer, text):
    counted = Counter(index for line in text.read_text("utf-8").split("\n") for index in tokenizer.bpe.encode(line))
    rows = [(str(index), counted[index]) for index in range(NUM_SYMBOLS)]
    expected = sorted(rows, key=lambda row: (-row[1], row[0]))
    dictionary = tokenizer.dictionary
    assert list(zip(dictionary.symbols[4:], dictionary.counts[4:], strict=True))[:NUM_SYMBOLS] == expected


def test_the_dictionary_is_padded_to_a_multiple_of_eight_before_the_mask(tokenizer):
    dictionary = tokenizer.dictionary
    assert dictionary.mask == len(dictionary) - 1 == 408
    assert dictionary.symbols[404:408] == [f"madeupword000{i}" for i in range(4)]


def test_every_text_has_tokens_of_its_own(tokenizer):
    for line in ("She was happy.", "日本語 naïve"):
        assert tokenizer.decode(tokenizer.encode(line)) == line
        assert tokenizer.dictionary.unk not in tokenizer.encode(line)


def test_the_files_load_as_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.dictionary == tokenizer.dictionary
    assert again.encode("She was happy.") == tokenizer.encode("She was happy.")
    assert fingerprint(again) == fingerprint(tokenizer)


def test_fingerprints_tell_vocabularies_apart_but_not_counts(tokenizer):
    dictionary = tokenizer.dictionary
    recounted = Dictionary(dictionary.symbols[4:-1], [0] * (len(dictionary) - 5))
    reordered = Dictionary(dictionary.symbols[-2:3:-1], [0] * (len(dictionary) - 5))
    assert fingerprint(Tokenizer(tokenizer.bpe, recounted)) == fingerprint(tokenizer)
    assert fingerprint(Tokenizer(tokenizer.bpe, reordered)) != fingerprint(tokenizer)
    assert fingerprint(Tokenizer.load()) != fingerprint(tokenizer)
