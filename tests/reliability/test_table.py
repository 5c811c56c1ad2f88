"""The table in SECURITY.md names tests that are there, for each of the fifty faults."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = re.findall(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", (ROOT / "SECURITY.md").read_text(encoding="utf-8"), re.M)


def test_each_of_the_fifty_faults_has_a_row():
    assert [int(number) for number, *_ in ROWS] == list(range(1, 51))


@pytest.mark.parametrize(("number", "tests"), [(row[0], row[3]) for row in ROWS])
def test_every_fault_has_a_test_that_is_there(number, tests):
    for name in tests.split(", "):
        file, _, function = name.partition("::")
        assert f"\ndef {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name


def test_every_command_of_the_figures_is_there():
    figures = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Figures")[2]
    commands = re.findall(r"^\| `(\w+)(\.py)?[ `,]", figures, re.M)
    assert {name for name, _ in commands} >= {"killing", "crashing", "mutating", "losing", "fuzz_readers"}
    for name, _ in commands:
        assert list((ROOT / "tests").rglob(f"{name}.py")), name
