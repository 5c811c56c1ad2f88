"""The scores of a system by several metrics, and beside them those of a baseline with the chance of the difference.

torch is imported where BERTScore is computed, and not before: the other metrics do without.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from roberta.errors import ConfigError
from roberta.text_metrics.options import BertScoreConfig
from roberta.text_metrics.parallel import Texts
from roberta.text_metrics.significance import SignificanceConfig, mean_p_value, surface_p_value
from roberta.text_metrics.surface import Score, SurfaceConfig, surface_score

if TYPE_CHECKING:
    from roberta.hub.border import Engine

MetricName = Literal["bleu", "chrf", "chrf++", "ter", "bertscore"]
BERTSCORE: MetricName = "bertscore"


@dataclass(frozen=True)
class Model:
    """What BERTScore compares features with, and its name in signatures."""

    engine: "Engine"
    name: str


@dataclass(frozen=True)
class Scoring:
    """Which metrics to compute, and their options."""

    metrics: tuple[MetricName, ...]
    surface: SurfaceConfig
    bert: BertScoreConfig
    model: Model | None = None  # BERTScore alone needs it

    def __post_init__(self) -> None:
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(f"the metrics are {self.metrics}; give at least one, and none of them twice")
        if BERTSCORE in self.metrics and self.model is None:
            raise ConfigError("bertscore needs a model: give --model, or leave it out of --metrics")

    def score(self, texts: Texts, *, per_line: bool = False) -> dict[str, Score]:
        """Return the score of texts by each metric, with `per_line` those of the lines too.

        Raises:
            ConfigError: the model has no such layer.
        """
        return {
            name: self._bert_score(texts)
            if name == BERTSCORE
            else surface_score(name, texts, self.surface, per_line=per_line)
            for name in self.metrics
        }

    def compare(
        self,
        texts: Texts,
        scores: dict[str, Score],
        baseline: dict[str, Score],
        lines: Sequence[str],
        test: SignificanceConfig,
    ) -> dict[str, float]:
        """Return, for each metric, how likely its difference from the baseline's would be by chance.

        scores and baseline are those of `texts` and of the baseline's `lines`.
        """
        return {
            name: mean_p_value(scores[name].lines, baseline[name].lines, test)
            if name == BERTSCORE
            else surface_p_value(name, texts, lines, self.surface, test)
            for name in self.metrics
        }

    def _bert_score(self, texts: Texts) -> Score:
        """Return the F1 of BERTScore, at most 1, with precision and recall."""
        from roberta.text_metrics.bertscore import bert_score

        assert self.model is not None
        found = bert_score(self.model.engine, texts, self.bert)
        mean = found.mean
        file = self.bert.rescale_with
        rescaled = "" if file is None else f"rescaled:{file.name}|"
        signature = (
            f"nrefs:{texts.num_references}|model:{self.model.name}|layer:{found.layer}|"
            f"idf:{'yes' if self.bert.idf else 'no'}|{rescaled}version:roberta {metadata.version('roberta')}"
        )
        details = {"precision": mean.precision, "recall": mean.recall, "truncated": found.num_truncated}
        return Score(mean.f1, signature, details, tuple(match.f1 for match in found.matches))
