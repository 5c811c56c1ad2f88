"""Masked-LM pretraining on a binarised corpus: blocks of text, masked anew in every epoch (arXiv:1907.11692).

Shapes: T packed tokens, M masked positions.
"""

import logging
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roberta.config import option, refuse_idle
from roberta.data.batching import order
from roberta.data.blocks import BreakMode, blocks
from roberta.data.cache import binarized, is_raw_text
from roberta.data.dictionary import FILE_NAME
from roberta.data.indexed import bin_path, idx_path
from roberta.data.masking import Masker, MaskingConfig
from roberta.data.resampling import Resampling
from roberta.data.stream import ConcatStream, open_split
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError, VocabError
from roberta.layout import Batch, SequenceLayout
from roberta.models.heads import LM_HEAD, MaskedLMHeadConfig
from roberta.registry import TASKS
from roberta.tasks.task import Samples, Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskedLMTaskConfig(MaskingConfig):
    """Options of masked-LM pretraining; those of the masking are among them."""

    data: Path = option(
        help=f"folder that roberta-preprocess made, or several with {os.pathsep} between them; "
        "or raw text, a file or a folder of .txt files, which is binarised once into the cache"
    )
    vocab: Path | None = option(
        None, help="raw text: folder of dict.txt, encoder.json and vocab.bpe, or roberta.mini for its own"
    )
    valid_data: Path | None = option(None, help="raw text: file or folder of the validation text")
    valid_fraction: float = option(0.01, help="raw text without --valid-data: share of the documents held out")
    tokens_per_sample: int = option(512, help="tokens of a sample at most, <s> included")
    sample_break_mode: BreakMode = option("complete", help="how sentences fill samples; complete is FULL-SENTENCES")
    multilang_sampling_alpha: float | None = option(
        None, help="several folders, each a language: train on shares p^alpha instead of p; 1 leaves them, 0 evens them"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens_per_sample < 2:
            raise ConfigError(f"--tokens-per-sample is {self.tokens_per_sample}; <s> and a token need 2")
        if self.multilang_sampling_alpha is not None and not 0 <= self.multilang_sampling_alpha <= 10:
            raise ConfigError(
                f"--multilang-sampling-alpha is {self.multilang_sampling_alpha}; it must be at least 0 and at most 10"
            )


class MaskedBlocks(Samples):
    """Blocks of a token stream, each after a `<s>`.

    masking: how they are masked, where that is not as the config says.
    languages: how many parts of the stream belong to each language, where they are to be resampled.
    """

    def __init__(
        self,
        stream: ConcatStream,
        tokenizer: Tokenizer,
        config: MaskedLMTaskConfig,
        masking: MaskingConfig | None = None,
        languages: Sequence[int] | None = None,
    ) -> None:
        self.stream = stream
        self.bos = [tokenizer.dictionary.bos]
        self.vocab_size = len(tokenizer.dictionary)
        self.mask = Masker.of(masking or config, tokenizer)
        block_size = config.tokens_per_sample - 1
        parts = [
            blocks(part.sizes, config.sample_break_mode, block_size) + offset  # no block holds tokens of two parts
            for part, offset in zip(stream.parts, stream.offsets, strict=False)
        ]
        self.blocks = np.concatenate(parts)  # (N, 2)
        self.resampling: Resampling | None = None
        if languages is not None and config.multilang_sampling_alpha is not None:
            remaining = map(len, parts)
            counts = np.array([sum(islice(remaining, count)) for count in languages])
            self.resampling = Resampling.of(counts, config.multilang_sampling_alpha)
            self.blocks = self.blocks[self.resampling.originals()]
        self.sizes = self.blocks[:, 1] - self.blocks[:, 0] + 1

    def order(self, *, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the samples of an epoch in the order in which they are trained on; languages may be resampled."""
        if self.resampling is None:
            return super().order(seed=seed, epoch=epoch)
        indices = self.resampling.indices(seed=seed, epoch=epoch)
        return indices[order(len(indices), seed=seed, epoch=epoch)]

    def batch(self, sample_ids: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Return these blocks, with the masks of this epoch.

        Raises:
            DataError: a token is not in the dictionary.
        """
        ranges = self.blocks[sample_ids].tolist()
        pieces = [part for start, end in ranges for part in (self.bos, self.stream.tokens(start, end))]
        tokens, lengths = np.concatenate(pieces), self.sizes[sample_ids]
        if tokens.view(np.uint64).max() >= self.vocab_size:  # negative ones too
            raise self._unknown_token(sample_ids)
        masked = self.mask(tokens, lengths, sample_ids, seed=seed, epoch=epoch)
        return Batch(
            tokens=torch.from_numpy(masked.tokens),
            layout=SequenceLayout.from_lengths(lengths),
            select=torch.from_numpy(masked.select),
            targets=torch.from_numpy(masked.targets),
            num_targets=len(masked.targets),
            sample_ids=tuple(sample_ids.tolist()),
        )

    def _unknown_token(self, sample_ids: NDArray[np.int64]) -> DataError:
        """Return what to say of the first token in these samples that the dictionary does not have."""
        sample, position, token = next(
            (sample, start + number, token)
            for sample in sample_ids.tolist()
            for start, end in [self.blocks[sample].tolist()]
            for number, token in enumerate(self.stream.tokens(start, end).tolist())
            if not 0 <= token < self.vocab_size
        )
        part = bisect_right(self.stream.offsets, position) - 1
        prefix, number = self.stream.parts[part].prefix, position - self.stream.offsets[part]
        return DataError(
            f"{bin_path(prefix)}: token {token} in sample {sample}, number {number} of the file; the dictionary has 0 "
            f"to {self.vocab_size - 1}; the file is damaged or of another dictionary: run roberta-preprocess --verify "
            f"{prefix.parent}, or binarise the text again"
        )


@TASKS.register("masked_lm", MaskedLMTaskConfig)
class MaskedLMTask(Task):
    """Recover the masked tokens of blocks of text."""

    head = LM_HEAD

    def __init__(self, config: MaskedLMTaskConfig, tokenizer: Tokenizer | None = None) -> None:
        self.config = config
        self.folders = _folders(config, tokenizer)
        if config.multilang_sampling_alpha is not None and len(self.folders) == 1:
            raise ConfigError(
                f"--multilang-sampling-alpha weighs the folders of languages, and {config.data} is one folder; "
                f"give several with {os.pathsep} between them, or leave it out"
            )
        self.tokenizer = Tokenizer.load(self.folders[0])
        if tokenizer is not None and tokenizer.dictionary != self.tokenizer.dictionary:
            raise VocabError(
                f"{self.folders[0]}: its dictionary is not the model's; run roberta-preprocess with the model's --vocab"
            )
        for folder in self.folders[1:]:
            if Tokenizer.load(folder).dictionary != self.tokenizer.dictionary:
                raise DataError(f"{folder}: its dictionary is not that of {self.folders[0]}; binarise both with one")

    def head_config(self, model_config: Any) -> MaskedLMHeadConfig:
        """Return the config of the masked-LM head, which has the activation of the model."""
        return MaskedLMHeadConfig(activation_fn=model_config.activation_fn)

    def samples(self, split: str) -> MaskedBlocks:
        """Return the blocks of a split of all folders that have it; of `train`, of each folder, those of all shards.

        Other splits are masked by the defaults, 15 % of single tokens, so that runs compare however they are trained.

        Raises:
            ConfigError: the masking needs counts that the dictionary has not.
            DataError: the split is missing, damaged or empty.
        """
        folders = self.folders if split == "train" else [folder for folder in self.folders if _has(folder, split)]
        for folder in self.folders:
            if folders and folder not in folders:
                logger.info("%s has no split %s, and is left out there", folder, split)
        if not folders:
            raise DataError(
                f"{self.config.data}: no split {split} there; make one by roberta-preprocess, with --validpref or "
                "--valid-fraction for valid"
            )
        languages = [open_split([folder], split).parts for folder in folders]
        stream = ConcatStream([part for parts in languages for part in parts])
        if split == "train":
            counts = [len(parts) for parts in languages]
            samples = MaskedBlocks(stream, self.tokenizer, self.config, languages=counts)
        else:
            samples = MaskedBlocks(stream, self.tokenizer, self.config, MaskingConfig())
        if not len(samples):
            raise DataError(f"{self.config.data}: no samples in the split {split}")
        return samples


def _has(folder: Path, split: str) -> bool:
    return idx_path(folder / split).exists() or bin_path(folder / split).exists()


def _folders(config: MaskedLMTaskConfig, tokenizer: Tokenizer | None) -> list[Path]:
    """Return the binarised folders of the data; raw text is binarised first, by a tokenizer that is there already."""
    if is_raw_text(config.data):
        with TemporaryDirectory() as name:
            vocab = config.vocab
            if vocab is None and tokenizer is not None:
                vocab = Path(name)
                tokenizer.save(vocab)
            if config.valid_data is not None:
                refuse_idle(config, ("valid_fraction",), "has no effect beside --valid-data")
            fraction = config.valid_fraction
            return [binarized(config.data, vocab=vocab, valid_data=config.valid_data, valid_fraction=fraction)]
    refuse_idle(config, ("vocab", "valid_data", "valid_fraction"), f"is for raw text, and {config.data} is not")
    folders = [config.data] if config.data.exists() else [Path(name) for name in str(config.data).split(os.pathsep)]
    for folder in folders:
        if not folder.exists():
            raise DataError(f"{folder}: no such file or folder; give text, or a folder that roberta-preprocess made")
        if not (folder / FILE_NAME).is_file():
            raise DataError(f"{folder}: no {FILE_NAME} there; make the folder with roberta-preprocess")
    return folders
