"""Text to binarised corpora: what roberta-preprocess does.

A line becomes its tokens and an end-of-sentence token. An empty line becomes an end-of-sentence token alone, which is
how a document ends. Files are read once, in pieces, and encoded on all cores; the files written are the same for any
number of processes.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from roberta.bpe.gpt2 import ENCODER_NAMES, MERGES_NAMES
from roberta.config import option, refuse_idle
from roberta.data.dictionary import FILE_NAME
from roberta.data.encoding import PieceEncoder, Workers
from roberta.data.indexed import bin_path, idx_path
from roberta.data.splits import Counts, SplitWriter, share_out, write_all
from roberta.data.stream import shard_name
from roberta.data.text import PIECE_BYTES, STANDARD_INPUT, Piece, identity, read_pieces, text_size
from roberta.data.tokenizer import Tokenizer
from roberta.data.vocabulary import fingerprint, train_tokenizer
from roberta.errors import ConfigError, DataError
from roberta.files import make_folder, write_text
from roberta.locking import locked
from roberta.manifest import write as write_manifest
from roberta.progress import progress_bar

Progress = Callable[[int], object]  # called with the bytes of text done since the last call

LEDGER_NAME = "shards.json"

_MODELS = ("*.safetensors", "*.pt")
_LOOKED_AT, _FEW = 2**12, 3  # bytes of a text; words of a line that may be numbers by chance

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreprocessConfig:
    """What to binarise, with which vocabulary, and where to."""

    trainpref: tuple[Path, ...] | None = option(
        None, help="text files of the training split: plain, .gz, .xz or .zst; - is the standard input"
    )
    validpref: tuple[Path, ...] | None = option(None, help="text files of the validation split")
    testpref: tuple[Path, ...] | None = option(None, help="text files of the test split")
    destdir: Path = option(Path("data-bin"), help="folder for the binarised splits, the dictionary and the BPE files")
    vocab: Path | None = option(
        None, help="folder of dict.txt, encoder.json and vocab.bpe, or roberta.mini for its own; RoBERTa's if not given"
    )
    train_bpe: int | None = option(
        None, help="learn a BPE of this many symbols from the training text, and count a dictionary"
    )
    valid_fraction: float = option(
        0.0, help="share of the training documents that become the validation split, evenly spread; 0 for none"
    )
    shards: bool = option(
        False, help="make each training file a shard (train, train1, ...); a run that was cut short goes on from there"
    )
    workers: int | None = option(None, help="processes that encode; one per core if not given")
    verify: Path | None = option(
        None, help="check a folder made earlier instead: sizes and sha256 of its files, indices and tokens"
    )

    def __post_init__(self) -> None:
        if self.verify is not None:
            others = (field.name for field in fields(self) if field.name != "verify")
            refuse_idle(self, others, "has no effect on --verify, which checks a folder that is there")
        elif not (self.trainpref or self.validpref or self.testpref):
            raise ConfigError("nothing to do; give --trainpref, --validpref or --testpref")
        if not 0 <= self.valid_fraction < 1:
            raise ConfigError(f"--valid-fraction {self.valid_fraction}; expected from 0 to below 1")
        if self.valid_fraction and (self.validpref or not self.trainpref):
            raise ConfigError("--valid-fraction splits the text of --trainpref; give it, and leave out --validpref")
        if self.valid_fraction and self.shards:
            raise ConfigError("--shards and --valid-fraction exclude each other; give the held-out text as --validpref")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--workers {self.workers}; expected at least 1")
        self._check_vocabulary()
        self._check_inputs()

    def _check_vocabulary(self) -> None:
        if self.train_bpe is None:
            return
        if self.vocab:
            raise ConfigError("--train-bpe makes a vocabulary, --vocab names one; give one of them")
        if not self.trainpref:
            raise ConfigError("--train-bpe learns from the training text; give --trainpref")
        if self.shards:
            raise ConfigError("--train-bpe would learn anew for every run of --shards; learn once, then give --vocab")

    def _check_inputs(self) -> None:
        paths = [*(self.trainpref or ()), *(self.validpref or ()), *(self.testpref or ())]
        if paths.count(STANDARD_INPUT) > 1:
            raise ConfigError("- is given more than once; the standard input can be read once")
        for path in paths if self.shards or self.train_bpe is not None else ():
            if path == STANDARD_INPUT or path.is_fifo():
                raise ConfigError(f"--shards and --train-bpe read a file again; a pipe ({path}) can be read once")


def _warn_of_shared_text(config: PreprocessConfig) -> None:
    held_out = {path.resolve() for path in (*(config.validpref or ()), *(config.testpref or ()))}
    for path in config.trainpref or ():
        if path.resolve() in held_out:
            logger.warning("%s is to be trained on and to be held out; figures on it will be too good", path)


def _warn_of_ids(config: PreprocessConfig) -> None:
    """Warn of texts that begin with a line of numbers, as fairseq's encoder writes them, and are encoded already."""
    for path in (*(config.trainpref or ()), *(config.validpref or ()), *(config.testpref or ())):
        if path.is_file() and os.access(path, os.R_OK):
            with path.open("rb") as file:
                words = file.readline(_LOOKED_AT).split()
            if len(words) > _FEW and all(map(bytes.isdigit, words)):
                logger.warning("%s begins with numbers alone: ids of a BPE are text here; give the text itself", path)


