import json

import pytest

from roberta_cli.plot import main
from tests.test_plotting import write_run


def test_curves_are_drawn_and_last_values_printed(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run, output = write_run(tmp_path / "a"), tmp_path / "curves.svg"
    assert main([str(run), "--output", str(output), "--log-y"]) == 0
    assert json.loads(capsys.readouterr().out) == {"output": str(output), "y": "loss", "last": {"a": 6.0}}
    assert output.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: RUN"),
        (["nowhere"], "can't be read"),
        (["nowhere", "--output", "curves.gif"], "must end in .svg, .png, .pdf"),
        (["nowhere", "--x", "updates"], "invalid choice: 'updates'"),
    ],
)
def test_bad_arguments_give_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
