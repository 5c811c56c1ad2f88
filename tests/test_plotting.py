"""Curves from logs, and what is said about logs that hold none."""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from roberta.errors import ConfigError, DataError, StorageError
from roberta.plotting import literal, plot, plot_confusion, read_log, read_logs, save

TRAIN = [{"num_updates": n, "loss": 10.0 - n / 10, "lr": n * 1e-4, "tokens_per_s": 1000.0 + n} for n in (10, 20, 30)]
VALID = [{"num_updates": n, "loss": 9.0 - n / 10} for n in (15, 30)]


def write_run(folder: Path, train=TRAIN, valid=VALID) -> Path:
    folder.mkdir(parents=True)
    records = [{"train": record} for record in train] + [{"valid": record} for record in valid]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def lines_of(figure) -> dict[str, list[tuple[list[float], list[float]]]]:
    """Return the points of all lines, by the label of their y axis."""
    pytest.importorskip("matplotlib")
    return {
        axes.get_ylabel(): [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
        for axes in figure.axes
    }


def plotted(paths, **options) -> dict[str, list[tuple[list[float], list[float]]]]:
    pytest.importorskip("matplotlib")
    return lines_of(plot(read_logs(paths), **options))


def test_training_validation_rate_and_speed_are_drawn(tmp_path):
    assert plotted([write_run(tmp_path / "a")]) == {
        "loss": [([10, 20, 30], [9, 8, 7]), ([15, 30], [7.5, 6])],
        "learning rate": [([10, 20, 30], pytest.approx([1e-3, 2e-3, 3e-3]))],
        "tokens/s": [([10, 20, 30], [1010, 1020, 1030])],
    }


def test_panels_without_data_are_left_out(tmp_path):
    run = write_run(tmp_path / "a", train=[], valid=[{"num_updates": 5, "accuracy": 0.5}])
    assert plotted([run], y="accuracy") == {"accuracy": [([5], [0.5])]}


def test_validations_stand_between_the_records_of_training_on_other_axes(tmp_path):
    train = [{**record, "hours": record["num_updates"] / 10} for record in TRAIN]
    lines = plotted([write_run(tmp_path / "a", train)], x="hours")
    assert lines["loss"] == [([1.0, 2.0, 3.0], [9, 8, 7]), ([1.5, 3.0], [7.5, 6])]
    early = [{"num_updates": 5, "loss": 9.5}, *VALID]
    assert plotted([write_run(tmp_path / "b", train, early)], x="hours")["loss"][1] == ([0.5, 1.5, 3.0], [9.5, 7.5, 6])


def test_an_axis_of_the_validations_own_is_taken(tmp_path):
    train = [{**record, "tokens": record["num_updates"] * 100} for record in TRAIN]
    valid = [{**record, "tokens": record["num_updates"] * 101} for record in VALID]
    lines = plotted([write_run(tmp_path / "a", train, valid)], x="tokens")
    assert lines["loss"][1][0] == [1515, 3030]


def test_fields_that_some_records_lack_leave_gaps(tmp_path):
    run = write_run(tmp_path / "a", [TRAIN[0], {**TRAIN[1], "gnorm": 2.0}, TRAIN[2]])
    gnorm = read_log(run).train["gnorm"]
    assert np.isnan(gnorm).tolist() == [True, False, True]
    assert read_log(run).last("gnorm") == 2.0
    assert math.isnan(read_log(run).last("nothing"))


def test_numbers_that_were_not_finite_leave_gaps(tmp_path):
    train = [TRAIN[0], {**TRAIN[1], "loss": None}, {**TRAIN[2], "lr": None, "ppl": None}]
    run = write_run(tmp_path / "a", train, [{**VALID[0], "loss": None}])
    lines = plotted([run])
    assert lines["loss"][0] == ([10, 20, 30], pytest.approx([9, math.nan, 7], nan_ok=True))
    assert lines["loss"][1] == ([15], pytest.approx([math.nan], nan_ok=True))
    assert lines["learning rate"] == [([10, 20, 30], pytest.approx([1e-3, 2e-3, math.nan], nan_ok=True))]
    assert read_log(run).last("loss") == 7.0


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("log_y", [False, True])
def test_a_curve_that_is_nothing_but_a_gap_can_be_drawn(suffix, log_y, tmp_path):
    pytest.importorskip("matplotlib")
    run = write_run(tmp_path / "a", [{**record, "loss": None} for record in TRAIN], valid=[])
    figure = plot(read_logs([run]), log_y=log_y)
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "a  nan"
    save(figure, tmp_path / f"a{suffix}")


def test_hours_and_tokens_that_were_not_finite_are_no_reason_to_fail(tmp_path):
    train = [{**record, "hours": record["num_updates"] / 10} for record in TRAIN[:2]]
    lines = plotted([write_run(tmp_path / "a", [*train, {**TRAIN[2], "hours": None}], valid=[])], x="hours")
    assert lines["loss"] == [(pytest.approx([1, 2, math.nan], nan_ok=True), [9, 8, 7])]


def test_runs_are_told_apart_by_colour_and_shortest_name(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [write_run(tmp_path / name / "run") for name in ("a", "b")]
    figure = plot(read_logs(runs))
    first, second = (figure.axes[0].lines[i].get_color() for i in (0, 2))
    assert first == figure.axes[0].lines[1].get_color() != second
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["a/run  6", "b/run  6", "training", "validation"]
    assert [log.name for log in read_logs([runs[0], write_run(tmp_path / "c")])] == ["run", "c"]


def test_scales_can_be_logarithmic(tmp_path):
    pytest.importorskip("matplotlib")
    main = plot(read_logs([write_run(tmp_path / "a")]), log_x=True, log_y=True).axes[0]
    assert (main.get_xscale(), main.get_yscale()) == ("log", "log")


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG\r\n\x1a\n"), (".pdf", b"%PDF")])
def test_files_are_whole_and_the_same_every_time(suffix, start, tmp_path):
    pytest.importorskip("matplotlib")
    logs = read_logs([write_run(tmp_path / "a")])
    contents = []
    for name in ("one", "two"):
        save(plot(logs), tmp_path / (name + suffix))
        contents.append((tmp_path / (name + suffix)).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(start)
    assert not list(tmp_path.glob("*.part"))


def test_no_state_of_matplotlib_is_touched(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # to import it would fail
    before = matplotlib.rcParams.copy()
    save(plot(read_logs([write_run(tmp_path / "a")])), tmp_path / "a.svg")
    assert matplotlib.rcParams.copy() == before


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'roberta\[plot\]'"):
        plot(read_logs([write_run(tmp_path / "a")]))


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    run = write_run(tmp_path / "a")
    with (run / "log.jsonl").open("a") as file:
        file.write('{"train": {"num_up')
    assert len(read_log(run).train["loss"]) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"log\.jsonl: no records yet"),
        ('{"train": {"num_updates": 1}}\nnonsense\n', r"log\.jsonl:2: expected .* with num_updates, found 'nonsense'"),
        ("[1]\n", r"log\.jsonl:1: expected a train or valid record"),
        ("{}\n", r"log\.jsonl:1: expected a train or valid record"),
        ('{"train": 3}\n', r"log\.jsonl:1: expected a train or valid record"),
        ('{"test": {"num_updates": 1}}\n', r"log\.jsonl:1: expected a train or valid record"),
        ('{"train": {"loss": 1}}\n', r"log\.jsonl:1: expected a train or valid record"),
        ('{"train": {"num_updates": null}}\n', r"log\.jsonl:1: expected a train or valid record"),
        ('{"train": "num_updates"}\n', r"log\.jsonl:1: expected a train or valid record"),
        ("[" * 200_000 + "\n", r"log\.jsonl:1: expected .*, found '\[{80}'; mend or remove it"),
        ('{"train": {"num_updates": 1' + "0" * 5000 + "}}\n", r"log\.jsonl:1: expected a train or valid"),
        ('{"train": {"num_updates": 1, "loss": 1' + "0" * 400 + "}}\n", r"log\.jsonl:1: expected a train or valid"),
    ],
    ids=lambda value: value[:40],
)
def test_damaged_logs_are_named_with_the_line(content, message, tmp_path):
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_log(tmp_path)


def test_a_folder_without_a_log_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"can't be read.*name the folder of a run"):
        read_log(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": "los"}, r"--y los: not in the log of a; allowed: loss, lr, tokens_per_s; did you mean loss\?"),
        ({"x": "tokens"}, "--x tokens: not in the log of a"),
    ],
)
def test_fields_that_no_record_has_are_refused(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        plotted([write_run(tmp_path / "a")], **options)


def test_a_run_given_twice_is_refused(tmp_path):
    run = write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match="given twice"):
        read_logs([run, run / "log.jsonl"])
    (run / "earlier.jsonl").write_bytes((run / "log.jsonl").read_bytes())
    logs = read_logs([run / "log.jsonl", run / "earlier.jsonl"])
    assert [log.name for log in logs] == ["log.jsonl", "earlier.jsonl"]