def preprocess(config: PreprocessConfig) -> dict[str, Counts]:
    """Binarise every split into the folder, beside its vocabulary; all of them appear at the end, or none.

    With `shards`, every shard appears when it is done.

    Raises:
        ConfigError: the folder holds other splits, of another vocabulary, or shards that would be taken for new ones.
        DataError: an input is missing, empty or not UTF-8.
        VocabError: the vocabulary is damaged.
        StorageError: the folder can't be written, or another process writes there.
    """
    _warn_of_shared_text(config)
    _warn_of_ids(config)
    splits = _splits(config)
    sizes = [text_size(path) for paths in splits.values() for path in paths]
    known = [size for size in sizes if size is not None]
    total = sum(known) if len(known) == len(sizes) else None
    with _writing_to(config.destdir), ExitStack() as stack:
        vocab = config.vocab
        if config.train_bpe is None:
            tokenizer = Tokenizer.load(vocab)
            _check_destination(config, splits, tokenizer)
        else:
            _check_destination(config, splits, None)
            tokenizer = train_tokenizer(splits["train"], config.train_bpe, config.workers)
            vocab = Path(stack.enter_context(TemporaryDirectory()))
            tokenizer.save(vocab)
        workers = stack.enter_context(Workers(config.workers, tokenizer, vocab))
        bar = stack.enter_context(progress_bar(desc="binarise", unit="B", total=total, scale=True, lines=True))
        if config.shards:
            return _make_shards(splits, config.destdir, tokenizer, workers, bar.update)
        return _make_splits(splits, config, tokenizer, workers, bar.update)


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder, "--destdir")
    try:
        with locked(folder):
            yield
    finally:
        with suppress(OSError):  # it holds what was made
            for path in made:
                path.rmdir()


def binarize(
    inputs: Sequence[Path], prefix: Path, tokenizer: Tokenizer, *, progress: Progress = lambda size: None
) -> Counts:
    """Write the text of `inputs`, one file after another, to PREFIX.bin and PREFIX.idx. A file ends a document.

    Raises:
        DataError: an input is missing, empty or not UTF-8.
        StorageError: the files can't be written.
    """
    for path in inputs:
        text_size(path)
    with SplitWriter(prefix, len(tokenizer.dictionary)) as split:
        write_all(split, map(PieceEncoder(tokenizer), _pieces(inputs)), inputs, progress)
    return split.counts


def _splits(config: PreprocessConfig) -> dict[str, tuple[Path, ...]]:
    """Return the text files of each split, or of each shard."""
    given = {"train": config.trainpref, "valid": config.validpref, "test": config.testpref}
    splits = {name: paths for name, paths in given.items() if paths}
    if config.valid_fraction:
        return {"train": splits.pop("train"), "valid": (), **splits}
    if config.shards and config.trainpref:
        shards = {shard_name("train", number): (path,) for number, path in enumerate(config.trainpref)}
        return {**shards, **{name: paths for name, paths in splits.items() if name != "train"}}
    return splits


