"""Measure what int8 costs in quality: the answers of a model in fp32 and of the same in int8.

    python examples/benchmark/int8.py
    python examples/benchmark/int8.py --model roberta.base --tokens 50000
    python examples/benchmark/int8.py --model runs/quickstart/classifier --head sentence_classification_head

Without a head they are the tokens under masks in held-out text; with one, its classes of passages of novels. Both texts
are those of the package, which roberta.mini was not trained on; a model of yours can be measured on its own data with
`roberta-eval ... --precision int8`.
"""

import argparse
import copy

import numpy as np
import torch
import torch.nn.functional as F
from measuring import Row, show
from torch import Tensor

import roberta
from roberta.data.sample import sample_corpus, sample_passages
from roberta.layout import SequenceLayout
from roberta.models.roberta import RobertaModel

MASKED = 0.15  # of the tokens


def masked_blocks(hub: roberta.RobertaHubInterface, count: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return blocks of text (B, S), the places that are masked in each, and the tokens that were there."""
    rng = np.random.default_rng(0)
    dictionary, length = hub.tokenizer.dictionary, min(hub.max_tokens, 128) - 2
    tokens = torch.tensor(hub.tokenizer.encode(sample_corpus("valid"))[: count // length * length])
    blocks = F.pad(tokens.view(-1, length), (1, 0), value=dictionary.bos)
    blocks = F.pad(blocks, (0, 1), value=dictionary.eos)
    places = [torch.from_numpy(1 + rng.permutation(length)[: round(MASKED * length)]) for _ in blocks]
    targets = [block[place] for block, place in zip(blocks, places, strict=True)]
    for block, place in zip(blocks, places, strict=True):
        block[place] = dictionary.mask
    return blocks, places, targets


def log_probabilities(model: RobertaModel, blocks: Tensor, places: list[Tensor]) -> Tensor:
    """Return those of the vocabulary at all masks: (M, V)."""
    layout = SequenceLayout.from_lengths([blocks.shape[1]])
    rows = [model(block, layout, "lm", place) for block, place in zip(blocks, places, strict=True)]
    return torch.cat(rows).log_softmax(dim=1)


def novels(hub: roberta.RobertaHubInterface, head: str) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of the classes of all passages of the package, (N, K), and what they are from (N,)."""
    labels = hub.model.head_config(head).labels
    passages = [passage for split in ("train", "valid") for passage in sample_passages(split)]
    tokens = [hub.tokenizer.encode_sequence(text, max_tokens=hub.max_tokens) for text, _ in passages]
    rows: list[Tensor] = [torch.empty(0)] * len(tokens)
    for indices, logits in hub.predict_batches(head, tokens):
        for index, row in zip(indices, logits, strict=True):
            rows[index] = row
    return torch.stack(rows).log_softmax(dim=1), torch.tensor([labels.index(label) for _, label in passages])


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="roberta.mini", help="what roberta.from_pretrained takes (default: %(default)s)"
    )
    parser.add_argument("--tokens", type=int, default=20_000, help="tokens of text (default: %(default)s)")
    parser.add_argument("--head", help="a head that tells the novels of the package apart")
    parser.add_argument("--json", action="store_true", help="rows as lines of JSON")
    given = parser.parse_args()
    hub = roberta.from_pretrained(given.model)
    rounded = copy.deepcopy(hub).int8()
    if given.head is not None:
        exact, targets = novels(hub, given.head)
        rounded_answers, _ = novels(rounded, given.head)
    else:
        blocks, places, tokens = masked_blocks(hub, given.tokens)
        if not len(blocks):
            parser.error(f"--tokens {given.tokens} are less than one block")
        targets = torch.cat(tokens)
        exact, rounded_answers = (log_probabilities(model.model, blocks, places) for model in (hub, rounded))
    rows: list[Row] = []
    for precision, found in (("fp32", exact), ("int8", rounded_answers)):
        agreement = (found.argmax(dim=1) == exact.argmax(dim=1)).float().mean()
        loss = F.nll_loss(found, targets)
        distance = F.kl_div(found, exact, log_target=True, reduction="batchmean")
        figures = {"nats": float(loss), "same answer": float(agreement), "KL to fp32": float(distance)}
        rows.append({"model": given.model, "precision": precision, "answers": len(found), **figures})
    show(rows, as_json=given.json)


if __name__ == "__main__":
    main()
