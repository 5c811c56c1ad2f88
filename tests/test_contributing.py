"""The worked example of CONTRIBUTING.md, done as it says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the module of the document."""
    (module,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path_factory.mktemp("contributing")
    (path / "spoken.py").write_text(module, encoding="utf-8")
    return path


def run(*command: str, folder: Path) -> str:
    """Run a command with this interpreter's programs first on the path, and return what it prints."""
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | {"PATH": programs, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_module_trains_above_guessing_and_its_run_opens(folder):
    (commands,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    result = json.loads(run("bash", "-ec", commands, folder=folder))
    assert result["valid"]["num_targets"] == 507
    assert result["valid"]["accuracy"] > 0.8  # 0.64 for the larger class
    code = "import spoken, roberta; print(roberta.from_pretrained('spoken-run').model.head_config('spoken'))"
    assert run(sys.executable, "-c", code, folder=folder).strip() == "LinearHeadConfig(bias=True)"


def test_the_options_of_the_module_stand_in_the_help(folder):
    code = "import sys; from roberta_cli.train import main; sys.exit(main(sys.argv[1:]))"
    options = ("data", "--user-module", "spoken", "--preset", "thumb", "--task", "spoken", "--criterion", "hinge")
    shown = run(sys.executable, "-c", code, *options, "--help", folder=folder)
    assert "--margin FLOAT" in shown
    assert "(default: 32)" in shown  # the width of the preset


def test_the_module_keeps_the_rules_of_style(folder):
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    ruff = str(Path(sys.executable).parent / "ruff")
    known = ["--config", 'lint.isort.known-first-party = ["roberta"]']
    run(ruff, "check", *config, *known, "spoken.py", folder=folder)
    run(ruff, "format", "--check", *config, "spoken.py", folder=folder)


@pytest.mark.parametrize("package", ["roberta", "roberta_cli"])
def test_a_file_has_fewer_lines_than_the_rule_allows(package):
    (most,) = re.findall(r"A file .* has fewer than (\d+) lines", TEXT)
    lengths = {str(path): len(path.read_text("utf-8").splitlines()) for path in (ROOT / package).rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length >= int(most)} == {}


def test_the_commands_of_the_table_are_those_of_the_project():
    for command in ("pytest", "pytest -m slow", "ruff check . && ruff format .", "mypy", ".ci/run"):
        assert f"`{command}`" in TEXT
    assert (ROOT / ".ci/run").is_file()
    for marker in re.findall(r"`pytest -m (\w+)`", TEXT):
        assert f'"{marker}: ' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
