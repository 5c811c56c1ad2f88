"""Print the unigram entropy of a split: the loss of a model that knows how frequent each token is, and nothing else.

    python examples/pretraining/unigram_entropy.py data-bin valid

The frequencies are those of the split itself, so no such model can do better. A masked-LM loss below it shows that
the model uses the context.
"""

import json
import sys
from pathlib import Path

import numpy as np

from roberta.data.indexed import IndexedDataset


def unigram_entropy(folder: Path, split: str) -> float:
    """Return the entropy of the token frequencies of a binarised split, in nats."""
    dataset = IndexedDataset(folder / split)
    counts = np.bincount(dataset.tokens(0, dataset.num_tokens))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


if __name__ == "__main__":
    folder, split = Path(sys.argv[1]), sys.argv[2]
    nats = unigram_entropy(folder, split)
    print(json.dumps({"split": split, "nats": nats, "bits": nats / np.log(2)}))
