"""Models by name or path: where they come from, and how they are opened.

What a path holds is told by its files alone: MANIFEST.json marks one of our checkpoint folders, `step_*` folders
a run of ours, and a `.pt` file a fairseq checkpoint.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from roberta.checkpoint import fairseq_format, native
from roberta.data.readers.glue import MNLI_LABELS
from roberta.data.tokenizer import Tokenizer
from roberta.download import cache_dir, fetch, unpack
from roberta.errors import CheckpointError, VocabError, choices
from roberta.models.roberta import RobertaModel
from roberta.registry import MODELS

FAIRSEQ_MODELS = "https://dl.fbaipublicfiles.com/fairseq/models"


@dataclass(frozen=True)
class Release:
    """A published archive, and the class names of its heads, which the archive does not hold."""

    url: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


RELEASES = {
    "roberta.base": Release(f"{FAIRSEQ_MODELS}/roberta.base.tar.gz"),
    "roberta.large": Release(f"{FAIRSEQ_MODELS}/roberta.large.tar.gz"),
    "roberta.large.mnli": Release(f"{FAIRSEQ_MODELS}/roberta.large.mnli.tar.gz", {"mnli": MNLI_LABELS}),
}


@dataclass(frozen=True)
class Pretrained:
    """A model in evaluation mode, and the tokenizer that belongs to it."""

    model: RobertaModel
    tokenizer: Tokenizer


def load(name_or_path: str | Path, checkpoint_file: str = "model.pt") -> Pretrained:
    """Return the model of a release name, a checkpoint folder, a run folder, a fairseq folder or archive, or a file.

    A name in the table of releases is downloaded once. `checkpoint_file` names the file within a fairseq folder.

    Raises:
        CheckpointError: nothing of that name or path, or it can't be read as a checkpoint.
        DownloadError: a release could not be fetched.
        VocabError: the dictionary does not fit the token embedding.
    """
    release = RELEASES.get(str(name_or_path))
    if release is not None:
        folder = unpack(fetch(release.url), cache_dir() / str(name_or_path))
        return _load_fairseq(folder / checkpoint_file, release.labels)
    path = Path(name_or_path)
    if path.is_file() and path.suffix == ".pt":
        return _load_fairseq(path, {})
    if path.is_file() and path.suffixes[-2:] == [".tar", ".gz"]:
        return _load_fairseq(_unpacked(path) / checkpoint_file, {})
    if path.is_dir():
        return _load_folder(path, checkpoint_file)
    raise CheckpointError(
        f"{name_or_path}: neither a file or folder nor a released model; {choices(name_or_path, RELEASES)}, "
        "or the path of a run, a checkpoint folder, a fairseq folder or a .tar.gz of one"
    )


def _load_folder(folder: Path, checkpoint_file: str) -> Pretrained:
    if (folder / native.MANIFEST).is_file():
        checkpoint = native.load(folder)
        return _checked(Pretrained(checkpoint.model, checkpoint.tokenizer), folder)
    if native.steps(folder):
        newest = native.newest(folder)
        assert newest is not None
        return _load_folder(newest, checkpoint_file)
    if (folder / checkpoint_file).is_file():
        return _load_fairseq(folder / checkpoint_file, {})
    raise CheckpointError(
        f"{folder}: holds no {native.MANIFEST} (a checkpoint of this package), no {native.STEP_PREFIX}* folder (a run) "
        f"and no {checkpoint_file} (fairseq)"
    )


def _load_fairseq(path: Path, labels: Mapping[str, tuple[str, ...]]) -> Pretrained:
    checkpoint = fairseq_format.read(path)
    with torch.device("meta"):
        model: Any = MODELS.build(checkpoint.config)
        for name, head in checkpoint.heads.items():
            model.register_head(name, dataclasses.replace(head, labels=labels[name]) if name in labels else head)
    model.load_weights(checkpoint.state_dict, source=str(path))
    return _checked(Pretrained(model.eval(), Tokenizer.load(path.parent)), path.parent)


def _unpacked(archive: Path) -> Path:
    stat = archive.stat()
    return unpack(archive, cache_dir() / "archives" / f"{archive.name}-{stat.st_size}-{stat.st_mtime_ns}")


def _checked(pretrained: Pretrained, folder: Path) -> Pretrained:
    """Refuse a dictionary whose ids would point beside the rows of the token embedding."""
    rows, symbols = pretrained.model.config.vocab_size, len(pretrained.tokenizer.dictionary)
    if rows != symbols:
        raise VocabError(
            f"{folder}: the dictionary has {symbols} symbols with its specials, the token embedding {rows} rows; "
            "put the dict.txt that the model was trained with beside it"
        )
    return pretrained
