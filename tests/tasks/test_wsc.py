"""The pronoun task: batches, candidates, scores, splits, and what it refuses."""

import json
import logging
import sys

import numpy as np
import pytest

from roberta.data import noun_phrases as module
from roberta.data.readers.winograd import PRONOUN_SETS
from roberta.data.tokenizer import Tokenizer
from roberta.errors import ConfigError, DataError
from roberta.tasks import wsc
from roberta.tasks.wsc import WSCTask, WSCTaskConfig

TEXT = "Mark told Pete that Ann left. He lied."
SENTENCE = "Ann beat Eve because _ is fast."


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load()


def question(query, label):
    target = {"span1_text": query, "span1_index": 0, "span2_text": "He", "span2_index": 6}
    return {"text": TEXT, "target": target} | ({} if label is None else {"label": label})


def write(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def samples_of(folder, tokenizer, split, **options):
    return WSCTask(WSCTaskConfig(data=folder, **options), tokenizer).samples(split)


def winogrande(folder, tokenizer, split="valid", answers=("1", "2"), **options):
    row = {"sentence": SENTENCE, "option1": "Ann", "option2": "Eve Smith"}
    write(folder / f"{'dev' if split == 'valid' else split}.jsonl", *({**row, "answer": answer} for answer in answers))
    return samples_of(folder, tokenizer, split, data_layout="winogrande", **options)


def test_the_candidates_of_a_question_are_one_group_of_masked_rows(tmp_path, tokenizer):
    samples = winogrande(tmp_path, tokenizer)
    batch = samples.batch(np.array([1, 0]), seed=1, epoch=1)
    assert (batch.groups.lengths, batch.rows_per_sample) == ((2, 2), (2, 2))
    assert (batch.num_targets, batch.sample_ids) == (2, (1, 0))
    assert batch.targets[:2].tolist() == [1, 0]
    assert set(batch.tokens[batch.select].tolist()) == {tokenizer.dictionary.mask}
    assert (batch.tokens == tokenizer.dictionary.mask).sum() == len(batch.select)
    filled = batch.tokens.index_copy(0, batch.select, batch.targets[2:])
    expected = [tokenizer.encode_sequence(SENTENCE.replace("_", name)) for name in ("Ann", "Eve Smith")] * 2
    assert [part.tolist() for part in filled.split(batch.layout.lengths)] == expected
    assert samples.max_seqlen == len(expected[1])
    assert samples.sizes.tolist() == [sum(map(len, expected[:2]))] * 2


def test_queries_to_be_rejected_are_left_out_of_training_alone(tmp_path, tokenizer, caplog):
    rows = [question("Mark", True), question("Pete", False), question("Ann", False)]
    for split in ("train", "val"):
        write(tmp_path / f"{split}.jsonl", *rows)
    with caplog.at_level(logging.INFO):
        train = samples_of(tmp_path, tokenizer, "train", wsc_candidates="spans")
    assert "train: 2 questions without a right candidate to learn from are left out" in caplog.text
    assert [example.candidates for example in train.examples] == [("Mark", "Pete", "Ann")]
    valid = samples_of(tmp_path, tokenizer, "valid", wsc_candidates="spans")
    assert [example.candidates[0] for example in valid.examples] == ["Mark", "Pete", "Ann"]
    batch = valid.batch(np.arange(3), seed=1, epoch=1)
    assert (batch.targets[:3].tolist(), batch.num_targets) == ([0, -1, -1], 1)


def test_a_query_is_accepted_if_no_other_candidate_has_a_better_score(tmp_path, tokenizer):
    write(tmp_path / "val.jsonl", question("Mark", True), question("Pete", False))
    samples = samples_of(tmp_path, tokenizer, "valid", wsc_candidates="spans")
    accepted, rejected, tied = (np.array(rows, dtype=np.float32)[:, None] for rows in ([2, 1], [1, 2], [1, 1]))
    assert samples.score([accepted, rejected]) == {"accuracy": 1.0}
    assert samples.score([accepted, accepted]) == {"accuracy": 0.5}
    assert samples.score([rejected, accepted]) == {"accuracy": 0.0}
    assert samples.score([tied, tied]) == {"accuracy": 0.5}
    assert (samples.metric, samples.maximise) == ("accuracy", True)


def test_predictions_name_candidates_and_how_wrong_they_are(tmp_path, tokenizer):
    write(tmp_path / "test.jsonl", question("Mark", True), question("Pete", False), question("Ann", None))
    samples = samples_of(tmp_path, tokenizer, "test", wsc_candidates="spans")
    scores = np.log(np.array([[0.5], [0.25], [0.25]], dtype=np.float32))
    told, rejected, untold = samples.predictions([scores] * 3)
    assert (told.text, told.answer, told.prediction) == (TEXT.replace("He", "[He]"), "1. Mark", "1. Mark")
    assert told.probabilities == pytest.approx({"1. Mark": 0.5, "2. Pete": 0.25, "3. Ann": 0.25})
    assert told.error == pytest.approx(np.log(2))
    assert (rejected.answer, rejected.prediction) == ("not 1. Pete", "1. Pete")
    assert rejected.error == pytest.approx(np.log(2))
    assert (untold.answer, untold.error) == (None, None)
    assert samples.predictions([np.array([[0.0], [2000.0], [0.0]], dtype=np.float32)] * 3)[0].error < 1000


def test_the_files_of_the_leaderboards_are_written_for_a_test_split(tmp_path, tokenizer):
    best = [np.eye(3, dtype=np.float32)[[k]].T for k in (0, 2, 1)]
    rows = [question("Mark", None), question("Pete", None), question("Ann", None)]
    write(tmp_path / "test.jsonl", {**rows[0], "idx": 7}, *rows[1:])
    samples_of(tmp_path, tokenizer, "test", wsc_candidates="spans").write_predictions(tmp_path, best)
    lines = [json.loads(line) for line in (tmp_path / "WSC.jsonl").read_text().splitlines()]
    assert lines == [{"idx": 7, "label": "True"}, {"idx": 1, "label": "False"}, {"idx": 2, "label": "False"}]
    best = [rows[:2] for rows in (best[0], best[2])]
    winogrande(tmp_path, tokenizer, "test", answers=("", "")).write_predictions(tmp_path, best)
    assert (tmp_path / "predictions.lst").read_text() == "1\n2\n"
    (tmp_path / "predictions.lst").unlink()
    winogrande(tmp_path, tokenizer).write_predictions(tmp_path, best)
    assert not (tmp_path / "predictions.lst").exists()


def test_a_test_split_is_named_where_there_is_one(tmp_path, tokenizer):
    config = WSCTaskConfig(data=tmp_path)
    assert WSCTask(config, tokenizer).test_splits() == ()
    for split in ("val", "test"):
        write(tmp_path / f"{split}.jsonl", question("Mark", True))
    assert WSCTask(config, tokenizer).test_splits() == ("test",)
    same = WSCTaskConfig(data=tmp_path, valid_file="test.jsonl")
    assert WSCTask(same, tokenizer).test_splits() == ()


def test_wsc_takes_noun_phrases_beside_the_query(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(wsc, "noun_phrases", lambda text: ["Mark", "Pete", "Ann", "Pete"] if text == TEXT else [])
    write(tmp_path / "val.jsonl", question("Mark", True), question("ann", False))
    samples = samples_of(tmp_path, tokenizer, "valid")
    assert [example.candidates for example in samples.examples] == [("Mark", "Pete", "Ann"), ("ann", "Mark", "Pete")]


def test_the_answers_of_a_test_split_may_be_untold(tmp_path, tokenizer):
    samples = winogrande(tmp_path, tokenizer, "test", answers=("1", ""))
    assert samples.batch(np.arange(2), seed=1, epoch=1).num_targets == 1
    scores = np.array([[1.0], [0.0]], dtype=np.float32)
    assert samples.score([scores, scores]) == {"accuracy": 1.0}
    with pytest.raises(DataError, match="dev.jsonl:2: no answer, and the valid split needs them"):
        winogrande(tmp_path, tokenizer, answers=("1", ""))
    with pytest.raises(DataError, match="has an answer to score"):
        winogrande(tmp_path, tokenizer, "test", answers=("",)).score([scores])


def test_labels_beside_the_questions_are_read(tmp_path, tokenizer):
    (tmp_path / "dev-labels.lst").write_text("2\n1\n", encoding="utf-8")
    samples = winogrande(tmp_path, tokenizer, answers=("", ""))
    assert samples.answers.tolist() == [1, 0]


def test_files_may_be_named(tmp_path, tokenizer):
    (tmp_path / "definite.txt").write_text("The bee saw it.\nit\nthe bee,the cup\nthe cup\n", encoding="utf-8")
    named = samples_of(tmp_path, tokenizer, "train", data_layout="text", train_file="definite.txt")
    assert named.answers.tolist() == [1]
    with pytest.raises(DataError, match="no file of the valid split"):
        samples_of(tmp_path, tokenizer, "valid", data_layout="text")


@pytest.mark.parametrize(
    ("name", "path", "counts"),
    [
        ("wsc273", "winograd", {"valid": 273}),
        ("dpr", "winograd", {"train": 1316, "valid": 564}),
        ("winogrande", "winogrande_1.1", {"valid": 1267}),
    ],
)
def test_genuine_sets_are_found_by_their_names(shared, tokenizer, name, path, counts):
    for split, count in counts.items():
        samples = samples_of(shared / "data" / path, tokenizer, split, **PRONOUN_SETS[name])
        assert len(samples) == count


def test_a_query_with_nothing_beside_it_is_counted_left_out_of_training_and_taken_elsewhere(
    tmp_path, tokenizer, caplog
):
    alone = [
        {**question(query, label), "text": f"{query} told Ann that Bob left. He lied."}
        for query, label in (("Mark", True), ("Pete", False))
    ]
    rows = [question("Mark", True), question("Pete", False), *alone]
    for split in ("train", "val"):
        write(tmp_path / f"{split}.jsonl", *rows)
    with caplog.at_level(logging.INFO):
        train = samples_of(tmp_path, tokenizer, "train", wsc_candidates="spans")
        valid = samples_of(tmp_path, tokenizer, "valid", wsc_candidates="spans")
    assert [example.candidates for example in train.examples] == [("Mark", "Pete")]
    assert "train: 1 questions with nothing to compare the query with are left out" in caplog.text
    assert "valid: 2 questions with nothing to compare the query with; it is taken for the answer" in caplog.text
    assert [example.candidates for example in valid.examples[2:]] == [("Mark",), ("Pete",)]
    assert valid.counts() == {"num_truncated": 0, "num_single_candidates": 2}
    pair = np.array([[2.0], [1.0]], dtype=np.float32)
    assert valid.score([pair, pair[::-1], pair[:1], pair[:1]]) == {"accuracy": 0.75}  # that of Pete is wrong
    write(tmp_path / "train.jsonl", alone[0])
    with pytest.raises(DataError, match="a right candidate and another one to compare it with"):
        samples_of(tmp_path, tokenizer, "train", wsc_candidates="spans")


def test_without_spacy_the_other_candidates_are_named(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    module._pipeline.cache_clear()
    write(tmp_path / "val.jsonl", question("Mark", True))
    with pytest.raises(
        ConfigError, match="not installed: pip install spacy, .*; or do without it: --wsc-candidates spans"
    ):
        samples_of(tmp_path, tokenizer, "valid")


def test_candidates_are_chosen_for_wsc_alone(tmp_path):
    with pytest.raises(ConfigError, match="--wsc-candidates is for SuperGLUE's WSC; the other sets name"):
        WSCTaskConfig(data=tmp_path, data_layout="winogrande", wsc_candidates="spans")


def test_several_train_files_are_told_apart_by_an_option(tmp_path, tokenizer):
    for name in ("train_s.jsonl", "train_xl.jsonl"):
        (tmp_path / name).touch()
    message = "train_s.jsonl and train_xl.jsonl could each be it; name one with --train-file"
    with pytest.raises(DataError, match=message):
        samples_of(tmp_path, tokenizer, "train", data_layout="winogrande")


def test_two_test_files_are_refused_and_not_passed_over(tmp_path, tokenizer):
    for name in ("a-test.jsonl", "b-test.jsonl", "dev.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="a-test.jsonl and b-test.jsonl could each be it; keep one of them"):
        WSCTask(WSCTaskConfig(data=tmp_path, data_layout="winogrande"), tokenizer).test_splits()


def test_a_train_split_without_right_candidates_is_refused(tmp_path, tokenizer):
    write(tmp_path / "train.jsonl", question("Pete", False))
    with pytest.raises(DataError, match="no question of the train split has a right candidate"):
        samples_of(tmp_path, tokenizer, "train", wsc_candidates="spans")


def test_a_candidate_without_room_is_named_with_its_line(tmp_path, tokenizer):
    with pytest.raises(DataError, match="dev.jsonl:1: a candidate has 2 tokens; expected at most 1"):
        winogrande(tmp_path, tokenizer, tokens_per_sample=3)
    with pytest.raises(ConfigError, match="--tokens-per-sample is 2"):
        WSCTaskConfig(data=tmp_path, tokens_per_sample=2)


def test_long_texts_are_cut_to_the_limit_and_counted(tmp_path, tokenizer, caplog):
    with caplog.at_level(logging.INFO):
        samples = winogrande(tmp_path, tokenizer, tokens_per_sample=7)
        winogrande(tmp_path, tokenizer)
    counted = [record.getMessage() for record in caplog.records]
    assert counted == [f"valid: 2 questions; {n} of them cut to fit {limit} tokens" for n, limit in ((2, 7), (0, 512))]
    assert samples.batch(np.arange(2), seed=1, epoch=1).layout.lengths == (6, 7, 6, 7)
