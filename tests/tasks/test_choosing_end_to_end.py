"""Questions and pronouns through the real trainer: a small model learns a few by heart, and the hub answers them."""

import json

import numpy as np
import pytest

from roberta.criterions.sentence_ranking import SentenceRankingLossConfig
from roberta.criterions.wsc import WSCLossConfig
from roberta.data.readers.choices import read_choices
from roberta.data.readers.winograd import read_winogrande
from roberta.hub import from_pretrained
from roberta.models.roberta import RobertaConfig
from roberta.optim.adam import AdamConfig
from roberta.optim.schedules import PolynomialDecayConfig
from roberta.recipe import Recipe, TrainerConfig
from roberta.tasks.sentence_ranking import SentenceRankingTaskConfig
from roberta.tasks.wsc import WSCTaskConfig
from roberta.trainer import Trainer

QUESTIONS = [
    ("A bird builds a", "", ["nest", "car", "clock"], 0),
    ("Where is the fish?", "The fish swims in the sea.", ["sky", "sea"], 1),
    ("Who is _ ?", "Ann sleeps and Bob reads.", ["Ann Lee", "Bob awake", "a cat", "the moon"], 1),
    ("What is cold?", "", ["fire", "sun", "steam", "lava", "ice"], 4),
    ("Where is the bird?", "The fish swims in the sea.", ["in the sky", "sea"], 0),
]
SENTENCES = [
    ("The cup is not in the box because _ is big.", "the cup", "the box", "1"),
    ("The cup is not in the box because _ is small.", "the cup", "the box", "2"),
    ("Ann thanked Eve Smith since _ helped.", "Ann", "Eve Smith", "2"),
    ("_ slept although Bob sang.", "Carl", "Bob", "1"),
]


def train(folder, task, criterion):
    model = RobertaConfig(
        encoder_layers=2,
        embed_dim=32,
        ffn_embed_dim=64,
        attention_heads=2,
        max_positions=128,
        dropout=0.0,
        attention_dropout=0.0,
    )
    trainer = TrainerConfig(
        save_dir=folder / "run",
        max_update=30,
        batch_size=8,
        device="cpu",
        validate_interval_updates=1000,
        save_interval_updates=1000,
    )
    schedule = PolynomialDecayConfig(lr=5e-3, warmup_updates=3)
    metrics = Trainer(Recipe(task, model, criterion, AdamConfig(), schedule, trainer)).train()
    return metrics, from_pretrained(folder / "run")


def write(folder, rows):
    for split in ("train", "dev"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_a_few_questions_are_learnt_by_heart(tmp_path):
    write(tmp_path, [dict(zip(("question", "text", "options", "answer"), row, strict=True)) for row in QUESTIONS])
    task = SentenceRankingTaskConfig(data=tmp_path, context_field="text", tokens_per_sample=64, max_option_length=32)
    metrics, roberta = train(tmp_path, task, SentenceRankingLossConfig())
    assert (metrics["accuracy"], metrics["num_targets"]) == (1.0, len(QUESTIONS))
    assert metrics["loss"] < 0.1
    examples = read_choices(tmp_path / "dev.jsonl", task)
    choices = roberta.choose(*zip(*((row.context, row.question, row.options) for row in examples), strict=True))
    assert [choice.index for choice in choices] == [row.answer for row in examples]
    probabilities = [choice.probabilities[row.answer] for choice, row in zip(choices, examples, strict=True)]
    assert -np.log(probabilities).mean() == pytest.approx(metrics["loss"], abs=1e-4)


@pytest.mark.parametrize("cross_entropy", [True, False])
def test_a_few_pronouns_are_learnt_by_heart(tmp_path, cross_entropy):
    write(tmp_path, [dict(zip(("sentence", "option1", "option2", "answer"), row, strict=True)) for row in SENTENCES])
    task = WSCTaskConfig(data=tmp_path, data_layout="winogrande")
    criterion = WSCLossConfig(wsc_cross_entropy=cross_entropy, wsc_margin_alpha=5.0, wsc_margin_beta=0.4)
    metrics, roberta = train(tmp_path, task, criterion)
    assert (metrics["accuracy"], metrics["num_targets"]) == (1.0, len(SENTENCES))
    examples = read_winogrande(tmp_path / "dev.jsonl")
    answers = roberta.disambiguate_pronoun(
        [f"{row.before}[it]{row.after}" for row in examples], [row.candidates for row in examples]
    )
    assert answers == [row.candidates[row.answer] for row in examples]
