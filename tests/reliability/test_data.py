"""Corpora, vocabularies and texts under kills, damage and odd contents. Numbers are those of SECURITY.md's table."""

import errno
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.dictionary import SPECIALS, Dictionary
from roberta.data.indexed import IndexedDataset, IndexedWriter, token_type
from roberta.data.text import read_lines
from roberta.data.verification import verify
from roberta.errors import DataError, RobertaError, StorageError, VocabError
from roberta.manifest import MANIFEST
from roberta.tasks.masked_lm import MaskedLMTask, MaskedLMTaskConfig
from roberta_cli.preprocess import main
from tests.reliability.building import make_data, make_recipe, make_text, make_tokenizer

ROOT = Path(__file__).parents[2]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **changes}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    (tmp_path / "vocab").mkdir()
    make_tokenizer().save(tmp_path / "vocab")
    return tmp_path / "vocab"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "made")


def kill_preprocess(tmp_path: Path, vocab: Path, kills: int, seed: int) -> int:
    """Kill runs of roberta-preprocess at random moments, then let one end; return in how many it had not ended."""
    texts = [make_text(tmp_path / f"{number}.txt", 20_000, seed=number) for number in range(3)]
    options = ["--trainpref", *map(str, texts), "--vocab", str(vocab), "--shards", "--workers", "1"]
    command = [sys.executable, "-m", "roberta_cli.preprocess", *options, "--destdir"]
    rng, killed = random.Random(seed), 0
    start = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], env=environment(), check=True, capture_output=True)
    length = time.monotonic() - start
    for _ in range(kills):
        process = subprocess.Popen(
            [*command, str(tmp_path / "cut")], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.4, 0.9) * length)
        process.kill()
        killed += process.wait() != 0
        for idx in (tmp_path / "cut").glob("*.idx"):  # a corpus is whole as soon as its .idx is there
            IndexedDataset(idx.with_suffix(""))
        if (tmp_path / "cut" / "train2.idx").exists():  # nothing was left to do
            shutil.rmtree(tmp_path / "cut")
    subprocess.run([*command, str(tmp_path / "cut")], env=environment(), check=True, capture_output=True)
    ours, theirs = contents(tmp_path / "cut"), contents(tmp_path / "whole")
    assert not {name for name in ours if name.endswith(".part") or name == ".lock"}
    assert ours == theirs
    verify(tmp_path / "cut")
    return killed


def test_03_a_killed_preprocess_goes_on_and_ends_with_the_same_bytes(tmp_path, vocab):
    assert kill_preprocess(tmp_path, vocab, kills=2, seed=1) > 0


@pytest.mark.slow
def test_03_many_kills_of_preprocess(tmp_path, vocab):
    killed = kill_preprocess(tmp_path, vocab, kills=30, seed=2)
    print(json.dumps({"preprocess kills": killed, "identical": True}))


def test_07_a_disk_that_is_full_leaves_no_half_corpus(tmp_path, vocab):
    """The limit on the size of files stands for a full disk; the signal that comes with it is ignored."""
    text = make_text(tmp_path / "a.txt", 20_000)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    options = ["--trainpref", str(text), "--vocab", str(vocab), "--workers", "1", "--destdir", str(tmp_path / "out")]
    command = [sys.executable, "-m", "roberta_cli.preprocess", *options]
    result = subprocess.run(command, env=environment(), preexec_fn=limit, capture_output=True, text=True, check=False)
    assert result.returncode == StorageError.exit_code
    assert result.stderr.startswith("error: ")
    assert "can't be written: File too large; free space or choose another folder with --destdir" in result.stderr
    assert not (tmp_path / "out").exists()


