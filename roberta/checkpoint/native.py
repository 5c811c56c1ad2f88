"""Our own checkpoints: a self-contained folder of safetensors and JSON.

    config.json             model and heads; with a training run, all its resolved options
    model.safetensors       parameters
    dict.txt, ...           the tokenizer's files
    optimizer.safetensors   moments, by parameter name     (training runs only)
    state.json              progress of the run            (training runs only)
    MANIFEST.json           name, bytes and sha256 of each file; written last

A folder is there whole or not at all.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from roberta.checkpoint.assembly import assemble, check_rebuilds
from roberta.checkpoint.folders import discard, read_json, replacing, sweep, write_json, write_tensors
from roberta.data.encoding import num_cores
from roberta.data.tokenizer import Tokenizer
from roberta.errors import CheckpointError, ConfigError, StorageError
from roberta.manifest import MANIFEST, Sums, check_content, checked_sums, mapped_checks
from roberta.manifest import write as write_manifest
from roberta.models.roberta import RobertaModel
from roberta.registry import HEADS, MODELS

FORMAT_VERSION = 1
CONFIG, STATE = "config.json", "state.json"
TENSORS = ".safetensors"
MODEL, OPTIMIZER = f"model{TENSORS}", f"optimizer{TENSORS}"
STEP_PREFIX = "step_"
BEST = "best"  # folder of the best model of a run


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
    found = run_dir.glob(STEP_PREFIX + "*")
    folders = [path for path in found if path.name[len(STEP_PREFIX) :].isdecimal() and path.is_dir()]
    return sorted(folders, key=_num_updates)


def newest(run_dir: Path, *, check_content: bool = True) -> Path | None:
    """Return the newest intact checkpoint folder of a run, or None.

    Without `check_content` the files are compared with the manifest by size alone.

    Raises:
        CheckpointError: there are checkpoints, but all of them are damaged.
    """
    damage = []
    for folder in reversed(steps(run_dir)):
        try:
            if check_content:
                verify(folder)
            else:
                _listed(folder)
        except CheckpointError as error:
            damage.append(str(error))
        else:
            return folder
    if damage:
        raise CheckpointError(
            f"no intact checkpoint in {run_dir}: {'; '.join(damage)}; restore one from a copy or choose another folder"
        )
    return None


def model_folder(run_dir: Path) -> Path:
    """Return the folder of the best model of a run, or of its newest one.

    Raises:
        CheckpointError: there is none.
    """
    if (run_dir / BEST / MANIFEST).is_file():
        return run_dir / BEST
    found = steps(run_dir)
    if not found:
        raise CheckpointError(f"{run_dir}: holds no checkpoint of a run; name the folder that --save-dir gave")
    return found[-1]


def verify(folder: Path) -> None:
    """Check every file of a checkpoint folder against its manifest, by size and sha256.

    Raises:
        CheckpointError: the manifest is missing or unreadable, or a file is missing, cut or changed.
    """
    for path, sums in _listed(folder).items():
        check_content(path, sums, CheckpointError)


def save(
    folder: Path,
    model: RobertaModel,
    tokenizer: Tokenizer,
    training: TrainingState | None = None,
    weights: Mapping[str, Tensor] | None = None,
    num_updates: int | None = None,
) -> None:
    """Write a checkpoint folder, whole or not at all; an intact or empty folder of that name is replaced.

    `weights` stand in for the model's own, where those are sharded over processes. `num_updates` is written down for
    `is_best_of`.

    Raises:
        ConfigError: parts of the model were exchanged, so that it could not be opened again.
        StorageError: the folder can't be written, or holds anything else than a checkpoint.
    """
    check_rebuilds(model)
    weights = weights or model.state_dict()
    tensors = [*weights.values(), *(training.optimizer.values() if training else ())]
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    with replacing(folder, MODEL, num_bytes=num_bytes) as temporary:
        _write_files(temporary, model, tokenizer, training, weights, num_updates)
        _write_manifest(temporary)


def forget_after(run_dir: Path, num_updates: int) -> None:
    """Clean the folder of a run that goes on from an update: later checkpoints, found damaged, and leftovers go."""
    sweep(run_dir)
    for folder in steps(run_dir):
        if _num_updates(folder) > num_updates:
            discard(folder)


def is_best_of(run_dir: Path, num_updates: int) -> bool:
    """Return whether the best model of a run is that of an update; earlier versions don't say of which it is."""
    try:
        return bool(read_json(run_dir / BEST / CONFIG).get("num_updates", num_updates) == num_updates)
    except CheckpointError:
        return False


def forget_best(run_dir: Path) -> None:
    """Delete the best model of a run, if there is one.

    Raises:
        StorageError: it can't be deleted.
    """
    best = run_dir / BEST
    try:
        if best.exists():
            discard(best)
    except OSError as error:
        raise StorageError(f"{best}: can't be deleted: {error}; delete it, and start again") from error


