"""GPT-2 BPE against a slow twin, tiktoken's own reading of the files, fairseq's recorded ids, and literals."""

import hashlib
import json
import lzma
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str

from roberta.bpe import GPT2BPE, GPT2BPEConfig
from roberta.bpe.gpt2 import VOCABULARY
from roberta.errors import StorageError, VocabError
from roberta.registry import BPES
from tests.reference.bpe import SlowBPE, slow_encoder

MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
ENCODER_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cn")))
SPACED = st.text(st.sampled_from("ab1'!é \n\t\u00a0\u2003\x1c\u200b日😀"))
ODD_TEXTS = [
    "",
    " ",
    "   trailing   ",
    "I've we'll they're DON'T ''s 's't",
    "tabs\t\tand\r\nlines\n\n\nend\n",
    "a1b2 3.14 1,000,000 ½ ² Ⅷ ٣",
    "no\u00a0break \u2003em \u200bzero \ufeffmark \x1c\x1d\x1f \x85 \u2028",
    "naïve cafe\u0301 Ångström \ufb01 ẞ",
    "日本語テキスト 한국어 עברית العربية हिन्दी ไทย",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \U0001f600\U0001f3fd",
    "<s> <mask> </s> <pad> <|endoftext|>",
    "".join(map(chr, range(1, 256))),
    "\x00\x01\x7f",
    "________ ======== ........ !!!!!!!! --------",
]


@pytest.fixture(scope="module")
def bpe() -> GPT2BPE:
    return GPT2BPE.load()


@pytest.fixture(scope="module")
def twin(bpe: GPT2BPE) -> SlowBPE:
    return SlowBPE(bpe.merges, slow_encoder(bpe.merges))


def test_package_holds_gpt2s_own_merges() -> None:
    content = lzma.decompress((VOCABULARY / "vocab.bpe.xz").read_bytes())
    assert hashlib.sha256(content).hexdigest() == MERGES_SHA256


def test_derived_encoder_is_gpt2s_own(bpe: GPT2BPE, shared: Path) -> None:
    assert bpe.encoder == json.loads((shared / "data/tok/gpt2_bpe/encoder.json").read_text())


def test_saved_files_are_gpt2s_byte_for_byte(bpe: GPT2BPE, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json", "vocab.bpe"]
    assert hashlib.sha256((tmp_path / "vocab.bpe").read_bytes()).hexdigest() == MERGES_SHA256
    assert hashlib.sha256((tmp_path / "encoder.json").read_bytes()).hexdigest() == ENCODER_SHA256


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("Hello world!", [15496, 995, 0]),
        (" world", [995]),
        ("line one\nline two", [1370, 530, 198, 1370, 734]),
        ("I've DON'T", [40, 1053, 23917, 6, 51]),
        ("\x00", [188]),
    ],
)
def test_text_has_the_known_ids(bpe: GPT2BPE, text: str, ids: list[int]) -> None:
    assert bpe.encode(text) == ids


def test_ids_are_those_recorded_from_fairseq(bpe: GPT2BPE, shared: Path) -> None:
    cases = json.loads((shared / "golden/io/golden_io.json").read_text())["single"]
    assert len(cases) > 20
    for case in cases:
        assert bpe.encode(case["text"]) == [int(symbol) for symbol in case["bpe"].split()], case["text"]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_odd_text_has_the_ids_of_the_slow_twin(bpe: GPT2BPE, twin: SlowBPE, text: str) -> None:
    assert bpe.encode(text) == twin.encode(text)


@given(text=st.one_of(TEXT, SPACED))
def test_any_text_has_the_ids_of_the_slow_twin(bpe: GPT2BPE, twin: SlowBPE, text: str) -> None:
    assert bpe.encode(text) == twin.encode(text)


