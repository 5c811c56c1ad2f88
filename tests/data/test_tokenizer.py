"""Text <-> token ids against fairseq's recorded ids and literals; decoding of anything; folders of files."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roberta.bpe import GPT2BPE
from roberta.data.dictionary import Dictionary
from roberta.data.tokenizer import Tokenizer, character_spans
from roberta.errors import DataError, VocabError

BOS, PAD, EOS, UNK, MASK = 0, 1, 2, 3, 50264
HELLO, WORLD = 31414, 232


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", [0, 2]),
        ("Hello world!", [0, 31414, 232, 328, 2]),
        ("   ", [0, 1437, 1437, 1437, 2]),
        ("line one\nline two", [0, 1902, 65, 50118, 1902, 80, 2]),
        ("\x00\x01\x02\x03", [0, 50108, 50109, 50110, 50111, 2]),
    ],
)
def test_text_becomes_the_known_sequence(tokenizer: Tokenizer, text: str, tokens: list[int]) -> None:
    assert tokenizer.encode_sequence(text) == tokens
    assert tokenizer.encode(text) == tokens[1:-1]


@pytest.mark.parametrize(
    ("texts", "separator", "tokens"),
    [
        (("Hello", " world"), True, [BOS, HELLO, EOS, EOS, WORLD, EOS]),
        (("Hello", " world"), False, [BOS, HELLO, EOS, WORLD, EOS]),
        (("", ""), True, [BOS, EOS, EOS, EOS]),
        (("first", "second", "third"), True, [0, 9502, 2, 2, 10815, 2, 2, 12347, 2]),
    ],
)
def test_texts_are_joined_as_one_sequence(
    tokenizer: Tokenizer, texts: tuple[str, ...], separator: bool, tokens: list[int]
) -> None:
    assert tokenizer.encode_sequence(*texts, separator=separator) == tokens


def test_sequences_are_those_recorded_from_fairseq(tokenizer: Tokenizer, shared: Path) -> None:
    golden = json.loads((shared / "golden/io/golden_io.json").read_text())
    for case in golden["single"]:
        assert tokenizer.encode_sequence(case["text"]) == case["tokens"], case["text"]
        assert tokenizer.decode_sequence(case["tokens"]) == case["decoded"], case["text"]
    for case in golden["pairs"]:
        assert tokenizer.encode_sequence(*case["texts"], separator=not case["no_separator"]) == case["tokens"]
        assert tokenizer.decode_sequence(case["tokens"]) == case["decoded"]


def test_batch_is_one_text_after_another(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(["Hello world", ""]) == [[HELLO, WORLD], []]


def test_special_names_in_text_are_never_special_tokens(tokenizer: Tokenizer) -> None:
    text = "<s><pad></s><unk><mask>madeupword0000"
    tokens = tokenizer.encode(text)
    assert not {BOS, PAD, EOS, UNK, MASK}.intersection(tokens)
    assert tokenizer.decode(tokens) == text


@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_text_survives_a_sequence(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode_sequence(tokenizer.encode_sequence(text)) == text


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ([], ""),
        ([BOS, HELLO, EOS, PAD, PAD], "Hello"),
        ([HELLO, MASK], "Hello<mask>"),
        ([HELLO, UNK], "Hello<unk>"),
        ([50261, WORLD], "madeupword0000 world"),
        ([BOS, PAD, EOS], ""),
        ([50108, 50111], "\x00\x03"),
    ],
)
def test_tokens_decode_to_the_known_text(tokenizer: Tokenizer, tokens: list[int], text: str) -> None:
    assert tokenizer.decode(tokens) == text


def test_bytes_that_are_not_utf8_decode_to_replacement_characters(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("日")
    assert tokenizer.decode(tokens) == "日"
    assert tokenizer.decode([*tokens[:-1], HELLO]) == "\ufffdHello"


@pytest.mark.parametrize("token", [-1, 50265])
def test_token_outside_the_dictionary_is_refused(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(DataError, match=rf"{token}.*allowed: 0 to 50264"):
        tokenizer.decode([HELLO, token])


@given(tokens=st.lists(st.one_of(st.integers(0, 50264), st.sampled_from([BOS, PAD, EOS, MASK]))))
def test_any_tokens_decode(tokenizer: Tokenizer, tokens: list[int]) -> None:
    assert tokenizer.decode(tokens).count("<mask>") >= tokens.count(MASK)
    assert "".join(tokenizer.decode_sequence(tokens)).count("<mask>") >= tokens.count(MASK)


@pytest.mark.parametrize(
    ("tokens", "texts"),
    [
        ([], ""),
        ([EOS], ""),
        ([BOS], ""),
        ([BOS, EOS], ""),
        ([BOS, HELLO, WORLD], "Hello world"),
        ([BOS, HELLO, EOS, WORLD, EOS], "Hello world"),
        ([BOS, HELLO, EOS, EOS, WORLD, EOS], ["Hello", " world"]),
        ([BOS, HELLO, EOS, EOS, WORLD, EOS, PAD, PAD], ["Hello", " world"]),
        ([BOS, HELLO, EOS, EOS, EOS], ["Hello", "", ""]),
        ([BOS, EOS, EOS, EOS], ["", "", ""]),
        ([PAD, BOS, HELLO, EOS], "Hello"),
    ],
)
def test_sequence_splits_where_two_ends_meet(tokenizer: Tokenizer, tokens: list[int], texts: str | list[str]) -> None:
    assert tokenizer.decode_sequence(tokens) == texts


def test_whole_words_start_at_spaces_and_at_whatever_is_not_bpe(tokenizer: Tokenizer) -> None:
    starts = tokenizer.starts_word
    assert starts.shape == (50265,)
    assert starts[[BOS, PAD, EOS, UNK, MASK, 50261, WORLD]].all()
    assert not starts[[HELLO, 328]].any()


def test_bpe_ids_outside_the_dictionary_are_unknown() -> None:
    tokenizer = Tokenizer(GPT2BPE.load(), Dictionary(["15496"], [1]))
    assert tokenizer.encode("Hello world") == [4, UNK]
    assert tokenizer.decode([4, UNK]) == "Hello<unk>"
    assert tokenizer.starts_word[UNK]


def test_saved_tokenizer_loads_as_it_was(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dict.txt", "encoder.json", "vocab.bpe"]
    again = Tokenizer.load(tmp_path)
    assert again.dictionary == tokenizer.dictionary
    assert again.encode_sequence("Hello world!") == [0, 31414, 232, 328, 2]


def test_folder_with_a_dictionary_alone_uses_the_packages_bpe(tmp_path: Path) -> None:
    (tmp_path / "dict.txt").write_text("995 2\n15496 1\n")
    assert Tokenizer.load(tmp_path).encode("Hello world!") == [5, 4, UNK]


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabError, match="none of dict.txt, .* is there; of a run give a checkpoint"):
        Tokenizer.load(tmp_path)
    with pytest.raises(VocabError, match="absent: no such folder"):
        Tokenizer.load(str(tmp_path / "absent"))  # type: ignore[arg-type]  # as people do


def test_another_bpe_needs_its_own_dictionary(tmp_path: Path) -> None:
    (tmp_path / "vocab.bpe").write_text("a b\n")
    with pytest.raises(VocabError, match=r"its BPE is not GPT-2's.*add its dict\.txt"):
        Tokenizer.load(tmp_path)


def test_dictionary_of_another_bpe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.bpe").write_text("a b\n")
    (tmp_path / "dict.txt").write_text("64 3\n256 2\n999 1\n")
    with pytest.raises(VocabError, match=r"dict\.txt: symbol 999 is no BPE id; expected 0 to 257"):
        Tokenizer.load(tmp_path)


def test_folder_of_hugging_face_gives_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokens_by_id = {index: token for token, index in tokenizer.bpe.encoder.items()}
    names = [tokens_by_id[int(symbol)] if symbol.isdecimal() else symbol for symbol in tokenizer.dictionary.symbols]
    (tmp_path / "vocab.json").write_text(json.dumps({name: token for token, name in enumerate(names)}))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *tokenizer.bpe.merges, ""]), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert loaded.dictionary == tokenizer.dictionary
    assert loaded.encode_sequence("Hello world!") == [0, 31414, 232, 328, 2]


def test_numbered_tokens_must_begin_with_the_special_ones(tmp_path: Path) -> None:
    tokens = ["<pad>", "<s>", *GPT2BPE(["a b"]).encoder]
    (tmp_path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(VocabError, match=r"expected \['<s>', '<pad>', '</s>', '<unk>'\]"):
        Tokenizer.load(tmp_path)


@given(text=st.text(st.characters(exclude_categories=())))
def test_spans_are_the_bytes_and_characters_of_each_token(tokenizer: Tokenizer, text: str) -> None:
    aligned = tokenizer.align(text)
    assert aligned.tokens == tokenizer.encode(text)
    readable = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # pairs joined, lone halves replaced
    raw = readable.encode()
    assert b"".join(raw[start:end] for start, end in aligned.byte_spans) == raw
    for token, (start, end) in zip(aligned.tokens, aligned.byte_spans, strict=True):
        assert tokenizer.decode([token]) == raw[start:end].decode(errors="replace")
    expected = [touched(text, start, end) for start, end in aligned.byte_spans]
    assert aligned.character_spans == expected


def touched(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the characters of a text that a span of its bytes touches, one character at a time."""
    at = position = 0
    characters = []
    while position < len(text):
        pair = "\ud800" <= text[position] <= "\udbff" and "\udc00" <= text[position + 1 : position + 2] <= "\udfff"
        width, size = (2, 4) if pair else (1, len(text[position].encode("utf-8", "surrogatepass")))
        if at < end and start < at + size:
            characters += range(position, position + width)
        at += size
        position += width
    return characters[0], characters[-1] + 1


