"""The code blocks of the documents: finding them, and running them as a reader would.

Every fence is `sh`, `python` or `text`, which is what the fence before it shows. A comment right above a fence, which
readers don't see, says what is done with it:

    <!-- not run: REASON -->   nothing, but the options of its commands must exist
    <!-- stand-in: REASON -->  it runs with random models in the place of those that would be downloaded
    <!-- slow: REASON -->      it runs with the slow tests only

Without one it runs with the tests, its training cut short, and complete with the slow tests. What a `python` fence
shows is what it prints, then the value of the expression that it ends with, as in a notebook. After a change of the
weights of roberta.mini this writes it anew, in the documents named:

    python -m tests.examples.documents README.md examples/features/README.md
"""

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
LANGUAGES = ("sh", "python", "text")
MARKERS = ("not run", "stand-in", "slow")
ELSEWHERE = {  # documents whose blocks have tests of their own
    "CONTRIBUTING.md": "tests/test_contributing.py",
    "examples/text_metrics/README.md": "tests/examples/test_text_metrics.py",
}
SHORTER = {  # a training run of a moment
    "roberta-train": ["--max-update", "2", "--warmup-updates", "0"],
    "roberta-finetune": ["--max-update", "2", "--max-tokens", "4096"],
}

_BLOCK = re.compile(r"(?:^<!-- ([a-z -]+): ([^\n]+) -->\n)?^```(?P<language>\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ENTRY_POINT = re.compile(r'"(roberta-\w+)=(roberta_cli\.\w+):main"')
_SHELL = re.compile(r"[|&;<>$`*{(]")


@dataclass(frozen=True)
class Block:
    """A fence: its place, its language, its code, and the marker above it with its reason; both empty without one."""

    place: str
    language: str
    code: str
    marker: str
    reason: str


def documents() -> list[Path]:
    """Return the documents for people who use the project."""
    return sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("examples/**/*.md")) if not _is_elsewhere(path))


def blocks(path: Path) -> list[Block]:
    """Return the fences of a document."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    return [
        Block(
            f"{name}:{text.count(chr(10), 0, found.start(3)) + 1}", found[3], found[4], found[1] or "", found[2] or ""
        )
        for found in _BLOCK.finditer(text)
    ]


def commands(code: str) -> Iterator[list[str]]:
    """Yield the words of each command of the project in a block of the shell."""
    for line in code.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|", line):
            words = shlex.split(part, comments=True)
            starts = [position for position, word in enumerate(words) if word in entry_points()]
            if starts:
                yield words[starts[0] :]


def entry_points() -> dict[str, str]:
    """Return the module of each command that setup.py installs."""
    return dict(_ENTRY_POINT.findall((ROOT / "setup.py").read_text(encoding="utf-8")))


def main_of(command: str) -> Callable[[Sequence[str]], int]:
    """Return the function behind a command."""
    main: Callable[[Sequence[str]], int] = import_module(entry_points()[command]).main
    return main


def lay_out(folder: Path) -> None:
    """Make a folder look like the root of the repository to a reader of the documents."""
    for name in ("examples", "hubconf.py"):
        (folder / name).symlink_to(ROOT / name)


def run_python(block: Block, names: dict[str, object]) -> str:
    """Run a block of Python, and return what it shows."""
    tree = ast.parse(block.code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, block.place, "exec"), names)
        value = eval(compile(ast.Expression(last.value), block.place, "eval"), names) if last else None
        if value is not None:
            print(value)
    return printed.getvalue()


def run_short(block: Block) -> None:
    """Run a block of the shell in this process and in the current folder, its training cut short.

    Raises:
        AssertionError: a command fails; with what it said.
    """
    if _SHELL.search(block.code):
        run_complete(block)
        return
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] in entry_points():
            errors = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
            with contextlib.redirect_stderr(errors):
                code = main_of(words[0])([*words[1:], *SHORTER.get(words[0], [])])
            assert code == 0, f"{block.place}: {line}\n{errors.buffer.getvalue().decode()}"
        elif words:
            run_complete(Block(block.place, "sh", line, "", ""))


def run_complete(block: Block) -> None:
    """Run a block of the shell as it stands, in the current folder.

    Raises:
        AssertionError: a command fails; with what it said.
    """
    path = os.pathsep.join((str(_programs(Path.cwd() / ".programs")), os.environ["PATH"]))
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-ec", block.code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{block.place}\n{done.stderr}"


def _programs(folder: Path) -> Path:
    """Return a folder with the commands of the project, and this python, whatever is installed."""
    folder.mkdir(exist_ok=True)
    runs = {name: f'exec {sys.executable} -m {module} "$@"' for name, module in entry_points().items()}
    runs |= {
        "python": f'exec {sys.executable} "$@"',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    }
    for name, line in runs.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def _is_elsewhere(path: Path) -> bool:
    return path.relative_to(ROOT).as_posix() in ELSEWHERE


def _write_shown(path: Path) -> None:
    """Run the Python of a document up to its first command, and write what it shows into the document."""
    names: dict[str, object] = {}
    text, shown = path.read_text(encoding="utf-8"), ""
    for block in blocks(path):
        if block.language == "sh" and not block.marker:
            break
        if block.language == "python" and not block.marker:
            shown = run_python(block, names)
        elif block.language == "text":
            text = text.replace(f"```text\n{block.code}```", f"```text\n{shown}```")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
            lay_out(Path(scratch))
            _write_shown(ROOT / argument)
