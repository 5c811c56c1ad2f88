"""What all commands share: help, versions, completion, how results are shown, and what is said of wrong options."""

import errno
import importlib
import importlib.metadata
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from roberta.errors import ConfigError, TrainingError
from roberta_cli import completion, entry
from roberta_cli.entry import Parser, check_output, load_user_modules, run
from roberta_cli.results import show, table

COMMANDS = {
    "roberta-preprocess": "preprocess",
    "roberta-train": "train",
    "roberta-finetune": "finetune",
    "roberta-eval": "evaluate",
    "roberta-score": "score",
    "roberta-plot": "plot",
    "roberta-inspect": "inspect",
    "roberta-convert": "convert",
    "roberta-quickstart": "quickstart",
}
RESULT = {"lines": 3, "loss": 2.0 / 3}


def main_of(command: str):
    return importlib.import_module(f"roberta_cli.{COMMANDS[command]}").main


def printed_by(command: str, *arguments: str, capsys) -> str:
    """Return what a command prints that leaves with 0, as those do that tell about themselves."""
    with pytest.raises(SystemExit) as stop:
        main_of(command)(list(arguments))
    assert stop.value.code == 0
    return capsys.readouterr().out


def parser() -> Parser:
    made = Parser("roberta-try", "FILE", description="", example="")
    made.add_argument("file", type=Path, metavar="FILE")
    made.add_argument("--kind", choices=["small", "large"])
    made.add_argument("--model")
    return made


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_grouped_and_ends_with_an_example(command, capsys):
    shown = printed_by(command, "--help", capsys=capsys)
    usage = shown.splitlines()[0]
    assert usage.startswith(f"usage: {command} ")
    assert usage.endswith("[options]")
    general, example = shown.index("\ngeneral:\n"), shown.index("\nexample:\n")
    assert command in shown[example:]
    assert general < example
    assert "  --" in shown[:general]
    assert ("(default: " in shown[:general]) == (command != "roberta-convert")  # whose options have none
    assert "(default: )" not in shown
    for option in ("--quiet", "--json", "--debug", "--version", "--print-completion"):
        assert option in shown[general:]


@pytest.mark.parametrize("command", COMMANDS)
def test_versions_are_told(command, capsys):
    assert main_of(command)(["--version"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("roberta ")
    assert f"torch {importlib.metadata.version('torch')}" in shown


def test_the_version_of_a_command_needs_no_torch():
    code = "import sys; from roberta_cli.train import main; main(['--version']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("command", ["roberta-train", "roberta-finetune", "roberta-score"])
def test_shells_get_all_options(command, capsys):
    pytest.importorskip("shtab")
    shown = printed_by(command, "--print-completion", "bash", capsys=capsys)
    assert "--max-tokens" in shown
    if shutil.which("bash"):
        subprocess.run(["bash", "-n"], input=shown, text=True, check=True)


def test_paths_are_completed_where_an_option_takes_one():
    shtab = pytest.importorskip("shtab")
    made = parser()
    assert "_shtab_roberta_try_pos_0_COMPGEN" in completion.script(made, "bash")
    found = {action.dest: getattr(action, "complete", None) for action in made._actions}
    assert found["file"] == found["model"] == shtab.FILE
    assert found["kind"] is None


def test_without_shtab_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(ConfigError, match=r"pip install 'roberta\[completion\]'"):
        completion.script(parser(), "bash")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: FILE; give them before the options; see roberta-try --help"),
        (["a", "--kind", "lrage"], "invalid choice: 'lrage'; allowed: large, small; did you mean large?"),
        (["a", "--kidn=x"], "unknown argument '--kidn=x'; did you mean --kind? see roberta-try --help"),
        (["a", "--zzz"], "unknown argument '--zzz'; see roberta-try --help"),
        (["@gone.args"], "@gone.args: no such file; what begins with @ is the path of a recipe, a file of options;"),
        (["@anna said"], "; give a text that begins with @ as @@anna said"),
        (["@/"], "@/: can't be read: [Errno 21] Is a directory: '/'; what begins with @ is the path of a recipe"),
    ],
)
def test_wrong_arguments_are_named_with_what_to_do(arguments, message):
    with pytest.raises(ConfigError) as refused:
        parser().parse_args(arguments)
    assert message in str(refused.value)