@pytest.mark.parametrize(
    ("text", "byte_spans", "expected"),
    [
        ("", [], []),
        ("a😀b", [(0, 2), (2, 4), (4, 6)], [(0, 2), (1, 2), (1, 3)]),
        ("e\u0301", [(0, 2), (2, 3)], [(0, 2), (1, 2)]),
        ("\ud83d\ude00x", [(0, 2), (2, 5)], [(0, 2), (0, 3)]),
        ("\ude00\ud83d", [(0, 3), (3, 6)], [(0, 1), (1, 2)]),
    ],
)
def test_a_character_belongs_to_every_span_that_touches_it(text: str, byte_spans: list, expected: list) -> None:
    assert character_spans(text, byte_spans) == expected


def test_symbols_behind_the_mask_are_found_in_texts_but_made_up_words_and_bpe_ids_are_not(tokenizer: Tokenizer) -> None:
    symbols = [
        *tokenizer.bpe.symbols[:-1],
        "<mask>",
        tokenizer.bpe.symbols[-1],
        "madeupword0009",
        "<new>",
        "madeupwordx",
    ]
    added = Tokenizer(tokenizer.bpe, Dictionary(symbols, [0] * len(symbols)))
    text = f"a<new>{symbols[-4]}madeupword0009<mask>madeupwordx"
    special = [token for token in added.encode(text) if token >= added.dictionary.mask]
    assert special == [added.dictionary.index("<new>"), added.dictionary.index("madeupwordx")]
    assert added.decode(added.encode(text)) == text


