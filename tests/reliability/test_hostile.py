"""Files that mean harm: pickles that would run code, bombs, archives that would leave their folder.

Numbers are those of SECURITY.md's table; tests/checkpoint/test_fairseq_format.py and tests/test_download.py have more.
"""

import json
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from roberta.checkpoint import fairseq_format, fairseq_writer, hf_format
from roberta.errors import CheckpointError
from tests.reliability.building import make_model, make_tokenizer

ROOT = Path(__file__).parents[2]
MEMORY = 2**30  # bytes of address space beyond what the imports take
SECONDS = 30
READ = f"""import resource, sys
from pathlib import Path
from roberta.checkpoint.fairseq_format import read
from roberta.errors import CheckpointError
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, 2 * (pages * resource.getpagesize() + {MEMORY},))
for path in sys.argv[1:]:
    try:
        read(Path(path))
        print("read")
    except CheckpointError as error:
        print("refused:", error)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a genuine fairseq checkpoint in zip format."""
    fairseq_writer.write(tmp_path / "fairseq", make_model(0.5), make_tokenizer())
    return tmp_path / "fairseq" / "model.pt"


def with_pickle(path: Path, change: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(content) if name.endswith("/data.pkl") else content)


class Call:
    """Pickles to a call."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.name, self.arguments = name, arguments

    def __reduce__(self) -> tuple[object, ...]:
        module, _, function = self.name.rpartition(".")
        return getattr(__import__(module, fromlist=["x"]), function), self.arguments


CALLS = {
    "os.system": "touch {}",
    "os.popen": "touch {}",
    "os.mkdir": "{}",
    "subprocess.getoutput": "touch {}",
    "subprocess.Popen": "touch {}",
    "builtins.eval": "open('{}', 'w')",
    "builtins.exec": "open('{}', 'w')",
    "builtins.compile": "{}",
    "builtins.open": "{}",
    "builtins.__import__": "antigravity",
    "builtins.getattr": "{}",
    "builtins.bytearray": 2**33,
    "importlib.import_module": "this",
    "runpy.run_path": "{}",
    "shutil.rmtree": "{}",
    "pathlib.Path": "{}",
    "pickle.loads": b"cos\nsystem\n(S'touch {}'\ntR.",
    "torch.load": "{}",
    "torch.hub.load": "{}",
    "torch.nn.Module": "x",
    "numpy.load": "{}",
    "code.interact": "x",
    "webbrowser.open": "{}",
    "socket.socket": 2,
    "ctypes.CDLL": "{}",
    "timeit.timeit": "open('{}', 'w')",
    "functools.partial": len,
}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_38_a_pickle_that_calls_anything_is_refused_by_name_and_nothing_runs(name, is_zip, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "model.pt"
    argument = CALLS[name]
    given = argument.format(canary) if isinstance(argument, str) else argument
    torch.save({"args": Call(name, given), "model": {}}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match=r"refused global [\w.]+, which could run code"):
        fairseq_format.read(path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.pt"]


@pytest.mark.parametrize(
    "content", [b"7z\xbc\xaf\x27\x1c" + bytes(200), b"Rar!\x1a\x07" + bytes(200), b"\x80\x05K\x01."]
)
def test_38_containers_that_torch_never_writes_are_refused(content, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pt: can't be read"):
        fairseq_format.read(path)


@pytest.mark.parametrize("name", ["data.pkl", "other/data.pkl", "model/data.pkl"])
def test_38_a_second_pickle_in_the_container_does_not_run(name, model, tmp_path):
    canary = tmp_path / "canary"
    evil = pickle.dumps(Call("os.system", f"touch {canary}"), protocol=2)
    with warnings.catch_warnings(), zipfile.ZipFile(model, "a") as archive:
        warnings.simplefilter("ignore")  # a name that is there twice
        archive.writestr(name, evil)
    with pytest.raises(CheckpointError):
        fairseq_format.read(model)
    assert not canary.exists()


def test_38_an_archive_within_the_container_is_not_looked_into(model, tmp_path):
    canary = tmp_path / "canary"
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Call("os.system", f"touch {canary}"), protocol=2))
    with zipfile.ZipFile(model, "a") as archive:
        archive.writestr("model/inner.zip", (tmp_path / "inner.zip").read_bytes())
    fairseq_format.read(model)
    assert not canary.exists()


def test_38_what_an_environment_variable_allows_torch_is_not_allowed_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary, path = tmp_path / "canary", tmp_path / "model.pt"
    torch.save({"args": Call("os.system", f"touch {canary}"), "model": {}}, path)
    with pytest.raises(CheckpointError, match="refused global"):
        fairseq_format.read(path)
    assert not canary.exists()


BOMBS = {
    "a byte array of 2^40": lambda data: data[:2] + b"\x96" + struct.pack("<Q", 2**40) + b"0" + data[2:],
    "bytes of 2^40": lambda data: data[:2] + b"\x8e" + struct.pack("<Q", 2**40) + b"0" + data[2:],
    "a string of 2^31": lambda data: data[:2] + b"X" + struct.pack("<I", 2**31) + b"0" + data[2:],
    "an integer of 2^30 bytes": lambda data: data[:2] + b"\x8b" + struct.pack("<i", 2**30) + b"0" + data[2:],
    "an integer of a million digits": lambda data: data[:2] + b"L" + b"9" * 1_000_000 + b"L\n0" + data[2:],
    "a place of 2^32 in the memo": lambda data: data[:2] + b"Nr" + struct.pack("<I", 2**32 - 1) + b"0" + data[2:],
    "lists in lists": lambda data: data[:2] + b"]" * 1_000_000 + b"a" * 999_999 + b"0" + data[2:],
    "dicts of dicts": lambda data: data[:2] + b"}N" * 500_000 + b"}" + b"s" * 500_000 + b"0" + data[2:],
    "tuples in tuples": lambda data: data[:2] + b"N" + b"\x85" * 1_000_000 + b"0" + data[2:],
    "doubled lists": lambda data: data[:2] + b"]q\x7f" + b"(h\x7fh\x7fe" * 100_000 + b"0" + data[2:],
}


def test_39_bombs_take_neither_memory_nor_time(model, tmp_path):
    """They are refused, or read as the harmless things that stand beside them; never a crash."""
    paths = []
    for number, bomb in enumerate(BOMBS.values()):
        paths.append(Path(shutil.copy(model, tmp_path / f"{number}.pt")))
        with_pickle(paths[-1], bomb)
    answers = limited_read(*paths)
    assert len(answers) == len(BOMBS)
    print(json.dumps({"bombs": len(BOMBS), "refused": sum(answer != "read" for answer in answers)}))


def test_39_containers_and_options_that_say_too_much_are_refused(model, tmp_path):
    raw = model.read_bytes()
    at = raw.index(b"PK\x01\x02")
    container, layers = tmp_path / "container.pt", tmp_path / "layers.pt"
    container.write_bytes(raw[: at + 24] + struct.pack("<I", 2**32 - 2) + raw[at + 28 :])
    state = torch.load(model, weights_only=False)
    state["args"].encoder_layers = 10**9
    torch.save(state, layers)
    first, second = limited_read(container, layers)
    assert first.startswith("refused:")
    assert "encoder_layers" in second


def test_39_a_header_that_says_it_is_huge_is_refused(tmp_path):
    hf_format.write(tmp_path / "hf", make_model(0.5), make_tokenizer())
    weights = tmp_path / "hf" / "model.safetensors"
    raw = weights.read_bytes()
    for size in (0, 10, 2**31, 2**63, 2**64 - 1):
        weights.write_bytes(struct.pack("<Q", size) + raw[8:])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            hf_format.read(tmp_path / "hf")


def test_39_json_that_is_deep_or_full_of_digits_is_refused(tmp_path):
    hf_format.write(tmp_path / "hf", make_model(0.5), make_tokenizer())
    config = tmp_path / "hf" / "config.json"
    values = json.loads(config.read_text())
    bombs = ["[" * 10**6, '{"a":' * 10**5, "1" * 10**6]
    bombs += [json.dumps({**values, "num_hidden_layers": value}) for value in (10**9, -1, 1e400, "12", [12], None)]
    for text in bombs:
        config.write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            hf_format.read(tmp_path / "hf")


def limited_read(*paths: Path) -> list[str]:
    """Read checkpoints in a process of little memory and time, and return what it printed of each."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", READ, *map(str, paths)],
        env=environment,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode not in (-signal.SIGSEGV, -signal.SIGKILL, -signal.SIGXCPU, -signal.SIGABRT), result.stderr
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.splitlines()
