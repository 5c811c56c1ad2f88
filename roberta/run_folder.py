"""The folder of a run: one run at a time, its checkpoints, its log, and the file that says how it was started."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from roberta.checkpoint import native
from roberta.checkpoint.background import BackgroundWriter
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, StorageError
from roberta.files import check_name, make_folder, read_json, write_text
from roberta.locking import locked
from roberta.logs import LOG, Logs, forget_after
from roberta.models.roberta import RobertaModel
from roberta.recipe import TrainerConfig
from roberta.versions import versions

logger = logging.getLogger(__name__)

RUN = "run.json"

_START = ("command", "versions", "num_updates")  # what stays of an earlier start


class RunFolder:
    """The folder that `save_dir` names, from before a run is built until its last checkpoint is written.

    Checkpoints are written in a thread beside the training: one is safe only when `wait` has returned.

    is_main: whether this process is the one that writes there.

    Attributes:
        resumed_from: the newest intact checkpoint, where the run is to be resumed and there is one.

    Raises:
        CheckpointError: the run is to be resumed, and all of its checkpoints are damaged.
        StorageError: the name of the folder is not UTF-8.
    """

    def __init__(self, config: TrainerConfig, *, is_main: bool) -> None:
        check_name(config.save_dir)
        self._config = config
        self._is_main = is_main
        self._found = native.steps(config.save_dir)  # before `newest`, to notice another run that writes there
        self.resumed_from = native.newest(config.save_dir) if config.resume else None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder; none may have written there since this one looked into it.

        The end of the block waits for the last checkpoint.

        Raises:
            StorageError: another run writes there or has written there, or the folder can't be made or written.
        """
        save_dir = self._config.save_dir
        make_folder(save_dir, "--save-dir")
        with locked(save_dir) if self._is_main else nullcontext():
            if self._is_main and self._config.resume and native.steps(save_dir) != self._found:
                raise StorageError(f"--save-dir {save_dir}: another run wrote there in the meantime; start again")
            with BackgroundWriter() as self._writer:
                yield

    def check_is_free(self) -> None:
        """Refuse a folder that holds a run already, or the best model of one, if that is not to be resumed.

        Raises:
            ConfigError: it does.
        """
        save_dir = self._config.save_dir
        has_steps, has_best = bool(native.steps(save_dir)), (save_dir / native.BEST).exists()
        if not has_steps:
            check_no_data(save_dir)
            if any(save_dir.glob("lr*_seed*")) and not (save_dir / RUN).is_file():
                raise ConfigError(f"{save_dir} holds the runs of a sweep; choose another --save-dir")
        if not self._config.resume and (has_steps or has_best):
            raise ConfigError(
                f"{save_dir} already holds a run; add --resume to go on with it, or choose another --save-dir"
            )
        if has_best and not (has_steps or (save_dir / RUN).is_file()):
            raise ConfigError(f"{save_dir} holds the best model of other runs; choose another --save-dir")

    def begin(self, num_updates: int, recipe: Mapping[str, Any]) -> None:
        """Forget what lies after the update that the run goes on from, and write down how it was started.

        recipe: all options, by component.

        Raises:
            StorageError: the folder can't be written.
        """
        save_dir = self._config.save_dir
        native.forget_after(save_dir, num_updates)
        if self.resumed_from is None:
            self.forget_best()  # of a run that ended before its first checkpoint
        forget_after(save_dir / LOG, num_updates)
        described: dict[str, Any] = {"command": sys.argv, "versions": versions(), "recipe": recipe}
        if self.resumed_from is not None and (earlier := _earlier_starts(save_dir / RUN, num_updates)):
            described["earlier"] = earlier
        write_text(save_dir / RUN, json.dumps(described, indent=2) + "\n")

    def logs(self, num_updates: int) -> Logs:
        """Return the logs, which only the process that writes to the folder may write.

        num_updates: the update that the run goes on from.

        Raises:
            ConfigError: TensorBoard is asked for, and its package is not installed.
            StorageError: the log can't be opened.
        """
        tensorboard = self._config.tensorboard_logdir if self._is_main else None
        return Logs(self._config.save_dir / LOG, tensorboard, None if self.resumed_from is None else num_updates)

    def write_step(
        self, model: RobertaModel, tokenizer: Tokenizer, *, training: native.TrainingState, weights: dict[str, Tensor]
    ) -> None:
        """Begin to write the checkpoint of an update, and to delete those that are kept no longer.

        training, weights: what stays as it is, though training goes on.

        Raises:
            StorageError: the one before could not be written.
        """

        def write() -> None:
            config = self._config
            folder = config.save_dir / native.step_name(training.progress["num_updates"])
            native.save(folder, model, tokenizer, training, weights)
            native.prune(config.save_dir, config.keep_checkpoints, config.keep_interval_updates)

        self._writer.submit(write)

    def write_best(
        self, model: RobertaModel, tokenizer: Tokenizer, weights: dict[str, Tensor], num_updates: int
    ) -> None:
        """Write the model alone in the place of the best one so far, after the checkpoint that is being written.

        Raises:
            StorageError: one of them can't be written; the best one so far stays.
        """
        self._writer.wait()
        folder = self._config.save_dir / native.BEST
        native.save(folder, model, tokenizer, weights=weights, num_updates=num_updates)

    def has_lost_best(self, num_updates: int) -> bool:
        """Return whether the best model is damaged, not that of an update, or not there where it is to be kept.

        num_updates: 0 if there was none.

        A later one may have taken its place before the run was killed, whose update is then made anew.
        """
        save_dir = self._config.save_dir
        is_there = (save_dir / native.BEST).exists()
        if not num_updates or native.is_best_of(save_dir, num_updates) or not (is_there or self._config.keep_best):
            return False
        logger.info(
            "the best model is not that of update %d any more; the next one that is validated takes its place",
            num_updates,
        )
        return True

    def forget_best(self) -> None:
        """Delete the best model so far, if there is one, where a better one is not kept.

        Raises:
            StorageError: it can't be deleted.
        """
        native.forget_best(self._config.save_dir)

    def check(self) -> None:
        """Raise what writing the last checkpoint raised, if it has ended; this waits for nothing."""
        self._writer.check()

    def wait(self) -> None:
        """Return when the last checkpoint is on the disk.

        Raises:
            StorageError: it can't be written.
        """
        self._writer.wait()


