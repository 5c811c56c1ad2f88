"""Damage files at random and read them: the same contents, a documented error, or a defect.

    python -m tests.reliability.mutating --trials 10000 --seed 1

Prints a line of JSON for each reader: how many reads were `refused` with one of the reader's own errors, gave the
`same` as the whole file, gave something `other` without a word (which a file with a sum must never do), raised anything
else (`undocumented`), or took longer than SECONDS (`hung`). A line on stderr shows each defect.
"""

import argparse
import io
import json
import logging
import random
import shutil
import signal
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from roberta import manifest
from roberta.bpe import GPT2BPE
from roberta.checkpoint import fairseq_format, fairseq_writer, hf_format, hf_tokenizer, native
from roberta.data.dictionary import Dictionary
from roberta.data.indexed import IndexedDataset
from roberta.data.readers.glue import read_glue
from roberta.data.readers.squad import read_squad
from roberta.data.readers.table import TableFormat, read_table
from roberta.data.verification import verify
from roberta.download import unpack
from roberta.errors import CheckpointError, DataError, DownloadError, RobertaError, VocabError
from roberta.plotting import read_log
from tests.reliability.building import make_data, make_model, make_tokenizer, save_checkpoint

SECONDS = 10


class HungError(Exception):
    """A reader took too long."""


