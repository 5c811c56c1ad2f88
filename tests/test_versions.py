"""What a run was made with."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import roberta
from roberta import versions as module
from roberta.versions import versions


def test_versions_are_those_of_what_computes():
    found = versions()
    assert found["roberta"] == roberta.__version__
    assert (found["torch"], found["numpy"]) == (torch.__version__, np.__version__)
    assert found["python"] == platform.python_version()
    assert set(found) == {"roberta", "commit", "python", "torch", "numpy"}


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """Return a folder that the package seems to lie in."""
    monkeypatch.setattr(module, "__file__", str(tmp_path / "roberta" / "versions.py"))
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_checkout_and_says_whether_files_were_changed(checkout):
    git(checkout, "init", "-q")
    (checkout / "file").write_text("a")
    git(checkout, "add", "file")
    git(checkout, "commit", "-q", "-m", "first")
    head = git(checkout, "rev-parse", "HEAD")
    assert versions()["commit"] == head
    (checkout / "file").write_text("b")
    assert versions()["commit"] == f"{head}-dirty"


def test_without_a_checkout_or_without_git_there_is_no_commit(checkout, monkeypatch):
    assert versions()["commit"] is None
    (checkout / ".git").mkdir()
    assert versions()["commit"] is None  # no repository after all
    monkeypatch.setenv("PATH", "")
    assert versions()["commit"] is None
