"""The floors of the house, as ARCHITECTURE.md has them: a module imports lower floors, or its own package."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PAGE = ROOT / "roberta/ARCHITECTURE.md"
FORBIDDEN = {("models", "data"), ("criterions", "data"), ("hub", "trainer")}
MODULES = sorted((ROOT / "roberta").rglob("*.py"))
_ROW = re.compile(r"^\| (\d+) \| (.+) \|$", re.MULTILINE)
_PART = re.compile(r"`(\w+)(/?)`(?: \(([^()]*)\))?")


def parts_on(page: str) -> dict[str, tuple[int, set[str] | None]]:
    """Return the floor of each part that the table of floors names, and the words in parentheses behind a package."""
    table = page.partition("\n## Floors\n")[2].partition("\n## ")[0]
    found: dict[str, tuple[int, set[str] | None]] = {}
    for floor, cell in _ROW.findall(table):
        for name, is_package, told in _PART.findall(cell):
            assert name not in found, f"{name} stands there twice"
            found[name] = int(floor), set(re.findall(r"\w+", told)) if is_package else None
    return found


PARTS = parts_on(PAGE.read_text(encoding="utf-8"))
FLOORS = {name: floor for name, (floor, _) in PARTS.items()}


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


def test_every_module_has_a_floor_and_no_floor_a_module_that_is_gone():
    assert {part_of(path) for path in MODULES} - {"__init__"} == FLOORS.keys() - {"roberta_cli"}


def test_every_module_of_a_package_is_named_beside_it():
    for path in MODULES:
        if path.parent == ROOT / "roberta":
            continue
        part, name = part_of(path), path.parent.name if path.stem == "__init__" else path.stem
        told = PARTS[part][1]
        assert told is not None, f"{part}: a package has a slash behind its name"
        assert name in {part, *told}, f"{path}: not named on the page"


def test_a_table_is_read_as_it_stands():
    rows = "| floor | modules |\n|---|---|\n| 0 | `a`, `b/` (c, `d/` has e_f), `g` (h) |\n| 12 | `i` |\n"
    assert parts_on(f"\n## Floors\n\n{rows}\n## x\n| 1 | `j` |\n") == {
        "a": (0, None),
        "b": (0, {"c", "d", "has", "e_f"}),
        "g": (0, None),
        "i": (12, None),
    }


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
