"""The floors of the house: a module imports lower floors, or its own package."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = {
    "errors": 0,
    "registry": 0,
    "config": 0,
    "layout": 0,
    "randomness": 0,
    "progress": 0,
    "versions": 0,
    "files": 0,
    "download": 1,
    "bpe": 1,
    "distributed": 1,
    "interruption": 1,
    "logs": 1,
    "manifest": 1,
    "locking": 1,
    "failures": 1,
    "metrics": 1,
    "answers": 1,
    "data": 2,
    "models": 2,
    "optim": 2,
    "meter": 2,
    "plotting": 2,
    "criterions": 3,
    "tasks": 3,
    "checkpoint": 3,
    "timetable": 3,
    "validation": 4,
    "report": 4,
    "model_card": 4,
    "pretrained": 5,
    "recipe": 5,
    "estimates": 5,
    "planning": 6,
    "hub": 6,
    "averaging": 6,
    "trainer": 7,
    "conversion": 7,
    "evaluation": 7,
    "question_answering": 7,
    "text_metrics": 7,
    "inspection": 7,
    "finetuning": 8,
}
FORBIDDEN = {("models", "data"), ("criterions", "data"), ("hub", "trainer")}
MODULES = sorted((ROOT / "roberta").rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "roberta").with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Return the parts of roberta that a module imports at its top level or within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("roberta.")}


def test_every_module_has_a_floor():
    assert {part_of(path) for path in MODULES} == {*FLOORS, "__init__"}


@pytest.mark.parametrize("path", [path for path in MODULES if part_of(path) != "__init__"], ids=lambda path: path.stem)
def test_a_module_imports_lower_floors_only(path):
    part = part_of(path)
    for other in imports(path):
        if other != part:
            assert FLOORS[other] < FLOORS[part] or FLOORS[other] == FLOORS[part] == 0, f"{part} imports {other}"
        assert (part, other) not in FORBIDDEN


def test_the_trainer_names_no_concrete_model_task_or_criterion():
    text = (ROOT / "roberta/trainer.py").read_text(encoding="utf-8")
    for module in ("roberta.models", "roberta.tasks.masked_lm", "roberta.criterions"):
        assert f"from {module}" not in text


def test_nothing_prints_but_the_commands():
    for path in MODULES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), path


def test_pickles_are_read_with_weights_only():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads"):
                assert any(
                    keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in node.keywords
                )