def test_a_text_may_begin_with_the_sign_of_a_recipe():
    given = parser().parse_args(["@@anna said", "--model", "@@@"])
    assert (str(given.file), given.model) == ("@anna said", "@@")


def test_a_recipe_may_insert_others_but_not_itself(tmp_path):
    inner, outer = tmp_path / "inner.args", tmp_path / "outer.args"
    inner.write_text("--kind small  # not large\n\n--model @@x\n")
    outer.write_text(f"@{inner}\n")
    given = parser().parse_args(["a", f"@{outer}", "--kind", "large"])
    assert (given.kind, given.model) == ("large", "@x")
    inner.write_text('\ufeff--kind small --model "a b#c"\n', encoding="utf-8")
    assert parser().parse_args(["a", f"@{outer}"]).model == "a b#c"
    inner.write_text("--kind small --model don't\\n")
    assert parser().parse_args(["a", f"@{outer}"]).model == "don't\\n"
    inner.write_text('--model "a')
    with pytest.raises(ConfigError, match=r"inner\.args: can't be read: No closing quotation"):
        parser().parse_args(["a", f"@{outer}"])
    inner.write_text(f"--kind small @{outer}")
    with pytest.raises(ConfigError, match=r"outer\.args: the recipe inserts itself, by way of @.*inner\.args; take"):
        parser().parse_args(["a", f"@{outer}"])


def out_of_memory(kind: str) -> None:
    """Ask for more memory than there is, in a way."""
    if kind == "cpu":
        importlib.import_module("torch").empty(2**50)
    if kind == "cuda":
        raise importlib.import_module("torch").OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")
    if kind == "numpy":
        importlib.import_module("numpy").empty(2**50)
    if kind == "os":
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    raise MemoryError


@pytest.mark.parametrize("kind", ["cpu", "cuda", "numpy", "os", "python"])
def test_memory_that_does_not_suffice_is_one_line_with_what_to_change(kind, capsys):
    assert run(lambda argv: out_of_memory(kind), []) == TrainingError.exit_code
    told = capsys.readouterr().err
    assert told.startswith("error: out of memory (")
    assert "lower --batch-size and --max-tokens where the command has them" in told
    assert told.count("\n") == 1


def test_other_errors_of_the_program_are_shown_whole():
    def fail(argv: object) -> None:
        raise RuntimeError("a shape is wrong")

    with pytest.raises(RuntimeError, match="a shape is wrong"):
        run(fail, [])


def test_off_a_terminal_a_result_is_one_line_of_json(capsys):
    assert run(lambda argv: RESULT, []) == 0
    assert capsys.readouterr().out == json.dumps(RESULT) + "\n"


def test_a_number_that_is_not_finite_is_null_in_json(capsys):
    assert run(lambda argv: {"valid": {"loss": math.nan, "ppl": math.inf, "num_updates": 3}}, []) == 0
    assert capsys.readouterr().out == '{"valid": {"loss": null, "ppl": null, "num_updates": 3}}\n'


