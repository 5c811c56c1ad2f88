"""The notebook, valid and executed as a script."""

import ast
import json
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples/hub_tour.ipynb"
BOOK = json.loads(PATH.read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in BOOK["cells"] if cell["cell_type"] == "code"]


def evaluate(code: str, names: dict[str, object]) -> object:
    """Run a cell, and return the value of the expression that it ends with, as a notebook shows it; None without."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(PATH), "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), str(PATH), "eval"), names)


def test_the_file_is_a_notebook_of_format_4_5():
    assert (BOOK["nbformat"], BOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in BOOK["cells"]}) == len(BOOK["cells"])
    for cell in BOOK["cells"]:
        assert cell.keys() >= {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert (cell["execution_count"], cell["outputs"]) == (None, [])
        else:
            assert cell["cell_type"] == "markdown"


def test_every_cell_runs_in_order_without_a_network(tmp_path, monkeypatch):
    monkeypatch.delenv("ROBERTA_MODEL", raising=False)
    monkeypatch.setenv("ROBERTA_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    names: dict[str, object] = {}
    shown = [evaluate(code, names) for code in CODE]
    assert "4 layers, embed_dim 256" in repr(shown[0])
    assert shown[2] == ["How old is it?", "It was built in 1881."]
    filled = next(value for value in shown if isinstance(value, list) and value and "ship" in str(value[0]))
    assert len(filled) == 3
    likely, unlikely = next(
        value for value in shown if isinstance(value, list) and value and isinstance(value[0], float)
    )
    assert likely > unlikely  # of a sentence and of its words in disorder
    assert "MANIFEST.json" in shown[-1]
    assert (tmp_path / "page.html").is_file()
    assert not (tmp_path / "nothing").exists()