def test_names_of_runs_are_no_mathematics(tmp_path):
    pytest.importorskip("matplotlib")
    figure = plot(read_logs([write_run(tmp_path / "a$b_$")]))
    save(figure, tmp_path / "curves.svg")
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == r"a\$b_\$  6"


def test_a_file_that_can_not_be_written_is_named(tmp_path):
    pytest.importorskip("matplotlib")
    figure = plot(read_logs([write_run(tmp_path / "a")]))
    with pytest.raises(StorageError, match=r"none/a\.png: can't be written"):
        save(figure, tmp_path / "none/a.png")
    with pytest.raises(ConfigError, match=r"the name must end in \.svg, \.png, \.pdf"):
        save(figure, tmp_path / "a.jpeg")


def test_a_confusion_matrix_has_its_counts_in_cells_and_its_rows_as_shares():
    pytest.importorskip("matplotlib")
    figure = plot_confusion(["no", "yes", "never"], [[3, 1, 0], [0, 8, 0], [0, 0, 0]])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["3", "1", "0", "0", "8", "0", "0", "0", "0"]
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["no", "yes", "never"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "right")


@pytest.mark.parametrize("format", [".png", ".svg"])
def test_names_of_classes_are_no_mathematics_and_need_not_be_short(tmp_path, format):
    pytest.importorskip("matplotlib")
    save(plot_confusion(["$x^", "y" * 80], [[1, 0], [0, 1]]), tmp_path / f"matrix{format}")
    assert (tmp_path / f"matrix{format}").stat().st_size > 1000


def test_the_folder_of_a_sweep_stands_for_its_runs(tmp_path):
    for name in ("lr0.1_seed1", "lr0.1_seed2"):
        write_run(tmp_path / "sweep" / name)
    assert [log.name for log in read_logs([tmp_path / "sweep"])] == ["lr0.1_seed1", "lr0.1_seed2"]


def test_names_of_no_encoding_can_be_drawn(tmp_path):
    assert literal(os.fsdecode(b"d\xff$")) == "d\\udcff\\$"
