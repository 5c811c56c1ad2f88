"""Coverage-guided fuzzing of the parsers that are written in Python, with atheris (pip install atheris).

    python -m tests.reliability.fuzz_readers all -max_total_time=40 -seed=1
    python -m tests.reliability.fuzz_readers index -max_total_time=120 -seed=1

The first goes through all parsers and prints a line of JSON for each. Both end with an error at an exception that is
not a documented one; the bytes that did it are left in a file.
"""

import contextlib
import gzip
import importlib
import io
import json
import logging
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from roberta.errors import CheckpointError, DataError, DownloadError, RobertaError, VocabError


def two_files() -> bytes:
    """Return a tar archive as of the hub."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("m/model.pt", "m/dict.txt"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    return stream.getvalue()[: 6 * 512]


# The name of the file, what its reader may raise, and a file to begin with.
TARGETS: dict[str, tuple[str, type[RobertaError], bytes]] = {
    "index": ("train.idx", DataError, b"MMIDIDX\0\0\1" + bytes(7) + b"\x08" + bytes(8)),
    "dictionary": ("dict.txt", VocabError, b"a 1\nb 2 #fairseq:overwrite\n"),
    "merges": ("vocab.bpe", VocabError, b"#version: 0.2\na b\nab c\n"),
    "tsv": ("train.tsv", DataError, b"sentence\tlabel\na\t1\n"),
    "csv": ("train.csv", DataError, b'a,label\n"x ""y""",1\n'),
    "jsonl": ("train.jsonl", DataError, b'{"a": "x", "label": 1}\n'),
    "squad": ("squad.json", DataError, b'{"data": [{"title": "t", "paragraphs": []}]}'),
    "gzip": ("m.tar.gz", DownloadError, gzip.compress(two_files(), mtime=0)),
    "tar": ("m.tar.gz", DownloadError, two_files()),  # compressed once it is damaged, or few would come through
    "pickle": ("model.pt", CheckpointError, b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."),
}


def read(target: str, path: Path) -> None:
    """Read a file as what it is to be; the modules are those that atheris has instrumented."""
    module = importlib.import_module
    if target == "index":
        dataset = module("roberta.data.indexed").IndexedDataset(path.with_name("train"))
        dataset.tokens(0, dataset.num_tokens)
    elif target == "dictionary":
        module("roberta.data.dictionary").Dictionary.load(path)
    elif target == "merges":
        module("roberta.bpe.gpt2").GPT2BPE.load(path.parent)
    elif target == "tsv":
        module("roberta.data.readers.glue").read_glue(path, "sst2", "train")
    elif target in ("csv", "jsonl"):
        table = module("roberta.data.readers.table")
        table.read_table(path, table.TableFormat(text_columns=("a",), label_column="label"))
    elif target == "squad":
        module("roberta.data.readers.squad").read_squad(path)
    elif target in ("gzip", "tar"):
        module("roberta.download").unpack(path, path.with_name("unpacked"))
    else:
        module("roberta.checkpoint.pickles").load(path, "fuzz")


def fuzz_all(options: list[str]) -> int:
    """Fuzz all parsers, each in a process of its own; return how many had a finding."""
    findings = 0
    for target in TARGETS:
        command = [sys.executable, "-m", "tests.reliability.fuzz_readers", target, *options]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        runs = re.search(r"^Done (\d+) runs", result.stderr, re.M)
        if result.returncode or runs is None:
            findings += 1
            print(result.stderr[-3000:], file=sys.stderr)
        print(
            json.dumps({"parser": target, "runs": int(runs[1]) if runs else 0, "exit": result.returncode}), flush=True
        )
    return findings


def main() -> None:
    target = sys.argv.pop(1)
    if target == "all":
        raise SystemExit(fuzz_all(sys.argv[1:]))
    import atheris

    name, allowed, first = TARGETS[target]
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        path, seeds = Path(folder) / name, Path(folder) / "seeds"
        seeds.mkdir()
        (seeds / "first").write_bytes(first)
        path.with_name("train.bin").write_bytes(bytes(64))
        path.write_bytes(gzip.compress(first) if target == "tar" else first)
        with atheris.instrument_imports(include=["roberta"]), contextlib.suppress(allowed):
            read(target, path)

        def once(data: bytes) -> None:
            path.write_bytes(gzip.compress(data, 1) if target == "tar" else data)
            with contextlib.suppress(allowed):
                read(target, path)

        atheris.Setup([*sys.argv, str(seeds)], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