def prune(run_dir: Path, keep: int, keep_interval_updates: int | None = None) -> None:
    """Delete the checkpoint folders of a run before the newest `keep` whole ones, and what broken-off writing left.

    Those after a multiple of `keep_interval_updates` stay too.
    """
    folders = steps(run_dir)
    kept = [folder for folder in folders if _is_whole(folder)][-keep:]
    for folder in folders[: folders.index(kept[0])] if kept else []:
        if keep_interval_updates is None or _num_updates(folder) % keep_interval_updates:
            discard(folder)
    sweep(run_dir)


def load(folder: Path, *, training: bool = True, check_tensors: bool = True) -> Checkpoint:
    """Read a checkpoint folder. Tensors are mapped, not read: leave the files unchanged while they are in use.

    Every file must be there in the size that the manifest says, and what is read must have its sums. Without
    `training` the optimizer's tensors are left aside. Without `check_tensors` the sha256 of the tensor files is not
    computed, for callers that just have: a flipped bit in them is then not noticed, a cut or another file still is.

    Raises:
        CheckpointError: the folder is damaged or does not fit this version of the package.
        VocabError: its tokenizer files are damaged.
    """
    files = _listed(folder)
    tensors = {path: files.pop(path) for path in list(files) if path.suffix == TENSORS}
    for path, sums in files.items():
        check_content(path, sums, CheckpointError)
    if not training:
        tensors.pop(folder / OPTIMIZER, None)
    checked = tensors.items() if check_tensors else ()
    parts = [check for path, sums in checked for check in mapped_checks(path, sums, CheckpointError)]
    with ThreadPoolExecutor(num_cores()) as pool:  # the tokenizer takes as long to read as half a GB to check
        checks = [pool.submit(part) for part in parts]
        try:
            return _read(folder, training=training)
        finally:
            for check in checks:
                check.result()  # if the content is wrong, that is why the rest failed


def training_options(folder: Path) -> dict[str, Any]:
    """Return all options of the run that wrote a checkpoint folder, by component; nothing where no run did.

    Raises:
        CheckpointError: the folder is damaged.
    """
    files = _listed(folder)
    check_content(folder / CONFIG, files[folder / CONFIG], CheckpointError)
    return dict(read_json(folder / CONFIG).get("training", {}))


def _read(folder: Path, *, training: bool) -> Checkpoint:
    try:
        config = read_json(folder / CONFIG)
        if config.get("format") != "roberta" or config.get("version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{folder / CONFIG}: format {config.get('format')!r} version {config.get('version')!r}; "
                f"this package reads 'roberta' version {FORMAT_VERSION}"
            )
        model_config = MODELS.described(config["model"], f"{folder}: model")
        if not isinstance(config["heads"], dict):
            raise ConfigError(f"heads: expected an object, found {type(config['heads']).__name__}")
        heads = {name: HEADS.described(head, f"{folder}: head {name}") for name, head in config["heads"].items()}
        model = assemble(model_config, heads, load_file(folder / MODEL), source=str(folder))
        tokenizer = Tokenizer.load(folder)
        state = None
        if training and (folder / STATE).is_file():
            optimizer = load_file(folder / OPTIMIZER)
            state = TrainingState(config["training"], optimizer, read_json(folder / STATE))
    except (ConfigError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{folder}: can't be read as a checkpoint: {error}") from error
    return Checkpoint(model, tokenizer, state)


def _num_updates(folder: Path) -> int:
    return int(folder.name[len(STEP_PREFIX) :])


def _listed(folder: Path) -> dict[Path, Sums]:
    """Return the sums of each file in the manifest, checked to be there and to have the right size."""
    files = checked_sums(folder, CheckpointError)
    if not files.keys() >= {folder / CONFIG, folder / MODEL}:
        raise CheckpointError(f"{folder / MANIFEST}: lists no checkpoint files; restore the folder from a copy")
    return files


def _is_whole(folder: Path) -> bool:
    try:
        _listed(folder)
    except CheckpointError:
        return False
    return True


def _write_files(
    folder: Path,
    model: RobertaModel,
    tokenizer: Tokenizer,
    training: TrainingState | None,
    weights: Mapping[str, Tensor],
    num_updates: int | None,
) -> None:
    config: dict[str, Any] = {
        "format": "roberta",
        "version": FORMAT_VERSION,
        "torch": torch.__version__,
        **({} if num_updates is None else {"num_updates": num_updates}),
        "model": MODELS.describe(model.config),
        "heads": {name: HEADS.describe(head) for name, head in model.head_configs.items()},
    }
    tokenizer.save(folder)
    write_tensors(folder / MODEL, weights)
    if training is not None:
        config["training"] = training.options
        write_tensors(folder / OPTIMIZER, training.optimizer)
        write_json(folder / STATE, training.progress)
    write_json(folder / CONFIG, config)


def _write_manifest(folder: Path) -> None:
    write_manifest(folder, sorted(path.name for path in folder.iterdir()))
