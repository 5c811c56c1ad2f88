"""Labelling words: targets at first tokens, long sentences in parts, figures, and the files that are written."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest

from roberta.data.readers.conll import ConllFormat, read_conll
from roberta.data.tokenizer import Tokenizer
from roberta.entities import all_types, count_entities
from roberta.errors import ConfigError, DataError
from roberta.layout import NO_TARGET
from roberta.models.heads import TaggingHeadConfig
from roberta.registry import CRITERIONS, TASKS
from roberta.tasks.tagging import TaggedWords, TaggingTask, TaggingTaskConfig

TRAIN = """-DOCSTART- O

Hieronymus B-PER
Blackburn I-PER
lives O
in O
Rotherhithe B-LOC
. O

Nobody O
"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train.txt", "dev.txt"):
        (tmp_path / name).write_text(TRAIN, encoding="utf-8")
    return tmp_path


def config(data: Path, **options) -> TaggingTaskConfig:
    return TaggingTaskConfig(data=data, **options)


def pointing(samples: TaggedWords, *, by: float = 4.0) -> list[np.ndarray]:
    """Return outputs that point at the right labels; those at other tokens point at the last one."""
    outputs = []
    for targets in samples.targets:
        rows = np.zeros((len(targets), len(samples.labels)), dtype=np.float32)
        rows[np.arange(len(targets)), targets] = by  # NO_TARGET is the last one
        outputs.append(rows)
    return outputs


def test_the_label_of_a_word_is_the_target_of_its_first_token(folder, tokenizer):
    task = TaggingTask(config(folder), tokenizer)
    assert task.head_config(None) == TaggingHeadConfig(num_classes=4, labels=("B-LOC", "B-PER", "I-PER", "O"))
    samples = task.samples("train")
    batch = samples.batch(np.array([1, 0]), seed=1, epoch=1)
    assert batch.tokens.tolist() == [
        *tokenizer.encode_sequence("Nobody"),
        *tokenizer.encode_sequence("Hieronymus Blackburn lives in Rotherhithe ."),
    ]
    assert (batch.num_targets, batch.select, batch.sample_ids) == (7, None, (1, 0))
    assert batch.rows_per_sample == batch.layout.lengths
    found = [
        (tokenizer.decode([token]), samples.labels[target])
        for token, target in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)
        if target != NO_TARGET
    ]
    first = {word: tokenizer.decode(tokenizer.encode(word)[:1]) for word in ("Nobody", "Hieronymus")}
    assert found[:2] == [(first["Nobody"], "O"), (first["Hieronymus"], "B-PER")]
    assert [label for _, label in found] == ["O", "B-PER", "I-PER", "O", "O", "B-LOC", "O"]
    assert found[-1] == (" .", "O")


def test_long_sentences_are_parted_and_scored_as_if_they_were_not(folder, tokenizer, caplog):
    with caplog.at_level(logging.INFO):
        parted = TaggingTask(config(folder, tokens_per_sample=6), tokenizer).samples("valid")
    assert "valid: 2 sentences of 7 words; 1 of them parted to fit 6 tokens" in caplog.text
    assert parted.counts() == {"num_sentences": 2, "num_sentences_parted": 1}
    assert len(parted) > 2
    assert max(parted.sizes) <= 6
    assert parted.max_seqlen == max(parted.sizes)
    assert sum((targets != NO_TARGET).sum() for targets in parted.targets) == 7
    whole = TaggingTask(config(folder), tokenizer).samples("valid")
    assert len(whole) == 2
    assert (
        parted.score(pointing(parted))
        == whole.score(pointing(whole))
        == dict.fromkeys(("precision", "recall", "f1", "accuracy"), 1.0)
    )
    # of Hieronymus Blackburn two people are made, who are both wrong; the place is right
    figures = whole.score([rows if index else _with_two_people(whole) for index, rows in enumerate(pointing(whole))])
    assert figures == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "accuracy": 6 / 7})


