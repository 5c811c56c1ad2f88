"""A binarised folder checked byte by byte: its files are those that were written, its tokens those of its dictionary.

Opening a corpus checks the index and the sizes of both files, and no more: a flipped bit among the tokens shows here.
"""

from dataclasses import dataclass
from pathlib import Path

from roberta.data.dictionary import FILE_NAME, Dictionary
from roberta.data.indexed import IndexedDataset, bin_path, idx_path
from roberta.errors import DataError
from roberta.manifest import MANIFEST, check_content, checked_sums

_CHUNK = 1 << 22  # tokens in memory at once


@dataclass(frozen=True)
class Verified:
    """What was checked: files with a sum, tokens by split, and the files of splits that no manifest lists."""

    files: int
    tokens: dict[str, int]
    without_sum: tuple[str, ...]


def verify(folder: Path) -> Verified:
    """Check a binarised folder: sizes and sums of the files in its manifest, indices, and every token.

    A folder without a manifest (fairseq makes none) has no sums to compare with; all else is checked.

    Raises:
        DataError: a file is missing, cut or changed, a token is not in the dictionary, or there is nothing to check.
        VocabError: the dictionary is damaged.
    """
    sums = checked_sums(folder, DataError) if (folder / MANIFEST).exists() else {}
    for path, expected in sums.items():
        check_content(path, expected, DataError)
    prefixes = sorted(path.with_suffix("") for path in folder.glob("*.idx"))
    if not prefixes:
        raise DataError(f"{folder}: no .idx file; give a folder that roberta-preprocess made")
    vocab_size = len(Dictionary.load(folder / FILE_NAME))
    tokens = {prefix.name: _check_tokens(IndexedDataset(prefix), vocab_size) for prefix in prefixes}
    files = [path for prefix in prefixes for path in (bin_path(prefix), idx_path(prefix))]
    return Verified(len(sums), tokens, tuple(path.name for path in files if path not in sums))


def _check_tokens(dataset: IndexedDataset, vocab_size: int) -> int:
    """Return how many tokens there are, all of them in the dictionary."""
    for start in range(0, dataset.num_tokens, _CHUNK):
        tokens = dataset.tokens(start, min(start + _CHUNK, dataset.num_tokens))
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise DataError(
                f"{bin_path(dataset.prefix)}: tokens from {tokens.min()} to {tokens.max()} among those from number "
                f"{start}; the dictionary beside it has {vocab_size}; binarise the text again with roberta-preprocess"
            )
    return dataset.num_tokens
