"""Model cards: a README.md beside a model that says what it is, how it was trained, how good it is, and with what.

A card begins with a YAML block, as the Hugging Face Hub reads it
(https://huggingface.co/docs/hub/model-cards#model-card-metadata). Everything comes from the files of the checkpoint and
its run; what they do not know is left to be filled in. A card is no part of the checkpoint's manifest, so that people
can go on writing it: its last line is the sha256 of the others, and a card that does not end so is left as it is.
"""

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from roberta.checkpoint import native
from roberta.checkpoint.folders import CARD, read_json
from roberta.errors import CheckpointError
from roberta.files import write_text
from roberta.logs import LOG, parsed
from roberta.manifest import checked_sums
from roberta.markdown import table
from roberta.timetable import SECONDS_PER_HOUR

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"  # the Hub's name of a licence that is not stated

_RUN, _REPORT = "run.json", "report.json"
_SEAL = "<!-- sha256 of all lines above, while nobody has changed them: "
_SHOWN = {  # the part of a recipe, and the options of it that people ask for first
    "task": ("data", "tokens_per_sample", "mask_prob", "mask_whole_words", "sample_break_mode"),
    "optimizer": ("type", "weight_decay", "adam_betas", "adam_eps"),
    "lr_scheduler": ("type", "lr", "warmup_updates", "warmup_ratio"),
    "trainer": ("seed", "batch_size", "max_tokens", "update_freq", "clip_norm", "precision", "ema_decay"),
}
_PIPELINES = {  # what the Hub calls that which a head does
    "masked_lm": "fill-mask",
    "classification": "text-classification",
    "regression": "text-classification",
    "span": "question-answering",
    "choice": "multiple-choice",
    "tagging": "token-classification",
}
_GLUE, _SUPER_GLUE = "nyu-mll/glue", "aps/super_glue"
_DATASETS = {  # the names of public data sets on the Hub; all are in English
    **dict.fromkeys(("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"), _GLUE),
    **dict.fromkeys(("boolq", "cb", "wic", "copa", "wsc"), _SUPER_GLUE),
    "squad": "rajpurkar/squad",
    "squad2": "rajpurkar/squad_v2",
    "race": "ehovy/race",
    "commonsense_qa": "tau/commonsense_qa",
    "openbookqa": "allenai/openbookqa",
    "arc": "allenai/ai2_arc",
    "hellaswag": "Rowan/hellaswag",
    "winogrande": "allenai/winogrande",
}
_OF_ONES_OWN = ("table", "folders", "binarized", "choices", "tagging")  # names of layouts, not of data sets
_BASES = {  # the released models on the Hub; all are of English
    "roberta.base": "FacebookAI/roberta-base",
    "roberta.large": "FacebookAI/roberta-large",
    "roberta.large.mnli": "FacebookAI/roberta-large-mnli",
}
_ENGLISH = "en"
_HUB_PREFIX = "hf:"
_SPLITS = {"valid": "validation", "valid1": "validation_mismatched"}
_METRICS = {  # figures that are scores, and the Hub's names of them
    "accuracy": "accuracy",
    "exact": "exact_match",
    "exact_match": "exact_match",
    "f1": "f1",
    "loss": "loss",
    "macro_f1": "f1",
    "matthews": "matthews_correlation",
    "micro_f1": "f1",
    "pearson": "pearsonr",
    "ppl": "perplexity",
    "precision": "precision",
    "recall": "recall",
    "spearman": "spearmanr",
}
_PLAIN = re.compile(r"[A-Za-z](?:[\w ./+-]*[\w/+-])?", re.ASCII)  # what YAML takes for a text without quotes,
_NOT_TEXT = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")  # unless it is one of these


@dataclass(frozen=True)
class Facts:
    """What the files of a run say beside its checkpoint; empty where they do not.

    The name, the licence (one of the Hub's, such as `mit`) and the languages (ISO 639 codes) are in no such file.
    """

    run: Mapping[str, Any] = field(default_factory=dict)  # run.json: command, versions, recipe, earlier
    progress: Mapping[str, Any] = field(default_factory=dict)  # state.json of its newest checkpoint
    validation: Mapping[str, Any] = field(default_factory=dict)  # the last one in its log
    report: Mapping[str, Any] = field(default_factory=dict)  # report.json of fine-tuning
    name: str = ""  # by which `from_pretrained` opens the model; a folder's own name is its title only
    license: str = UNKNOWN
    languages: tuple[str, ...] = ()


