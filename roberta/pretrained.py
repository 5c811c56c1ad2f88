"""Models by name or path: where they come from, and how they are opened.

What a path holds is told by its files alone: MANIFEST.json marks one of our checkpoint folders, `step_*` folders
a run of ours, a config.json with a `model_type` a folder of Hugging Face transformers, and a `.pt` file a fairseq
checkpoint.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from roberta.checkpoint import fairseq_format, hf_format, hf_tokenizer, native
from roberta.checkpoint.assembly import assemble
from roberta.data.dictionary import made_up
from roberta.data.readers.glue import MNLI_LABELS
from roberta.data.tokenizer import Tokenizer, has_vocabulary
from roberta.download import DamagedArchiveError, cache_dir, fetch, is_unpacked, unpack
from roberta.errors import CheckpointError, ConfigError, DownloadError, VocabError, choices, listed
from roberta.files import read_json
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.registry import MODELS

logger = logging.getLogger(__name__)

HF_PREFIX = "hf:"
FAIRSEQ_FILE = "model.pt"
SENTENCE_TRANSFORMERS = "modules.json"
_MULTIPLES = (8, 16, 32, 64, 128)  # that embeddings are padded to
FAIRSEQ_MODELS = "https://dl.fbaipublicfiles.com/fairseq/models"


@dataclass(frozen=True)
class Release:
    """A published archive, and the class names of its heads, which the archive does not hold."""

    url: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sha256: str | None = None  # nobody published those of fairseq's archives
    size: int | None = None  # bytes


SHIPPED = {"roberta.mini": Path(__file__).parent / "mini"}  # checkpoint folders of this package, in half precision

RELEASES = {
    "roberta.base": Release(f"{FAIRSEQ_MODELS}/roberta.base.tar.gz"),
    "roberta.large": Release(f"{FAIRSEQ_MODELS}/roberta.large.tar.gz"),
    "roberta.large.wsc": Release(f"{FAIRSEQ_MODELS}/roberta.large.wsc.tar.gz"),
    "roberta.large.mnli": Release(f"{FAIRSEQ_MODELS}/roberta.large.mnli.tar.gz", {"mnli": MNLI_LABELS}),
}


@dataclass(frozen=True)
class Pretrained:
    """A model in evaluation mode, and the tokenizer that belongs to it."""

    model: RobertaModel
    tokenizer: Tokenizer


def load(name_or_path: str | Path, checkpoint_file: str = FAIRSEQ_FILE, *, verify: bool = True) -> Pretrained:
    """Return the model of a name, a checkpoint folder, a run folder, a foreign folder or archive, or a file.

    `roberta.mini` comes with the package, and is opened in single precision. A name in the table of releases is
    downloaded once, as is `hf:owner/name` from the Hugging Face Hub, by the optional package huggingface_hub.
    `checkpoint_file` names the file within a fairseq folder, and goes with such alone. Without `verify` the tensors
    of our own checkpoints are not compared with their checksums, which takes longer than opening them.

    Raises:
        CheckpointError: nothing of that name or path, or it can't be read as a checkpoint.
        DownloadError: a release could not be fetched.
        VocabError: the dictionary does not fit the token embedding.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise CheckpointError(f"{name_or_path!r:.60} is neither the name of a model nor a path")
    if shipped := SHIPPED.get(str(name_or_path)):
        loaded = _load_folder(shipped, checkpoint_file, verify=verify)
        return dataclasses.replace(loaded, model=loaded.model.float())
    release = RELEASES.get(str(name_or_path))
    if release is not None:
        folder = _released(release, cache_dir() / str(name_or_path))
        return _load_fairseq(folder / checkpoint_file, release.labels)
    if str(name_or_path).startswith(HF_PREFIX):
        _check_unused(checkpoint_file, name_or_path, "Hugging Face")
        return _load_hf(_snapshot(str(name_or_path).removeprefix(HF_PREFIX)))
    path = Path(name_or_path)
    if path.is_file() and path.suffix == ".pt":
        return _load_fairseq(path, {})
    if path.is_file() and path.suffixes[-2:] == [".tar", ".gz"]:
        return _load_fairseq(_unpacked(path) / checkpoint_file, {})
    if path.is_dir():
        return _load_folder(path, checkpoint_file, verify=verify)
    raise CheckpointError(
        f"{name_or_path}: neither a file or folder nor a model of that name; give the path of a run, a checkpoint "
        "folder, a Hugging Face or fairseq folder or a .tar.gz of the latter, hf:owner/name, or a name; "
        f"{choices(name_or_path, [*SHIPPED, *RELEASES])}"
    )


