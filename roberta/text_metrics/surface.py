"""BLEU, chrF and TER from sacrebleu, with the signatures that make them comparable between papers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from roberta.config import option
from roberta.errors import ConfigError, choices
from roberta.text_metrics.parallel import Texts

SurfaceMetric = Literal["bleu", "chrf", "chrf++", "ter"]
BleuTokenizer = Literal["13a", "intl", "char", "zh", "none"]

_WORD_ORDER = {"chrf": 0, "chrf++": 2}


@dataclass(frozen=True)
class SurfaceConfig:
    """Options of the metrics of sacrebleu."""

    lowercase: bool = option(False, help="bleu, chrf, ter: take capitals for small letters")
    bleu_tokenize: BleuTokenizer = option("13a", help="bleu: how sacrebleu splits words")


@dataclass(frozen=True)
class Score:
    """A figure of a whole text, how it was computed, and what else there is to say of it."""

    score: float
    signature: str
    details: Mapping[str, float]
    lines: tuple[float, ...] = ()  # the figure of each line, if asked for


def surface_score(name: str, texts: Texts, config: SurfaceConfig, *, per_line: bool = False) -> Score:
    """Return BLEU, chrF, chrF++ or TER of all lines together, from 0 to 100, and with `per_line` of each.

    BLEU of a line takes the n-grams that it is long enough for (sacrebleu's `effective_order`).

    Raises:
        ConfigError: no such metric.
    """
    made = metric(name, config)
    result = made.corpus_score(list(texts.hypotheses), texts.reference_sets)
    lines: tuple[float, ...] = ()
    if per_line:
        single = metric(name, config, of_lines=True)
        pairs = zip(texts.hypotheses, texts.references, strict=True)
        lines = tuple(single.sentence_score(hypothesis, references).score for hypothesis, references in pairs)
    return Score(result.score, str(made.get_signature()), {}, lines)


def metric(name: str, config: SurfaceConfig, *, of_lines: bool = False) -> Any:
    """Return the metric of sacrebleu of that name.

    Raises:
        ConfigError: there is none.
    """
    from sacrebleu.metrics import BLEU, CHRF, TER

    if name in _WORD_ORDER:
        return CHRF(word_order=_WORD_ORDER[name], lowercase=config.lowercase)
    if name == "bleu":
        return BLEU(lowercase=config.lowercase, tokenize=config.bleu_tokenize, effective_order=of_lines)
    if name == "ter":
        return TER(case_sensitive=not config.lowercase)
    raise ConfigError(f"no metric {name!r}; {choices(name, get_args(SurfaceMetric))}")
