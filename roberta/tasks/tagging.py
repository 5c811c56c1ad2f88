"""A label for each word of a sentence: named entities, parts of speech.

A word's label is that of its first token; its other tokens have none. A sample is a sentence, or a part of one that is
too long; the parts of a sentence are scored together.

Shapes: N samples, B samples of a batch, T packed tokens, S tokens of a sample, W words of a sentence, K labels.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roberta.config import option
from roberta.data.examples import WordsExample
from roberta.data.readers.conll import ConllFormat, find_conll, has_conll, read_conll
from roberta.data.readers.split_files import KEEP_ONE
from roberta.data.tokenizer import Tokenizer
from roberta.data.words import word_windows
from roberta.entities import Found, all_types, are_entity_labels, count_entities
from roberta.errors import ConfigError, DataError, choices, listed
from roberta.files import write_text
from roberta.layout import NO_TARGET, Batch, SequenceLayout
from roberta.models.heads import TaggingHeadConfig
from roberta.registry import TASKS
from roberta.tasks.task import TEST, Prediction, Samples, Task

_CONTEXT = 8  # words on each side of one, for people

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaggingTaskConfig(ConllFormat):
    """Options of labelling words."""

    data: Path = option(help="folder of the data set, a file for each split")
    train_file: Path | None = option(None, help="file of the train split in the folder, if no name tells")
    valid_file: Path | None = option(None, help="file of the valid split in the folder, if no name tells")
    labels: tuple[str, ...] = option(
        (), help="the labels in the order of the outputs; those of the training data, sorted, if not given"
    )
    tokens_per_sample: int = option(512, help="tokens of a sample at most; longer sentences are parted between words")
    head_dropout: float = option(0.0, help="dropout before the output layer of the head")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens_per_sample < 3:
            raise ConfigError(f"--tokens-per-sample is {self.tokens_per_sample}; <s>, a token and </s> need 3")


class TaggedWords(Samples):
    """The sentences of a split, with a label for each word, or none."""

    maximise = True

    def __init__(
        self, split: str, examples: Sequence[WordsExample], tokenizer: Tokenizer, labels: Sequence[str], max_tokens: int
    ) -> None:
        self.split = split
        self.examples = examples
        self.labels = tuple(labels)
        self.has_entities = are_entity_labels(labels)
        self.metric = "f1" if self.has_entities else "accuracy"
        parts = [word_windows(tokenizer, example.words, max_tokens) for example in examples]
        self.windows = [window for windows in parts for window in windows]
        self.num_parts = [len(windows) for windows in parts]
        self.sizes = np.array([len(window.tokens) for window in self.windows], dtype=np.int64)
        self._classes = [self._classes_of(example) for example in examples]
        self.chance = None if self.has_entities else self._largest_share()  # most words are outside of entities

    @cached_property
    def targets(self) -> list[NDArray[np.int64]]:
        """The class of each token of each sample, (S,); NO_TARGET where no word begins, or labels are not told."""
        targets = []
        sentences = np.repeat(np.arange(len(self.examples)), self.num_parts).tolist()
        for sentence, window in zip(sentences, self.windows, strict=True):
            classes = self._classes[sentence][window.first_word :]
            row = np.full(len(window.tokens), NO_TARGET, dtype=np.int64)
            row[window.rows[::-1]] = classes[: len(window.rows)][::-1]  # of words that share a token the first one's
            targets.append(row)
        return targets

    def batch(self, sample_ids: NDArray[np.int64], *, seed: int, epoch: int) -> Batch:
        """Return these samples; their targets are (T,) classes."""
        ids = sample_ids.tolist()
        targets = np.concatenate([self.targets[index] for index in ids])
        return Batch(
            tokens=torch.from_numpy(np.concatenate([self.windows[index].tokens for index in ids])),
            layout=SequenceLayout.from_lengths(self.sizes[sample_ids]),
            select=None,
            targets=torch.from_numpy(targets),
            num_targets=int((targets != NO_TARGET).sum()),
            sample_ids=tuple(ids),
        )

    def counts(self) -> dict[str, int]:
        """Return how many sentences there are, and how many of them are parted."""
        return {
            "num_sentences": len(self.examples),
            "num_sentences_parted": sum(parts > 1 for parts in self.num_parts),
        }

    def score(self, outputs: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the accuracy over all words; where labels tell entities their precision, recall and F1 too.

        Raises:
            DataError: the labels are not told.
        """
        golds, chosen = self._golds(), self._chosen(outputs)
        right = sum(a == b for pair in zip(golds, chosen, strict=True) for a, b in zip(*pair, strict=True))
        accuracy = {"accuracy": right / sum(map(len, golds))}
        return {**all_types(count_entities(golds, chosen)).figures(), **accuracy} if self.has_entities else accuracy

    def groups(self, outputs: Sequence[NDArray[np.float32]]) -> dict[str, dict[str, float]]:
        """Return precision, recall and F1 of each type of entity, and how many there are and are predicted."""
        if not self.has_entities:
            return {}
        return {kind: _described(found) for kind, found in count_entities(self._golds(), self._chosen(outputs)).items()}

    def predictions(self, outputs: Sequence[NDArray[np.float32]]) -> list[Prediction]:
        """Return the label of each word, with the words around it."""
        return [
            prediction
            for number, (example, rows) in enumerate(zip(self.examples, self._rows(outputs), strict=True), start=1)
            for prediction in self._predictions(number, example, rows)
        ]

    def write_predictions(self, folder: Path, outputs: Sequence[NDArray[np.float32]]) -> None:
        """Write `SPLIT.conll`, as conlleval reads it: a word a line, its label if it is told, and the predicted one."""
        lines = []
        for example, chosen in zip(self.examples, self._chosen(outputs), strict=True):
            columns = [example.words, *([] if example.labels is None else [example.labels]), chosen]
            lines += [" ".join(map(_cell, row)) for row in zip(*columns, strict=True)]
            lines.append("")
        write_text(folder / f"{self.split}.conll", "".join(f"{line}\n" for line in lines), escape=True)

    def _predictions(self, number: int, example: WordsExample, rows: NDArray[np.float32]) -> Iterator[Prediction]:
        """Yield what is said of each word of a sentence; rows: (W, K)."""
        words = example.words
        for word, likely in enumerate(torch.from_numpy(rows).double().log_softmax(dim=1).tolist()):
            known = dict(zip(self.labels, likely, strict=True))
            gold = None if example.labels is None else example.labels[word]
            before, after = words[max(0, word - _CONTEXT) : word], words[word + 1 : word + 1 + _CONTEXT]
            yield Prediction(
                id=f"{number}.{word + 1}",
                source=example.sources[word],
                text=" ".join((*before, f"[{words[word]}]", *after)),
                answer=gold,
                prediction=max(known, key=known.__getitem__),
                probabilities={label: exp(value) for label, value in known.items()},
                error=-known[gold] if gold in known else None,
            )

    def _rows(self, outputs: Sequence[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Yield the outputs at the words of each sentence: (W, K)."""
        parts = iter(zip(self.windows, outputs, strict=True))
        for num_parts in self.num_parts:
            found = [next(parts) for _ in range(num_parts)]
            yield np.concatenate([rows[window.rows] for window, rows in found])

    def _chosen(self, outputs: Sequence[NDArray[np.float32]]) -> list[list[str]]:
        """Return the likeliest label of each word of each sentence."""
        return [[self.labels[index] for index in rows.argmax(axis=1).tolist()] for rows in self._rows(outputs)]

    def _golds(self) -> list[tuple[str, ...]]:
        golds = [example.labels for example in self.examples if example.labels is not None]
        if not golds:
            raise DataError(f"{self.examples[0].sources[0]}: no label; without labels nothing can be scored")
        return golds

    def _classes_of(self, example: WordsExample) -> NDArray[np.int64]:
        """Return the class of each word: (W,)."""
        if example.labels is None:
            return np.full(len(example.words), NO_TARGET, dtype=np.int64)
        number = {label: position for position, label in enumerate(self.labels)}
        return np.array([number.get(label, NO_TARGET) for label in example.labels], dtype=np.int64)

    def _largest_share(self) -> float | None:
        """Return the accuracy of always guessing the most frequent label; None where labels are not told."""
        counts = Counter(np.concatenate(self._classes).tolist())
        return None if NO_TARGET in counts else max(counts.values()) / counts.total()


@TASKS.register("tagging", TaggingTaskConfig)
class TaggingTask(Task):
    """Label the words of sentences."""

    head = "tagging"

    def __init__(self, config: TaggingTaskConfig, tokenizer: Tokenizer | None = None) -> None:
        self.config = config
        if not config.data.is_dir():
            raise ConfigError(f"{config.data}: not a folder; give that of the files of all splits")
        self.tokenizer = tokenizer or Tokenizer.load()
        self.labels = config.labels or _labels_of(read_conll(self._path("train"), config))
        _warn_of_odd_labels(self.labels)

    def head_config(self, model_config: Any) -> TaggingHeadConfig:
        """Return the config of the head: the names of the labels."""
        return TaggingHeadConfig(num_classes=len(self.labels), labels=self.labels, dropout=self.config.head_dropout)

    def test_splits(self) -> tuple[str, ...]:
        """Return `test` where the data has such a split."""
        return (TEST,) if has_conll(self.config.data, TEST) else ()

    def samples(self, split: str) -> TaggedWords:
        """Return the sentences of a split; the test split may lack labels. The log counts those that are parted.

        Raises:
            DataError: the split is missing or damaged, or a word has no label; or one of the training data, or all of
                another split, are not among those to learn.
        """
        examples = _without_placeholders(read_conll(self._path(split), self.config, needs_labels=split != TEST))
        _check_labels(split, examples, self.labels)
        samples = TaggedWords(split, examples, self.tokenizer, self.labels, self.config.tokens_per_sample)
        logger.info(
            "%s: %d sentences of %d words; %d of them parted to fit %d tokens",
            split,
            len(examples),
            sum(len(example.words) for example in examples),
            samples.counts()["num_sentences_parted"],
            self.config.tokens_per_sample,
        )
        return samples

    def _path(self, split: str) -> Path:
        config = self.config
        named = {"train": config.train_file, "valid": config.valid_file}
        if file := named.get(split):
            return config.data / file
        return find_conll(config.data, split, advice=f"name one with --{split}-file" if split in named else KEEP_ONE)


def _labels_of(examples: Sequence[WordsExample]) -> tuple[str, ...]:
    """Return the labels of the training data in sorted order.

    Raises:
        DataError: there is but one.
    """
    found = tuple(sorted({label for example in examples for label in example.labels or ()}))
    if len(found) < 2:
        raise DataError(
            f"{examples[0].sources[0]}: all labels are {found[0]!r}; there is nothing to learn; is another column that "
            "of the labels? (--label-column)"
        )
    return found


def _check_labels(split: str, examples: Sequence[WordsExample], labels: Sequence[str]) -> None:
    """Refuse labels that are not among those to learn; in a split that is only measured some are missed, and told of.

    Raises:
        DataError: there is one in the training data, or no other one in another split.
    """
    told = [
        place
        for example in examples
        if example.labels is not None
        for place in zip(example.labels, example.sources, strict=True)
    ]
    unknown = [(label, source) for label, source in told if label not in labels]
    if not unknown:
        return
    label, source = unknown[0]
    message = f"{source}: label {label!r} is not one of those to learn; {choices(label, labels)}"
    if split == "train":
        raise DataError(f"{message}; mend it, or name all labels with --labels")
    if len(unknown) == len(told):
        raise DataError(
            f"{message}; in which column are the labels? (--label-column, from the left if not all files have as many)"
        )
    logger.warning("%s; such labels of %s count as missed: %d of %d", message, split, len(unknown), len(told))


def _warn_of_odd_labels(labels: Sequence[str]) -> None:
    """Say which few labels keep all from being read as those of entities."""
    odd = [label for label in labels if not are_entity_labels((label, "O", "B-"))]
    if odd and len(odd) < len(labels) / 2:
        logger.warning("no entities are scored, for labels that tell none: %s", listed(odd))


def _without_placeholders(examples: list[WordsExample]) -> list[WordsExample]:
    """Return sentences without labels where all of these only hold the place of labels."""
    if {label for example in examples for label in example.labels or ()} in ({"_"}, {"-"}):
        return [replace(example, labels=None) for example in examples]
    return examples


def _described(found: Found) -> dict[str, float]:
    return {**found.figures(), "num_entities": found.right, "num_predicted": found.predicted}


def _cell(text: str) -> str:
    """Return a word or a label without white space, which parts the columns."""
    return re.sub(r"\s", "_", text)