def _check_destination(config: PreprocessConfig, splits: Iterable[str], tokenizer: Tokenizer | None) -> None:
    """Refuse a folder with splits that would no longer fit its vocabulary, or would count as shards of the new ones.

    Nor may it hold a model, whose vocabulary would be replaced. Without a tokenizer, one that is still to be made.
    """
    folder = config.destdir
    if models := sorted(path.name for pattern in _MODELS for path in folder.glob(pattern)):
        raise ConfigError(f"{folder}: holds a model, {models[0]}, and its vocabulary; choose another --destdir")
    if any(folder.glob("step_*")) or (folder / "run.json").exists():
        raise ConfigError(f"{folder}: holds a run; choose another --destdir")
    found = {path.stem for path in folder.glob("*.idx")}
    others = found.difference(splits)
    for name in sorted(others):
        if name.rstrip("0123456789") == "train" and "train" in splits:
            raise ConfigError(
                f"{folder}: {name}.idx would be taken for a shard of the new training split; remove its files, or "
                "choose another --destdir"
            )
    kept = sorted(found if config.shards else others)
    if kept and (folder / FILE_NAME).exists() and not _is_vocabulary_of(folder, tokenizer):
        raise ConfigError(
            f"{folder}: holds {', '.join(kept)} of another vocabulary; choose another --destdir, or give "
            f"--vocab {folder} to keep that vocabulary"
        )


def _is_vocabulary_of(folder: Path, tokenizer: Tokenizer | None) -> bool:
    return tokenizer is not None and fingerprint(tokenizer) == fingerprint(Tokenizer.load(folder))


def _make_splits(
    splits: dict[str, tuple[Path, ...]],
    config: PreprocessConfig,
    tokenizer: Tokenizer,
    workers: Workers,
    progress: Progress,
) -> dict[str, Counts]:
    made: dict[str, SplitWriter] = {}
    with ExitStack() as stack:
        for name in splits:
            made[name] = stack.enter_context(SplitWriter(config.destdir / name, len(tokenizer.dictionary)))
        for name, paths in splits.items():
            encoded = workers.encode(_pieces(paths))
            if name == "train" and config.valid_fraction:
                share_out(made["train"], made["valid"], encoded, config.valid_fraction, progress)
            elif paths:
                write_all(made[name], encoded, paths, progress)
        for name in splits:
            idx_path(config.destdir / name).unlink(missing_ok=True)  # no split beside another's vocabulary, ever
        tokenizer.save(config.destdir)
    _write_sums(config.destdir, splits)
    return {name: split.counts for name, split in made.items()}


def _make_shards(
    splits: dict[str, tuple[Path, ...]], folder: Path, tokenizer: Tokenizer, workers: Workers, progress: Progress
) -> dict[str, Counts]:
    """Write every split on its own, but for those that an earlier run made of the same files.

    A ledger in the folder says what each was made of; its entry is written last.
    """
    ledger = _read_ledger(folder)
    vocabulary = fingerprint(tokenizer)
    counts: dict[str, Counts] = {}
    for name, paths in splits.items():
        source = {"vocabulary": vocabulary, "files": [identity(path) for path in paths]}
        entry = ledger.get(name)
        if entry and entry["source"] == source and idx_path(folder / name).exists():
            counts[name] = Counts(**entry["counts"])
            progress(counts[name].text_bytes)
            continue
        with SplitWriter(folder / name, len(tokenizer.dictionary)) as split:
            write_all(split, workers.encode(_pieces(paths)), paths, progress)
            tokenizer.save(folder)
        counts[name] = split.counts
        _write_sums(folder, [name])
        ledger[name] = {"source": source, "counts": asdict(split.counts)}
        write_text(folder / LEDGER_NAME, json.dumps(ledger, indent=1) + "\n")
    return counts


def _write_sums(folder: Path, splits: Iterable[str]) -> None:
    """Write into the manifest what the vocabulary and these splits, just written, must be like."""
    files = [path.name for name in splits for path in (bin_path(folder / name), idx_path(folder / name))]
    vocabulary = [name for name in (FILE_NAME, *MERGES_NAMES, *ENCODER_NAMES) if (folder / name).is_file()]
    write_manifest(folder, [*vocabulary, *files])


def _read_ledger(folder: Path) -> dict[str, Any]:
    path = folder / LEDGER_NAME
    try:
        ledger: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not isinstance(ledger, dict):
            raise ValueError(f"expected an object, found {type(ledger).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: can't be read: {error}; remove it to make all shards anew") from error
    return ledger


def _pieces(inputs: Sequence[Path]) -> Iterator[Piece]:
    for path in inputs:
        yield from read_pieces(path, PIECE_BYTES)
