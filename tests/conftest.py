"""Fixtures of the whole suite."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.sample import sample_corpus
from roberta.models.roberta import RobertaConfig, RobertaModel
from tests.builders import make_byte_tokenizer, make_tiny_model

settings.register_profile("roberta", deadline=None)  # how long an example takes is the machine's, which may be busy
settings.load_profile("roberta")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the developers' folder of golden files and real data; it is not part of the project."""
    folder = Path(os.environ.get("ROBERTA_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"needs the golden files; none at {folder} (set ROBERTA_SHARED)")
    return folder


@pytest.fixture
def tiny_config() -> RobertaConfig:
    """Return a model shape that computes in milliseconds; odd sizes on purpose."""
    return RobertaConfig(
        vocab_size=97,
        max_positions=24,
        encoder_layers=2,
        embed_dim=24,
        ffn_embed_dim=40,
        attention_heads=3,
        dropout=0.0,
        attention_dropout=0.0,
    )


@pytest.fixture
def tiny_model(tiny_config: RobertaConfig) -> RobertaModel:
    """Return a float64 model of that shape with all heads, every parameter perturbed, in evaluation mode."""
    return make_tiny_model(tiny_config)


@pytest.fixture(scope="session")
def data_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small binarised corpus of the sample text."""
    folder = tmp_path_factory.mktemp("data-bin")
    for split, characters in (("train", 15_000), ("valid", 3_000)):
        (folder / f"{split}.txt").write_text(sample_corpus(split)[:characters], encoding="utf-8")
    preprocess(
        PreprocessConfig(
            trainpref=(folder / "train.txt",), validpref=(folder / "valid.txt",), destdir=folder / "data-bin"
        )
    )
    return folder / "data-bin"


@pytest.fixture(scope="session")
def byte_data_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a binarised corpus whose tokens are bytes: a model of it takes milliseconds to train and to save."""
    folder = tmp_path_factory.mktemp("byte-data-bin")
    (folder / "vocab").mkdir()
    make_byte_tokenizer().save(folder / "vocab")
    for split, characters in (("train", 1500), ("valid", 500)):
        (folder / f"{split}.txt").write_text(sample_corpus(split)[:characters], encoding="utf-8")
    preprocess(
        PreprocessConfig(
            trainpref=(folder / "train.txt",),
            validpref=(folder / "valid.txt",),
            destdir=folder / "data-bin",
            vocab=folder / "vocab",
            workers=1,
        )
    )
    return folder / "data-bin"
