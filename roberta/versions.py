"""What a run was made with, to be saved beside it."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
import torch


def versions() -> dict[str, str | None]:
    """Return the versions of the package and of what it computes with, and the commit of its checkout if it has one."""
    return {
        "roberta": metadata.version("roberta"),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _commit() -> str | None:
    """Return `git describe` of the checkout that the package lies in, `-dirty` where files were changed."""
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or a checkout of somebody else
    return done.stdout.strip()
