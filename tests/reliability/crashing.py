"""Crash at one given moment of a save: fork, count what the process asks of the disk, and leave before the n-th thing.

What is counted: files opened for writing, files written by safetensors (half of each is there after the crash), syncs,
renames, deletions, folders made and removed. Prints a line of JSON, and fails if a run did not recover from a crash, or
is not whole without one:

    python -m tests.reliability.crashing --every 1
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from roberta.checkpoint import folders, native
from roberta.errors import RobertaError
from tests.reliability.building import make_model, make_tokenizer, save_checkpoint

EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CRASHED, DONE = 137, 0


class Moments:
    """Count what this process asks of the disk, and leave without a word before the n-th thing."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.kinds: list[str] = []
        sys.addaudithook(self._audit)  # never goes away: for forked processes alone
        fsync, save_file = os.fsync, folders.save_file

        def counted_fsync(descriptor: int) -> None:
            self.pass_by("fsync")
            fsync(descriptor)

        def counted_save_file(tensors: Mapping[str, torch.Tensor], path: Path, **options: Any) -> None:
            save_file(tensors, path, **options)
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            self.pass_by("half a file")
            path.write_bytes(whole)

        os.fsync, folders.save_file = counted_fsync, counted_save_file

    def pass_by(self, kind: str) -> None:
        self.kinds.append(kind)
        if len(self.kinds) == self.last:
            os._exit(CRASHED)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            self.pass_by(event)


def crash(action: Callable[[], object], moment: int) -> Counter[str] | None:
    """Do something in a process that leaves before the n-th moment; return what it counted if it came to the end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        moments = Moments(moment)
        try:
            action()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os.write(writing, json.dumps(Counter(moments.kinds)).encode())
        os._exit(DONE)
    os.close(writing)
    with os.fdopen(reading, "rb") as counted:
        content = counted.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (CRASHED, DONE), status
    return Counter(json.loads(content)) if status == DONE else None


def next_save(run: Path) -> None:
    """Do what a run with --keep-checkpoints 2 --keep-best does when a new best checkpoint is due."""
    native.save(run / native.BEST, make_model(6.0), make_tokenizer())
    save_checkpoint(run / native.step_name(6), 6.0)
    native.prune(run, keep=2)


def value_of(folder: Path) -> float:
    """Return the one value of all parameters of a checkpoint, and make sure that it is one."""
    values = torch.cat([tensor.flatten() for tensor in native.load(folder).model.state_dict().values()])
    assert values.min() == values.max()
    return float(values.min())


def check(run: Path) -> None:
    """Make sure that a run is whole after a crash, for readers as it is, and after its next start.

    Between two renames the best model is away, and its next start brings it back; the checkpoints are always there.
    """
    newest = native.newest(run)
    assert newest is not None
    assert value_of(newest) in (4.0, 6.0)
    for folder in native.steps(run)[-2:]:
        native.verify(folder)
    assert len(native.steps(run)) >= 2
    native.forget_after(run, int(value_of(newest)))
    native.verify(run / native.BEST)
    assert value_of(run / native.BEST) in (2.0, 6.0)
    assert native.newest(run) == newest
    assert not list(run.glob(".tmp-*"))
    native.prune(run, keep=2)
    for folder in native.steps(run)[-2:]:
        native.verify(folder)


def is_whole(run: Path, moment: int) -> bool:
    """Return whether a run passes the check; say on stderr what is wrong if it does not."""
    try:
        check(run)
    except (AssertionError, RobertaError, OSError):
        print(f"after moment {moment}:", traceback.format_exc(), file=sys.stderr)
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="crash at every n-th moment")
    every = parser.parse_args().every
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        before, run = Path(folder) / "before", Path(folder) / "run"
        for value in (2.0, 4.0):
            save_checkpoint(before / native.step_name(int(value)), value)
        save_checkpoint(before / native.BEST, 2.0)
        counts, moment, whole = None, 1, []
        while counts is None:
            shutil.copytree(before, run)
            counts = crash(lambda: next_save(run), moment)
            whole.append(is_whole(run, moment))
            shutil.rmtree(run)
            moment += every
    print(json.dumps({"crashes": len(whole) - 1, "recovered": sum(whole[:-1]), "moments": counts}))
    return 0 if all(whole) else 1


if __name__ == "__main__":
    raise SystemExit(main())
