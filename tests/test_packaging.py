"""What is shipped: the source distribution, and the wheel that is made from it, without a network."""

import email
import importlib
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = (".git", ".*_cache", ".hypothesis", ".venv", "__pycache__", "*.egg-info", "build", "dist", "runs")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build an sdist or a wheel with the setuptools that is installed, and return where it is."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the archive of the sources, made from a copy, so that nothing is written into the checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "checkout", ignore=shutil.ignore_patterns(*NOT_SHIPPED), symlinks=True)
    return build("sdist", folder / "checkout", folder)


@pytest.fixture(scope="module")
def unpacked(sdist: Path) -> Path:
    """Return the folder of the unpacked sources."""
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    return sdist.parent / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(unpacked: Path) -> Iterator[zipfile.ZipFile]:
    """Return the wheel that is made from the source distribution."""
    with zipfile.ZipFile(build("wheel", unpacked, unpacked.parent)) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    """Return the metadata of the wheel."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def files_of(folder: Path) -> set[str]:
    """Return the files of a package, as a wheel names them."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == files_of(ROOT / "roberta") | files_of(ROOT / "roberta_cli")


@pytest.mark.parametrize(
    "name",
    [
        "roberta/ARCHITECTURE.md",
        "roberta/py.typed",
        "roberta/bpe/vocabulary/dict.txt.xz",
        "roberta/data/corpus/novels.json.bz2",
        "roberta/mini/model.safetensors",
        "roberta/mini/MANIFEST.json",
        "roberta_cli/recipes/rte.args",
    ],
)
def test_data_that_the_package_needs_is_in_the_wheel(wheel, name):
    assert wheel.read(name) == (ROOT / name).read_bytes()


def test_licence_and_sources_go_with_the_wheel(wheel):
    (folder,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    for name in ("LICENSE", "NOTICE"):
        assert wheel.read(f"{folder}/licenses/{name}") == (ROOT / name).read_bytes()


def test_the_metadata_say_what_is_needed(metadata):
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    classifiers = metadata.get_all("Classifier") or []
    for version in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert [name for name in classifiers if name.startswith("Operating System")] == ["Operating System :: POSIX"]
    required = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert "torch>=2.11" in required
    assert {"test", "plot", "onnx", "hf", "spacy", "bench", "completion"} <= set(
        metadata.get_all("Provides-Extra") or []
    )


def test_every_command_leads_to_a_function(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    parser = ConfigParser()
    parser.read_string(wheel.read(name).decode())
    commands = dict(parser["console_scripts"])
    assert len(commands) == 9
    for command, target in commands.items():
        module, _, function = target.partition(":")
        assert f"{module.replace('.', '/')}.py" in wheel.namelist()
        assert callable(getattr(importlib.import_module(module), function)), command


def test_the_sources_hold_what_tests_and_examples_need(unpacked):
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "hubconf.py", "conftest.py", ".ci/run", "NOTICE"):
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes()
    for folder in ("tests", "examples"):
        sources = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")}
        assert all((unpacked / path).is_file() for path in sources)
    assert not list(unpacked.rglob("*.pyc"))


@pytest.mark.slow
def test_what_pip_installs_from_the_sources_works_on_its_own(sdist, tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps"]
    target = tmp_path / "site"
    subprocess.run([*pip, "--no-build-isolation", "--target", str(target), str(sdist)], check=True, capture_output=True)
    code = (
        f"import sys, json; sys.path.insert(0, {str(target)!r}); import roberta\n"
        "model = roberta.from_pretrained('roberta.mini')\n"
        "print(json.dumps([roberta.__file__, len(model.fill_mask('It is a <mask>.'))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    place, fillings = json.loads(done.stdout)
    assert Path(place).is_relative_to(target)
    assert fillings == 5
