"""Tables in Markdown, for reports and model cards."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, a line a row; what would end a cell or a line in one does not.

    >>> print(table(["name", "value"], [["a|b", "1"]]))
    | name | value |
    | --- | --- |
    | a\\|b | 1 |
    """
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([" ".join(cell.replace("|", "\\|").splitlines()) for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