def _with_two_people(samples: TaggedWords) -> np.ndarray:
    rows = pointing(samples)[0]
    rows[samples.targets[0] == samples.labels.index("I-PER")] = np.eye(4)[samples.labels.index("B-PER")]
    return rows


def test_types_have_figures_of_their_own(folder, tokenizer):
    samples = TaggingTask(config(folder), tokenizer).samples("valid")
    outputs = pointing(samples)
    outputs[0] = _with_two_people(samples)
    assert samples.groups(outputs) == {
        "LOC": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "num_entities": 1, "num_predicted": 1},
        "PER": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "num_entities": 1, "num_predicted": 2},
    }


def test_f1_selects_where_labels_tell_entities_and_accuracy_where_they_do_not(tmp_path, tokenizer):
    (tmp_path / "train.txt").write_text("I PRP B-PER\nran VBD O\n", encoding="utf-8")
    entities = TaggingTask(config(tmp_path), tokenizer).samples("train")
    assert (entities.metric, entities.maximise, entities.chance) == ("f1", True, None)
    speech = TaggingTask(config(tmp_path, label_column=2), tokenizer).samples("train")
    assert (speech.metric, speech.labels, speech.chance) == ("accuracy", ("PRP", "VBD"), 0.5)
    assert speech.score(pointing(speech)) == {"accuracy": 1.0}
    assert speech.groups(pointing(speech)) == {}


def test_predictions_are_of_words_among_their_neighbours(folder, tokenizer):
    samples = TaggingTask(config(folder), tokenizer).samples("valid")
    predictions = samples.predictions(pointing(samples))
    assert [prediction.prediction for prediction in predictions] == "B-PER I-PER O O B-LOC O O".split()
    second = predictions[1]
    assert (second.id, second.source) == ("1.2", f"{folder}/dev.txt:4")
    assert second.text == "Hieronymus [Blackburn] lives in Rotherhithe ."
    assert second.probabilities is not None
    assert list(second.probabilities) == list(samples.labels)
    assert second.probabilities["I-PER"] == pytest.approx(math.exp(4) / (math.exp(4) + 3))
    assert second.error == pytest.approx(-math.log(second.probabilities["I-PER"]))
    assert predictions[-1].id == "2.1"


def test_the_written_file_scores_what_is_reported(folder, tokenizer):
    samples = TaggingTask(config(folder, tokens_per_sample=6), tokenizer).samples("valid")
    outputs = pointing(samples)
    outputs[0] = outputs[0][::-1].copy()
    samples.write_predictions(folder, outputs)
    text = (folder / "valid.conll").read_text(encoding="utf-8")
    assert text.endswith("\n\nNobody O O\n\n")
    golds = [example.labels for example in read_conll(folder / "valid.conll", ConllFormat(label_column=2))]
    chosen = [example.labels for example in read_conll(folder / "valid.conll", ConllFormat(label_column=3))]
    figures = samples.score(outputs)
    assert figures["f1"] < 1.0
    assert {**all_types(count_entities(golds, chosen)).figures(), "accuracy": figures["accuracy"]} == figures


