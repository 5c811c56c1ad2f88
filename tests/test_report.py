"""The report of fine-tuning: Markdown that reads well, and JSON with all figures."""

import json
import math
from itertools import permutations
from pathlib import Path

import pytest

from roberta.report import Report, Run, Split
from roberta.tasks.task import Prediction


def run(lr: float = 1e-5, seed: int = 1, best: float = 0.5, update: int = 7) -> Run:
    return Run(lr, seed, Path(f"runs/{lr:g}_{seed}"), update, best, 90.0)


def prediction(answer, found, error=1.0, text="a text", probabilities=("no", "yes")) -> Prediction:
    shares = None if probabilities is None else dict.fromkeys(probabilities, 0.5)
    return Prediction("0", "dev.tsv:2", text, answer, found, shares, error)


CLASSES = (prediction("yes", "yes", 0.1), prediction("yes", "no", 2.0), prediction("no", "no", 0.2))


def report(*runs: Run, predictions=CLASSES, figures=None, **splits: Split) -> Report:
    runs = runs or (run(),)
    valid = Split({"accuracy": 2 / 3} if figures is None else figures, predictions)
    best = max(runs, key=lambda each: each.best)
    return Report("rte", "data/RTE", "roberta.base", "accuracy", runs, best, {"valid": valid, **splits})


def section(markdown: str, title: str) -> list[str]:
    """Return the lines of a section, empty ones left out."""
    _, _, rest = markdown.partition(f"## {title}\n")
    return [line for line in rest.partition("\n## ")[0].splitlines() if line]


def test_a_report_says_what_was_trained_on_what():
    (title, _, summary, *_) = report().to_markdown().splitlines()
    assert title == "# rte"
    assert summary == (
        "Fine-tuned from `roberta.base` on `data/RTE`. "
        "The best of 1 run, by accuracy: lr 1e-05, seed 1, after update 7."
    )


def test_groups_have_a_row_each_and_counts_no_decimals():
    figures = {"PER": {"f1": 0.5, "num_entities": 3}, "LOC": {"f1": 1 / 3, "num_entities": 4, "more": 0.25}}
    made = report(test=Split({"f1": 0.4}, CLASSES, groups=figures))
    assert section(made.to_markdown(), "Groups") == [
        "| split | group | f1 | entities | more |",
        "| --- | --- | --- | --- | --- |",
        "| test | PER | 0.5000 | 3 |  |",
        "| test | LOC | 0.3333 | 4 | 0.2500 |",
    ]
    assert made.summary()["groups"] == {"test": figures}
    assert "## Groups" not in report().to_markdown()
    assert "groups" not in report().summary()


def test_a_split_without_predictions_counts_its_samples():
    markdown = report(predictions=()).to_markdown()
    assert "| valid | 0 | 0.6667 |  |" in markdown
    made = report(test=Split({"accuracy": 0.25}, (), num_samples=12))
    assert "| test | 12 | 0.2500 |  |" in made.to_markdown()
    assert made.summary()["splits"]["test"]["examples"] == 12


def test_figures_have_a_row_for_each_split_and_an_interval_of_accuracy():
    markdown = report(
        test=Split({}, (prediction(None, "yes", None),)), valid1=Split({"f1": 0.25}, CLASSES)
    ).to_markdown()
    assert section(markdown, "Figures") == [
        "| split | examples | accuracy | f1 | 95 % of accuracy |",
        "| --- | --- | --- | --- | --- |",
        "| valid | 3 | 0.6667 |  | 0.2077 to 0.9385 |",  # Wilson's interval of 2 of 3
        "| test | 1 |  |  |  |",
        "| valid1 | 3 |  | 0.2500 |  |",
    ]


def test_a_single_run_has_one_row_and_several_have_a_spread():
    assert section(report().to_markdown(), "Run") == [
        "| lr | seed | accuracy | best update | minutes |",
        "| --- | --- | --- | --- | --- |",
        "| 1e-05 | 1 | 0.5000 | 7 | 1.5 |",
    ]
    several = report(run(best=0.5), run(seed=2, best=0.7), run(seed=3, best=0.9), run(lr=3e-5, best=0.8)).to_markdown()
    assert "The best of 4 runs, by accuracy: lr 1e-05, seed 3" in several
    rows = section(several, "Runs")
    assert len(rows) == 2 + 4 + 2 + 2
    assert rows[-2:] == [
        "| 1e-05 | 3 | 0.7000 | 0.5000 | 0.9000 | 0.2000 |",
        "| 3e-05 | 1 | 0.8000 | 0.8000 | 0.8000 |  |",
    ]


def test_the_confusion_matrix_has_right_answers_in_rows():
    assert section(report().to_markdown(), "Confusion")[1:] == [
        "|  | no | yes |",
        "| --- | --- | --- |",
        "| **no** | 1 | 0 |",
        "| **yes** | 1 | 1 |",
    ]


