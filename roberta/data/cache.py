"""Raw text binarised once: the folder that a text file or a folder of text files stands for.

It is kept in the cache under a name that depends on the files (path, size, time of change), the vocabulary, the
validation split, and the version of what makes it. Of several processes that need it at once one makes it, and the
others wait; where the file system has no locks each makes it, and all end with a whole one.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.dictionary import FILE_NAME
from roberta.data.readers.split_files import has_split_file
from roberta.data.text import COMPRESSED, identity
from roberta.data.tokenizer import Tokenizer
from roberta.data.vocabulary import fingerprint
from roberta.download import cache_dir, sweep
from roberta.errors import ConfigError, DataError, StorageError
from roberta.files import make_folder, temporary
from roberta.locking import in_turn

TEXT_SUFFIX = ".txt"

_VERSION = 2  # to be raised with any change of what `preprocess` makes of a text: what was made before it is left aside

_HEX = "[0-9a-f]"
_PARTS = f"*-{16 * _HEX}.{32 * _HEX}.part"  # of any text: one that was changed since has another name

logger = logging.getLogger(__name__)


def text_files(path: Path) -> tuple[Path, ...]:
    """Return a file as it is, of a folder its text files (.txt, .txt.gz and the like) in the order of their names."""
    if not path.is_dir():
        return (path,)
    names = (TEXT_SUFFIX, *(TEXT_SUFFIX + suffix for suffix in COMPRESSED))
    return tuple(sorted(file for file in path.iterdir() if file.name.endswith(names) and file.is_file()))


def is_raw_text(path: Path) -> bool:
    """Return whether a path is a file, or a folder of text files that is not binarised."""
    return path.is_file() or (path.is_dir() and not (path / FILE_NAME).exists() and bool(text_files(path)))


def binarized(
    data: Path, *, vocab: Path | None, valid_data: Path | None, valid_fraction: float, folder: Path | None = None
) -> Path:
    """Return the binarised form of raw text, made at the first call, below `folder` or `$ROBERTA_CACHE/data-bin`.

    The validation split is `valid_data`, whose files are not trained on where they are among those of `data`, or else
    `valid_fraction` of the documents.

    Raises:
        ConfigError, DataError, StorageError, VocabError: as `preprocess`.
    """
    valid = _validation_files(valid_data) if valid_data else None
    train = _training_files(data, valid or ())
    if valid is None and not valid_fraction:
        raise ConfigError("there is nothing to validate on: give --valid-data, or a --valid-fraction above 0")
    for split in ("test",) if valid else ("valid", "test"):
        if has_split_file(data, split, (TEXT_SUFFIX,)):
            logger.warning(
                "%s: a file there is called that of a %s split, and is trained on as all others are; keep it apart%s",
                data,
                split,
                ", and name it with --valid-data" if split == "valid" else "",
            )
    fraction = 0.0 if valid else valid_fraction
    sources = [identity(path) for path in train], [identity(path) for path in valid or ()]
    key = json.dumps([_VERSION, *sources, fraction, fingerprint(Tokenizer.load(vocab))])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    target = (folder or cache_dir() / "data-bin") / f"{data.absolute().stem}-{digest}"
    if target.is_dir():
        return target
    make_folder(target.parent)
    with in_turn(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return target
        part = temporary(target)
        logger.info("binarising %s into %s", data, target)
        sweep(target.parent, _PARTS)
        try:
            preprocess(
                PreprocessConfig(trainpref=train, validpref=valid, valid_fraction=fraction, vocab=vocab, destdir=part)
            )
            _publish(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _validation_files(path: Path) -> tuple[Path, ...]:
    files = text_files(path)
    if not files:
        raise DataError(f"{path}: no {TEXT_SUFFIX} files in it; give a file, or a folder of such files")
    return files


def _training_files(path: Path, valid: tuple[Path, ...]) -> tuple[Path, ...]:
    held_out = {file.resolve() for file in valid}
    files = tuple(file for file in text_files(path) if file.resolve() not in held_out)
    if not files:
        raise DataError(f"{path}: all its text is that of --valid-data; nothing is left to train on")
    return files


def _publish(part: Path, target: Path) -> None:
    """Rename a folder, unless another process was faster."""
    try:
        os.rename(part, target)
    except OSError as error:
        if not target.is_dir():
            raise StorageError(f"{target}: can't be written: {error}; ROBERTA_CACHE moves the cache") from error
