"""Files of predictions as the official sites of GLUE and SuperGLUE take them.

GLUE: tab-separated under the header `index`, `prediction`, classes spelt as in the set's files (0 and 1, or
`entailment`), STS-B's numbers within the scale. SuperGLUE: an object a line with `idx` and `label`.
"""

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from roberta.data.examples import TextExample
from roberta.data.readers.glue import GlueSet, glue_set
from roberta.errors import ConfigError, DataError, choices
from roberta.files import make_folder, write_text

_DECIMALS = 3  # as many as STS-B's own scores have


def write_submission(
    folder: Path, name: str, split: str, examples: Sequence[TextExample], predictions: Sequence[str | float | None]
) -> Path:
    """Write the predictions for the examples of a test split to the official file name in a folder, and return it.

    predictions: for each example the name of its class, or its number.

    Raises:
        ConfigError: there is no such set, or the site takes no file for this split.
        DataError: a prediction is missing or is none of the set's, or two examples have the same id.
        StorageError: the file can't be written.
    """
    the_set = glue_set(name)
    if split not in the_set.submissions:
        raise ConfigError(f"{the_set.title} has no submission for {split!r}; {choices(split, the_set.submissions)}")
    path = folder / the_set.submissions[split]
    if len(predictions) != len(examples):
        raise DataError(f"{path}: {len(predictions)} predictions for {len(examples)} examples; predict all of them")
    answers: dict[str, str] = {}
    for example, prediction in zip(examples, predictions, strict=True):
        if example.id in answers:
            raise DataError(f"{example.source}: id {example.id} stands there twice; get the file again")
        answers[example.id] = _spelt(the_set, prediction, example.source)
    if path.suffix == ".jsonl":
        lines = [json.dumps({"idx": int(index), "label": answer}) for index, answer in answers.items()]
    else:
        lines = ["index\tprediction", *(f"{index}\t{answer}" for index, answer in answers.items())]
    make_folder(folder)
    write_text(path, "".join(f"{line}\n" for line in lines), escape=True)
    return path


def _spelt(the_set: GlueSet, prediction: str | float | None, source: str) -> str:
    """Return a prediction as the site spells it."""
    if prediction is None:
        raise DataError(f"{source}: no prediction; predict all examples")
    if the_set.scale is None:
        code_of = {label: code for code, label in the_set.spellings.items()}
        if prediction not in code_of:
            raise DataError(f"{source}: predicted {prediction!r}; {choices(prediction, code_of)}")
        return code_of[str(prediction)]
    if isinstance(prediction, str) or not isfinite(prediction):
        raise DataError(f"{source}: predicted {prediction!r}; expected a finite number")
    low, high = the_set.scale
    return f"{min(max(low, prediction), high):.{_DECIMALS}f}"
