"""BERTScore (arXiv:1904.09675): how well the tokens of a text match those of a reference, by RoBERTa's features.

Each token takes the token of the other text whose feature has the greatest cosine with its own. Precision is the mean
of these over the hypothesis, recall over the reference. The conventions are those of the published tool (bert-score
0.3): the layer, a space before the text, `<s>` and `</s>` that can be taken but do not count, the best of several
references for each of the three figures by itself. So is rescaling: what texts that have nothing to do with each other
score, by a file of baselines, becomes 0, and 1 stays 1.

Shapes: S tokens of a text, C embed_dim.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from roberta.data.text import read_lines
from roberta.errors import ConfigError, DataError
from roberta.hub.border import Engine, inference
from roberta.layout import SequenceLayout
from roberta.models.roberta import RobertaModel
from roberta.progress import progress_bar
from roberta.text_metrics.options import BertScoreConfig
from roberta.text_metrics.parallel import Texts

_LINES = 256  # whose features are in memory at once
_BEST_LAYERS = {12: 10, 24: 17}  # by the number of them: of base and large, as the tool has tuned them on WMT16
_LARGE_MNLI, _BEST_OF_LARGE_MNLI = 24, 19
_COLUMNS = "LAYER,P,R,F"  # of a file of baselines
_BEST_PART = 5 / 6  # of other models: about where it is of base, and of the small models in the tool's table


@dataclass(frozen=True)
class Match:
    """How well a line matches its reference; 0 for a blank line, before rescaling."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class BertScore:
    """The matches of all lines, and how they were computed."""

    matches: tuple[Match, ...]
    layer: int
    num_truncated: int  # texts that were cut to what the model takes

    @property
    def mean(self) -> Match:
        """The figures of the whole: the means over the lines."""
        return Match(
            *(math.fsum(values) / len(self.matches) for values in zip(*map(_figures, self.matches), strict=True))
        )


@dataclass(frozen=True)
class _Text:
    """A text as features of length 1 (S, C), and what each token counts (S,), 1 in all."""

    rows: Tensor
    weights: Tensor


def bert_score(engine: Engine, texts: Texts, config: BertScoreConfig) -> BertScore:
    """Return how well each line matches its references.

    Raises:
        ConfigError: the model has no such layer, or the baselines have none.
        DataError: the file of baselines is missing or damaged.
    """
    layer = layer_of(engine.model, config.layer)
    baseline = Match(0.0, 0.0, 0.0) if config.rescale_with is None else read_baseline(config.rescale_with, layer)
    references = list(chain.from_iterable(texts.references))
    idf = _idf(engine, references) if config.idf else None
    matches: list[Match] = []
    distinct = {*texts.hypotheses, *references}
    limit = engine.model.config.max_positions
    num_truncated = sum(len(_sequence(engine, text, limit + 1)) > limit for text in distinct)
    with inference(engine.model), _bar(len(texts.hypotheses)) as bar:
        for start in range(0, len(texts.hypotheses), _LINES):
            lines = slice(start, start + _LINES)
            matches += _match_all(engine, texts.hypotheses[lines], texts.references[lines], layer, idf)
            bar.update(len(texts.hypotheses[lines]))
    return BertScore(tuple(_rescaled(match, baseline) for match in matches), layer, num_truncated)


def read_baseline(path: Path, layer: int) -> Match:
    """Return the baselines of a layer: what texts that have nothing to do with each other score.

    Raises:
        ConfigError: the file has no such layer.
        DataError: it is missing, or a line of it is not four numbers, the last three below 1.
    """
    found: dict[int, Match] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if number == 1 and line.strip() == _COLUMNS:
            continue
        try:
            of_layer, *figures = line.split(",")
            match = Match(*map(float, figures))
            is_baseline = all(figure < 1.0 for figure in _figures(match))
            found[int(of_layer)] = match
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}:{number}: {line[:80]!r}; expected {_COLUMNS}, four numbers") from error
        if not is_baseline:
            raise DataError(f"{path}:{number}: {line[:80]!r}; the baselines must be below 1")
    if layer not in found:
        raise ConfigError(f"{path}: no baselines of layer {layer}; it has {', '.join(map(str, found)) or 'none'}")
    return found[layer]


