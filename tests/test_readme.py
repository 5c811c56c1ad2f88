"""What README says of files and commands; tests/examples/test_documents.py runs its blocks."""

import re
from pathlib import Path

import pytest

from roberta.pretrained import RELEASES, SHIPPED
from tests.examples.documents import entry_points

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("roberta/*.md")])


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_their_headings(document):
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            path = document.parent / name if name else document
            assert path.exists(), f"{document.name} links {target}"
            assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), f"{document.name} links {target}"


def test_the_table_of_commands_has_each_of_them_once():
    assert sorted(re.findall(r"^\| `(roberta-\w+)` \|", README, re.MULTILINE)) == sorted(entry_points())


def test_the_table_of_models_has_all_that_have_names():
    rows = set(re.findall(r"^\| `(roberta\.[\w.]+)`", README, re.MULTILINE))
    assert rows == {*RELEASES, *SHIPPED}


def test_every_tutorial_is_listed():
    folders = {path.parent.name for path in ROOT.glob("examples/*/README.md")}
    linked = set(re.findall(r"\(examples/(\w+)/README\.md", README))
    assert folders - linked <= {"assets", "benchmark"}


def test_the_commands_of_set_up_stand_alone_on_their_lines():
    lines = README.splitlines()
    assert lines.count("pip install '.[test]' && pytest -n auto") == 1  # .ci/run takes it from here
    assert sum(line.startswith("python3 -m venv .venv && ") for line in lines) == 1
