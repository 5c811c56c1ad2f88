"""Texts side by side: what a system wrote, line by line, and one or several references for each line.

A blank line of a reference says that there is none of that set for the line. A blank line of a system is an answer, and
a bad one: every metric gives it its worst score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from roberta.data.text import read_lines
from roberta.errors import DataError


@dataclass(frozen=True)
class Texts:
    """The lines of a system, and for each line its references: at least one."""

    hypotheses: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]

    @property
    def num_empty(self) -> int:
        """How many lines of the system are blank."""
        return sum(not line.strip() for line in self.hypotheses)

    @property
    def num_references(self) -> str:
        """How many references a line has, or `var` where that differs, as sacrebleu's signatures say it."""
        counts = {len(lines) for lines in self.references}
        return str(min(counts)) if len(counts) == 1 else "var"

    @property
    def reference_sets(self) -> list[list[str | None]]:
        """The references as sets with a line, or None, for each hypothesis: as sacrebleu takes them."""
        width = max(map(len, self.references))
        return [[lines[i] if i < len(lines) else None for lines in self.references] for i in range(width)]

    def replaced(self, hypotheses: Sequence[str]) -> "Texts":
        """Return the lines of another system with the same references."""
        assert len(hypotheses) == len(self.references)
        return Texts(tuple(hypotheses), self.references)


def parallel(hypotheses: Sequence[str], reference_sets: Sequence[Sequence[str]]) -> Texts:
    """Return texts with their references, given as sets of a line for each hypothesis.

    Raises:
        DataError: there is nothing, a set has another number of lines, or a line has no reference that is not blank.

    >>> parallel(["a", "b"], [["A", "B"], ["", "β"]]).references
    (('A',), ('B', 'β'))
    """
    names = [f"reference set {number}" for number in range(1, len(reference_sets) + 1)]
    return _checked(hypotheses, "the hypotheses", reference_sets, names)


def read_parallel(hypotheses: Path, references: Sequence[Path]) -> Texts:
    """Return the lines of a file of hypotheses with those of files of references.

    Raises:
        DataError: as `parallel`, or a file can't be read.
    """
    return _checked(
        list(read_lines(hypotheses)),
        str(hypotheses),
        [list(read_lines(path)) for path in references],
        list(map(str, references)),
    )


def _checked(
    hypotheses: Sequence[str], name: str, reference_sets: Sequence[Sequence[str]], names: Sequence[str]
) -> Texts:
    if not hypotheses or not reference_sets:
        raise DataError(f"{name}: {len(hypotheses)} lines and {len(reference_sets)} sets of references; give some")
    for lines, of in zip(reference_sets, names, strict=True):
        if len(lines) != len(hypotheses):
            raise DataError(
                f"{name} has {len(hypotheses)} lines, {of} has {len(lines)}; each line needs its counterpart"
            )
    references = [tuple(line for line in lines if line.strip()) for lines in zip(*reference_sets, strict=True)]
    for number, found in enumerate(references, start=1):
        if not found:
            raise DataError(f"line {number} is blank in {' and '.join(names)}; a line needs a reference: remove it")
    return Texts(tuple(hypotheses), tuple(references))