def test_08_a_corpus_that_is_made_anew_does_not_change_under_its_readers(data, tmp_path, vocab):
    """Files are replaced and never cut, so that what is mapped stays: no SIGBUS."""
    reader = IndexedDataset(data / "train")
    before = reader.tokens(0, reader.num_tokens)
    text = make_text(tmp_path / "short.txt", 3)
    preprocess(PreprocessConfig(trainpref=(text,), validpref=(text,), destdir=data, vocab=vocab, workers=1))
    assert np.array_equal(reader.tokens(0, reader.num_tokens), before)
    assert IndexedDataset(data / "train").num_tokens < reader.num_tokens


def test_08_a_corpus_that_is_cut_is_refused_before_it_is_mapped(data):
    with (data / "train.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match=r"train\.bin: 100 bytes; expected \d+ for the \d+ tokens"):
        IndexedDataset(data / "train")


def test_11_every_flipped_bit_of_an_index_is_found_or_harmless(data):
    path = data / "train.idx"
    whole = path.read_bytes()
    dataset = IndexedDataset(data / "train")
    expected = dataset.tokens(0, dataset.num_tokens).tolist(), dataset.sizes.tolist()
    refused = 0
    bits = range(0, 8 * len(whole), 7)  # a different one of each byte
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = IndexedDataset(data / "train")
        except DataError:
            refused += 1
        else:
            assert (found.tokens(0, found.num_tokens).tolist(), found.sizes.tolist()) == expected
    assert refused == len(bits)


@pytest.mark.parametrize("name", ["train.bin", "train.idx", "valid.bin", "dict.txt", "vocab.bpe", "encoder.json"])
def test_11_verify_finds_a_flipped_bit_anywhere(data, name, capsys):
    assert main(["--verify", str(data)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "verified": str(data),
        "files": 7,
        "tokens": {"train": 60 * 13, "valid": 10 * 13} | found["tokens"],
        "without_sum": [],
    }
    raw = bytearray((data / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (data / name).write_bytes(raw)
    assert main(["--verify", str(data)]) == DataError.exit_code
    assert f"{data / name}: sha256 differs from MANIFEST.json" in capsys.readouterr().err


def test_11_a_corpus_without_sums_is_checked_as_far_as_can_be(data):
    (data / MANIFEST).unlink()
    assert verify(data).without_sum == ("train.bin", "train.idx", "valid.bin", "valid.idx")
    tokens = np.fromfile(data / "train.bin", dtype="<u2")
    tokens[7] = 5000
    tokens.tofile(data / "train.bin")
    with pytest.raises(DataError, match=r"train\.bin: tokens from \d+ to 5000 .* the dictionary beside it has 267"):
        verify(data)


@pytest.mark.parametrize("token", [267, 65_535])
def test_11_a_token_that_the_dictionary_does_not_have_is_named_before_it_is_computed_with(data, token):
    """A flipped bit that only --verify would find on opening."""
    tokens = np.fromfile(data / "train.bin", dtype="<u2")
    tokens[100] = token
    tokens.tofile(data / "train.bin")
    samples = MaskedLMTask(MaskedLMTaskConfig(data=data, tokens_per_sample=32)).samples("train")
    everything = np.arange(len(samples))
    (hurt,) = np.flatnonzero((samples.blocks[:, 0] <= 100) & (samples.blocks[:, 1] > 100))
    samples.batch(everything[everything != hurt], seed=1, epoch=1)
    message = (
        rf"train\.bin: token {token} in sample {hurt}, number 100 of the file; the dictionary has 0 to 266; .*--verify"
    )
    with pytest.raises(DataError, match=message):
        samples.batch(everything[::-1], seed=1, epoch=1)


def test_11_sums_of_splits_that_stay_are_not_made_anew(data, tmp_path, vocab):
    """Or damage that came in between would be sealed as right."""
    raw = bytearray((data / "valid.bin").read_bytes())
    raw[0] ^= 1
    (data / "valid.bin").write_bytes(raw)
    text = make_text(tmp_path / "a.txt", 5)
    preprocess(PreprocessConfig(trainpref=(text,), destdir=data, vocab=vocab, workers=1))
    with pytest.raises(DataError, match=r"valid\.bin: sha256 differs"):
        verify(data)


def test_11_a_folder_without_corpus_is_no_success(tmp_path):
    with pytest.raises(DataError, match=r"no \.idx file; give a folder that roberta-preprocess made"):
        verify(tmp_path)


def test_11_a_crash_between_the_files_of_a_corpus_leaves_no_mix(data, monkeypatch):
    """A new .bin beside an old .idx of the same size would be read without a word."""
    replace, calls = os.replace, 0

    def crash(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        replace(source, target)

    dataset = IndexedDataset(data / "train")
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt), IndexedWriter(data / "train", 267) as writer:
        writer.add_many(dataset.tokens(0, dataset.num_tokens)[::-1], np.asarray(dataset.sizes))
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"train\.idx: can't be read"):
        IndexedDataset(data / "train")


def fairseq_accepts(text: str) -> list[str] | None:
    """Return the symbols that fairseq's add_from_file would add, written from its documentation; None if it raises."""
    symbols, known = [], set(SPECIALS)
    for line in text.split("\n")[: None if not text.endswith("\n") else -1]:
        fields = line.rstrip().rsplit(" ", 1)
        if len(fields) < 2:
            return None
        symbol, count = fields
        overwrites = count == "#fairseq:overwrite"
        if overwrites:
            if " " not in symbol:
                return None
            symbol, count = symbol.rsplit(" ", 1)
        try:
            int(count)
        except ValueError:
            return None
        if symbol in known and not overwrites:
            return None
        known.add(symbol)
        symbols.append(symbol)
    return symbols


def test_12_dictionaries_are_accepted_and_refused_as_by_fairseq_and_never_more(tmp_path):
    """We also refuse empty symbols, of which no dictionary has any."""
    rng, path = random.Random(12), tmp_path / "dict.txt"
    parts = ["a", "b", "13", " ", " ", "\n", "\n", "<s>", "#fairseq:overwrite", "7", "é", "\u2028", "\t", "x y"]
    accepted = 0
    for _ in range(1500):
        text = "".join(rng.choice(("a 1\n", "b 2\n", "c 3 \n", rng.choice(parts))) for _ in range(rng.randint(1, 6)))
        path.write_text(text, encoding="utf-8", newline="")
        theirs = fairseq_accepts(text)
        if theirs is None or "" in theirs:
            with pytest.raises(VocabError, match=re.escape(f"{path}:")):
                Dictionary.load(path)
        else:
            accepted += 1
            assert Dictionary.load(path).symbols[len(SPECIALS) : -1] == theirs, text
    assert accepted > 100


def test_24_a_text_that_is_no_utf8_is_located_to_the_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(DataError, match=r"a\.txt:2: byte offset 8: 0xff is not valid UTF-8"):
        list(read_lines(path))


@pytest.mark.slow
def test_27_a_line_of_ten_megabytes_is_read_in_bounded_time_and_memory(tmp_path, vocab):
    """Words, and one word of a million letters, within 2 GB of address space."""
    rng = random.Random(27)
    words = " ".join("".join(rng.choices("abcdefgh", k=6)) for _ in range(1_300_000))
    text = tmp_path / "a.txt"
    text.write_text(words + "\n" + "".join(rng.choices("abcdefgh", k=1_000_000)) + "\n")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))

    command = [sys.executable, "-m", "roberta_cli.preprocess", "--trainpref", str(text), "--workers", "1"]
    start = time.monotonic()
    result = subprocess.run(
        [*command, "--destdir", str(tmp_path / "out")],
        env=environment(OPENBLAS_NUM_THREADS="1"),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    print(json.dumps({"bytes": text.stat().st_size, "seconds": round(time.monotonic() - start, 1)}))


def test_41_paths_with_spaces_line_ends_and_no_utf8_work_and_can_be_printed(tmp_path):
    name = os.fsdecode(b"\xff \xc3\xa9 \n\xe2\x80\xa8 end")
    folder = tmp_path / name / ("long" * 50)
    data = make_data(folder)
    assert verify(data).files == 7
    command = [sys.executable, "-m", "roberta_cli.preprocess", "--verify", os.fspath(folder / "absent")]
    result = subprocess.run(command, env=environment(), capture_output=True, check=False)
    assert result.returncode == DataError.exit_code
    assert result.stderr.startswith(b"error: ")
    assert rb"\udcff" in result.stderr


@pytest.mark.parametrize("language", ["POSIX", "C.UTF-8"])
def test_42_the_locale_changes_no_byte(tmp_path, vocab, language):
    text = tmp_path / "é.txt"
    text.write_text("the cat sät\u2028on\n\nthe mat\n" * 20, encoding="utf-8")
    options = ["--trainpref", os.fspath(text), "--vocab", str(vocab), "--destdir", str(tmp_path / language)]
    plain = environment(LC_ALL=language, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    command = [sys.executable, "-m", "roberta_cli.preprocess", *options]
    result = subprocess.run(command, env=plain, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    preprocess(PreprocessConfig(trainpref=(text,), destdir=tmp_path / "here", vocab=vocab))
    assert contents(tmp_path / language) == contents(tmp_path / "here")


def test_43_huge_vocabularies_and_positions_do_not_overflow(tmp_path):
    assert token_type(1_160_000) == np.dtype("<u4")
    symbols = [str(number) for number in range(500_000)]
    Dictionary(symbols, [1] * len(symbols)).save(tmp_path / "dict.txt")
    dictionary = Dictionary.load(tmp_path / "dict.txt")
    assert len(dictionary) == 500_005
    with IndexedWriter(tmp_path / "train", len(dictionary)) as writer:
        writer.add([499_999, 65_536, 2])
    assert IndexedDataset(tmp_path / "train")[0].tolist() == [499_999, 65_536, 2]


def test_43_starts_beyond_two_to_the_31_are_counted_in_64_bits(tmp_path):
    """Three sentences of 2^30 tokens: only the index is real, the tokens are a hole in a file."""
    import struct

    sizes = np.full(3, 2**30, dtype="<i4")
    starts = (np.arange(3, dtype="<i8") * 2**30) * 2
    header = struct.pack("<9sQBQ", b"MMIDIDX\x00\x00", 1, 8, 3)
    (tmp_path / "train.idx").write_bytes(header + sizes.tobytes() + starts.tobytes())
    with (tmp_path / "train.bin").open("wb") as file:
        file.truncate(3 * 2**30 * 2)
    dataset = IndexedDataset(tmp_path / "train")
    assert dataset.num_tokens == 3 * 2**30
    assert dataset.tokens(3 * 2**30 - 2, 3 * 2**30).tolist() == [0, 0]


def test_44_a_run_is_not_resumed_with_another_dictionary(data, tmp_path):
    from roberta.trainer import Trainer

    Trainer(make_recipe(data, tmp_path / "run", 3)).train()
    lines = (data / "dict.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / "dict.txt").write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    with pytest.raises(RobertaError, match="its dictionary is not the model's"):
        Trainer(make_recipe(data, tmp_path / "run", 6)).train()


def test_07_a_full_disk_while_the_vocabulary_is_written_leaves_no_splits(tmp_path, vocab, monkeypatch):
    text = make_text(tmp_path / "a.txt", 5)
    from roberta.bpe import GPT2BPE

    def full(bpe: object, folder: Path) -> None:
        raise StorageError(os.strerror(errno.ENOSPC))

    monkeypatch.setattr(GPT2BPE, "save", full)
    with pytest.raises(StorageError):
        preprocess(PreprocessConfig(trainpref=(text,), destdir=tmp_path / "out", vocab=vocab, workers=1))
    assert not {path.suffix for path in (tmp_path / "out").iterdir()} & {".bin", ".idx", ".part"}
