"""Measure what starting costs: imports, the help of each command, opening a model, and its first answer.

    python examples/benchmark/startup.py
    python examples/benchmark/startup.py --presets roberta.base roberta.large --json

Each row is a process of its own, from its start to its end, in turns. Models have random weights and are opened once
before they are timed, so that their files are in memory. `processor s` is what a process computed, also on a busy
machine; `MB` the most that one held, or this script before it started one, where that was more. The last rows are no
whole processes: of a model that is opened where everything is imported, they have the opening alone.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import fairseq_peer
import torch
from measuring import Timing, interleaved, show

from roberta.checkpoint import native
from roberta.data.tokenizer import Tokenizer
from roberta.models.heads import MaskedLMHeadConfig
from roberta.models.roberta import RobertaModel, preset_config

ANSWER = "import sys, roberta; model = roberta.from_pretrained(sys.argv[1])"
FILL = f"{ANSWER}; model.fill_mask('The capital of France is <mask>.')"
ALONE = f"import sys, time, roberta.hub; start = time.perf_counter(); {ANSWER}; print(time.perf_counter() - start)"
TRANSFORMERS = "import transformers; transformers.RobertaForMaskedLM"
FAIRSEQ = "from fairseq.models.roberta import RobertaModel"


def programs(models: dict[str, Path]) -> dict[str, list[str]]:
    """Return the arguments of the interpreter for each row."""
    rows = {
        "python alone": ["-c", "pass"],
        "import torch": ["-c", "import torch"],
        "import roberta": ["-c", "import roberta"],
        "import roberta.hub": ["-c", "import roberta.hub"],
    }
    if importlib.util.find_spec("transformers") is not None:
        rows["import transformers' RoBERTa"] = ["-c", TRANSFORMERS]
    if fairseq_peer.is_installed():
        rows["import fairseq's RoBERTa"] = ["-c", FAIRSEQ]
    for command in sorted(entry_points(group="console_scripts"), key=lambda command: command.name):
        if command.module.startswith("roberta_cli."):
            rows[f"{command.name} --help"] = ["-m", command.module, "--help"]
    for preset, folder in models.items():
        rows[f"open {preset}"] = ["-c", ANSWER, str(folder)]
        rows[f"open {preset}, fill a mask"] = ["-c", FILL, str(folder)]
    return rows


@dataclass(frozen=True)
class Usage:
    """What a process used: processor seconds, and the MB that it held at most."""

    seconds: float
    megabytes: float


def run(arguments: Sequence[str]) -> Usage:
    """Run a process to its end, and return what it used."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        message = process.stderr.read() if process.stderr is not None else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)}: {message.decode()}")
    return Usage(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3)


def opening(folder: Path, repeats: int) -> Timing:
    """Return the seconds of opening a model in processes that have imported everything."""
    command = [sys.executable, "-c", ALONE, str(folder)]
    processes = [subprocess.run(command, stdout=subprocess.PIPE, check=True) for _ in range(repeats)]
    return Timing(tuple(float(process.stdout) for process in processes))


def make_model(preset: str, folder: Path) -> None:
    """Write a checkpoint of random weights."""
    torch.manual_seed(0)
    model = RobertaModel(preset_config(preset))
    model.register_head("lm", MaskedLMHeadConfig())
    native.save(folder, model, Tokenizer.load())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["roberta.base"], help="models (default: roberta.base)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="rows as lines of JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        models = {preset: Path(temporary) / preset for preset in given.presets}
        for preset, folder in models.items():
            make_model(preset, folder)
        rows = programs(models)
        used: dict[str, list[Usage]] = {name: [] for name in rows}
        works = {name: lambda name=name: used[name].append(run(rows[name])) for name in rows}
        timings = interleaved(works, repeats=given.repeats)
        alone = {f"open {preset} alone": opening(folder, given.repeats) for preset, folder in models.items()}
    processor = {name: statistics.median(usage.seconds for usage in usages) for name, usages in used.items()}
    rows_of_processes = [
        {
            "what": name,
            "seconds": timing.median,
            "spread": timing.spread,
            "beyond torch": timing.median - timings["import torch"].median,
            "processor s": processor[name],
            "beyond torch's": processor[name] - processor["import torch"],
            "MB": max(usage.megabytes for usage in used[name]),
        }
        for name, timing in timings.items()
    ]
    nothing = dict.fromkeys(rows_of_processes[0])
    rows_alone = [
        nothing | {"what": name, "seconds": timing.median, "spread": timing.spread} for name, timing in alone.items()
    ]
    show(rows_of_processes + rows_alone, as_json=given.json)


if __name__ == "__main__":
    main()