def write_card(folder: Path, facts: Facts | None = None) -> Path:
    """Write the card of a checkpoint folder, and return where it is; one that people wrote or changed stays.

    Raises:
        CheckpointError: the folder holds no checkpoint.
        StorageError: the card can't be written.
    """
    path = folder / CARD
    _write(path, card(folder, facts or Facts()))
    return path


def write_run_cards(run_dir: Path) -> list[Path]:
    """Write the card of a finished run into its folder, and into that of its best model; return where they are.

    Cards that people wrote or changed stay.

    Raises:
        CheckpointError: the run has no checkpoint, or a file of it is damaged.
        StorageError: a card can't be written.
    """
    model = native.model_folder(run_dir)
    text = card(model, read_facts(run_dir))
    paths = [folder / CARD for folder in dict.fromkeys((run_dir, model))]
    for path in paths:
        _write(path, text)
    return paths


def read_facts(run_dir: Path) -> Facts:
    """Return what the files of a run say; those of the best of its runs where there were several.

    Raises:
        CheckpointError: a file is damaged.
    """
    report = _optional(run_dir / _REPORT)
    single = run_dir if (run_dir / _RUN).is_file() or not report else run_dir / Path(report["best"]["save_dir"]).name
    steps = native.steps(single)
    progress = _optional(steps[-1] / native.STATE) if steps else {}
    update = progress.get("best_update") if (single / native.BEST).is_dir() else None
    return Facts(_optional(single / _RUN), progress, _validation_after(update, single / LOG), report)


