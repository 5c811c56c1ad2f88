"""Options of what needs a model, apart from it: a command shows and checks them without importing torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roberta.config import option
from roberta.errors import ConfigError


@dataclass(frozen=True)
class BertScoreConfig:
    """Options of BERTScore."""

    layer: int | None = option(
        None,
        help="layer whose output is compared, 0 is the embeddings; if not given 10 of 12, 17 of 24, 19 of 24 where the "
        "model has the head mnli, five sixths of any other number",
    )
    idf: bool = option(False, help="weigh tokens by how few of the references have them")
    rescale_with: Path | None = option(
        None,
        help="file of baselines, LAYER,P,R,F a line as those of the bert-score package: its layer's become 0, and 1 "
        "stays; the signature says so",
    )


@dataclass(frozen=True)
class InfillingConfig:
    """Options of filling gaps."""

    span_words: int = option(2, help="words of a gap at most, drawn evenly from 1; a line has one gap")
    joint: Literal["independent", "left_to_right", "beam"] = option(
        "beam", help="how the masks of a gap are filled together, as in fill_masks"
    )
    beam: int = option(5, help="fillings that are kept on the way")
    seed: int = option(1, help="seed of the choice of words")

    def __post_init__(self) -> None:
        if self.span_words < 1 or self.beam < 1 or self.seed < 0:
            raise ConfigError(
                f"--span-words {self.span_words}, --beam {self.beam}, --seed {self.seed}; "
                "the first two must be at least 1, the seed at least 0"
            )