def training_options(name_or_path: str | Path) -> dict[str, Any]:
    """Return all options of the run that made a model, by component; nothing where it is not one of our runs.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    path = Path(name_or_path)
    if str(name_or_path) in {*SHIPPED, *RELEASES} or not path.is_dir():
        return {}
    own = native.training_options(path) if (path / native.MANIFEST).is_file() else {}
    if own:
        return own
    run_dir = path.parent if path.name == native.BEST else path  # the best model is kept without its run's options
    for folder in (run_dir, *_best_of_sweep(run_dir), *sorted(run_dir.glob("lr*_seed*"))):
        if newest := native.newest(folder, check_content=False):
            return native.training_options(newest)
    return {}


def _best_of_sweep(run_dir: Path) -> list[Path]:
    """Return the run that left the best model of a sweep, if its report says so."""
    report = run_dir / "report.json"
    try:
        best = read_json(report, CheckpointError, missing="it was deleted just now")["best"] if report.exists() else {}
        return [run_dir / Path(best["save_dir"]).name]
    except (CheckpointError, KeyError, TypeError):
        return []


def transfer(source: Pretrained, model: RobertaModel, head: str, name: str) -> None:
    """Give a model the weights of another; the head of that name keeps its random ones if the other has none like it.

    That is told as a warning where the other one has a head of that name.

    name: what the source is called in messages.

    Raises:
        ConfigError: the encoders differ in more than their dropout and what they started from.
    """
    check_shape(source, model.config, name)
    _transfer_encoder(source.model.encoder, model.encoder, name)
    if head not in source.model.head_configs:
        logger.info("%s has no head %r; it starts from random weights", name, head)
    elif unlike := _unlike(source.model.head_configs[head], model.head_configs[head]):
        logger.warning("the head %r of %s has %s; it starts from random weights", head, name, unlike)
    else:
        model.heads[head].load_state_dict(source.model.heads[head].state_dict())
        labels = getattr(model.head_configs[head], "labels", ())
        if labels and not source.model.head_configs[head].labels:
            found = ", ".join(labels)
            logger.warning("the classes of head %r of %s have no names; they are taken for %s", head, name, found)


def _transfer_encoder(theirs: nn.Module, ours: nn.Module, name: str) -> None:
    """Give an encoder the weights of another; those of one kind of model alone are told of."""
    weights, own = theirs.state_dict(), ours.state_dict()
    if reshaped := [key for key in own if key in weights and own[key].shape != weights[key].shape]:
        key = reshaped[0]
        raise ConfigError(
            f"--init-from {name}: {key} has the shape {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}; "
            "choose a model that fits"
        )
    ours.load_state_dict({key: value for key, value in weights.items() if key in own}, strict=False)
    for keys, what in ((own.keys() - weights.keys(), "lacks"), (weights.keys() - own.keys(), "has what is left out:")):
        if keys:
            logger.warning("%s %s %s", name, what, listed(sorted(keys)))


def check_shape(source: Pretrained, config: RobertaConfig, name: str) -> None:
    """Refuse a model whose weights do not fit one of this config, whatever is dropped.

    name: what the source is called in messages.

    Raises:
        ConfigError: the encoders differ in more than their dropout and what they started from.
    """
    free = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "initialisation")
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(source.model.config)
    if type(config) is not type(source.model.config):
        kinds = MODELS.name_of(type(source.model.config)), MODELS.name_of(type(config))
        logger.warning("%s is a model of the kind %s, and this one of the kind %s", name, *kinds)
    differences = [
        f"{key} {theirs[key]} instead of {ours[key]}"
        for key in ours
        if key not in free and ours[key] != theirs.get(key, ours[key])
    ]
    if differences:
        raise ConfigError(
            f"--init-from {name}: it has {', '.join(differences)}; choose the --preset it has, or give its shape"
        )


def _unlike(theirs: Any, ours: Any) -> str:
    """Return in what a head differs from that of the task so that its weights would mean something else; "" if not.

    Dropout may differ; and classes without names, as those of fairseq, are taken for those of the task in their order.
    """
    if type(theirs) is not type(ours):
        return f"a {type(theirs).__name__} instead of a {type(ours).__name__}"
    before, after = dataclasses.asdict(theirs), dataclasses.asdict(ours)
    free = {"dropout"} if before.get("labels", True) and after.get("labels", True) else {"dropout", "labels"}
    differing = [key for key in after if key not in free and before[key] != after[key]]
    return ", ".join(f"{key} {before[key]} instead of {after[key]}" for key in differing)


def _load_folder(folder: Path, checkpoint_file: str, *, verify: bool) -> Pretrained:
    if any((folder / name / native.MANIFEST).is_file() for name in ("", native.BEST)) or native.steps(folder):
        _check_unused(checkpoint_file, folder, "this package")
    if (folder / native.MANIFEST).is_file():
        checkpoint = native.load(folder, training=False, check_tensors=verify)
        return _checked(Pretrained(checkpoint.model, checkpoint.tokenizer), folder)
    if (folder / native.BEST / native.MANIFEST).is_file():
        return _load_folder(folder / native.BEST, checkpoint_file, verify=verify)
    if native.steps(folder):
        newest = native.newest(folder, check_content=verify)
        assert newest is not None
        return _load_folder(newest, checkpoint_file, verify=False)  # `newest` has just done so, if asked to
    if hf_format.is_folder(folder):
        _check_unused(checkpoint_file, folder, "Hugging Face")
        return _load_hf(folder)
    if (folder / checkpoint_file).is_file():
        return _load_fairseq(folder / checkpoint_file, {})
    others = sorted(path.name for path in folder.glob("*.pt"))
    raise CheckpointError(
        f"{folder}: holds no {native.MANIFEST} (a checkpoint of this package), no {native.STEP_PREFIX}* folder "
        f"(a run), no {hf_format.CONFIG} with a model_type (Hugging Face) and no {checkpoint_file} (fairseq)"
        + (f"; name one of its files as checkpoint_file: {', '.join(others)}" if others else "")
    )


def _check_unused(checkpoint_file: str, source: object, whose: str) -> None:
    if checkpoint_file != FAIRSEQ_FILE:
        raise CheckpointError(
            f"{source}: {checkpoint_file} would be a file of a fairseq folder, and this is one of {whose}; leave it out"
        )


def _load_fairseq(path: Path, labels: Mapping[str, tuple[str, ...]]) -> Pretrained:
    checkpoint = fairseq_format.read(path)
    heads = {
        name: dataclasses.replace(head, labels=labels[name]) if name in labels else head
        for name, head in checkpoint.heads.items()
    }
    model = assemble(checkpoint.config, heads, checkpoint.state_dict, source=str(path))
    tokenizer = Tokenizer.load(path.parent if has_vocabulary(path.parent) else None)
    return _checked(Pretrained(model, tokenizer), path.parent)


def _load_hf(folder: Path) -> Pretrained:
    if (folder / SENTENCE_TRANSFORMERS).is_file():
        logger.warning(
            "%s: what sentence-transformers does beside the model is not read from it: lower case, the length, pooling "
            "and scale of vectors; embed has pooling= and normalize=",
            folder,
        )
    checkpoint = hf_format.read(folder)
    model = assemble(checkpoint.config, checkpoint.heads, checkpoint.state_dict, source=str(folder))
    tokenizer = _filled_up(hf_tokenizer.read(folder), checkpoint.config.vocab_size)
    return _checked(Pretrained(model, tokenizer), folder)


def _filled_up(tokenizer: Tokenizer, rows: int) -> Tokenizer:
    """Return a tokenizer with a symbol made up for each row that makes their number a multiple, as transformers can."""
    symbols = len(tokenizer.dictionary)
    if rows <= symbols or not any(rows == -(-symbols // multiple) * multiple for multiple in _MULTIPLES):
        return tokenizer
    logger.warning(
        "the token embedding has %d rows, and the tokenizer %d tokens: the last %d are taken for padding; where tokens "
        "were added to the model, its folder lacks those of the tokenizer",
        rows,
        symbols,
        rows - symbols,
    )
    return tokenizer.with_symbols([made_up(row) for row in range(symbols, rows)])


def _snapshot(repository: str) -> Path:
    """Return the folder with the files of a repository of the Hugging Face Hub, downloaded once.

    Only files that this package reads are fetched, the pickled weights only where there are no others.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise CheckpointError(
            f"{HF_PREFIX}{repository}: needs the package huggingface_hub; run: pip install huggingface_hub"
        ) from error
    try:
        folder = Path(snapshot_download(repository, allow_patterns=[*hf_tokenizer.FILES, *hf_format.SAFE_FILES]))
        if not any((folder / name).exists() for name in (hf_format.WEIGHTS, hf_format.SHARDS)):
            folder = Path(snapshot_download(repository, allow_patterns=[*hf_tokenizer.FILES, *hf_format.FILES]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DownloadError(
            f"{HF_PREFIX}{repository}: can't be fetched: {reason or type(error).__name__}; check the name, as in "
            f"{HF_PREFIX}FacebookAI/roberta-base, and the network"
        ) from error
    return folder


def _released(release: Release, folder: Path) -> Path:
    """Return the folder of a release, unpacked once; an archive that turns out to be damaged is fetched once more."""
    if is_unpacked(folder):
        return folder
    archive = fetch(release.url, sha256=release.sha256, size=release.size)
    try:
        return unpack(archive, folder)
    except DamagedArchiveError as error:
        logger.warning("%s; downloading it again", error)
    with contextlib.suppress(OSError):  # of a cache that is read alone; the second try says what to do
        archive.unlink(missing_ok=True)
    return unpack(fetch(release.url, sha256=release.sha256, size=release.size), folder)


def _unpacked(archive: Path) -> Path:
    stat = archive.stat()
    return unpack(archive, cache_dir() / "archives" / f"{archive.name}-{stat.st_size}-{stat.st_mtime_ns}")


def _checked(pretrained: Pretrained, folder: Path) -> Pretrained:
    """Refuse a dictionary whose ids would point beside the rows of the token embedding."""
    rows, symbols = pretrained.model.config.vocab_size, len(pretrained.tokenizer.dictionary)
    if rows != symbols:
        raise VocabError(
            f"{folder}: the dictionary has {symbols} symbols with its specials, the token embedding {rows} rows; "
            "put the dict.txt (or vocab.json and merges.txt) that the model was trained with beside it"
        )
    return pretrained
