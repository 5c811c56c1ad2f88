"""The commands of examples/text_metrics, run on a small random model in the place of the released ones."""

import json
import re
import shlex
from pathlib import Path

import pytest

from roberta.hub import RobertaHubInterface
from roberta.models.roberta import RobertaConfig
from roberta_cli.score import main
from tests.builders import make_byte_tokenizer, make_tiny_model

ROOT = Path(__file__).parents[2]
README = (ROOT / "examples/text_metrics/README.md").read_text(encoding="utf-8")


@pytest.fixture
def results(monkeypatch, tmp_path, capsys) -> list[dict]:
    """Return what each command of the document prints."""
    tokenizer = make_byte_tokenizer()
    config = RobertaConfig(
        vocab_size=len(tokenizer.dictionary),
        max_positions=80,
        encoder_layers=2,
        embed_dim=12,
        ffn_embed_dim=12,
        attention_heads=2,
    )
    hub = RobertaHubInterface(make_tiny_model(config), tokenizer)
    monkeypatch.setattr("roberta.hub.from_pretrained", lambda name: hub)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    found = []
    for command in re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL):
        program, *arguments = shlex.split(command)
        assert program == "roberta-score"
        assert main(arguments) == 0
        found.append(json.loads(capsys.readouterr().out))
    return found


def test_every_command_runs_and_the_table_holds_its_figures(results, tmp_path):
    compared, with_model, rescored, infilled = results
    system, baseline, chances = re.findall(r"\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", README)
    for name, figure, other, chance in zip(("bleu", "chrf", "ter"), system, baseline, chances, strict=True):
        assert f"{compared['scores'][name]['score']:.2f}" == figure
        assert f"{compared['baseline']['scores'][name]['score']:.2f}" == other
        assert f"{compared['baseline']['scores'][name]['p_value']:.4f}" == chance
    assert 0 < with_model["scores"]["bertscore"]["score"] < 1
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 6
    assert [row["weight"] for row in rescored["weights"]] == [0.0, 0.2, 0.5]
    assert len((tmp_path / "best.txt").read_text().splitlines()) == 6
    assert infilled["gaps"] == 6
