"""Our own checkpoints: a self-contained folder of safetensors and JSON.

    config.json             model, heads and tokenizer kind; with a training run, all its resolved options
    model.safetensors       parameters
    dict.txt, ...           the tokenizer's files
    optimizer.safetensors   moments, by parameter name     (training runs only)
    state.json              progress of the run            (training runs only)
    MANIFEST.json           name, bytes and sha256 of each file; written last

A folder is made under a temporary name beside its final one, synced, and renamed: it is there whole or not at all.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from roberta.config import from_json, to_json
from roberta.data.tokenizer import Tokenizer
from roberta.errors import CheckpointError, ConfigError, StorageError
from roberta.models.roberta import RobertaModel
from roberta.registry import HEADS, MODELS

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
STEP_PREFIX = "step_"
TEMPORARY_PREFIX = ".tmp-"


@dataclass(frozen=True)
class TrainingState:
    """What a run needs beside the model to go on exactly where it was."""

    options: dict[str, Any]  # every resolved option of the run, by component
    optimizer: dict[str, Tensor]  # moments by `<moment>.<parameter name>`
    progress: dict[str, Any]  # counters of the trainer


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: the model in evaluation mode, its tokenizer, and the training state if there is one."""

    model: RobertaModel
    tokenizer: Tokenizer
    training: TrainingState | None


def step_name(num_updates: int) -> str:
    """Return the folder name of the checkpoint after that many updates.

    >>> step_name(1200)
    'step_0001200'
    """
    return f"{STEP_PREFIX}{num_updates:07d}"


def steps(run_dir: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first, whether or not they are intact."""
    folders = [path for path in run_dir.glob(STEP_PREFIX + "*") if path.name[len(STEP_PREFIX) :].isdigit()]
    return sorted(folders, key=lambda path: int(path.name[len(STEP_PREFIX) :]))


def newest(run_dir: Path) -> Path | None:
    """Return the newest intact checkpoint folder of a run, or None.

    Raises:
        CheckpointError: there are checkpoints, but all of them are damaged.
    """
    damage = []
    for folder in reversed(steps(run_dir)):
        try:
            verify(folder)
        except CheckpointError as error:
            damage.append(str(error))
        else:
            return folder
    if damage:
        raise CheckpointError(f"no intact checkpoint in {run_dir}: {'; '.join(damage)}")
    return None


def verify(folder: Path) -> None:
    """Check every file of a checkpoint folder against its manifest, by size and sha256.

    Raises:
        CheckpointError: the manifest is missing or unreadable, or a file is missing, cut or changed.
    """
    files = _read_json(folder / MANIFEST).get("files")
    if not isinstance(files, dict) or "config.json" not in files or "model.safetensors" not in files:
        raise CheckpointError(f"{folder / MANIFEST}: lists no checkpoint files; restore the folder from a copy")
    for name, entry in files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise CheckpointError(f"{path}: listed in {MANIFEST} but missing; restore the folder from a copy")
        if path.stat().st_size != entry["bytes"]:
            raise CheckpointError(
                f"{path}: {path.stat().st_size} bytes, {MANIFEST} says {entry['bytes']}; the file is cut"
            )
        if _sha256(path) != entry["sha256"]:
            raise CheckpointError(f"{path}: sha256 differs from {MANIFEST}; the file was changed or damaged")


def save(folder: Path, model: RobertaModel, tokenizer: Tokenizer, training: TrainingState | None = None) -> None:
    """Write a checkpoint folder, whole or not at all; an existing folder of that name is replaced.

    Raises:
        StorageError: the folder can't be written.
    """
    temporary = folder.parent / f"{TEMPORARY_PREFIX}{folder.name}-{uuid.uuid4().hex}"
    replaced = temporary.with_name(temporary.name + "-replaced")
    try:
        temporary.mkdir(parents=True)
        _write_files(temporary, model, tokenizer, training)
        _write_manifest(temporary)
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"can't write checkpoint {folder}: {error}; free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def prune(run_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoint folders of a run, and what broken-off writing left behind."""
    for folder in [*steps(run_dir)[:-keep], *run_dir.glob(TEMPORARY_PREFIX + "*")]:
        shutil.rmtree(folder)


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        CheckpointError: the folder is damaged or does not fit this version of the package.
        VocabError: its tokenizer files are damaged.
    """
    verify(folder)
    try:
        config = _read_json(folder / "config.json")
        if config.get("format") != "roberta" or config.get("version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{folder / 'config.json'}: format {config.get('format')!r} version {config.get('version')!r}; "
                f"this package reads 'roberta' version {FORMAT_VERSION}"
            )
        model = _model(config, load_file(folder / "model.safetensors"), str(folder))
        tokenizer = Tokenizer.load(folder)
        training = None
        if (folder / "state.json").is_file():
            optimizer = load_file(folder / "optimizer.safetensors")
            training = TrainingState(config["training"], optimizer, _read_json(folder / "state.json"))
    except (ConfigError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{folder}: can't be read as a checkpoint: {error}") from error
    return Checkpoint(model, tokenizer, training)


def _model(config: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> RobertaModel:
    with torch.device("meta"):
        model: RobertaModel = MODELS.build(_component(MODELS, config["model"], f"{source}: model"))
        for name, head in config["heads"].items():
            model.register_head(name, _component(HEADS, head, f"{source}: head {name}"))
    model.load_weights(weights, source=source)
    return model.eval()


def describe(registry: Any, config: Any) -> dict[str, Any]:
    """Return a component's config as JSON together with the name it is registered under."""
    return {"type": registry.name_of(type(config)), **to_json(config)}


def _component(registry: Any, values: Any, source: str) -> Any:
    options = dict(values)
    return from_json(registry.config_class(options.pop("type")), options, source=source)


def _write_files(folder: Path, model: RobertaModel, tokenizer: Tokenizer, training: TrainingState | None) -> None:
    config: dict[str, Any] = {
        "format": "roberta",
        "version": FORMAT_VERSION,
        "torch": torch.__version__,
        "model": describe(MODELS, model.config),
        "heads": {name: describe(HEADS, head) for name, head in model.head_configs.items()},
    }
    tokenizer.save(folder)
    _write_tensors(folder / "model.safetensors", model.state_dict())
    if training is not None:
        config["training"] = training.options
        _write_tensors(folder / "optimizer.safetensors", training.optimizer)
        _write_json(folder / "state.json", training.progress)
    _write_json(folder / "config.json", config)


def _write_manifest(folder: Path) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        _sync(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    _write_json(folder / MANIFEST, {"version": FORMAT_VERSION, "files": files})
    _sync(folder / MANIFEST)
    _sync(folder)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.touch()
    mode = path.stat().st_mode
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(mode)  # safetensors 0.8 leaves the file readable for its owner alone


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; the folder is not a checkpoint, or its writing was cut off") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: can't be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected an object, found {type(values).__name__}")
    return values


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
