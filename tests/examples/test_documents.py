"""The code blocks of README and examples, run or marked why not."""

import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from roberta import pretrained
from roberta.data import sample
from roberta.data.readers.glue import MNLI_LABELS
from roberta.data.tokenizer import Tokenizer
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel, preset_config
from roberta.pretrained import Pretrained
from tests.examples import documents
from tests.examples.documents import ROOT, Block

DOCUMENTS = documents.documents()
BLOCKS = [block for path in DOCUMENTS for block in documents.blocks(path)]
DOWNLOADED = ("roberta.base", "roberta.large", "roberta.large.mnli", "roberta.large.wsc")
CHAPTER = 600  # characters of each chapter of the sample text, in a short run

named = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def stand_in(name: str) -> Pretrained:
    """Return a random model with the layers, heads and vocabulary of a released one, but narrow."""
    torch.manual_seed(0)
    layers = preset_config(name.removesuffix(".mnli").removesuffix(".wsc")).encoder_layers
    model = RobertaModel(RobertaConfig(encoder_layers=layers, embed_dim=8, ffn_embed_dim=8, attention_heads=1))
    model.register_head("lm", MaskedLMHeadConfig())
    if name.endswith(".mnli"):
        model.register_head("mnli", ClassificationHeadConfig(num_classes=3, labels=MNLI_LABELS))
    return Pretrained(model.eval(), Tokenizer.load())


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Return a folder that looks like the repository's root, and is the current one."""
    documents.lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_sample(monkeypatch) -> None:
    """Let the sample text be a few pages, the beginnings of its chapters."""
    novels = beginnings()
    monkeypatch.setattr(sample, "sample_text", lambda: novels)


@functools.cache
def beginnings() -> dict[str, str]:
    """Return the novels with the beginning of every chapter."""
    return {
        title: "\n\n".join(chapter[:CHAPTER] for chapter in text.split("\n\n"))
        for title, text in sample.sample_text().items()
    }


@pytest.fixture
def stand_ins(monkeypatch) -> None:
    """Let the names of the models that are downloaded give random ones."""
    load = pretrained.load

    def load_or_make(name_or_path, checkpoint_file="model.pt", *, verify=True):
        if str(name_or_path) in DOWNLOADED:
            return stand_in(str(name_or_path))
        return load(name_or_path, checkpoint_file, verify=verify)

    monkeypatch.setattr(pretrained, "load", load_or_make)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch) -> Iterator[None]:
    """What is run here needs nothing from elsewhere."""
    monkeypatch.setenv("ROBERTA_CACHE", "/nonexistent")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return


def assert_alike(block: Block, shown: str) -> None:
    """Compare what a document shows with what was shown: words exactly, fractions to what machines differ by."""
    number = re.compile(r"\d+\.\d+")
    assert number.sub("#", block.code) == number.sub("#", shown), block.place
    for expected, found in zip(number.findall(block.code), number.findall(shown), strict=True):
        assert float(found) == pytest.approx(float(expected), abs=0.01), block.place


@named
@pytest.mark.usefixtures("small_sample", "stand_ins")
def test_the_blocks_of_a_document_run_in_order(path, folder):
    names: dict[str, object] = {}
    shown = None
    for block in documents.blocks(path):
        if block.language == "text" and shown is not None:
            assert_alike(block, shown)
        shown = None
        if block.marker in ("", "stand-in"):
            if block.language == "python":
                shown = documents.run_python(block, names)
            elif block.language == "sh":
                documents.run_short(block)


@pytest.mark.slow
@named
def test_the_blocks_of_a_document_run_complete(path, folder):
    names: dict[str, object] = {}
    for block in documents.blocks(path):
        if block.marker in ("", "slow"):
            if block.language == "python":
                documents.run_python(block, names)
            elif block.language == "sh":
                documents.run_complete(block)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_says_what_it_is_and_why_it_is_not_run(block: Block):
    assert block.language in documents.LANGUAGES
    assert block.marker in ("", *documents.MARKERS)
    if block.marker:
        assert block.language != "text"
        assert len(block.reason.split()) >= 3


@named
def test_every_marker_stands_above_a_fence(path):
    text = path.read_text(encoding="utf-8")
    markers = re.findall(f"^<!-- ({'|'.join(documents.MARKERS)})", text, re.MULTILINE)
    assert len(markers) == sum(bool(block.marker) for block in documents.blocks(path))
    assert text.count("```") == 2 * len(documents.blocks(path))


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "sh" and block.marker], ids=lambda block: block.place
)
def test_options_of_commands_that_are_not_run_exist(block: Block, capsys):
    for program, *arguments in documents.commands(block.code):
        given = [word for word in arguments if word.startswith("--")]
        places = [word for word in arguments[:1] if not word.startswith(("-", "@"))]
        choices = [
            word
            for option in ("--preset", "--task", "--criterion", "--optimizer", "--lr-scheduler")
            if option in arguments
            for word in (option, arguments[arguments.index(option) + 1])
        ]
        with pytest.raises(SystemExit) as finished:
            documents.main_of(program)([*places, *choices, "--help"])
        assert finished.value.code == 0
        assert all(Path(ROOT, word[1:]).is_file() for word in arguments if word.startswith("@")), block.place
        known = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
        assert set(given) <= known, block.place


def test_python_blocks_keep_the_rules_of_style(tmp_path):
    for number, block in enumerate(BLOCKS):
        if block.language == "python":
            (tmp_path / f"block{number}.py").write_text(block.code, encoding="utf-8")
    config = str(ROOT / "pyproject.toml")
    command = [sys.executable, "-m", "ruff", "format", "--check", "--no-cache", "--config", config, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_block_is_found_with_its_marker(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- not run: needs a moon rocket -->\n```sh\nfly\n```\n\n```python\n1 / 0\n```\n")
    first, second = documents.blocks(page)
    assert first == Block("page.md:4", "sh", "fly\n", "not run", "needs a moon rocket")
    assert second == Block("page.md:8", "python", "1 / 0\n", "", "")
    with pytest.raises(ZeroDivisionError):
        documents.run_python(second, {})


def test_a_block_of_python_shows_what_it_prints_and_its_last_value():
    names: dict[str, object] = {}
    assert documents.run_python(Block("page:1", "python", "a = 1\nprint('one')\na + 1\n", "", ""), names) == "one\n2\n"
    assert documents.run_python(Block("page:2", "python", "b = a\n", "", ""), names) == ""
    assert_alike(Block("page:3", "text", "0.512 door\n", "", ""), "0.510 door\n")
    for shown in ("0.612 door\n", "0.512 gate\n", "0.512 door 0.1\n"):
        with pytest.raises(AssertionError, match="page:3"):
            assert_alike(Block("page:3", "text", "0.512 door\n", "", ""), shown)


def test_a_command_that_fails_fails_its_block(folder):
    with pytest.raises(AssertionError, match=r"page:1.*\n.*no-such-file"):
        documents.run_short(Block("page:1", "sh", "roberta-score no-such-file.txt --ref a.txt\n", "", ""))
    with pytest.raises(AssertionError, match=r"page:2"):
        documents.run_short(Block("page:2", "sh", "ls no-such-file | sort; false\n", "", ""))
