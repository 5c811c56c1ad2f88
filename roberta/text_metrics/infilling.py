"""How well a model fills gaps: words of a text are masked, filled in, and compared with what stood there.

chrF gives credit for near misses, beside the share of gaps that are filled exactly. A gap has as many masks as its text
has tokens, so the model is told its length. Which words are masked depends on the seed and the line alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from roberta.data.dictionary import MASK
from roberta.data.tokenizer import Tokenizer
from roberta.errors import DataError
from roberta.hub.border import Engine, inference
from roberta.hub.filling import fill
from roberta.hub.scoring import check_lm_head
from roberta.randomness import generator
from roberta.text_metrics.options import InfillingConfig
from roberta.text_metrics.surface import SurfaceConfig, metric


@dataclass(frozen=True)
class Gap:
    """A gap in a line, what stood there, and what the model says."""

    line: int  # from 1
    masked: str
    original: str
    filled: str


@dataclass(frozen=True)
class Infilling:
    """All gaps of a text, how alike originals and fillings are (chrF from 0 to 100), and how many are equal."""

    gaps: tuple[Gap, ...]
    chrf: float
    exact: float
    signature: str
    num_skipped: int  # lines without two words, or too long for the model


def infill(engine: Engine, lines: Sequence[str], config: InfillingConfig) -> Infilling:
    """Return how well the model fills a gap in each line.

    Raises:
        ConfigError: the model has no masked-LM head.
        DataError: a line holds `<mask>`, or no line has two words and fits into the model.
    """
    check_lm_head(engine.model)
    drawn = [_draw(engine, line, number, config) for number, line in enumerate(lines, start=1)]
    asked = [gap for gap in drawn if gap is not None]
    if not asked:
        raise DataError(
            f"none of {len(lines)} lines has two words and fits into the model; give longer or shorter ones"
        )
    topk = min(config.beam, engine.model.config.vocab_size)
    with inference(engine.model):
        fills = fill(engine, [gap.masked for gap in asked], topk=topk, joint=config.joint)
    gaps = tuple(
        Gap(gap.line, gap.masked, gap.original, "".join(best[0].tokens).strip())
        for gap, best in zip(asked, fills, strict=True)
    )
    measure: Any = metric("chrf", SurfaceConfig())
    result = measure.corpus_score([gap.filled for gap in gaps], [[gap.original for gap in gaps]])
    exact = sum(gap.filled == gap.original for gap in gaps) / len(gaps)
    return Infilling(gaps, result.score, exact, str(measure.get_signature()), len(lines) - len(gaps))


def _draw(engine: Engine, line: str, number: int, config: InfillingConfig) -> Gap | None:
    """Return a line with a gap, nothing filled in yet; None where it has no two words or is too long."""
    if MASK in line:
        raise DataError(f"line {number} holds {MASK}: {line!r:.60}; the masks are put in here, leave it out")
    words = [match.span() for match in re.finditer(r"\S+", line)]
    if len(words) < 2:
        return None
    rng = generator(config.seed, "infilling", number)
    count = int(rng.integers(1, min(config.span_words, len(words) - 1) + 1))
    first = int(rng.integers(0, len(words) - count + 1))
    start, end = words[first][0], words[first + count - 1][1]
    masked = line[:start] + MASK * _num_tokens(engine.tokenizer, line, start, end) + line[end:]
    length = len(engine.tokenizer.encode_sequence(line))
    return Gap(number, masked, line[start:end], "") if length <= engine.model.config.max_positions else None


def _num_tokens(tokenizer: Tokenizer, line: str, start: int, end: int) -> int:
    gap = " " if start > 0 else ""
    return len(tokenizer.encode(gap + line[start:end]))
