"""Masked-LM pretraining on a binarised corpus: blocks of text, masked anew in every epoch (arXiv:1907.11692).

Shapes: T packed tokens, M masked positions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roberta.config import option
from roberta.data.blocks import BreakMode, blocks
from roberta.data.dictionary import SPECIALS, Dictionary
from roberta.data.indexed import IndexedDataset
from roberta.data.masking import MaskingConfig, mask
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError
from roberta.layout import Batch, SequenceLayout
from roberta.models.heads import MaskedLMHeadConfig
from roberta.registry import TASKS
from roberta.tasks.task import Samples, Task


@dataclass(frozen=True)
class MaskedLMTaskConfig(MaskingConfig):
    """Options of masked-LM pretraining; those of the masking are among them."""

    data: Path = option(help="folder that roberta-preprocess made")
    tokens_per_sample: int = option(512, help="tokens of a sample at most, <s> included")
    sample_break_mode: BreakMode = option("complete", help="how sentences fill samples; complete is FULL-SENTENCES")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens_per_sample < 2:
            raise ConfigError(f"--tokens-per-sample is {self.tokens_per_sample}; <s> and a token need 2")


class MaskedBlocks(Samples):
    """Blocks of a token stream, each after a `<s>`."""

    def __init__(self, dataset: IndexedDataset, dictionary: Dictionary, config: MaskedLMTaskConfig) -> None:
        self.dataset = dataset
        self.dictionary = dictionary
        self.config = config
        self.blocks = blocks(dataset.sizes, config.sample_break_mode, config.tokens_per_sample - 1)  # (N, 2)
        self.sizes = self.blocks[:, 1] - self.blocks[:, 0] + 1

    def batch(self, sample_ids: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Return these blocks, with the masks of this epoch."""
        bos = [self.dictionary.bos]
        pieces = [part for start, end in self.blocks[sample_ids] for part in (bos, self.dataset.tokens(start, end))]
        lengths = self.sizes[sample_ids]
        masked = mask(
            np.concatenate(pieces),
            lengths,
            sample_ids,
            self.config,
            seed=seed,
            epoch=epoch,
            mask_id=self.dictionary.mask,
            vocab_size=len(self.dictionary),
            num_special=len(SPECIALS),
        )
        return Batch(
            tokens=torch.from_numpy(masked.tokens),
            layout=SequenceLayout.from_lengths(lengths),
            select=torch.from_numpy(masked.select),
            targets=torch.from_numpy(masked.targets),
            num_targets=len(masked.targets),
            sample_ids=tuple(sample_ids.tolist()),
        )


@TASKS.register("masked_lm", MaskedLMTaskConfig)
class MaskedLMTask(Task):
    """Recover the masked tokens of blocks of text."""

    head = "lm"

    def __init__(self, config: MaskedLMTaskConfig) -> None:
        if not (config.data / "dict.txt").is_file():
            raise DataError(f"{config.data}: no dict.txt there; make the folder with roberta-preprocess")
        self.config = config
        self.tokenizer = Tokenizer.load(config.data)

    def head_config(self, model: Any) -> MaskedLMHeadConfig:
        """Return the config of the masked-LM head, which has the activation of the model."""
        return MaskedLMHeadConfig(activation_fn=model.activation_fn)

    def samples(self, split: str) -> MaskedBlocks:
        """Return the blocks of `<data>/<split>.bin`.

        Raises:
            DataError: the split is missing, damaged or empty.
        """
        samples = MaskedBlocks(IndexedDataset(self.config.data / split), self.tokenizer.dictionary, self.config)
        if not len(samples):
            raise DataError(f"{self.config.data / split}: no samples in this split")
        return samples
