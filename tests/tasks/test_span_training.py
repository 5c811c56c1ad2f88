"""A small model learns a few paragraphs by heart, through the real trainer, and answers from its checkpoint."""

import json
import lzma
from pathlib import Path
from typing import Any

from roberta.criterions.span import SpanLossConfig
from roberta.data.readers.squad import read_squad
from roberta.hub import from_pretrained
from roberta.models.roberta import RobertaConfig
from roberta.optim.adam import AdamConfig
from roberta.optim.schedules import PolynomialDecayConfig
from roberta.recipe import Recipe, TrainerConfig
from roberta.tasks.span import SpanTaskConfig
from roberta.trainer import Trainer

V2 = [
    (
        "The Ouse rises in the hills west of Thirsk and meets the Trent after 84 kilometres. Its bridge is from 1863.",
        [
            ("Where does the Ouse rise?", "in the hills west of Thirsk"),
            ("How long is it?", "84 kilometres"),
            ("Who built the bridges?", ""),
        ],
    ),
    (
        "Marta Ilves, a physician from Tartu, published her first novel in 1931; “Salt” was translated by Jüri Kask.",
        [
            ("Who wrote Salt?", "Marta Ilves"),
            ("Where was she from?", "Tartu"),
            ("Who translated it?", "Jüri Kask"),
            ("When did she die?", ""),
        ],
    ),
]


def write_v2(path: Path) -> Path:
    """Write a set of 2.0 of these paragraphs."""
    paragraphs = [
        {
            "context": context,
            "qas": [
                {
                    "id": f"{number}-{position}",
                    "question": question,
                    "answers": [{"text": text, "answer_start": context.index(text)}] if text else [],
                    "is_impossible": not text,
                }
                for position, (question, text) in enumerate(asked)
            ],
        }
        for number, (context, asked) in enumerate(V2)
    ]
    path.write_text(
        json.dumps({"version": "v2.0", "data": [{"title": "", "paragraphs": paragraphs}]}), encoding="utf-8"
    )
    return path


def write_real(shared: Path, path: Path) -> Path:
    """Write the five shortest paragraphs of SQuAD's training set that have three questions or more."""
    contents = json.loads(lzma.decompress((shared / "data/squad/train-v1.1.44articles.json.xz").read_bytes()))
    paragraphs = [paragraph for article in contents["data"] for paragraph in article["paragraphs"]]
    paragraphs = [paragraph for paragraph in paragraphs if len(paragraph["qas"]) > 2]
    paragraphs = sorted(paragraphs, key=lambda paragraph: len(paragraph["context"]))[:5]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]}), encoding="utf-8")
    return path


def recipe(task: SpanTaskConfig, save_dir: Path, *, max_update: int) -> Recipe:
    return Recipe(
        task=task,
        model=RobertaConfig(
            encoder_layers=2,
            embed_dim=64,
            ffn_embed_dim=128,
            attention_heads=4,
            max_positions=task.tokens_per_sample,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        criterion=SpanLossConfig(),
        optimizer=AdamConfig(weight_decay=0.0),
        lr_scheduler=PolynomialDecayConfig(lr=3e-3, warmup_ratio=0.1),
        trainer=TrainerConfig(
            save_dir=save_dir,
            max_update=max_update,
            batch_size=32,
            validate_interval_updates=max_update,
            save_interval_updates=max_update,
            keep_best=True,
            device="cpu",
        ),
    )


def trained(task: SpanTaskConfig, save_dir: Path, *, max_update: int) -> dict[str, Any]:
    return Trainer(recipe(task, save_dir, max_update=max_update)).train()


def test_a_small_model_learns_real_paragraphs_by_heart(shared: Path, tmp_path: Path) -> None:
    data = write_real(shared, tmp_path / "train.json")
    task = SpanTaskConfig(data=data, dev=data, tokens_per_sample=64, doc_stride=16, max_question_length=32)
    metrics = trained(task, tmp_path / "run", max_update=80)
    assert (metrics["exact"], metrics["f1"]) == (100.0, 100.0)
    assert metrics["loss"] < 0.1
    roberta = from_pretrained(tmp_path / "run")
    questions = read_squad(data)
    assert len(questions) > 14
    found = roberta.answer([q.question for q in questions], [q.context for q in questions])
    assert [answer.text for answer in found] == [question.answers[0][0] for question in questions]


def test_a_small_model_learns_when_there_is_no_answer(tmp_path: Path) -> None:
    data = write_v2(tmp_path / "set.json")
    task = SpanTaskConfig(
        data=data, dev=data, version="2.0", tokens_per_sample=64, doc_stride=16, max_question_length=16
    )
    metrics = trained(task, tmp_path / "run", max_update=60)
    for name in ("exact", "best_f1", "HasAns_exact", "NoAns_exact", "pr_f1_ap"):
        assert metrics[name] == 100.0, name
    assert metrics["answerability_loss"] < 0.1
    roberta = from_pretrained(tmp_path / "run" / "best")
    for context, asked in V2:
        found = roberta.answer([question for question, _ in asked], context)
        assert [answer.text for answer in found] == [text for _, text in asked]
        for answer in found:
            assert answer.start is None or context[answer.start : answer.end] == answer.text