def check_no_data(save_dir: Path) -> None:
    """Refuse the folder of binarised data, whose dictionary and manifest are those of no model.

    Raises:
        ConfigError: it is one.
    """
    if any(save_dir.glob("*.idx")):
        raise ConfigError(f"{save_dir} holds binarised data; choose another --save-dir")


def _earlier_starts(path: Path, num_updates: int) -> list[dict[str, Any]]:
    """Return the starts that a run's file tells of, oldest first: command, versions, and where the next one went on.

    A run goes on without what is damaged there, or was edited into something else; a warning says so.

    num_updates: the update that the run goes on from now.
    """
    if not path.exists():
        return []
    try:
        last = read_json(path, StorageError, missing="it was deleted just now")
    except StorageError as error:
        logger.warning("%s; the run goes on, but its earlier starts are forgotten", error)
        return []
    earlier = last.get("earlier", [])
    told = [*(earlier if isinstance(earlier, list) else [earlier]), {**last, "num_updates": num_updates}]
    starts = [{name: start[name] for name in _START} for start in told if _is_start(start)]
    if left_out := len(told) - len(starts):
        logger.warning("%s: %d of %d starts are not as they were written, and are left out", path, left_out, len(told))
    return starts


def _is_start(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() >= set(_START):
        return False
    command, versions_of, num_updates = (value[name] for name in _START)
    return (
        isinstance(command, list)
        and all(isinstance(word, str) for word in command)
        and isinstance(versions_of, dict)
        and all(isinstance(version, str | None) for version in versions_of.values())
        and type(num_updates) is int
    )