@dataclass(frozen=True)
class Reader:
    """Something that reads `files`: it returns what can be compared, or raises one of `errors`."""

    name: str
    files: tuple[Path, ...]
    read: Callable[[], Any]
    errors: tuple[type[RobertaError], ...]
    is_summed: bool  # a checksum covers the files: to read something else is a defect
    prepare: Callable[[], object] = field(default=lambda: None)  # after the damage, as an attacker would


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """Return the bytes with some damage: what disks, networks and editors do, and what breaks parsers."""
    kind = rng.randrange(8)
    if not raw:
        return rng.randbytes(rng.randint(1, 40))
    data, at = bytearray(raw), rng.randrange(len(raw))
    end = min(len(raw), at + rng.choice((1, 2, 4, 8, 64, 4096)))
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at] = rng.choice((0, 0x0A, 0x20, 0x2D, 0x30, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at:end]
    elif kind == 4:
        data[at:at] = data[at:end]
    elif kind == 5:
        data[at:end] = bytes(end - at)
    elif kind == 6:
        data[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
    else:
        for _ in range(rng.randint(2, 30)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def try_reader(reader: Reader, trials: int, rng: random.Random) -> Counter[str]:
    """Return how the reads of so many damaged files ended; the files are whole again afterwards."""
    whole = {path: path.read_bytes() for path in reader.files}
    expected = reader.read()
    counts: Counter[str] = Counter()
    for _ in range(trials):
        path = rng.choice(reader.files)
        damaged = mutate(whole[path], rng)
        path.write_bytes(damaged)
        reader.prepare()
        outcome = outcome_of(reader, expected)
        if outcome not in ("refused", "same") and (outcome != "other" or reader.is_summed):
            print(f"{reader.name}: {outcome}: {path.name}: {damaged[:200]!r}", file=sys.stderr)
        counts[outcome.partition(":")[0]] += 1
        path.write_bytes(whole[path])
    reader.prepare()
    return counts


def outcome_of(reader: Reader, expected: Any) -> str:
    signal.alarm(SECONDS)
    try:
        return "same" if reader.read() == expected else "other"
    except reader.errors:
        return "refused"
    except HungError:
        return "hung"
    except Exception as error:
        return f"undocumented: {error!r}"
    finally:
        signal.alarm(0)


def raise_hung(number: int, frame: object) -> None:
    raise HungError


def numbers(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def read_run(folder: Path) -> Any:
    checkpoint = native.load(folder)
    assert checkpoint.training is not None
    weights = numbers(checkpoint.model.state_dict())
    return (
        weights,
        numbers(checkpoint.training.optimizer),
        checkpoint.training.progress,
        checkpoint.tokenizer.encode("the"),
    )


def read_foreign(read: Callable[[Path], Any], path: Path) -> Any:
    found = read(path)
    return found.config, found.heads, numbers(found.state_dict)


def read_tokenizer(folder: Path) -> Any:
    tokenizer = hf_tokenizer.read(folder)
    return tokenizer.dictionary.symbols, tokenizer.encode("the cat sat, 42 é")


def resum(folder: Path) -> None:
    """Make the manifest fit the damaged files, as someone who means harm does."""
    (folder / manifest.MANIFEST).unlink(missing_ok=True)
    manifest.write(folder, sorted(path.name for path in folder.iterdir()))


def checkpoints(folder: Path) -> Iterable[Reader]:
    """Yield the readers of checkpoints: ours, and those of other libraries, of which the zip format alone has sums."""
    ours = save_checkpoint(folder / "run" / native.step_name(6), 6.0)
    files = tuple(sorted(ours.iterdir()))
    errors = (CheckpointError, VocabError)
    yield Reader("checkpoint", files, lambda: read_run(ours), errors, is_summed=True)
    small = tuple(ours / name for name in ("config.json", "state.json", "dict.txt", "vocab.bpe", "encoder.json"))
    sealed = (*small, ours / "model.safetensors")
    yield Reader(
        "checkpoint, sums forged", sealed, lambda: read_run(ours), errors, is_summed=False, prepare=lambda: resum(ours)
    )
    theirs = folder / "fairseq"
    fairseq_writer.write(theirs, make_model(0.5), make_tokenizer())
    model = theirs / "model.pt"
    yield Reader(
        "fairseq .pt (zip)", (model,), lambda: read_foreign(fairseq_format.read, model), errors, is_summed=True
    )
    legacy = folder / "legacy" / "model.pt"
    legacy.parent.mkdir()
    state = torch.load(model, weights_only=False)
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    yield Reader(
        "fairseq .pt (legacy)", (legacy,), lambda: read_foreign(fairseq_format.read, legacy), errors, is_summed=False
    )
    hf = folder / "hf"
    hf_format.write(hf, make_model(0.5), make_tokenizer())
    yield Reader(
        "Hugging Face folder",
        (hf / "config.json", hf / "model.safetensors"),
        lambda: read_foreign(hf_format.read, hf),
        errors,
        is_summed=False,
    )
    yield Reader(
        "Hugging Face tokenizer",
        (hf / "tokenizer.json", hf / "tokenizer_config.json"),
        lambda: read_tokenizer(hf),
        (VocabError,),
        is_summed=False,
    )


def corpora(folder: Path) -> Iterable[Reader]:
    """Yield the readers of binarised folders."""
    data = make_data(folder / "corpus")

    def read() -> Any:
        dataset = IndexedDataset(data / "train")
        return dataset.sizes.tolist(), dataset.tokens(0, dataset.num_tokens).tolist()

    def checked() -> Any:
        verify(data)
        return read()

    index, tokens = data / "train.idx", data / "train.bin"
    yield Reader(".idx", (index,), read, (DataError,), is_summed=True)
    yield Reader(
        ".bin, .idx and vocabulary with --verify",
        (*sorted(data.iterdir()),),
        checked,
        (DataError, VocabError),
        is_summed=True,
    )
    yield Reader(".bin", (tokens,), read, (DataError,), is_summed=False)
    dictionary = folder / "dict.txt"
    make_tokenizer().dictionary.save(dictionary)
    yield Reader("dict.txt", (dictionary,), lambda: Dictionary.load(dictionary).symbols, (VocabError,), is_summed=False)
    bpe = folder / "bpe"
    bpe.mkdir()
    make_tokenizer().bpe.save(bpe)
    yield Reader(
        "vocab.bpe, encoder.json",
        (bpe / "vocab.bpe", bpe / "encoder.json"),
        lambda: GPT2BPE.load(bpe).encode("the cat sat, 42 é"),
        (VocabError,),
        is_summed=False,
    )


def tables(folder: Path) -> Iterable[Reader]:
    """Yield the readers of data sets."""
    tsv = folder / "train.tsv"
    tsv.write_text(
        "sentence\tlabel\n" + "".join(f"text {i} \u00e9\u2028\t{i % 2}\n" for i in range(40)), encoding="utf-8"
    )
    yield Reader("TSV (SST-2)", (tsv,), lambda: read_glue(tsv, "sst2", "train"), (DataError,), is_summed=False)
    columns = TableFormat(text_columns=("a", "b"), label_column="label")
    comma, lines = folder / "train.csv", folder / "train.jsonl"
    comma.write_text("a,b,label\n" + "".join(f'"x ""{i}"" y",z,{i % 3}\n' for i in range(40)), encoding="utf-8")
    lines.write_text("".join(json.dumps({"a": str(i), "b": "é", "label": i % 3}) + "\n" for i in range(40)))
    for path in (comma, lines):
        yield Reader(path.suffix, (path,), lambda path=path: read_table(path, columns), (DataError,), is_summed=False)
    squad = folder / "squad.json"
    answers = [{"text": "cat", "answer_start": 4}]
    asked = [{"id": str(i), "question": "who?", "answers": answers, "is_impossible": False} for i in range(9)]
    paragraphs = [{"context": "the cat sat", "qas": asked}]
    squad.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps({"train": {"num_updates": i, "loss": 1.5}}) + "\n" for i in range(40)))
    yield Reader("log.jsonl", (log,), lambda: repr(read_log(log)), (DataError,), is_summed=False)
    yield Reader("SQuAD", (squad,), lambda: read_squad(squad), (DataError,), is_summed=False)


def archives(folder: Path) -> Iterable[Reader]:
    """Yield the reader of hub archives; what gzip's sum does not cover changes nothing."""
    path, target = folder / "m.tar.gz", folder / "unpacked"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in (("m/model.pt", b"weights" * 300), ("m/dict.txt", b"13 850314647\n" * 20)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    before = set(folder.iterdir())

    def read() -> dict[str, bytes]:
        try:
            unpack(path, target)
            return {file.name: file.read_bytes() for file in target.iterdir()}
        finally:
            shutil.rmtree(target, ignore_errors=True)
            assert set(folder.iterdir()) == before, "something was left behind"

    yield Reader("hub archive", (path,), read, (DownloadError,), is_summed=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--readers", nargs="*", default=None, help="those whose names begin so; all if not given")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, raise_hung)
    torch.set_num_threads(1)
    logging.disable()
    defects = 0
    with tempfile.TemporaryDirectory() as folder:
        for group in (checkpoints, corpora, tables, archives):
            place = Path(folder) / group.__name__
            place.mkdir()
            for reader in group(place):
                if options.readers and not reader.name.startswith(tuple(options.readers)):
                    continue
                counts = try_reader(reader, options.trials, random.Random(f"{options.seed} {reader.name}"))
                defects += counts["undocumented"] + counts["hung"] + (counts["other"] if reader.is_summed else 0)
                print(json.dumps({"reader": reader.name, "trials": options.trials, **counts}), flush=True)
    return 1 if defects else 0


if __name__ == "__main__":
    raise SystemExit(main())
