"""The config system: options on the command line and in JSON."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from roberta.config import add_arguments, from_json, from_namespace, option, to_json
from roberta.data.binarize import PreprocessConfig
from roberta.errors import ConfigError
from roberta.planning import DryRunConfig


@dataclass(frozen=True)
class Options:
    folder: Path = option(help="a folder")
    count: int = option(3, help="a count of 100 %")
    rate: float = option(0.5, help="a rate")
    betas: tuple[float, ...] = option((0.9, 0.98), help="two rates")
    mode: Literal["fast", "slow"] = option("fast", help="a mode")
    limit: int | None = option(None, help="a limit")
    loud: bool = option(False, help="be loud")


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Options, title="options")
    return parser.parse_args(arguments)


def test_options_that_are_not_given_leave_no_trace():
    assert vars(parse("--count", "4")) == {"count": 4}


def test_all_kinds_of_options_are_read():
    given = parse(
        *[
            "--folder",
            "x",
            "--count",
            "1",
            "--rate",
            "2",
            "--betas",
            "0.1",
            "0.2",
            "--mode",
            "slow",
            "--limit",
            "9",
            "--loud",
        ]
    )
    assert from_namespace(Options, given) == Options(
        folder=Path("x"), count=1, rate=2.0, betas=(0.1, 0.2), mode="slow", limit=9, loud=True
    )


def test_the_command_line_overrides_a_base_and_nothing_else():
    base = Options(folder=Path("x"), count=7, loud=True)
    assert from_namespace(Options, parse("--no-loud"), base) == Options(folder=Path("x"), count=7, loud=False)


def test_a_missing_required_option_is_named():
    with pytest.raises(ConfigError, match="required: --folder"):
        from_namespace(Options, parse())


def test_help_shows_defaults_and_requirements():
    parser = argparse.ArgumentParser()
    add_arguments(parser, Options, title="options", defaults=None)
    text = " ".join(parser.format_help().split())
    assert "a folder (required)" in text
    assert "a count of 100 % (default: 3)" in text
    assert "two rates (default: 0.9 0.98)" in text


def test_json_gives_back_the_same_config():
    config = Options(folder=Path("a/b"), betas=(0.5,), limit=3)
    assert from_json(Options, json.loads(json.dumps(to_json(config))), source="test") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"folder": "x", "cuont": 1}, "unknown option 'cuont'.*did you mean count"),
        ({"count": 1}, "missing folder"),
        ({"folder": "x", "count": "1"}, "count: expected int, found '1'"),
        ({"folder": "x", "count": True}, "count: expected int, found True"),
        ({"folder": "x", "mode": "medium"}, "mode: 'medium'; allowed: fast, slow"),
        ({"folder": "x", "betas": 0.5}, "betas: expected a list"),
        ({"folder": "x", "loud": 1}, "loud: expected bool"),
        ([], "expected an object"),
    ],
)
def test_json_that_does_not_fit_is_refused_with_its_source(values, message):
    with pytest.raises(ConfigError, match=f"^test: .*{message}|^test: {message}"):
        from_json(Options, values, source="test")


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (DryRunConfig, {"devices": 8}, "--devices has no effect without --dry-run: leave it out"),
        (PreprocessConfig, {"verify": Path("d"), "workers": 2}, "--workers has no effect on --verify"),
    ],
)
def test_options_without_effect_are_refused(config, options, message):
    with pytest.raises(ConfigError, match=message):
        config(**options)
