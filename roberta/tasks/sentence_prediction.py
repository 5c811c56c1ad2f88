"""Classes, several classes at once, or a number for one text or several: GLUE, and data of your own.

Shapes: N samples, B samples of a batch, K outputs of the head.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roberta.config import option, refuse_idle
from roberta.data.examples import EncodedExample, Label, TextExample
from roberta.data.indexed import idx_path
from roberta.data.readers.binarized import binarized_dictionary, binarized_labels, read_binarized
from roberta.data.readers.folders import read_folders
from roberta.data.readers.glue import GLUE, GlueSet, glue_splits, read_glue
from roberta.data.readers.split_files import find_split_file, find_split_folder, has_split_file
from roberta.data.readers.table import KINDS, TableFormat, read_table
from roberta.data.submission import write_submission
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError, VocabError, choices
from roberta.layout import Batch, SequenceLayout
from roberta.metrics import METRICS, METRICS_OF_KIND
from roberta.models.heads import ClassificationHeadConfig, RegressionHeadConfig
from roberta.randomness import generator
from roberta.registry import TASKS
from roberta.tasks.task import Prediction, Samples, Task

LAYOUTS = ("table", "folders", "binarized", *GLUE)
AX = "ax"  # GLUE's diagnostic set, which models of MNLI answer
HEAD = "sentence_classification_head"  # fairseq's name

_TRAINING = ("train", "valid")

logger = logging.getLogger(__name__)

Example = TextExample | EncodedExample


@dataclass(frozen=True)
class SentencePredictionTaskConfig(TableFormat):
    """Options of sentence prediction; those about columns and the kind of labels are for tables."""

    data: Path = option(help="folder of the data set; a file if it is a table")
    data_layout: str = option(
        "table", help="a set of GLUE; table (.tsv, .csv, .jsonl), folders (as aclImdb), or binarized (as fairseq's)"
    )
    labels: tuple[str, ...] = option((), help="names of the classes in the order of the outputs; sorted if not given")
    head_name: str | None = option(None, help=f"name of the head: that of the set of GLUE, or {HEAD}")
    metric: str | None = option(None, help="metric that selects checkpoints; the set's own if not given")
    valid_fraction: float = option(0.1, help="share of the training data held out where there is no validation split")
    tokens_per_sample: int = option(512, help="tokens of a sample at most; the ends of the longest texts are cut")
    pooler_dropout: float = option(0.0, help="dropout before the dense and the output layer of the head")

    def __post_init__(self) -> None:
        if self.data_layout not in LAYOUTS:
            raise ConfigError(f"--data-layout {self.data_layout}; {choices(self.data_layout, LAYOUTS)}")
        self._refuse_idle_options()
        super().__post_init__()
        if self.metric is not None and self.metric not in METRICS:
            raise ConfigError(f"--metric {self.metric}; {choices(self.metric, METRICS)}")
        if not 0.0 < self.valid_fraction < 1.0:
            raise ConfigError(f"--valid-fraction is {self.valid_fraction}; it must lie between 0 and 1")
        if self.tokens_per_sample < 4:
            raise ConfigError(f"--tokens-per-sample is {self.tokens_per_sample}; a pair takes at least 4")

    @property
    def glue_set(self) -> GlueSet | None:
        """The set of GLUE that the layout is, if it is one."""
        return GLUE.get(self.data_layout)

    def _refuse_idle_options(self) -> None:
        """Refuse options that have no effect on data of this layout."""
        idle = [field.name for field in fields(TableFormat)] if self.data_layout != "table" else []
        if self.glue_set is not None:
            idle += ["labels", "valid_fraction"]  # the set has its own
        elif self.data_layout == "binarized":
            idle.append("valid_fraction")
        elif self.kind == "regression":
            idle.append("labels")
        place = "where labels are numbers" if self.data_layout == "table" else f"on {self.data_layout}"
        refuse_idle(self, idle, f"has no effect {place}")


class LabelledTexts(Samples):
    """Sequences with a label each.

    submission: the set of GLUE and its split, if the official site takes predictions of these.
    """

    maximise = True

    def __init__(
        self,
        examples: Sequence[Example],
        sequences: Sequence[Sequence[int]],
        *,
        head: Any,
        metrics: Sequence[str],
        tokenizer: Tokenizer,
        num_truncated: int,
        submission: tuple[str, str] | None = None,
    ) -> None:
        self.examples = examples
        self.tokenizer = tokenizer  # of examples that are tokens
        self.num_truncated = num_truncated
        self.submission = submission
        self.head = head
        self.metrics = metrics
        self.metric = metrics[0]
        self.sequences = [np.array(sequence, dtype=np.int32) for sequence in sequences]
        self.sizes = np.array(list(map(len, sequences)), dtype=np.int64)
        self.targets = torch.from_numpy(_targets(examples, head))  # (N,) or (N, K)
        self.chance = _largest_share(self.targets)

    def counts(self) -> dict[str, int]:
        """Return how many texts lost their ends."""
        return {"num_truncated": self.num_truncated}

    def batch(self, sample_ids: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Return these samples; their targets are (B,) classes, (B,) numbers from 0 to 1, or (B, K) flags."""
        tokens = np.concatenate([self.sequences[index] for index in sample_ids.tolist()]).astype(np.int64)
        layout = SequenceLayout.from_lengths(self.sizes[sample_ids])
        return Batch(
            tokens=torch.from_numpy(tokens),
            layout=layout,
            select=layout.first,
            targets=self.targets[torch.from_numpy(sample_ids)],
            num_targets=len(sample_ids),
            sample_ids=tuple(sample_ids.tolist()),
        )

    def score(self, outputs: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the metrics of the data over all samples."""
        rows, targets = np.concatenate(outputs), self.targets.numpy()
        return {name: METRICS[name](*_compared(self.head, rows, targets)) for name in self.metrics}

    def predictions(self, outputs: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """Return the prediction for each sample."""
        return [self._prediction(*pair) for pair in zip(self.examples, outputs, strict=True)]

    def write_predictions(self, folder: Path, outputs: Sequence[NDArray[np.float32]]) -> None:
        """Write the file that GLUE's official site takes, of a split for which there is one."""
        if self.submission is not None:
            examples = [example for example in self.examples if isinstance(example, TextExample)]
            found = [prediction.prediction for prediction in self.predictions(outputs)]
            write_submission(folder, *self.submission, examples, found)

    def _prediction(self, example: Example, output: NDArray[np.float32]) -> Prediction:
        if isinstance(example, TextExample):
            text = " | ".join(example.texts)
        else:
            text = " | ".join(self.tokenizer.decode(piece.tolist()) for piece in example.pieces)
        label = example.label
        place = (example.id, example.source, text)
        if isinstance(self.head, RegressionHeadConfig):
            value = self.head.minimum + (self.head.maximum - self.head.minimum) * float(output[0, 0])
            number = label if isinstance(label, float) else None
            return Prediction(*place, number, value, None, None if number is None else abs(value - number))
        logits = torch.from_numpy(output[0]).double()
        if self.head.multi_label:
            likely = dict(zip(self.head.labels, logits.sigmoid().tolist(), strict=True))
            told = label if isinstance(label, tuple) else ()
            error = -sum(log(max(p if name in told else 1.0 - p, 1e-300)) for name, p in likely.items())
            chosen = ",".join(name for name, p in likely.items() if p > 0.5)
            return Prediction(*place, None if label is None else ",".join(told), chosen, likely, error)
        log_probabilities = dict(zip(self.head.labels, logits.log_softmax(dim=0).tolist(), strict=True))
        best = max(log_probabilities, key=log_probabilities.__getitem__)
        likely = {name: exp(value) for name, value in log_probabilities.items()}
        if not isinstance(label, str):
            return Prediction(*place, None, best, likely, None)
        return Prediction(*place, label, best, likely, -log_probabilities[label])


@TASKS.register("sentence_prediction", SentencePredictionTaskConfig)
class SentencePredictionTask(Task):
    """Tell the class of a text or a pair of texts, its classes, or a number."""

    def __init__(self, config: SentencePredictionTaskConfig, tokenizer: Tokenizer | None = None) -> None:
        self.config = config
        if config.glue_set is not None and config.data.is_file():
            raise ConfigError(f"{config.data}: a file, which has but one split; give the folder of all of them")
        self.tokenizer = tokenizer or Tokenizer.load()
        self.head = config.head_name or (HEAD if config.glue_set is None else config.data_layout)
        if config.data_layout == "binarized" and binarized_dictionary(config.data) != self.tokenizer.dictionary:
            raise VocabError(f"{config.data}: its dictionary is not the model's; binarise with the model's dict.txt")
        self._train = self._read_train()
        self._head_config = _head_of(self._train, config)
        self._metrics = _metrics_of(self._head_config, config)

    def head_config(self, model_config: Any) -> ClassificationHeadConfig | RegressionHeadConfig:
        """Return the config of the head: the names of the classes, or the scale of the numbers."""
        return self._head_config

    def test_splits(self) -> tuple[str, ...]:
        """Return the splits to predict: of GLUE those whose files are there, with AX beside MNLI; else `test`."""
        config = self.config
        if config.glue_set is not None:
            others = [split for split in glue_splits(config.data, config.data_layout) if split not in _TRAINING]
            is_diagnosed = config.data_layout == "mnli" and glue_splits(_diagnostic(config.data), AX)
            return (*others, *((AX,) if is_diagnosed else ()))
        there = {
            "folders": (config.data / "test").is_dir(),
            "binarized": idx_path(config.data / "input0" / "test").is_file(),
            "table": config.data.is_dir() and has_split_file(config.data, "test", KINDS),
        }
        return ("test",) if there[config.data_layout] else ()

    def samples(self, split: str) -> LabelledTexts:
        """Return the samples of a split; those of a test split may lack labels. What is cut is counted in the log.

        Raises:
            DataError: the split is missing or damaged, or an example has no label, or one that training does not know.
        """
        examples = self._split(split)
        limit = self.config.tokens_per_sample
        pieces = self._pieces(examples)
        sequences = [self.tokenizer.join(parts, max_tokens=limit) for parts in pieces]
        num_cut = sum(
            sum(map(len, parts)) + 2 * len(parts) > len(row) for parts, row in zip(pieces, sequences, strict=True)
        )
        logger.info("%s: %d samples; %d cut to %d tokens", split, len(examples), num_cut, limit)
        return LabelledTexts(
            examples,
            sequences,
            head=self._head_config,
            metrics=self._metrics,
            tokenizer=self.tokenizer,
            num_truncated=num_cut,
            submission=self._submission(split),
        )

    def _submission(self, split: str) -> tuple[str, str] | None:
        """Return the set of GLUE and its split, if the official site takes predictions of it."""
        if self.config.glue_set is None:
            return None
        _, name, split = self._in_glue(split)
        return (name, split) if split in GLUE[name].submissions else None

    def _in_glue(self, split: str) -> tuple[Path, str, str]:
        """Return the folder, the set and the split that a split of a set of GLUE is: AX is a set of its own."""
        if split == AX:
            return _diagnostic(self.config.data), AX, "test"
        return self.config.data, self.config.data_layout, split

    def _pieces(self, examples: Sequence[Example]) -> list[list[Sequence[int]]]:
        """Return the tokens of each text of each example; texts are encoded all at once."""
        texts = [text for example in examples if isinstance(example, TextExample) for text in example.texts]
        encoded = iter(self.tokenizer.encode_batch(texts))
        return [
            [next(encoded) for _ in example.texts]
            if isinstance(example, TextExample)
            else [piece.tolist() for piece in example.pieces]
            for example in examples
        ]

    def _read_train(self) -> Sequence[Example]:
        examples = self._read("train")
        for example in examples:
            if example.label is None:
                raise DataError(f"{example.source}: no label; training needs one")
        return examples

    def _split(self, split: str) -> Sequence[Example]:
        if split in ("train", "valid") and self._holds_out():
            is_valid = _held_out(len(self._train), self.config.valid_fraction)
            if is_valid.all():
                raise DataError(
                    f"{self._train[0].source}: --valid-fraction {self.config.valid_fraction} of {len(self._train)} "
                    "leaves nothing to train on; lower it, add examples, or add a validation split"
                )
            return [example for example, held in zip(self._train, is_valid, strict=True) if held == (split == "valid")]
        return self._train if split == "train" else self._read(split)

    def _holds_out(self) -> bool:
        """Return whether the validation split is to be made from the training data, as there is none."""
        config = self.config
        if config.data_layout == "folders":
            return not find_split_folder(config.data, "valid").is_dir()
        if config.data_layout != "table":
            return False
        return config.data.is_file() or not has_split_file(config.data, "valid", KINDS)

    def _read(self, split: str) -> Sequence[Example]:
        """Return the examples of a split as they stand in the data; those of a test split may lack labels."""
        config = self.config
        needs_labels = not split.startswith("test")
        if config.data_layout == "folders":
            return read_folders(config.data, split, config.labels)
        if config.data_layout == "binarized":
            return read_binarized(config.data, split, needs_labels=needs_labels)
        if config.glue_set is not None:
            return read_glue(*self._in_glue(split))
        path = config.data if config.data.is_file() else find_split_file(config.data, split, KINDS)
        return read_table(path, config, needs_labels=needs_labels)


def _diagnostic(folder: Path) -> Path:
    """Return where GLUE's download has the diagnostic set, given MNLI's folder."""
    return folder.parent / "diagnostic"


def _head_of(examples: Sequence[Example], config: SentencePredictionTaskConfig) -> Any:
    """Return the config of the head that the labels of the training data need.

    Raises:
        DataError: the labels are of different kinds, all the same, or not among those of the config.
    """
    the_set = config.glue_set
    if the_set is not None:
        if the_set.scale is not None:
            low, high = the_set.scale
            return RegressionHeadConfig(minimum=low, maximum=high, dropout=config.pooler_dropout)
        return ClassificationHeadConfig(
            num_classes=len(the_set.labels or ()), labels=the_set.labels or (), dropout=config.pooler_dropout
        )
    labels = [example.label for example in examples]
    numbers = [label for label in labels if isinstance(label, float)]
    if len(numbers) == len(labels):
        if min(numbers) == max(numbers):
            raise DataError(f"{examples[0].source}: all labels are {numbers[0]}; there is nothing to learn")
        return RegressionHeadConfig(minimum=min(numbers), maximum=max(numbers), dropout=config.pooler_dropout)
    names = Counter(name for label in labels for name in (label if isinstance(label, tuple) else (label,)))
    known = config.labels or (binarized_labels(config.data) if config.data_layout == "binarized" else ())
    found = known or tuple(sorted(str(name) for name in names))
    if len(found) < 2:
        raise DataError(f"{examples[0].source}: all labels are {found}; a classifier needs at least two classes")
    for example in examples:
        _check_label(example, found)
    several = any(isinstance(label, tuple) for label in labels)
    return ClassificationHeadConfig(
        num_classes=len(found), labels=found, multi_label=several, dropout=config.pooler_dropout
    )


def _metrics_of(head: Any, config: SentencePredictionTaskConfig) -> tuple[str, ...]:
    """Return the metrics of the data, that of the option or else of the set first.

    Raises:
        ConfigError: that of the option is for labels of another kind.
    """
    several = not isinstance(head, RegressionHeadConfig) and head.multi_label
    kind = "regression" if isinstance(head, RegressionHeadConfig) else "multi_label" if several else "classification"
    own = METRICS_OF_KIND[kind] if config.glue_set is None else config.glue_set.metrics
    if config.metric is None:
        return own
    fitting = (*own, *METRICS_OF_KIND[kind], *(["f1"] if kind == "classification" and head.num_classes == 2 else []))
    if config.metric not in fitting:
        raise ConfigError(f"--metric {config.metric} does not fit the labels; {choices(config.metric, set(fitting))}")
    return (config.metric, *(name for name in own if name != config.metric))


def _largest_share(targets: torch.Tensor) -> float | None:
    """Return the accuracy of always guessing the most frequent class; None where targets are not single classes."""
    if targets.is_floating_point():
        return None
    return targets.bincount().max().item() / len(targets)


def _compared(head: Any, rows: NDArray[np.float32], targets: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return predictions and targets in the form that metrics take: numbers, flags or classes."""
    if isinstance(head, RegressionHeadConfig):
        return rows[:, 0], targets
    if head.multi_label:
        return rows > 0, targets > 0
    return rows.argmax(axis=1), targets


def _targets(examples: Sequence[Example], head: Any) -> NDArray[Any]:
    """Return what the loss compares with: classes, numbers from 0 to 1, or flags; zeros where labels are not told."""
    if isinstance(head, RegressionHeadConfig):
        values = [example.label if isinstance(example.label, float) else head.minimum for example in examples]
        return ((np.array(values) - head.minimum) / (head.maximum - head.minimum)).astype(np.float32)
    number = {label: position for position, label in enumerate(head.labels)}
    for example in examples:
        _check_label(example, head.labels)
    if not head.multi_label:
        return np.array([number.get(str(example.label), 0) for example in examples], dtype=np.int64)
    flags = np.zeros((len(examples), head.num_classes), dtype=np.float32)
    for row, example in enumerate(examples):
        for label in example.label if isinstance(example.label, tuple) else ():
            flags[row, number[label]] = 1.0
    return flags


def _check_label(example: Example, labels: Sequence[str]) -> None:
    for label in _names(example.label):
        if label not in labels:
            raise DataError(
                f"{example.source}: label {label!r} is not one of the classes to learn; {choices(label, labels)}"
            )


def _names(label: Label) -> tuple[Any, ...]:
    if label is None:
        return ()
    return label if isinstance(label, tuple) else (label,)


def _held_out(num_examples: int, fraction: float) -> NDArray[np.bool_]:
    """Return which training examples are the validation split: always the same ones, at least one."""
    chosen = generator(0, "held out").permutation(num_examples)[: max(1, round(fraction * num_examples))]
    is_valid = np.zeros(num_examples, dtype=np.bool_)
    is_valid[chosen] = True
    return is_valid