@pytest.mark.parametrize(
    "predictions",
    [
        (prediction(1.0, 2.0, probabilities=None), prediction(2.0, 2.0, probabilities=None)),
        (prediction("art,sport", "art", probabilities=("art", "sport")), prediction("", "art")),
        (
            prediction("1. x", "2. y", probabilities=("1. x", "2. y")),
            prediction("1. z", "1. z", probabilities=("1. z", "2. w")),
        ),
        tuple(prediction(f"c{n}", "c0", probabilities=[f"c{k}" for k in range(21)]) for n in range(21)),
    ],
)
def test_what_are_no_classes_or_too_many_have_no_confusion_matrix(predictions):
    assert "## Confusion" not in report(predictions=predictions, figures={}).to_markdown()


def test_the_hardest_examples_come_first():
    many = [prediction("yes", "no", error=float(n), text=f"text {n}") for n in range(30)]
    rows = section(report(predictions=many, figures={}).to_markdown(), "Hardest examples")
    assert rows[0] == "| where | right | predicted | error | text |"
    assert [row.split(" | ")[4] for row in rows[2:]] == [f"text {n} |" for n in range(29, 19, -1)]
    assert rows[2] == "| dev.tsv:2 | yes | no | 29.00 | text 29 |"
    numbers = [prediction(1.5, 2.25, 0.75, probabilities=None)]
    (row,) = section(report(predictions=numbers, figures={}).to_markdown(), "Hardest examples")[2:]
    assert row == "| dev.tsv:2 | 1.5000 | 2.2500 | 0.75 | a text |"
    untold = [prediction(None, "yes", None)]
    assert "## Hardest" not in report(predictions=untold, figures={}).to_markdown()


def test_cells_stay_cells_whatever_is_in_them():
    nasty = prediction("a|b", "c", 3.0, text="one | two\nthree\t|" + "x" * 300, probabilities=("a|b", "c"))
    markdown = report(predictions=(nasty, prediction("c", "c", probabilities=("a|b", "c")))).to_markdown()
    confusion, hardest = section(markdown, "Confusion")[1:], section(markdown, "Hardest examples")
    assert confusion[0] == "|  | a\\|b | c |"
    assert confusion[2] == "| **a\\|b** | 0 | 1 |"
    assert hardest[2].startswith("| dev.tsv:2 | a\\|b | c | 3.00 | one \\| two three \\|xxx")
    assert hardest[2].endswith("x… |")
    for lines in (confusion, hardest):
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_curves_are_shown_where_they_were_drawn():
    assert "![learning curves](curves.svg)" in report().to_markdown("curves.svg")
    assert "curves" not in report().to_markdown()


def test_a_picture_of_the_confusion_matrix_stands_beside_its_table():
    lines = section(report().to_markdown("curves.svg", "confusion.svg"), "Confusion")
    assert lines[1:3] == ["![confusion matrix](confusion.svg)", "|  | no | yes |"]
    assert "confusion.svg" not in report(
        predictions=[prediction(1.0, 2.0, probabilities=None)], figures={}
    ).to_markdown(None, "confusion.svg")


def test_figures_that_are_not_finite_are_null_in_json():
    found = json.loads(
        report(run(best=math.nan), figures={"accuracy": 0.5, "loss": math.inf}).to_json(), parse_constant=pytest.fail
    )
    assert found["best"]["value"] is found["learning_rates"][0]["median"] is found["splits"]["valid"]["loss"] is None
    assert found["splits"]["valid"]["accuracy"] == 0.5


@pytest.mark.parametrize("figures", list(permutations((0.5, math.nan, 0.2))))
def test_a_run_that_went_astray_leaves_no_figures_of_its_learning_rate(figures):
    several = report(*(run(seed=seed, best=best) for seed, best in enumerate(figures)))
    (rates,) = json.loads(several.to_json())["learning_rates"]
    assert rates == {"lr": 1e-5, "runs": 3, "median": None, "min": None, "max": None, "stdev": None}
    assert any("nan" in line for line in section(several.to_markdown(), "Runs"))


def test_json_has_everything_that_markdown_has_figures_of():
    several = report(run(best=0.5), run(seed=2, best=0.7), test=Split({}, CLASSES))
    found = json.loads(several.to_json())
    assert (found["data_set"], found["data"], found["init_from"], found["metric"]) == (
        *("rte", "data/RTE", "roberta.base"),
        "accuracy",
    )
    expected = {"lr": 1e-5, "seed": 2, "save_dir": "runs/1e-05_2", "update": 7, "value": 0.7, "seconds": 90.0}
    assert found["best"] == found["runs"][1] == expected
    (rates,) = found["learning_rates"]
    assert rates == {
        "lr": 1e-5,
        "runs": 2,
        "median": pytest.approx(0.6),
        "min": 0.5,
        "max": 0.7,
        "stdev": pytest.approx(0.02**0.5),
    }
    assert found["splits"] == {"valid": {"examples": 3, "accuracy": 2 / 3}, "test": {"examples": 3}}
