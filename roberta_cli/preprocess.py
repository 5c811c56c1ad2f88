"""roberta-preprocess: text files to a folder that roberta-train reads."""

import dataclasses
import time
from collections.abc import Sequence

from roberta.config import add_arguments, from_namespace
from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.verification import verify
from roberta_cli.entry import Parser, add_user_module, load_user_modules, run, vocabulary_folder
from roberta_cli.results import Result

DESCRIPTION = """\
Binarise text for pretraining: one sentence or paragraph a line, an empty line between documents.
Writes train.bin and train.idx (likewise valid, test), dict.txt and the BPE files; shows what it counted.
All cores encode; the files are the same for any number of them."""

EXAMPLE = """\
  roberta-preprocess --trainpref wiki.txt books.txt.xz --validpref valid.txt --destdir data-bin
  roberta-preprocess --trainpref corpus.txt --valid-fraction 0.01 --destdir data-bin
  zcat part*.gz | roberta-preprocess --trainpref - --validpref valid.txt
  roberta-preprocess --trainpref finnish/*.txt.zst --validpref valid.txt --shards --vocab finnish-vocabulary
  roberta-preprocess --trainpref sample.txt --train-bpe 32000 --destdir finnish-vocabulary
  roberta-preprocess --verify data-bin"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run roberta-preprocess and return its exit code."""
    return run(command, argv)


def command(argv: Sequence[str]) -> Result:
    """Do what the arguments say, and return what was counted."""
    parser = Parser("roberta-preprocess", "", description=DESCRIPTION, example=EXAMPLE)
    add_arguments(parser, PreprocessConfig, title="preprocessing")
    add_user_module(parser)
    given = parser.parse_args(argv)
    load_user_modules(given.user_module)
    config = from_namespace(PreprocessConfig, given)
    if config.verify is not None:
        return {"verified": str(config.verify), **dataclasses.asdict(verify(config.verify))}
    start = time.perf_counter()
    config = dataclasses.replace(config, vocab=vocabulary_folder(config.vocab))
    splits = {name: dataclasses.asdict(counts) for name, counts in preprocess(config).items()}
    seconds = time.perf_counter() - start
    files = sum(len(paths) for paths in (config.trainpref, config.validpref, config.testpref) if paths)
    keys = ("lines", "documents", "tokens", "text_bytes")
    total = {key: sum(counts[key] for counts in splits.values()) for key in keys}
    rates = {"seconds": round(seconds, 3), "mb_per_second": round(total["text_bytes"] / seconds / 1e6, 3)}
    return {"files": files, **total, **rates, "splits": splits}


if __name__ == "__main__":
    raise SystemExit(main())
