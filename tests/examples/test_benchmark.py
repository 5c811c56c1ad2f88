"""What the benchmarks measure with, and that each of them runs."""

import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from roberta.models.roberta import preset_config

FOLDER = Path(__file__).parents[2] / "examples/benchmark"


@pytest.fixture(scope="module")
def measuring():
    spec = importlib.util.spec_from_file_location("measuring", FOLDER / "measuring.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["measuring"] = module  # where its dataclass looks for itself
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["measuring"]


def test_works_run_in_turns_after_a_call_that_does_not_count(measuring, monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])

    def work(name, seconds):
        calls.append(name)
        clock[0] += seconds

    timings = measuring.interleaved({"a": lambda: work("a", 1.0), "b": lambda: work("b", 2.0)}, repeats=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert timings["a"].rounds == (1.0, 1.0, 1.0)
    assert timings["a"].times_faster_than(timings["b"]) == 2.0


def test_a_ratio_is_the_median_of_the_rounds_ratios(measuring):
    """The machine was slow in the second round, for both."""
    ours, theirs = measuring.Timing((1.0, 10.0, 1.0)), measuring.Timing((2.0, 20.0, 3.0))
    assert ours.times_faster_than(theirs) == 2.0
    assert theirs.median == 3.0
    assert measuring.Timing((1.0, 2.0, 3.0, 4.0, 5.0)).spread == pytest.approx(1 / 3)


def test_processor_time_leaves_out_what_others_compute(measuring):
    timings = measuring.interleaved({"a": lambda: time.sleep(0.05)}, repeats=1, processor_time=True)
    assert timings["a"].median < 0.04
    assert measuring.interleaved({"a": lambda: time.sleep(0.05)}, repeats=1)["a"].median >= 0.05


def rows_of(engine, **fields):
    origin = {"command": "training.py --json --repeats 1", "machine": "x86_64 AVX2"}
    return {"engine": engine, "x baseline": 1.5, **origin, **fields}


def test_plots_are_the_same_for_the_same_rows(tmp_path):
    rows = [
        rows_of("roberta", dropout=0.1),
        rows_of("Hugging Face", dropout=0.1),
        rows_of("roberta", command="inference.py --mix mnli", order="given"),
        {"encoder": "roberta encode", "MB/s": 5.0, "command": "bpe.py"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    drawn = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        command = [sys.executable, FOLDER / "plots.py", tmp_path / "rows.jsonl", "--folder", tmp_path / name]
        subprocess.run(command, check=True, capture_output=True)
        drawn.append({path.name: path.read_text(encoding="utf-8") for path in (tmp_path / name).iterdir()})
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {"inference.svg", "training.svg"}
    assert "x86_64 AVX2; dropout 0.1" in drawn[0]["training.svg"]


def test_plots_name_the_line_that_is_no_row(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows_of("roberta")) + "\nTraceback\n", encoding="utf-8")
    command = [sys.executable, FOLDER / "plots.py", tmp_path / "rows.jsonl"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert finished.returncode == 1
    assert "rows.jsonl:2: not a row of a benchmark" in finished.stderr


@pytest.mark.parametrize(
    ("mix", "shortest", "mean", "longest"),
    [("mnli", 8, 40.8, 185), ("mrpc", 20, 54.1, 104), ("squad", 43, 176.7, 384), ("normal", 8, 256.0, 512)],
)
def test_lengths_are_those_of_the_data(measuring, mix, shortest, mean, longest):
    lengths = measuring.draw_lengths(mix, 2000)
    assert len(lengths) == 2000
    assert shortest <= min(lengths) < max(lengths) <= longest
    assert sum(lengths) / 2000 == pytest.approx(mean, rel=0.03)
    assert lengths != sorted(lengths)
    assert lengths == measuring.draw_lengths(mix, 2000)


def test_operations_are_two_for_each_multiplication(measuring):
    """2 * 84,934,656 for the linear maps of base, and 4 * layers * width * length for the attention."""
    config = preset_config("roberta.base")
    assert measuring.forward_gflops(config, [512]) == pytest.approx(512 * (169_869_312 + 4 * 12 * 768 * 512) / 1e9)


def test_random_sequences_have_their_lengths_and_ends(measuring):
    sequences = measuring.random_sequences([2, 5], vocab_size=100)
    assert [len(sequence) for sequence in sequences] == [2, 5]
    assert all((sequence[0], sequence[-1]) == (0, 2) for sequence in sequences)
    assert all(4 <= token < 99 for sequence in sequences for token in sequence[1:-1])


def test_working_memory_is_what_a_call_held_at_most(measuring):
    assert not measuring.working_memory(lambda: torch.ones(2**24)) < 60  # MB; nan where it can't be told


def test_every_script_is_in_the_readme_and_says_how_to_run_it():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in (*FOLDER.glob("*.py"), *FOLDER.glob("*.sh")):
        assert path.name in readme
        if path.name not in {"measuring.py", "fairseq_peer.py"}:
            assert f"examples/benchmark/{path.name}" in path.read_text(encoding="utf-8")


def expanded(script: str) -> list[str]:
    """Return the lines of a script with what its arrays hold in their places."""
    lines = script.splitlines()
    for name, content in re.findall(r"^(\w+)=\((.+)\)", script, flags=re.MULTILINE):
        lines = [line.replace(f'"${{{name}[@]}}"', content) for line in lines]
    return lines


def test_the_gpu_script_gives_options_that_the_scripts_have():
    script = (FOLDER / "gpu.sh").read_text(encoding="utf-8")
    shared = (FOLDER / "measuring.py").read_text(encoding="utf-8")
    for name in ("training", "inference"):
        known = set(re.findall(r'"(--[a-z-]+)"', shared + (FOLDER / f"{name}.py").read_text(encoding="utf-8")))
        given = {
            option for line in expanded(script) if f"{name}.py" in line for option in re.findall(r"--[a-z-]+", line)
        }
        assert given
        assert given <= known


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("inference", ["--preset", "roberta.tiny", "--sequences", "4", "--repeats", "1"]),
        ("training", ["--preset", "roberta.tiny", "--sequences", "2", "--repeats", "1", "--processor-time"]),
        ("training", ["--preset", "roberta.tiny", "--sequences", "4", "--repeats", "1", "--case", "finetuning"]),
        ("preprocess", [str(FOLDER / "README.md"), "--workers", "1", "2"]),
        ("epoch", ["--preset", "roberta.tiny", "--pairs", "20", "--repeats", "1"]),
        ("bpe", ["--megabytes", "0.1", "--repeats", "1"]),
        ("startup", ["--presets", "roberta.tiny", "--repeats", "1"]),
        ("speedrun", ["--seeds", "1", "--updates", "2", "--batch-size", "2", "--open"]),
    ],
)
def test_a_benchmark_runs(name, options):
    if name == "epoch":
        pytest.importorskip("accelerate", reason="the Trainer of transformers needs it: pip install '.[bench]'")
    command = [sys.executable, FOLDER / f"{name}.py", *options, "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(rows) > 1
    assert all("torch" in row["machine"] for row in rows)