def test_real_text_has_the_ids_of_tiktoken(bpe: GPT2BPE, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    folder = shared / "data/tok/gpt2_bpe"
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    other = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    odd = shared / "data/odd"
    for name in ("blns/blns.txt", "flores200.8-per-language.tsv", "python_source_sample.txt"):
        text = (odd / name).read_text(encoding="utf-8")
        assert bpe.encode(text) == other.encode_ordinary(text), name


def test_ids_of_another_vocabulary_are_those_of_the_slow_twin(tmp_path: Path) -> None:
    merges = ["a b", "ab c", "Ġ ab", "b b", "c abc", "bb bb", "a a", "aa aa"]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2 - mine", *merges, ""]), encoding="utf-8")
    bpe, twin = GPT2BPE.load(tmp_path), SlowBPE(merges, slow_encoder(merges))
    rng = random.Random(3)
    for _ in range(300):
        text = "".join(rng.choices("aabc ", k=rng.randint(1, 30)))
        assert bpe.encode(text) == twin.encode(text), text


@given(text=TEXT)
def test_text_survives_encoding(bpe: GPT2BPE, text: str) -> None:
    assert bpe.decode_bytes(bpe.encode(text)).decode() == text


def test_every_byte_has_an_id_of_its_own(bpe: GPT2BPE) -> None:
    assert sorted(bpe.token_bytes[:256]) == [bytes([byte]) for byte in range(256)]


def test_every_id_has_bytes_of_its_own(bpe: GPT2BPE) -> None:
    assert len(set(bpe.token_bytes)) == 50257


def test_ids_may_decode_to_bytes_that_are_not_utf8(bpe: GPT2BPE) -> None:
    assert bpe.decode_bytes([bpe.token_bytes.index(b"\xe6"), 0]) == b"\xe6!"


def test_special_names_in_text_are_ordinary_characters(bpe: GPT2BPE) -> None:
    assert bpe.encode("<|endoftext|>") == [27, 91, 437, 1659, 5239, 91, 29]


def test_lone_surrogates_become_replacement_characters(bpe: GPT2BPE) -> None:
    assert bpe.encode("a\ud800b\udc00") == bpe.encode("a\ufffdb\ufffd")


def test_batch_is_one_text_after_another(bpe: GPT2BPE) -> None:
    assert bpe.encode_batch(["Hello", "", " world"]) == [[15496], [], [995]]


@pytest.mark.parametrize(("character", "ids"), [("a", 250_000), (" ", 1_000_000), ("\n", 500_000), ("!", 125_000)])
def test_a_million_equal_characters_take_less_than_two_seconds(bpe: GPT2BPE, character: str, ids: int) -> None:
    bpe.encode("warm up")
    started = time.process_time()
    assert len(bpe.encode(character * 1_000_000)) == ids
    assert time.process_time() - started < 2


@pytest.mark.parametrize("length", [99_999, 100_000, 100_001, 1_500_001])
def test_long_spaces_before_a_word_leave_it_the_last_one(bpe: GPT2BPE, length: int) -> None:
    newlines = [628] * (length // 2) + [198] * (length % 2)
    text = " one" + "\n" * length + " two" + "\n" * length + " three" + "\n" * length
    assert bpe.encode(text) == [530, *newlines, 734, *newlines, 1115, *newlines]


def test_long_spaces_give_their_last_space_to_the_word(bpe: GPT2BPE) -> None:
    assert bpe.encode("Hello" + " " * 1_500_001 + "world") == [15496, *[220] * 1_500_000, 995]


def test_symbols_are_ids_in_decimal(bpe: GPT2BPE) -> None:
    assert len(bpe.symbols) == len(bpe.token_bytes) == len(bpe.starts_word) == 50257
    assert bpe.symbols[:2] == ["0", "1"]
    assert bpe.symbols[-1] == "50256"


def test_word_starts_are_tokens_with_a_space_in_front(bpe: GPT2BPE) -> None:
    assert bpe.starts_word[[995, 15496, 0, 220, 198]].tolist() == [True, False, False, True, False]


def test_config_builds_the_bpe_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "vocab.bpe").write_text("a b\n")
    assert len(BPES.build(GPT2BPEConfig(), tmp_path).symbols) == 258
    assert BPES.config_class("gpt2") is GPT2BPEConfig


def test_folder_without_files_means_the_package(bpe: GPT2BPE, tmp_path: Path) -> None:
    assert GPT2BPE.load(tmp_path).merges == bpe.merges


@pytest.mark.parametrize("names", [("vocab.bpe", "encoder.json"), ("merges.txt", "vocab.json")])
def test_ids_of_the_folders_own_encoder_win(tmp_path: Path, names: tuple[str, str]) -> None:
    encoder = {token: 257 - index for token, index in slow_encoder(["a b"]).items()}
    (tmp_path / names[0]).write_text("#version: 0.2\na b\n")
    (tmp_path / names[1]).write_text(json.dumps(encoder))
    bpe = GPT2BPE.load(tmp_path)
    assert bpe.encode("!ab") == [257, 1]
    assert bpe.decode_bytes([257, 1, 0]) == b"!ab<|endoftext|>"


def test_saved_bpe_loads_as_it_was(tmp_path: Path) -> None:
    encoder = {token: 257 - index for token, index in slow_encoder(["a b"]).items()}
    GPT2BPE(["a b"], encoder).save(tmp_path)
    assert GPT2BPE.load(tmp_path).merges == ["a b"]
    assert GPT2BPE.load(tmp_path).encoder == encoder


def test_bpe_survives_pickling_after_use(bpe: GPT2BPE) -> None:
    assert pickle.loads(pickle.dumps(bpe)).encode("Hello world!") == bpe.encode("Hello world!")


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ("#version: 0.2\na b\nabc\n", r"vocab\.bpe:3: 'abc': expected two tokens"),
        ("#version: 0.2\na b\nab c d\n", r"vocab\.bpe:3: 'ab c d': expected two tokens"),
        ("a b\nab cd\n", r"vocab\.bpe:2: 'ab cd': expected two tokens"),
        ("a b\na b\n", r"vocab\.bpe:2: 'a b': that token is made by a line above"),
        ("a b\n\n", r"vocab\.bpe:2: ''"),
        ("", r"vocab\.bpe:1: ''"),
        ("a 日\n", r"vocab\.bpe:1: .*restore the file"),
    ],
)
def test_damaged_merges_are_refused_with_file_and_line(tmp_path: Path, merges: str, message: str) -> None:
    (tmp_path / "vocab.bpe").write_text(merges, encoding="utf-8")
    with pytest.raises(VocabError, match=message):
        GPT2BPE.load(tmp_path)


