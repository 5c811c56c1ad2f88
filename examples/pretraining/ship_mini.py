"""Turn a run of mini.args into the folder that ships with the package: half precision, and a card of its own.

    python examples/pretraining/ship_mini.py runs/mini roberta/mini

Positions past those of the preset, which a run may have had and never used, are cut.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from roberta import pretrained
from roberta.checkpoint.folders import CARD
from roberta.files import write_text
from roberta.hub import RobertaHubInterface
from roberta.model_card import Facts, card, read_facts
from roberta.models.roberta import RobertaModel, preset_config

NAME, POSITIONS = "roberta.mini", "encoder.embed_positions.weight"
COMMAND = ["roberta-train", "@examples/pretraining/mini.args", "mini-bin", "--save-dir", "runs/mini"]
EXAMPLE = "The capital of France is <mask>."  # of cards; this model knows no capitals
HEADING = "## Licence and limits\n"
LIMITS = """
MIT, as the package. The model read {tokens:.0f} million tokens of old English novels in the public domain, and carries
their language and their prejudices. It knows no facts, was tested on nothing but what the examples of the package
show, and is meant for trying things out.
"""
CUT = "In training it had {had} positions; those past the {kept} that it ever saw were cut.\n"


def cut(model: RobertaModel) -> RobertaModel:
    """Return the model with no more positions than its preset has."""
    positions = preset_config(NAME).max_positions
    kept = RobertaModel(dataclasses.replace(model.config, max_positions=positions))
    for name, config in model.head_configs.items():
        kept.register_head(name, config)
    weights = model.state_dict()
    weights[POSITIONS] = weights[POSITIONS][: kept.encoder.first_position + positions].clone()
    kept.load_weights(weights, source=NAME)
    return kept


def shipped_card(folder: Path, facts: Facts, had: int, kept: int) -> str:
    """Return the card of the folder, with what is known of this model in the place of what a card leaves open."""
    text = card(folder, facts)
    if EXAMPLE not in text or HEADING not in text:
        sys.exit(f"a model card has no {EXAMPLE!r} or no {HEADING!r} any more; adapt {Path(__file__).name}")
    head, _, _ = text.replace(EXAMPLE, "She opened the <mask> and went into the house.").partition(HEADING)
    limits = LIMITS.format(tokens=facts.progress["num_tokens"] / 1e6)
    return head + HEADING + limits + (CUT.format(had=had, kept=kept) if had > kept else "")


def main() -> None:
    """Write the folder, in the place of the one there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("folder", type=Path, help="folder to write")
    given = parser.parse_args()
    source = pretrained.load(given.run)
    model = cut(source.model).half().eval()
    RobertaHubInterface(model, source.tokenizer).save_pretrained(given.folder)
    facts = read_facts(given.run)
    recipe = {**facts.run["recipe"], "task": {**facts.run["recipe"]["task"], "data": "mini-bin"}}
    run = {**facts.run, "command": COMMAND, "recipe": recipe}
    facts = dataclasses.replace(facts, name=NAME, license="mit", languages=("en",), run=run)
    had, kept = (config.max_positions for config in (source.model.config, model.config))
    write_text(given.folder / CARD, shipped_card(given.folder, facts, had, kept))
    print(f"{given.folder}: {sum(path.stat().st_size for path in given.folder.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