def test_a_test_split_may_lack_labels(folder, tokenizer):
    (folder / "test.txt").write_text("Ann\nsat\n\nhere\n", encoding="utf-8")
    task = TaggingTask(config(folder), tokenizer)
    assert task.test_splits() == ("test",)
    samples = task.samples("test")
    assert samples.batch(np.arange(2), seed=1, epoch=1).num_targets == 0
    assert samples.chance is None
    outputs = pointing(samples)
    assert {prediction.answer for prediction in samples.predictions(outputs)} == {None}
    samples.write_predictions(folder, outputs)
    assert (folder / "test.conll").read_text(encoding="utf-8") == "Ann O\nsat O\n\nhere O\n\n"
    with pytest.raises(DataError, match=r"test.txt:1: no label; without labels nothing can be scored"):
        samples.score(outputs)
    (folder / "dev.txt").write_text("Ann\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"dev.txt:1: 1 columns; expected the word"):
        task.samples("valid")


def test_labels_that_training_does_not_know_count_as_missed(folder, tokenizer, caplog):
    (folder / "dev.txt").write_text("Ann B-PER\n\nRome B-CITY\n", encoding="utf-8")
    samples = TaggingTask(config(folder), tokenizer).samples("valid")
    assert "dev.txt:3: label 'B-CITY' is not one of those to learn; allowed: " in caplog.text
    assert "; such labels of valid count as missed: 1 of 2" in caplog.text
    assert samples.batch(np.array([0, 1]), seed=1, epoch=1).num_targets == 1
    outputs = [np.zeros((size, len(samples.labels)), dtype=np.float32) for size in samples.sizes]
    outputs[0][1, samples.labels.index("B-PER")] = 1.0
    outputs[1][1, samples.labels.index("O")] = 1.0
    assert samples.score(outputs) == {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "accuracy": 0.5}
    assert samples.predictions(outputs)[1].error is None
    with pytest.raises(DataError, match=r"train.txt:3: label 'B-PER' is not one of those to learn; .*--labels"):
        TaggingTask(config(folder, labels=("O", "X")), tokenizer).samples("train")
    (folder / "dev.txt").write_text("Ann NNP\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"label 'NNP' is .*; in which column are the labels\? \(--label-column"):
        TaggingTask(config(folder), tokenizer).samples("valid")
    (folder / "dev.txt").write_text("Ann B-PER\n\nRome B-CITY\n", encoding="utf-8")
    named = config(folder, labels=("O", "B-PER", "I-PER", "B-LOC", "B-CITY"))
    task = TaggingTask(named, tokenizer)
    assert task.labels == named.labels
    assert [targets.max() for targets in task.samples("valid").targets] == [1, 4]


def test_labels_that_are_all_the_same_teach_nothing(tmp_path, tokenizer):
    (tmp_path / "train.txt").write_text("Ann O\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"train.txt:1: all labels are 'O'; there is nothing to learn; is another column"
    ):
        TaggingTask(config(tmp_path), tokenizer)


def test_files_can_be_named(folder, tokenizer):
    (folder / "other.iob").write_text("Ann B-PER\nran O\n", encoding="utf-8")
    task = TaggingTask(config(folder, train_file=Path("other.iob"), valid_file=Path("other.iob")), tokenizer)
    assert [len(task.samples(split).examples) for split in ("train", "valid")] == [1, 1]
    (folder / "train.iob").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"train.iob and train.txt could each be it; name one with --train-file"):
        TaggingTask(config(folder), tokenizer)


def test_options_out_of_range_are_refused(folder):
    with pytest.raises(ConfigError, match="--tokens-per-sample is 2; <s>, a token and </s> need 3"):
        config(folder, tokens_per_sample=2)
    with pytest.raises(ConfigError, match="--word-column is 0"):
        config(folder, word_column=0)
    with pytest.raises(ConfigError, match=r"train.txt: not a folder; give that of the files of all splits"):
        TaggingTask(config(folder / "train.txt"))


def test_task_and_criterion_are_registered():
    assert TASKS.config_class("tagging") is TaggingTaskConfig
    assert "tagging" in list(CRITERIONS)


def test_placeholders_throughout_a_split_are_no_labels(folder, tokenizer):
    (folder / "test.txt").write_text("Ann _\nran _\n", encoding="utf-8")
    samples = TaggingTask(config(folder), tokenizer).samples("test")
    assert samples.examples[0].labels is None


def test_labels_of_which_most_tell_entities_are_told_of(tmp_path, tokenizer, caplog):
    (tmp_path / "train.txt").write_text("Ann B-PER\nran O\nto I-PER\n- -X-\n", encoding="utf-8")
    TaggingTask(config(tmp_path), tokenizer)
    assert "no entities are scored, for labels that tell none: -X-" in caplog.text
