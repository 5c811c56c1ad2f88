"""The sentence-ranking task: batches, scores, splits, and what it refuses."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from roberta.data.readers.choices import QUESTION_SETS
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError
from roberta.tasks.sentence_ranking import SentenceRankingTask, SentenceRankingTaskConfig

ROWS = [
    {"text": "Dogs bark. " * 30, "question": "Who?", "options": ["dogs", "cats"], "answer": 0},
    {"text": "Cats purr.", "question": "Who?", "options": ["dogs", "cats", "cows"], "answer": 1},
    {"text": "Cows moo.", "question": "Who?", "options": ["dogs", "cows " * 40], "answer": 1},
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load()


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return tmp_path


def task_of(folder, tokenizer, **options):
    config = SentenceRankingTaskConfig(data=folder, context_field="text", **options)
    return SentenceRankingTask(config, tokenizer)


def test_the_options_of_a_question_are_one_group(folder, tokenizer):
    samples = task_of(folder, tokenizer).samples("train")
    batch = samples.batch(np.array([1, 0]), seed=1, epoch=1)
    assert batch.groups.lengths == (3, 2)
    assert batch.rows_per_sample == (3, 2)
    assert batch.targets.tolist() == [1, 0]
    assert (batch.num_targets, batch.sample_ids) == (2, (1, 0))
    options = [(1, option) for option in ROWS[1]["options"]] + [(0, option) for option in ROWS[0]["options"]]
    expected = [tokenizer.encode_sequence(f"Who? {option}", ROWS[row]["text"].strip()) for row, option in options]
    assert [part.tolist() for part in batch.tokens.split(batch.layout.lengths)] == expected
    assert batch.select.tolist() == batch.layout.first.tolist()
    assert samples.max_seqlen == max(map(len, expected))
    assert samples.sizes[[1, 0]].tolist() == [sum(map(len, expected[:3])), sum(map(len, expected[3:]))]


def test_what_is_cut_is_counted_in_the_log(folder, tokenizer, caplog):
    with caplog.at_level(logging.INFO):
        samples = task_of(folder, tokenizer, tokens_per_sample=30, max_option_length=20).samples("valid")
    assert "valid: 3 questions; 1 with a context cut to fit 30 tokens, 1 with options cut to 20 tokens" in caplog.text
    assert max(samples.batch(np.arange(3), seed=1, epoch=1).layout.lengths) == 30


def test_scores_are_the_accuracy_and_that_of_each_group(tmp_path, tokenizer):
    for level, answers in (("middle", "AB"), ("high", "CD")):
        path = tmp_path / "dev" / level / "1.txt"
        path.parent.mkdir(parents=True)
        passage = {"article": "x", "questions": ["q"] * 2, "options": [list("wxyz")] * 2, "answers": list(answers)}
        path.write_text(json.dumps(passage), encoding="utf-8")
    task = SentenceRankingTask(SentenceRankingTaskConfig(data=tmp_path, data_layout="race"), tokenizer)
    samples = task.samples("valid")
    chosen = [np.eye(4, dtype=np.float32)[k][:, None] for k in (0, 1, 2, 0)]
    assert samples.score(chosen) == {"accuracy": 0.75, "accuracy_high": 0.5, "accuracy_middle": 1.0}
    assert (samples.metric, samples.maximise) == ("accuracy", True)


def test_predictions_name_options_and_how_wrong_they_are(folder, tokenizer):
    rows = [ROWS[1], {**ROWS[1], "options": ["same", "same"], "answer": None}]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    scores = np.log(np.array([[0.25], [0.25], [0.5]], dtype=np.float32))
    told, untold = task_of(folder, tokenizer).samples("test").predictions([scores, scores[1:]])
    assert (told.text, told.answer, told.prediction) == ("Who? | Cats purr.", "2. cats", "3. cows")
    assert told.probabilities == pytest.approx({"1. dogs": 0.25, "2. cats": 0.25, "3. cows": 0.5})
    assert told.error == pytest.approx(np.log(4))
    assert (untold.answer, untold.prediction, untold.error) == (None, "2. same", None)


def test_answers_may_be_missing_from_a_test_split_alone(folder, tokenizer):
    untold = [{**ROWS[0], "answer": ""}, ROWS[1]]
    for split in ("test", "train"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, untold)), encoding="utf-8")
    samples = task_of(folder, tokenizer).samples("test")
    batch = samples.batch(np.arange(2), seed=1, epoch=1)
    assert (batch.targets.tolist(), batch.num_targets) == ([-1, 1], 1)
    assert samples.score([np.array([[1.0], [0.0]]), np.array([[0.0], [1.0], [0.0]])]) == {"accuracy": 1.0}
    with pytest.raises(DataError, match="train.jsonl:1: no answer, and the train split needs them"):
        task_of(folder, tokenizer).samples("train")


def test_a_split_without_answers_has_no_score(folder, tokenizer):
    (folder / "test.jsonl").write_text(json.dumps({**ROWS[0], "answer": None}), encoding="utf-8")
    with pytest.raises(DataError, match="has an answer to score"):
        task_of(folder, tokenizer).samples("test").score([np.zeros((2, 1), dtype=np.float32)])


@pytest.mark.parametrize("name", ["test_rand_split.jsonl", "ARC-Easy-Test.jsonl", "test.jsonl"])
def test_the_file_of_a_split_is_found_by_a_word_of_its_name(tmp_path, tokenizer, name):
    (tmp_path / name).write_text(json.dumps(ROWS[0]), encoding="utf-8")
    (tmp_path / "latest.jsonl").write_text("no", encoding="utf-8")
    assert len(task_of(tmp_path, tokenizer).samples("test")) == 1


def test_a_split_that_is_missing_or_there_twice_is_refused(tmp_path, tokenizer):
    with pytest.raises(
        DataError,
        match="no file of the valid split; expected one named valid or dev or val or validation with .jsonl.*nothing",
    ):
        task_of(tmp_path, tokenizer).samples("valid")
    for name in ("train_s.jsonl", "train_xl.jsonl.xz"):
        (tmp_path / name).touch()
    with pytest.raises(
        DataError, match="train_s.jsonl and train_xl.jsonl.xz could each be it; name one with --train-file"
    ):
        task_of(tmp_path, tokenizer).samples("train")


def test_a_test_split_is_named_where_there_is_one(folder, tokenizer):
    assert task_of(folder, tokenizer).test_splits() == ()
    race = SentenceRankingTask(SentenceRankingTaskConfig(data=folder, data_layout="race"), tokenizer)
    assert race.test_splits() == ()
    (folder / "test.jsonl").touch()
    (folder / "test").mkdir()
    assert task_of(folder, tokenizer).test_splits() == ("test",)
    assert race.test_splits() == ("test",)


def test_two_test_files_are_refused_and_not_passed_over(folder, tokenizer):
    for name in ("ARC-Easy-Test.jsonl", "ARC-Challenge-Test.jsonl"):
        (folder / name).write_text(json.dumps(ROWS[0]), encoding="utf-8")
    task = task_of(folder, tokenizer)
    assert task.test_splits() == ("test",)
    with pytest.raises(DataError, match="ARC-Challenge-Test.jsonl and ARC-Easy-Test.jsonl could each be it; keep one"):
        task.samples("test")


@pytest.mark.parametrize(
    "options",
    [
        {"question_field": "q"},
        {"question_field": None},
        {"question_texts": ("?",)},
        {"option_fields": ("a", "b")},
        {"train_file": Path("a")},
        {"valid_file": Path("a")},
    ],
)
def test_fields_and_files_are_refused_beside_the_folders_of_race(tmp_path, options):
    flag = f"--{next(iter(options)).replace('_', '-')}"
    with pytest.raises(ConfigError, match=f"{flag} is for .jsonl, not for RACE's folders: leave it out"):
        SentenceRankingTaskConfig(data=tmp_path, data_layout="race", **options)


def test_a_split_of_race_is_not_its_folder(tmp_path, tokenizer):
    (tmp_path / "high").mkdir()
    task = SentenceRankingTask(SentenceRankingTaskConfig(data=tmp_path, data_layout="race"), tokenizer)
    with pytest.raises(DataError, match="this is one split of RACE; give the folder that holds train and dev"):
        task.samples("train")


@pytest.mark.parametrize(
    ("word", "question"), [("cause", "What was the cause of this?"), ("effect", "What happened as a result?")]
)
def test_copa_asks_in_words(tmp_path, tokenizer, word, question):
    row = {"premise": "It rained.", "choice1": "The street got wet.", "choice2": "It dried.", "question": word}
    (tmp_path / "train.jsonl").write_text(json.dumps({**row, "label": 0, "idx": 7}), encoding="utf-8")
    config = SentenceRankingTaskConfig(data=tmp_path, **QUESTION_SETS["copa"])
    batch = SentenceRankingTask(config, tokenizer).samples("train").batch(np.arange(1), seed=1, epoch=1)
    first, second = batch.tokens.split(batch.layout.lengths)
    texts = [tokenizer.decode(part.tolist()) for part in batch.tokens.split(batch.layout.lengths)]
    specials = [tokenizer.dictionary.bos, tokenizer.dictionary.eos]
    expected = [f"{question} The street got wet.It rained.", f"{question} It dried.It rained."]
    assert texts == expected
    assert [first[0].item(), first[-1].item(), second[-1].item()] == [specials[0], specials[1], specials[1]]
    assert [(part == specials[1]).sum().item() for part in (first, second)] == [3, 3]


def test_a_file_of_a_split_may_be_named(folder, tokenizer):
    (folder / "other.jsonl").write_text(json.dumps(ROWS[2]), encoding="utf-8")
    assert len(task_of(folder, tokenizer, train_file="other.jsonl").samples("train")) == 1
    assert len(task_of(folder, tokenizer, valid_file="other.jsonl").samples("valid")) == 1


def test_options_of_known_sets_are_options_of_the_task(tmp_path):
    for options in QUESTION_SETS.values():
        assert SentenceRankingTaskConfig(data=tmp_path, **options).data == tmp_path


@pytest.mark.parametrize(("name", "path", "count"), [("commonsense_qa", "CommonsenseQA", 1221)])
def test_genuine_sets_are_found_by_their_names(shared, tokenizer, name, path, count):
    task = SentenceRankingTask(SentenceRankingTaskConfig(data=shared / "data" / path, **QUESTION_SETS[name]), tokenizer)
    samples = task.samples("valid")
    assert (len(samples), len(samples.questions[0].lengths)) == (count, 5)
    assert samples.max_seqlen < 128


def test_options_leave_room_for_the_special_tokens(folder, tokenizer):
    samples = task_of(folder, tokenizer, tokens_per_sample=20, max_option_length=128).samples("train")
    assert samples.max_option_tokens == 16
    assert samples.max_seqlen == 20


def test_limits_without_room_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--tokens-per-sample is 4; 4 special tokens and an option need at least 5"):
        SentenceRankingTaskConfig(data=tmp_path, tokens_per_sample=4)
    with pytest.raises(ConfigError, match="--max-option-length is 0"):
        SentenceRankingTaskConfig(data=tmp_path, max_option_length=0)