def card(folder: Path, facts: Facts) -> str:
    """Return the card of a checkpoint folder as Markdown.

    Raises:
        CheckpointError: the folder holds no checkpoint.
    """
    config = read_json(folder / native.CONFIG)
    title = facts.name or _title(folder)
    parts = [
        _header(config, facts, title),
        f"# {title}\n\n{_what(config, folder)}",
        _use(config["heads"], facts.name or "path/of/this/folder"),
        _training(config, facts),
        _scores(facts),
        _files(folder),
        _limits(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _write(path: Path, text: str) -> None:
    if path.is_file() and not _is_unchanged(path.read_bytes()):
        logger.info("%s was written or changed by hand, and stays; delete it for a new one", path)
        return
    write_text(path, _sealed(text.encode(errors="backslashreplace")).decode())


def _is_unchanged(content: bytes) -> bool:
    text, seal, _ = content.rpartition(_SEAL.encode())
    return bool(seal) and _sealed(text) == content


def _sealed(text: bytes) -> bytes:
    return text + f"{_SEAL}{hashlib.sha256(text).hexdigest()} -->\n".encode()


def _header(config: Mapping[str, Any], facts: Facts, title: str) -> str:
    """Return the YAML block of a card."""
    start = str(_recipe(config, facts).get("trainer", {}).get("init_from") or "")
    base = _BASES.get(start) or (start.removeprefix(_HUB_PREFIX) if start.startswith(_HUB_PREFIX) else "")
    data_set = _DATASETS.get(facts.report.get("data_set", ""))
    languages = facts.languages or ((_ENGLISH,) if start in _BASES or data_set else ())
    kinds = [head["type"] for head in config["heads"].values()]
    pipelines = list(dict.fromkeys(_PIPELINES[kind] for kind in kinds if kind in _PIPELINES))
    pipelines.sort(key="fill-mask".__eq__)  # what the model was fine-tuned for comes first
    results = _results(facts, pipelines)
    values = {
        "license": facts.license,
        "language": list(languages),
        "library_name": "roberta",
        "pipeline_tag": pipelines[0] if pipelines else "feature-extraction",
        "tags": ["roberta", *pipelines],
        "base_model": base,
        "datasets": [data_set] if data_set else [],
        "metrics": sorted({metric["type"] for result in results for metric in result["metrics"]}),
        "model-index": [{"name": title, "results": results}] if results else [],
    }
    lines = _yaml({name: value for name, value in values.items() if value})
    return "\n".join(("---", *lines, "---"))


def _results(facts: Facts, pipelines: Sequence[str]) -> list[dict[str, Any]]:
    """Return the scores in the form of the Hub's `model-index`: an item for each split."""
    if facts.report:
        name = facts.report["data_set"]
        splits: Mapping[str, Any] = facts.report["splits"]
        own = Path(facts.report["data"]).name if name in _OF_ONES_OWN else ""
        place = {"name": own or name, "type": _DATASETS.get(name, name)}
        config = {"config": name} if _DATASETS.get(name) in (_GLUE, _SUPER_GLUE) else {}
    else:
        name = Path(str(facts.run.get("recipe", {}).get("task", {}).get("data", ""))).name
        splits, place, config = {"valid": facts.validation}, {"name": name or "text", "type": "text"}, {}
    results = []
    for split, figures in splits.items():
        metrics = [
            {"type": _METRICS[name], "name": name, "value": float(value)}
            for name, value in figures.items()
            if name in _METRICS and value is not None and math.isfinite(value)
        ]
        if metrics and pipelines:
            data_set = {**place, **config, "split": _SPLITS.get(split, split)}
            results.append({"task": {"type": pipelines[0]}, "dataset": data_set, "metrics": metrics})
    return results


def _yaml(values: Mapping[str, Any], margin: str = "") -> Iterator[str]:
    """Return the lines of a mapping of texts, numbers, lists and mappings in YAML."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{margin}{name}:"
            yield from _yaml(value, margin + "  ")
        elif isinstance(value, list):
            yield f"{margin}{name}:"
            for item in value:
                first, *others = _yaml(item, margin + "  ") if isinstance(item, Mapping) else [_scalar(item)]
                yield f"{margin}- {first.lstrip()}"
                yield from others
        else:
            yield f"{margin}{name}: {_scalar(value)}"


def _scalar(value: str | float) -> str:
    """Return a number with decimals, since YAML takes 1e-05 for a text, or a text, in quotes where it needs them."""
    if isinstance(value, float):
        return f"{value:.6f}"
    if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def _limits(facts: Facts) -> str:
    told = f"Licence: {facts.license}."
    if facts.license == UNKNOWN:
        told = (
            "Not stated yet. Say here, and in the first lines of this file, under which licence the model may be used."
        )
    return f"## Licence and limits\n\n{told} Say too what its data may not be used for, and what it was not tested on."


def _recipe(config: Mapping[str, Any], facts: Facts) -> Mapping[str, Any]:
    """Return the options of the run by component; empty where there are none."""
    recipe: Mapping[str, Any] = facts.run.get("recipe") or config.get("training") or {}
    return recipe


def _title(folder: Path) -> str:
    path = folder.resolve()
    is_part = path.name == native.BEST or path.name.startswith(native.STEP_PREFIX)
    return (path.parent if is_part else path).name


def _what(config: Mapping[str, Any], folder: Path) -> str:
    model, (parameters, dtypes) = config["model"], _parameters(folder / native.MODEL)
    heads = [_head(name, head) for name, head in config["heads"].items()]
    return (
        f"A RoBERTa encoder of {model['encoder_layers']} layers, width {model['embed_dim']} and "
        f"{model['attention_heads']} attention heads, for sequences of up to {model['max_positions']} tokens of a "
        f"vocabulary of {model['vocab_size']}: {parameters:,} parameters, {' and '.join(dtypes)}.\n\n"
        f"Heads: {'; '.join(heads) or 'none'}."
    )


def _head(name: str, head: Mapping[str, Any]) -> str:
    labels = ", ".join(head.get("labels") or ())
    return f"`{name}` ({head['type']}{': ' if labels else ''}{labels})"


def _parameters(path: Path) -> tuple[int, list[str]]:
    """Return how many parameters a file holds, and their number formats."""
    count, dtypes = 0, set()
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (it is no dict)
            part = file.get_slice(name)
            size = 1
            for length in part.get_shape():
                size *= length
            count += size
            dtypes.add(str(part.get_dtype()).lower())
    return count, sorted(dtypes)


def _use(heads: Mapping[str, Mapping[str, Any]], place: str) -> str:
    calls = {
        "masked_lm": 'model.fill_mask("The capital of France is <mask>.")',
        "classification": 'model.predict("{name}", "A text.").label',
        "regression": 'model.predict("{name}", "A text.").value',
        "span": 'model.answer("Who sat?", "The cat sat on the mat.", head="{name}")',
        "choice": 'model.choose("", "How was it?", ["good", "bad"], head="{name}")',
        "tagging": 'model.tag_words("{name}", ["A", "text", "."])',
    }
    known = {name: head for name, head in heads.items() if head["type"] in calls}
    several = {name: "s" * bool(head.get("multi_label")) for name, head in known.items()}  # .labels, which hold
    lines = [calls[head["type"]].format(name=name) + several[name] for name, head in known.items()]
    code = ["import roberta", "", f"model = roberta.from_pretrained({json.dumps(place)})", *lines]
    return "## Use\n\n```python\n" + "\n".join(code if lines else [*code, 'model.embed("A text.")']) + "\n```"


def _training(config: Mapping[str, Any], facts: Facts) -> str:
    recipe = _recipe(config, facts)
    if not recipe:
        return ""
    rows = [
        (f"{part} {name}".replace("_", " "), _shown(recipe[part][name]))
        for part, names in _SHOWN.items()
        for name in names
        if recipe.get(part, {}).get(name) is not None
    ]
    rows += [(name, value) for name, value in _history(facts) if value]
    head = f"Task `{recipe['task']['type']}`, criterion `{recipe['criterion']['type']}`, "
    start = recipe["trainer"].get("init_from")
    head += f"from the weights of `{start}`." if start else "from random weights."
    command = " ".join(facts.run.get("command", ()))
    shown = f"\n\n```sh\n{command}\n```" if command else ""
    return f"## Training\n\n{head}\n\n{table(('option', 'value'), rows)}{shown}"


def _history(facts: Facts) -> list[tuple[str, str]]:
    progress, versions, earlier = facts.progress, facts.run.get("versions", {}), facts.run.get("earlier", ())
    seconds = progress.get("seconds")
    return [
        ("training data", _shown(progress.get("data", ""))),
        ("updates", str(progress.get("num_updates", ""))),
        ("epochs begun", str(progress.get("epoch", ""))),
        ("hours of training", "" if seconds is None else f"{seconds / SECONDS_PER_HOUR:.2f}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("times resumed", str(len(earlier)) if earlier else ""),
    ]


def _scores(facts: Facts) -> str:
    if facts.report:
        return _report_scores(facts.report)
    progress, validation = facts.progress, facts.validation
    rows = [(name, _number(value)) for name, value in validation.items() if name != "num_updates"]
    if not rows:
        return ""
    best = ""
    if progress.get("best") is not None:
        best = f" The best value of the figure that selects checkpoints was {_number(progress['best'])}, "
        best += f"after update {progress['best_update']}."
    head = f"On the validation data after update {validation['num_updates']}.{best}"
    return f"## Scores\n\n{head}\n\n{table(('figure', 'value'), rows)}"


def _report_scores(report: Mapping[str, Any]) -> str:
    splits = {name: figures for name, figures in report["splits"].items() if len(figures) > 1}
    names = list(dict.fromkeys(name for figures in splits.values() for name in figures))
    rows = [[split, *(_number(figures.get(name, "")) for name in names)] for split, figures in splits.items()]
    runs, best = report["runs"], report["best"]
    head = (
        f"`{report['data_set']}`, the best of {len(runs)} run{'s' * (len(runs) > 1)} by {report['metric']} on the "
        f"validation data: lr {best['lr']:g}, seed {best['seed']}, after update {best['update']}. "
        f"{_spread(report)}A choice made on the validation data makes its figures look better than they are."
    )
    return f"## Scores\n\n{head}\n\n{table(('split', *names), rows)}"


def _spread(report: Mapping[str, Any]) -> str:
    texts = [
        f"lr {row['lr']:g}: median {_number(row['median'])}, from {_number(row['min'])} to {_number(row['max'])}, "
        f"{row['runs']} seeds"
        for row in report["learning_rates"]
        if row["runs"] > 1
    ]
    return f"All runs: {'; '.join(texts)}. " if texts else ""


def _files(folder: Path) -> str:
    rows = [
        (path.name, f"{path.stat().st_size:,}", sums.whole)
        for path, sums in checked_sums(folder, CheckpointError).items()
    ]
    return "## Files\n\n" + table(("file", "bytes", "sha256"), rows)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _validation_after(update: int | None, path: Path) -> dict[str, Any]:
    """Return the record of the validation after an update in a log, or else of the last one; nothing if it has none."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    records = [found[1] for line in reversed(lines) if (found := parsed(line)) is not None and found[0] == "valid"]
    return next((record for record in records if record["num_updates"] == update), records[0] if records else {})


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _number(value: Any) -> str:
    if value is None:
        return "not finite"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
