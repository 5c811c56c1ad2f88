"""The sentence-prediction task: labels, splits, batches, scores, predictions, and what it refuses."""

import json
import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from roberta.data.indexed import IndexedWriter
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError, VocabError
from roberta.metrics import METRICS
from roberta.models.heads import ClassificationHeadConfig, RegressionHeadConfig
from roberta.tasks.sentence_prediction import HEAD, SentencePredictionTask, SentencePredictionTaskConfig
from tests.builders import make_byte_tokenizer

ROWS = [("A fine film.", "good"), ("Dull and long.", "bad"), ("So-so.", "middling"), ("Superb!", "good")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_byte_tokenizer()


def write_table(path: Path, rows, header="text\tlabel") -> Path:
    path.write_text("".join(f"{line}\n" for line in (header, *("\t".join(row) for row in rows))), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder of tables: four rows to train on, two to validate on."""
    write_table(tmp_path / "train.tsv", ROWS)
    write_table(tmp_path / "dev.tsv", ROWS[:2])
    return tmp_path


def task_of(data, tokenizer, **options) -> SentencePredictionTask:
    return SentencePredictionTask(SentencePredictionTaskConfig(data=data, **options), tokenizer)


def outputs_of(*rows) -> list[np.ndarray]:
    return [np.array([row], dtype=np.float32) for row in rows]


# Labels and heads


def test_classes_are_the_labels_of_the_training_data_sorted(folder, tokenizer):
    task = task_of(folder, tokenizer, pooler_dropout=0.2)
    expected = ClassificationHeadConfig(num_classes=3, labels=("bad", "good", "middling"), dropout=0.2)
    assert task.head_config(None) == expected
    assert task.head == HEAD
    batch = task.samples("train").batch(np.array([3, 1, 2]), seed=1, epoch=1)
    assert batch.targets.tolist() == [1, 0, 2]


def test_classes_may_be_given_in_another_order_and_with_more_of_them(folder, tokenizer):
    task = task_of(folder, tokenizer, labels=("middling", "good", "awful", "bad"), head_name="stars")
    assert task.head_config(None).labels == ("middling", "good", "awful", "bad")
    assert task.head == "stars"
    assert task.samples("valid").targets.tolist() == [1, 3]


def test_a_batch_has_the_sequences_and_targets_of_its_samples(folder, tokenizer):
    samples = task_of(folder, tokenizer).samples("train")
    expected = [tokenizer.encode_sequence(ROWS[index][0]) for index in (2, 0)]
    batch = samples.batch(np.array([2, 0]), seed=1, epoch=1)
    assert [part.tolist() for part in batch.tokens.split(batch.layout.lengths)] == expected
    assert samples.sizes[[2, 0]].tolist() == list(map(len, expected))
    assert batch.select.tolist() == [0, len(expected[0])]
    assert (batch.num_targets, batch.sample_ids, batch.groups) == (2, (2, 0), None)


def test_pairs_are_joined_as_the_tokenizer_joins_them(tmp_path, tokenizer):
    path = write_table(tmp_path / "pairs.tsv", [("a", "b c", "yes"), ("d", "", "no")] * 2, "first\tsecond\tlabel")
    samples = task_of(path, tokenizer, text_columns=("first", "second"), valid_fraction=0.01).samples("train")
    for sequence, example in zip(samples.sequences, samples.examples, strict=True):
        assert sequence.tolist() == tokenizer.encode_sequence(*example.texts)


def test_chance_is_the_share_of_the_most_frequent_class(folder, tokenizer):
    task = task_of(folder, tokenizer)
    assert (task.samples("train").chance, task.samples("valid").chance) == (0.5, 0.5)
    write_table(folder / "train.tsv", [*ROWS, ("Great.", "good")])
    assert task_of(folder, tokenizer).samples("train").chance == 0.6


def test_numbers_have_the_scale_of_the_training_data(tmp_path, tokenizer):
    write_table(tmp_path / "train.tsv", [("a", "1.5"), ("b", "4"), ("c", "2")])
    write_table(tmp_path / "dev.tsv", [("a", "5.0"), ("b", "1.5")])
    task = task_of(tmp_path, tokenizer, kind="regression")
    assert task.head_config(None) == RegressionHeadConfig(minimum=1.5, maximum=4.0)
    train, valid = task.samples("train"), task.samples("valid")
    assert train.targets.tolist() == pytest.approx([0.0, 1.0, 0.2])
    assert valid.targets.tolist() == pytest.approx([1.4, 0.0])  # beyond the scale, not cut
    assert (train.chance, train.metric, train.metrics) == (None, "pearson", ("pearson", "spearman"))
    assert valid.score(outputs_of([0.9], [0.2])) == {"pearson": pytest.approx(1.0), "spearman": pytest.approx(1.0)}
    first, second = valid.predictions(outputs_of([0.8], [0.2]))
    assert (first.answer, first.prediction, first.error) == (5.0, pytest.approx(3.5), pytest.approx(1.5))
    assert (second.probabilities, second.prediction) == (None, pytest.approx(2.0))


def test_several_classes_at_once_are_flags(tmp_path, tokenizer):
    write_table(tmp_path / "train.tsv", [("a", "sport,art"), ("b", ""), ("c", "art")])
    shutil.copy(tmp_path / "train.tsv", tmp_path / "valid.tsv")
    task = task_of(tmp_path, tokenizer, kind="multi_label")
    expected = ClassificationHeadConfig(num_classes=2, labels=("art", "sport"), multi_label=True)
    assert task.head_config(None) == expected
    samples = task.samples("valid")
    assert samples.targets.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    assert (samples.metrics, samples.chance) == (("micro_f1", "exact_match"), None)
    outputs = outputs_of([2.0, 1.0], [-1.0, 3.0], [0.5, -0.5])
    assert samples.score(outputs) == {"micro_f1": pytest.approx(6 / 7), "exact_match": pytest.approx(2 / 3)}
    first, second, third = samples.predictions(outputs)
    assert [p.answer for p in (first, second, third)] == ["sport,art", "", "art"]
    assert [p.prediction for p in (first, second, third)] == ["art,sport", "sport", "art"]
    probabilities = [1 / (1 + math.exp(1)), 1 / (1 + math.exp(-3))]
    assert list(second.probabilities.values()) == pytest.approx(probabilities)
    assert second.error == pytest.approx(-math.log(1 - probabilities[0]) - math.log(1 - probabilities[1]))


def test_scores_and_predictions_of_classes(folder, tokenizer):
    samples = task_of(folder, tokenizer).samples("train")
    outputs = outputs_of([0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [0.0, 1.0, 5.0], [0.0, 1.0, 0.0])
    assert (samples.metric, samples.maximise) == ("accuracy", True)
    targets, found = np.array([1, 0, 2, 1]), np.array([1, 1, 2, 1])
    assert samples.score(outputs) == {name: METRICS[name](found, targets) for name in samples.metrics}
    assert samples.score(outputs)["accuracy"] == 0.75
    wrong = samples.predictions(outputs)[1]
    assert (wrong.id, wrong.source, wrong.text) == ("1", f"{folder}/train.tsv:3", "Dull and long.")
    assert (wrong.answer, wrong.prediction) == ("bad", "good")
    assert wrong.error == pytest.approx(math.log(1 + math.exp(2) + math.exp(1)))
    assert sum(wrong.probabilities.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "metrics"),
    [
        ({}, ("accuracy", "macro_f1", "matthews")),
        ({"metric": "matthews"}, ("matthews", "accuracy", "macro_f1")),
    ],
)
def test_a_metric_may_be_chosen(folder, tokenizer, options, metrics):
    assert task_of(folder, tokenizer, **options).samples("valid").metrics == metrics


def test_the_f1_of_the_second_class_is_a_metric_of_two_classes(folder, tokenizer):
    write_table(folder / "train.tsv", ROWS[:2])
    assert task_of(folder, tokenizer, metric="f1").samples("valid").metric == "f1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "pearson"}, "--metric pearson does not fit the labels; allowed: accuracy, macro_f1, matthews"),
        ({"metric": "f1"}, "--metric f1 does not fit the labels"),
        ({"metric": "acuracy"}, "--metric acuracy; .*did you mean accuracy"),
        ({"data_layout": "ret"}, "--data-layout ret; .*did you mean rte"),
        ({"valid_fraction": 0.0}, "--valid-fraction is 0.0"),
        ({"tokens_per_sample": 3}, "--tokens-per-sample is 3"),
        ({"text_columns": ()}, "--text-columns is empty"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, tokenizer, options, message):
    with pytest.raises(ConfigError, match=message):
        task_of(folder, tokenizer, **options)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([("a", "x"), ("b", "x")], {}, "train.tsv:2: all labels are .'x',.; a classifier needs at least two classes"),
        ([("a", "2"), ("b", "2.0")], {"kind": "regression"}, "train.tsv:2: all labels are 2.0"),
        ([("a", "x"), ("b", "y")], {"labels": ("x", "z")}, "train.tsv:3: label 'y' is not one of the classes to learn"),
        ([("a", "x"), ("b", "high")], {"kind": "regression"}, 'train.tsv:2: label is "x"; expected a finite number'),
        ([("a", "x"), ("b", "")], {}, 'train.tsv:3: label is ""'),
        ([("a", "x"), ("", "y")], {}, "train.tsv:3: the text is empty"),
        ([("a", "x"), ("b",)], {}, "train.tsv:3: 1 columns; expected 2: text, label"),
    ],
)
def test_labels_that_can_not_be_learnt_are_refused_by_line(folder, tokenizer, rows, options, message):
    write_table(folder / "train.tsv", rows)
    with pytest.raises(DataError, match=message):
        task_of(folder, tokenizer, **options)


def test_a_label_that_only_dev_has_is_refused_by_line(folder, tokenizer):
    write_table(folder / "dev.tsv", [*ROWS[:2], ("Hm.", "mediocre")])
    with pytest.raises(DataError, match="dev.tsv:4: label 'mediocre' is not one of the classes to learn; allowed: bad"):
        task_of(folder, tokenizer).samples("valid")


def test_what_is_cut_is_counted_in_the_log(tmp_path, tokenizer, caplog):
    rows = [("x" * 40, "y" * 20, "a"), ("x" * 3, "y" * 3, "b"), ("x" * 6, "y" * 20, "a")]
    path = write_table(tmp_path / "train.tsv", rows, "one\ttwo\tlabel")
    shutil.copy(path, tmp_path / "dev.tsv")
    with caplog.at_level(logging.INFO):
        task = task_of(tmp_path, tokenizer, text_columns=("one", "two"), tokens_per_sample=24)
        samples = task.samples("valid")
    assert "valid: 3 samples; 2 cut to 24 tokens" in caplog.text
    assert samples.sizes.tolist() == [24, 10, 24]
    assert samples.sequences[0].tolist() == tokenizer.encode_sequence("x" * 10, "y" * 10)
    assert samples.sequences[2].tolist() == tokenizer.encode_sequence("x" * 6, "y" * 14)


# Splits


def test_the_same_part_of_a_single_table_is_held_out_whatever_the_order_of_asking(tmp_path, tokenizer):
    path = write_table(tmp_path / "all.tsv", [(f"text {number}", "ab"[number % 2]) for number in range(40)])
    task = task_of(path, tokenizer, valid_fraction=0.25)
    valid, train = task.samples("valid"), task.samples("train")
    again = task_of(path, tokenizer, valid_fraction=0.25).samples("train")
    ids = [{example.id for example in samples.examples} for samples in (valid, train, again)]
    assert (len(ids[0]), len(ids[1])) == (10, 30)
    assert ids[0].isdisjoint(ids[1])
    assert ids[1] == ids[2]
    assert task.test_splits() == ()


def test_a_part_is_held_out_where_a_folder_has_no_split_for_validation(folder, tokenizer):
    (folder / "dev.tsv").unlink()
    task = task_of(folder, tokenizer, valid_fraction=0.3)
    assert (len(task.samples("train")), len(task.samples("valid"))) == (3, 1)


def test_a_class_that_is_held_out_whole_is_still_known(tmp_path, tokenizer):
    path = write_table(tmp_path / "all.tsv", [("a", "x"), ("b", "y")])
    task = task_of(path, tokenizer, valid_fraction=0.5)
    assert len(task.samples("train")) == len(task.samples("valid")) == 1
    assert task.head_config(None).labels == ("x", "y")


def test_one_example_can_not_be_shared_out(tmp_path, tokenizer):
    path = write_table(tmp_path / "all.tsv", [("a", "x")])
    with pytest.raises(DataError, match=r"all.tsv:2: --valid-fraction 0.1 of 1 leaves nothing to train on"):
        task_of(path, tokenizer, labels=("x", "y")).samples("train")


def test_texts_in_folders_are_labelled_by_them(tmp_path, tokenizer):
    for split, label, name in (
        ("train", "pos", "a"),
        ("train", "neg", "b"),
        ("train", "neg", "c"),
        ("test", "pos", "d"),
    ):
        place = tmp_path / split / label / f"{name}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(name)
    task = task_of(tmp_path, tokenizer, data_layout="folders", valid_fraction=0.34)
    assert task.head_config(None).labels == ("neg", "pos")
    assert (len(task.samples("train")), len(task.samples("valid"))) == (2, 1)
    assert task.test_splits() == ("test",)
    assert task.samples("test").targets.tolist() == [1]


def test_a_test_split_may_lack_labels_and_is_named_where_there_is_one(folder, tokenizer):
    assert task_of(folder, tokenizer).test_splits() == ()
    (folder / "test.jsonl").write_text(json.dumps({"text": "?"}) + "\n")
    task = task_of(folder, tokenizer)
    assert task.test_splits() == ("test",)
    (prediction,) = task.samples("test").predictions(outputs_of([0.0, 2.0, 0.0]))
    assert (prediction.answer, prediction.prediction, prediction.error) == (None, "good", None)


# fairseq's folders


def binarise(prefix: Path, *lines: list[int]) -> None:
    with IndexedWriter(prefix, 300) as writer:
        for line in lines:
            writer.add([*line, 2])


@pytest.fixture
def binarized(tmp_path, tokenizer) -> Path:
    """Return a folder of single texts with numbers for labels."""
    binarise(tmp_path / "input0" / "train", [7, 8], [9], [5, 5, 5])
    binarise(tmp_path / "input0" / "valid", [7], [9, 9])
    tokenizer.dictionary.save(tmp_path / "input0" / "dict.txt")
    (tmp_path / "label").mkdir()
    (tmp_path / "label" / "train.label").write_text("0\n10\n4\n")
    (tmp_path / "label" / "valid.label").write_text("1\n9\n")
    return tmp_path


def test_numbers_of_a_binarized_folder_are_scored_as_numbers(binarized, tokenizer):
    """Without being told so: no dictionary of labels means numbers."""
    task = task_of(binarized, tokenizer, data_layout="binarized")
    assert task.head_config(None) == RegressionHeadConfig(minimum=0.0, maximum=10.0)
    valid = task.samples("valid")
    assert valid.metrics == ("pearson", "spearman")
    assert valid.score(outputs_of([0.9], [0.1]))["pearson"] == pytest.approx(-1.0)
    assert [sequence.tolist() for sequence in valid.sequences] == [[0, 7, 2], [0, 9, 9, 2]]
    with pytest.raises(ConfigError, match="--metric accuracy does not fit the labels; allowed: pearson, spearman"):
        task_of(binarized, tokenizer, data_layout="binarized", metric="accuracy")


def test_a_binarized_folder_of_another_dictionary_is_refused(binarized, tokenizer):
    with pytest.raises(VocabError, match="its dictionary is not the model's; binarise with the model's dict.txt"):
        task_of(binarized, None, data_layout="binarized")


@pytest.mark.parametrize(("name", "metrics"), [("PAIR-bin", "accuracy"), ("REG-bin", "pearson")])
def test_genuine_binarized_folders_are_read_as_fairseq_does(shared, tmp_path, name, metrics):
    shutil.copytree(shared / "golden/glue" / name, tmp_path / "data")
    shutil.copy(shared / "golden/ckpt2019/dict.txt", tmp_path / "data/input0/dict.txt")
    raw = shared / "golden/glue/raw"
    task = task_of(tmp_path / "data", Tokenizer.load(), data_layout="binarized")
    samples = task.samples("train")
    assert (len(samples), samples.metric) == (300, metrics)
    index = Tokenizer.load().dictionary.index
    texts = [(raw / f"train.input{number}").read_text().splitlines() for number in (0, 1)]
    for sequence, first, second in zip(samples.sequences, *texts, strict=True):
        pieces = [[index(symbol) for symbol in text.split()] for text in (first, second)]
        assert sequence.tolist() == [0, *pieces[0], 2, 2, *pieces[1], 2]
    if name == "PAIR-bin":
        assert [example.label for example in samples.examples] == (raw / "train.label").read_text().split()
        assert samples.targets.tolist() == [samples.head.labels.index(example.label) for example in samples.examples]
    else:
        scores = list(map(float, (raw / "train.score").read_text().split()))
        scale = [(score - min(scores)) / (max(scores) - min(scores)) for score in scores]
        assert samples.targets.tolist() == pytest.approx(scale, abs=1e-6)


# GLUE


def test_the_splits_of_a_set_are_those_whose_files_are_there(tmp_path, tokenizer):
    header = "index\tsentence1\tsentence2"
    for split, rows in (("train", [("0", "a", "b", "entailment")]), ("dev", [("0", "c", "d", "not_entailment")])):
        write_table(tmp_path / f"{split}.tsv", rows, f"{header}\tlabel")
    task = task_of(tmp_path, tokenizer, data_layout="rte")
    assert task.test_splits() == ()
    write_table(tmp_path / "test.tsv", [("7", "e", "f"), ("9", "g", "h")], header)
    assert task.test_splits() == ("test",)
    assert task.head == "rte"
    assert task.head_config(None).labels == ("not_entailment", "entailment")
    test = task.samples("test")
    test.write_predictions(tmp_path, outputs_of([0.0, 1.0], [2.0, 1.0]))
    assert (tmp_path / "RTE.tsv").read_text() == "index\tprediction\n7\tentailment\n9\tnot_entailment\n"
    task.samples("valid").write_predictions(tmp_path / "none", outputs_of([0.0, 1.0]))
    assert not (tmp_path / "none").exists()


def mnli_rows(count: int, *, labelled: bool) -> list[tuple[str, ...]]:
    labels = ("contradiction", "neutral", "entailment")
    return [(str(n), f"p{n}", f"h{n}", *([labels[n % 3]] if labelled else [])) for n in range(count)]


@pytest.fixture
def mnli(tmp_path) -> Path:
    """Return the folder of a small MNLI with both test splits; AX lies beside it."""
    header = "index\tsentence1\tsentence2"
    for name, rows in (("MNLI", 3), ("diagnostic", 2)):
        (tmp_path / name).mkdir()
        write_table(tmp_path / name / "diagnostic.tsv", mnli_rows(rows, labelled=False), header)
    (tmp_path / "MNLI" / "diagnostic.tsv").unlink()
    for split in ("train", "dev_matched", "dev_mismatched"):
        write_table(tmp_path / "MNLI" / f"{split}.tsv", mnli_rows(3, labelled=True), f"{header}\tgold_label")
    for split in ("test_matched", "test_mismatched"):
        write_table(tmp_path / "MNLI" / f"{split}.tsv", mnli_rows(3, labelled=False), header)
    return tmp_path / "MNLI"


def test_mnli_brings_its_second_splits_and_ax(mnli, tokenizer):
    task = task_of(mnli, tokenizer, data_layout="mnli")
    assert task.test_splits() == ("valid1", "test", "test1", "ax")
    files = {"valid1": None, "test": "MNLI-m.tsv", "test1": "MNLI-mm.tsv", "ax": "AX.tsv"}
    for split, name in files.items():
        folder = mnli / "out" / split
        samples = task.samples(split)
        samples.write_predictions(folder, outputs_of(*np.eye(3)[: len(samples)]))
        assert [path.name for path in folder.glob("*")] == ([name] if name else [])
    assert (mnli / "out/ax/AX.tsv").read_text() == "index\tprediction\n0\tcontradiction\n1\tneutral\n"
    assert task.samples("valid1").score(outputs_of(*np.eye(3))) == {"accuracy": 1.0}
    shutil.rmtree(mnli.parent / "diagnostic")
    assert task.test_splits() == ("valid1", "test", "test1")


@pytest.mark.parametrize(
    ("name", "folder", "train", "valid", "metrics", "splits"),
    [
        ("rte", "RTE", 2490, 277, ("accuracy",), ("test",)),
        ("mrpc", "MRPC", 3668, 408, ("accuracy", "f1"), ("test",)),
        ("stsb", "STS-B", 5749, 1500, ("pearson", "spearman"), ("test",)),
        ("wnli", "WNLI", 635, 71, ("accuracy",), ("test",)),
    ],
)
def test_genuine_sets_are_read_whole(shared, tokenizer, name, folder, train, valid, metrics, splits):
    task = task_of(shared / "data/glue_data" / folder, tokenizer, data_layout=name)
    samples = task.samples("valid")
    assert (len(task._train), len(samples)) == (train, valid)
    assert (samples.metrics, task.test_splits()) == (metrics, splits)
    if name == "stsb":
        assert task.head_config(None) == RegressionHeadConfig(minimum=0.0, maximum=5.0)
        labels = [example.label for example in samples.examples]
        assert samples.targets.tolist() == pytest.approx([label / 5 for label in labels])


def test_genuine_mnli_has_ax_beside_it(shared, tokenizer):
    task = task_of(shared / "data/glue_data/MNLI", tokenizer, data_layout="mnli")
    assert task.test_splits() == ("ax",)
    assert len(task.samples("ax")) == 1104


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data_layout": "rte", "text_columns": ("a",)}, "--text-columns has no effect on rte"),
        ({"data_layout": "rte", "labels": ("a", "b")}, "--labels has no effect on rte"),
        ({"data_layout": "rte", "valid_fraction": 0.5}, "--valid-fraction has no effect on rte"),
        ({"data_layout": "folders", "kind": "regression"}, "--kind has no effect on folders"),
        ({"data_layout": "folders", "columns": ("a",)}, "--columns has no effect on folders"),
        ({"data_layout": "folders", "label_separator": ";"}, "--label-separator has no effect on folders"),
        ({"data_layout": "binarized", "valid_fraction": 0.5}, "--valid-fraction has no effect on binarized"),
        ({"kind": "regression", "labels": ("a", "b")}, "--labels has no effect where labels are numbers"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, options, said):
    with pytest.raises(ConfigError, match=f"{said}: leave it out"):
        SentencePredictionTaskConfig(data=tmp_path, **options)
    SentencePredictionTaskConfig(data=tmp_path, data_layout="folders", labels=("a", "b"), valid_fraction=0.5)
