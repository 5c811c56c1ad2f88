"""Progress off a terminal: nothing, or a line now and then."""

import logging
import sys
from io import StringIO

import pytest

from roberta import progress
from roberta.progress import progress_bar


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Return that it is one."""
        return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every state of a bar become a line."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)


def shown_after(monkeypatch: pytest.MonkeyPatch, stream: StringIO, *, total: int | None = 4, **options: bool) -> str:
    """Return what a bar writes that four steps fill."""
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(desc="count", unit="lines", total=total, **options) as bar:
        for _ in range(4):
            bar.update()
    return stream.getvalue()


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    assert "count: 100%|" in shown_after(monkeypatch, Terminal())
    assert shown_after(monkeypatch, Terminal(), enabled=False) == ""


def test_off_a_terminal_there_is_nothing(monkeypatch, at_once):
    assert shown_after(monkeypatch, StringIO()) == ""
    assert shown_after(monkeypatch, StringIO(), lines=True, enabled=False) == ""


def test_a_short_job_writes_no_line(monkeypatch):
    assert shown_after(monkeypatch, StringIO(), lines=True) == ""


def test_a_long_job_writes_plain_lines(monkeypatch, at_once):
    lines = shown_after(monkeypatch, StringIO(), lines=True).splitlines()
    assert [line.split(" lines, ")[0] for line in lines][-1] == "count: 4 of 4"
    assert all(line.startswith("count: ") and line.endswith("lines/s") for line in lines)
    assert "\r" not in "".join(lines)
    unknown = shown_after(monkeypatch, StringIO(), total=None, lines=True).splitlines()
    assert unknown[-1].startswith("count: 4 lines, ")
    assert "left" not in unknown[-1]


def test_where_warnings_are_not_let_through_there_is_no_bar(monkeypatch, at_once):
    monkeypatch.setattr(logging.getLogger("roberta"), "level", logging.ERROR)
    logging.getLogger("roberta").manager._clear_cache()
    try:
        assert shown_after(monkeypatch, Terminal()) == ""
        assert shown_after(monkeypatch, StringIO(), lines=True) == ""
    finally:
        monkeypatch.undo()
        logging.getLogger("roberta").manager._clear_cache()