def test_merges_that_are_not_utf8_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "vocab.bpe").write_bytes(b"a b\n\xff c\n")
    with pytest.raises(VocabError, match=r"vocab\.bpe:2: 0xff is not valid UTF-8"):
        GPT2BPE.load(tmp_path)


def test_merges_of_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / "vocab.bpe").write_bytes(b"\xef\xbb\xbf#version: 0.2\r\na b\r\n")
    assert GPT2BPE.load(tmp_path).merges == ["a b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda encoder: "{", r"encoder\.json:1: not JSON"),
        (lambda encoder: "[" * 200_000, r"encoder\.json: can't be read: .*recursion"),
        (lambda encoder: json.dumps(encoder).replace("64", "6" * 5000), r"encoder\.json: can't be read: .*digits"),
        (lambda encoder: "[1]", r"encoder\.json: expected an object"),
        (lambda encoder: json.dumps({**encoder, "a": "64"}), r"encoder\.json: expected an object"),
        (lambda encoder: json.dumps({**encoder, "a": 5}), r"encoder\.json: the ids of 258 tokens are not 0 to 257"),
        (lambda encoder: json.dumps({t: i for t, i in encoder.items() if i < 256}), r"encoder\.json: no id for 'ab'"),
        (lambda encoder: json.dumps({**encoder, "abc": 258}), r"vocab\.bpe: no merge makes 'abc'.*cut short"),
    ],
)
def test_damaged_encoders_are_refused(tmp_path: Path, change: Callable[[dict[str, int]], str], message: str) -> None:
    (tmp_path / "vocab.bpe").write_text("a b\n")
    (tmp_path / "encoder.json").write_text(change(slow_encoder(["a b"])))
    with pytest.raises(VocabError, match=message):
        GPT2BPE.load(tmp_path)


def test_an_encoder_without_merges_is_refused(tmp_path: Path) -> None:
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(VocabError, match=r"encoder\.json: there is no vocab\.bpe or merges\.txt beside it"):
        GPT2BPE.load(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabError, match="no such folder"):
        GPT2BPE.load(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"vocab\.bpe: can't be written"):
        GPT2BPE(["a b"]).save(tmp_path / "nowhere")