def _rescaled(match: Match, baseline: Match) -> Match:
    pairs = zip(_figures(match), _figures(baseline), strict=True)
    return Match(*((figure - base) / (1.0 - base) for figure, base in pairs))


def _bar(total: int) -> Any:
    return progress_bar(desc="BERTScore", unit="lines", total=total, lines=True)


def layer_of(model: RobertaModel, layer: int | None) -> int:
    """Return the layer to compare by: the given one, or the one that is best for a model of this kind.

    Raises:
        ConfigError: the model has no such layer.
    """
    count = model.config.encoder_layers
    if layer is not None:
        if not 0 <= layer <= count:
            raise ConfigError(f"layer {layer}: the model has {count}; give 0, the embeddings, to {count}")
        return layer
    if count == _LARGE_MNLI and "mnli" in model.head_configs:
        return _BEST_OF_LARGE_MNLI
    return _BEST_LAYERS.get(count) or max(1, round(count * _BEST_PART))


def _sequence(engine: Engine, text: str, max_tokens: int) -> list[int]:
    return engine.tokenizer.encode_sequence(f" {text.strip()}", max_tokens=max_tokens)


def _idf(engine: Engine, references: Sequence[str]) -> dict[int, float]:
    """Return how rare each token is among the references: log((N + 1) / (those with it + 1)).

    A token that none has counts log(N + 1); `<s>` and `</s>`, which all have, 0.
    """
    counts: Counter[int] = Counter()
    for text in references:
        counts.update(set(_sequence(engine, text, engine.model.config.max_positions)))
    rarest = math.log(len(references) + 1)
    weights = dict.fromkeys(range(len(engine.tokenizer.dictionary)), rarest)
    return weights | {token: math.log((len(references) + 1) / (count + 1)) for token, count in counts.items()}


def _match_all(
    engine: Engine,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    layer: int,
    idf: Mapping[int, float] | None,
) -> list[Match]:
    distinct = list(dict.fromkeys(chain(hypotheses, *references)))
    features = dict(zip(distinct, _features(engine, distinct, layer, idf), strict=True))
    best = []
    for hypothesis, of_line in zip(hypotheses, references, strict=True):
        figures = [_match(features[hypothesis], features[reference]) for reference in of_line]
        best.append(torch.stack(figures).amax(dim=0) * bool(hypothesis.strip()))
    return [Match(*figures) for figures in torch.stack(best).tolist()]


def _features(engine: Engine, texts: Sequence[str], layer: int, idf: Mapping[int, float] | None) -> list[_Text]:
    encoder = engine.model.encoder
    sequences = [_sequence(engine, text, engine.model.config.max_positions) for text in texts]

    def compute(indices: list[int], tokens: Tensor, layout: SequenceLayout) -> list[_Text]:
        x = encoder.embed(tokens, layout)
        for module in encoder.layers[:layer]:
            x = module(x, layout)
        rows = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1).split(layout.lengths)
        weights = [_weights(sequences[index], idf) for index in indices]
        return [_Text(of_text, weight.to(of_text)) for of_text, weight in zip(rows, weights, strict=True)]

    return engine.each(sequences, compute)


def _weights(sequence: Sequence[int], idf: Mapping[int, float] | None) -> Tensor:
    """Return what each token counts, 1 in all: (S,) float64.

    Where idf gives 0 to all of them, since every reference has them, they count the same.
    """
    inner = [1.0] * (len(sequence) - 2) if idf is None else [idf[token] for token in sequence[1:-1]]
    if not any(inner):
        inner = [1.0] * len(inner)
    weights = torch.tensor([0.0, *inner, 0.0], dtype=torch.float64)
    return weights / weights.sum()


def _match(hypothesis: _Text, reference: _Text) -> Tensor:
    """Return precision, recall and F1: (3,)."""
    similarity = hypothesis.rows @ reference.rows.T  # (S of the hypothesis, S of the reference)
    precision = similarity.amax(dim=1) @ hypothesis.weights
    recall = similarity.amax(dim=0) @ reference.weights
    total = precision + recall
    f1 = torch.where(total == 0, 0.0, 2 * precision * recall / total)
    return torch.stack((precision, recall, f1))


def _figures(match: Match) -> tuple[float, float, float]:
    return match.precision, match.recall, match.f1