def test_on_a_terminal_a_result_is_a_table_unless_json_is_asked_for(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run(lambda argv: RESULT, []) == 0
    assert capsys.readouterr().out == "lines  3\nloss   0.666667\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run(lambda argv: RESULT, ["--json"]) == 0
    assert capsys.readouterr().out == json.dumps(RESULT) + "\n"


def test_the_options_of_showing_may_stand_in_a_recipe(tmp_path, capsys, monkeypatch):
    (tmp_path / "recipe.args").write_text("--json  # for a program\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run(lambda argv: RESULT, [f"@{tmp_path}/recipe.args"]) == 0
    assert json.loads(capsys.readouterr().out) == RESULT


def test_a_result_with_words_of_its_own_is_told_in_them(capsys, monkeypatch):
    class Told:
        def to_json(self) -> str:
            return "{}"

        def __str__(self) -> str:
            return "in words"

    show(Told(), as_json=False)
    assert capsys.readouterr().out == "{}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    show(Told(), as_json=False)
    assert capsys.readouterr().out == "in words\n"


def test_a_table_takes_whatever_a_result_holds():
    result = {
        "none": None,
        "empty": {},
        "list": [1, 2.5],
        "matrix": [[1, 2], [3, 4]],
        "rows": [{"a": "x", "b": {"c": 1}}],
    }
    assert table(result).splitlines() == [
        "none   -",
        "empty  ()",
        "list   1  2.5",
        "matrix",
        "  1  2",
        "  3  4",
        "rows",
        "  a x  b (c 1)",
    ]


def test_quiet_leaves_the_result_and_errors():
    code = (
        "import logging, sys, warnings\n"
        "from roberta.progress import progress_bar\n"
        "from roberta_cli.entry import run\n"
        "def command(argv):\n"
        "    logger = logging.getLogger('roberta.part')\n"
        "    logger.info('told'), logger.warning('warned'), logger.error('failed'), warnings.warn('bad')\n"
        "    return {'a': 1}\n"
        "sys.exit(run(command, sys.argv[1:]))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    quiet = subprocess.run([sys.executable, "-c", code, "--quiet"], capture_output=True, text=True, check=True)
    assert told.stdout == quiet.stdout == '{"a": 1}\n'
    assert told.stderr.splitlines()[:3] == ["told", "warned", "failed"]
    assert "UserWarning: bad" in told.stderr
    assert quiet.stderr == "failed\n"


def test_the_levels_of_logging_are_as_before_afterwards():
    before = logging.getLogger().level, logging.getLogger("roberta").level
    for arguments in (["--quiet"], []):
        run(lambda argv: None, arguments)
        assert (logging.getLogger().level, logging.getLogger("roberta").level) == before
    with pytest.warns(UserWarning, match="still shown"):
        warnings.warn("still shown", stacklevel=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="pipes as on Unix")
def test_a_reader_that_leaves_is_no_error():
    code = "import sys; from roberta_cli.entry import run\nsys.exit(run(lambda argv: {'text': 'x' * 10**6}, []))"
    command = f'{sys.executable} -c "{code}" | head -c 1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("{", "", entry.BROKEN_PIPE)


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SMAPS = Path("/proc/self/smaps_rollup")
FILL = """
import sys
from pathlib import Path
from roberta_cli.train import run

def command(argv):
    import torch
    block = torch.ones(64, 2**20, dtype=torch.uint8)
    text = Path("/proc/self/smaps_rollup").read_text()
    return {"huge_kilobytes": int(text.split("AnonHugePages:")[1].split()[0]), "bytes": block.nbytes}

sys.exit(run(command, []))
"""


@pytest.mark.skipif(
    not SMAPS.exists() or not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(),
    reason="huge pages on request, as most Linux systems have them",
)
@pytest.mark.parametrize(("given", "has_huge"), [({}, True), ({entry.HUGE_PAGES: "0"}, False)])
def test_large_blocks_are_in_huge_pages_unless_the_environment_says_otherwise(given, has_huge):
    environment = {name: value for name, value in os.environ.items() if name != entry.HUGE_PAGES}
    done = subprocess.run(
        [sys.executable, "-c", FILL], env=environment | given, capture_output=True, text=True, check=True
    )
    assert (json.loads(done.stdout)["huge_kilobytes"] >= 2**15) == has_huge


@pytest.mark.parametrize(
    ("command", "given", "hint"),
    [
        ("roberta-train", "--max-sentences", "--batch-size"),
        ("roberta-train", "--fp16", "--precision fp16"),
        ("roberta-train", "--user-dir=x", "--user-module"),
        ("roberta-train", "--restore-file", "--init-from"),
        ("roberta-finetune", "--best-checkpoint-metric", "--metric"),
        ("roberta-train", "--best-checkpoint-metric", "--keep-checkpoints"),  # which has no --metric
    ],
)
def test_names_of_fairseqs_options_lead_to_those_here(command, given, hint, capsys):
    place = ("rte", "folder") if command == "roberta-finetune" else ("folder",)
    assert main_of(command)([*place, "--save-dir", "run", given]) == 2
    assert f"did you mean {hint}? see" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["./spoken.py", ".spoken", "", "a/b", "spoken.py"])
def test_a_module_is_given_by_its_name(name):
    with pytest.raises(ConfigError, match="not the name of a module; give one such as spoken"):
        load_user_modules([name])


def test_an_output_that_could_not_be_written_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "in.txt").touch()
    for path, message in (
        (tmp_path / "no" / "x", "--per-line .*: no such folder; name a file in one"),
        (tmp_path, "a folder; name a file in one"),
        (tmp_path / "in.txt", "what is read would be replaced"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_output("--per-line", path, tmp_path / "in.txt")
    for path in (None, tmp_path / "out.txt", Path("out.txt")):
        check_output("--per-line", path, tmp_path / "in.txt")
