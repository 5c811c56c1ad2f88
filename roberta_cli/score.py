"""roberta-score: measure texts that a system wrote."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from roberta.config import add_arguments, flag, from_namespace, option
from roberta.errors import ConfigError
from roberta_cli.entry import Parser, add_user_module, check_output, load_user_modules, opened, run
from roberta_cli.results import Result

if TYPE_CHECKING:
    from roberta.text_metrics.parallel import Texts

DESCRIPTION = """Measure texts, a line each.

With --ref, compare them with references: BLEU, chrF and TER by sacrebleu with its signatures, and with --model
BERTScore by RoBERTa's features. With --baseline, say whether they are better than those of another system, and how
likely the difference would be by chance. With --nbest the texts are n-best lists, lines of
'number ||| text ||| score', of which the best by score + weight * pseudo-log-likelihood are taken.
With --infill, and no --ref, see how well a model fills gaps in the texts.

A blank line of the texts gets the worst score; a blank line of a reference file is no reference."""

EXAMPLE = """  roberta-score system.txt --ref reference.txt
  roberta-score system.txt --ref a.txt b.txt --model roberta.large --idf --baseline other.txt
  roberta-score nbest.txt --ref reference.txt --nbest --model roberta.base --weights 0 0.1 0.3 --output best.txt
  roberta-score reference.txt --infill --model roberta.base"""

Metric = Literal["bleu", "chrf", "chrf++", "ter", "bertscore"]
DEFAULT_METRICS: tuple[Metric, ...] = ("bleu", "chrf", "ter")


@dataclass(frozen=True)
class ScoreConfig:
    """Options of roberta-score."""

    ref: tuple[Path, ...] | None = option(None, help="files of references, a line for each line of the texts")
    metrics: tuple[Metric, ...] | None = option(
        None, help="what to compute; bleu chrf ter if not given, and with --model bertscore"
    )
    baseline: Path | None = option(None, help="texts of another system, to compare with")
    model: str | None = option(None, help="name of a released model, or path of a run or checkpoint")
    per_line: Path | None = option(None, help="file to write the scores of each line to, as JSON lines")
    nbest: bool = option(False, help="the texts are n-best lists")
    weights: tuple[float, ...] = option((0.0, 0.5, 1.0), help="nbest: weights of the pseudo-log-likelihood to try")
    output: Path | None = option(None, help="nbest: file to write the texts taken with the last weight to")
    infill: bool = option(False, help="fill gaps in the texts and compare with what stood there")
    device: Literal["auto", "cpu", "cuda"] = option("auto", help="where to compute; auto takes CUDA if there is one")
    max_tokens: int = option(4096, help="tokens per forward pass, at most")

    def __post_init__(self) -> None:
        if self.infill == (self.ref is not None):
            raise ConfigError("give --ref with files of references, or --infill, which needs none")
        if self.nbest and (self.infill or self.baseline is not None or self.per_line is not None):
            raise ConfigError("--nbest goes with --ref alone; take the best with --output first, and score that file")
        if (self.nbest or self.infill) and self.model is None:
            raise ConfigError("required: --model")
        if self.output is not None and not self.nbest:
            raise ConfigError("--output is where --nbest writes; the scores of lines go to --per-line")
        if not self.weights or not all(map(math.isfinite, self.weights)):
            raise ConfigError(f"--weights takes at least one number, and finite ones, not {self.weights}")
        if self.max_tokens < 1:
            raise ConfigError(f"--max-tokens is {self.max_tokens}; it must be at least 1")


def command(argv: Sequence[str]) -> Result:
    """Do what the arguments say, and return the scores."""
    from roberta.text_metrics.options import BertScoreConfig, InfillingConfig
    from roberta.text_metrics.significance import SignificanceConfig
    from roberta.text_metrics.surface import SurfaceConfig

    parser = Parser("roberta-score", "TEXTS", description=DESCRIPTION, example=EXAMPLE)
    parser.add_argument(
        "texts",
        type=Path,
        metavar="TEXTS",
        help="file of texts, a line each; .gz, .xz and .zst are unpacked, - is stdin",
    )
    add_arguments(parser, ScoreConfig, title="scoring")
    add_arguments(parser, SurfaceConfig, title="sacrebleu")
    add_arguments(parser, BertScoreConfig, title="bertscore")
    add_arguments(parser, SignificanceConfig, title="baseline")
    add_arguments(parser, InfillingConfig, title="infill")
    add_user_module(parser)
    given = parser.parse_args(argv)
    load_user_modules(given.user_module)
    config = from_namespace(ScoreConfig, given)
    _refuse_idle_options(given, config)
    from roberta.text_metrics.comparison import Scoring

    model = None if config.model is None else _model(config)
    if config.infill:
        result = _infill(given.texts, config, from_namespace(InfillingConfig, given), model)
    else:
        metrics = config.metrics or (DEFAULT_METRICS if model is None else (*DEFAULT_METRICS, "bertscore"))
        bert = from_namespace(BertScoreConfig, given)
        scoring = Scoring(metrics, from_namespace(SurfaceConfig, given), bert, model)
        score = _score_nbest if config.nbest else _score
        result = score(given.texts, config, scoring, from_namespace(SignificanceConfig, given))
    return {"texts": str(given.texts), **result}


def _refuse_idle_options(given: argparse.Namespace, config: ScoreConfig) -> None:
    """Refuse options without effect, since what they belong to is not asked for.

    Raises:
        ConfigError: one is given, or an output can't be written.
    """
    from roberta.text_metrics.options import BertScoreConfig, InfillingConfig
    from roberta.text_metrics.significance import SignificanceConfig
    from roberta.text_metrics.surface import SurfaceConfig

    has_model = config.model is not None
    asked = config.metrics or DEFAULT_METRICS
    has_bert_score = has_model and config.ref is not None and "bertscore" in (config.metrics or ("bertscore",))
    groups: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
        ("--nbest", config.nbest, ("weights",)),
        ("--ref", config.ref is not None, ("metrics", "baseline", *_names(SurfaceConfig))),
        ("a metric of sacrebleu", set(asked) != {"bertscore"}, ("lowercase",)),
        ("bleu among --metrics", "bleu" in asked, ("bleu_tokenize",)),
        ("--baseline", config.baseline is not None, _names(SignificanceConfig)),
        ("--infill", config.infill, _names(InfillingConfig)),
        ("--nbest, --infill or bertscore among --metrics", config.nbest or config.infill or has_bert_score, ("model",)),
        ("--model", has_model, ("max_tokens",)),
        ("BERTScore, which --model adds", has_bert_score, _names(BertScoreConfig)),
    )
    inputs = (given.texts, *(config.ref or ()), *([config.baseline] if config.baseline else []))
    check_output("--per-line", config.per_line, *inputs)
    check_output("--output", config.output, *inputs)
    for owner, is_there, names in groups:
        for name in names:
            if hasattr(given, name) and not is_there:
                raise ConfigError(f"{flag(name)} has no effect without {owner}; give both, or neither")


def _names(config: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(config))


def _score(path: Path, config: ScoreConfig, scoring: Any, test: Any) -> dict[str, Any]:
    from roberta.text_metrics.parallel import read_parallel

    texts = read_parallel(path, config.ref or ())
    baseline = None if config.baseline is None else read_parallel(config.baseline, config.ref or ())
    scores = scoring.score(texts, per_line=config.per_line is not None)
    if config.per_line is not None:
        _write_lines(config.per_line, texts, scores)
    result = {**_counts(texts), "scores": _described(scores)}
    if baseline is None:
        return result
    others = scoring.score(baseline)
    p_values = scoring.compare(texts, scores, others, baseline.hypotheses, test)
    compared = {
        name: {"score": others[name].score, "difference": scores[name].score - others[name].score, "p_value": p_value}
        for name, p_value in p_values.items()
    }
    return {
        **result,
        "baseline": {"texts": str(config.baseline), "test": test.test, "num_samples": test.samples, "scores": compared},
    }


def _score_nbest(path: Path, config: ScoreConfig, scoring: Any, test: Any) -> dict[str, Any]:
    from roberta.data.text import read_lines
    from roberta.files import write_text
    from roberta.text_metrics.parallel import parallel
    from roberta.text_metrics.rescoring import read_nbest, rescore

    lists = read_nbest(path)
    references = [list(read_lines(reference)) for reference in config.ref or ()]
    texts = parallel([candidates[0].text for candidates in lists], references)
    taken = rescore(scoring.model.engine, lists, config.weights)
    results = [
        {"weight": weight, "scores": _described(scoring.score(texts.replaced(lines)))}
        for weight, lines in zip(config.weights, taken, strict=True)
    ]
    if config.output is not None:
        write_text(config.output, "".join(f"{line}\n" for line in taken[-1]))
    return {"lines": len(lists), "candidates": sum(map(len, lists)), "model": config.model, "weights": results}


def _infill(path: Path, config: ScoreConfig, options: Any, model: Any) -> dict[str, Any]:
    from roberta.data.text import read_lines
    from roberta.files import as_json, write_text
    from roberta.text_metrics.infilling import infill

    found = infill(model.engine, list(read_lines(path)), options)
    if config.per_line is not None:
        write_text(config.per_line, "".join(as_json(asdict(gap)) + "\n" for gap in found.gaps))
    return {
        "model": config.model,
        "gaps": len(found.gaps),
        "skipped": found.num_skipped,
        "exact": found.exact,
        "chrf": {"score": found.chrf, "signature": found.signature},
    }


def _counts(texts: "Texts") -> dict[str, Any]:
    return {"lines": len(texts.hypotheses), "empty": texts.num_empty}


def _described(scores: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {"score": score.score, **score.details, "signature": score.signature} for name, score in scores.items()
    }


def _write_lines(path: Path, texts: "Texts", scores: dict[str, Any]) -> None:
    from roberta.files import as_json, write_text

    records = [
        {"line": i + 1, "text": text, **{name: score.lines[i] for name, score in scores.items()}}
        for i, text in enumerate(texts.hypotheses)
    ]
    write_text(path, "".join(as_json(record, ensure_ascii=False) + "\n" for record in records))


def _model(config: ScoreConfig) -> Any:
    from roberta.devices import choose_device
    from roberta.hub.border import Engine
    from roberta.text_metrics.comparison import Model

    assert config.model is not None
    roberta = opened(config.model).to(choose_device(config.device))
    return Model(Engine(roberta.model, roberta.tokenizer, config.max_tokens), config.model)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(command, argv)


if __name__ == "__main__":
    raise SystemExit(main())