def test_a_sequence_of_limited_length_loses_the_ends_of_its_longest_texts(tokenizer: Tokenizer) -> None:
    texts = ("a " * 9 + "a", "b b", "c " * 4 + "c")
    for limit in range(8, 30):
        whole = tokenizer.encode_sequence(*texts)
        cut = tokenizer.encode_sequence(*texts, max_tokens=limit)
        assert len(cut) == min(limit, len(whole))
        lengths = [len(text.split()) for text in tokenizer.decode_sequence(cut)] if limit > 8 else [0, 0, 0]
        assert all(short <= long for short, long in zip(lengths, (10, 2, 5), strict=True))
        assert max(lengths) - min(lengths) <= 1 or min(lengths) == 2
    with pytest.raises(DataError, match="2 too small to hold the special tokens of 3 texts"):
        tokenizer.encode_sequence(*texts, max_tokens=4)


def test_a_dictionary_without_its_own_bpe_is_told_of(tmp_path, caplog):
    (tmp_path / "dict.txt").write_text("".join(f"{number} 1\n" for number in range(300)))
    Tokenizer.load(tmp_path)
    assert "has 300 of the 50257 tokens of the BPE, all others are <unk>; if it is of another BPE" in caplog.text
    caplog.clear()
    Tokenizer.load().save(tmp_path)
    Tokenizer.load(tmp_path)
    assert not caplog.records
