"""roberta-score: one line of JSON that agrees with the library, and one line of error."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu

from roberta.checkpoint import native
from roberta.errors import ConfigError
from roberta.hub.border import Engine
from roberta.models.roberta import RobertaConfig
from roberta.text_metrics.bertscore import bert_score
from roberta.text_metrics.options import BertScoreConfig
from roberta.text_metrics.parallel import parallel
from roberta_cli.score import ScoreConfig, main
from tests.builders import make_byte_tokenizer, make_tiny_model

ROOT = Path(__file__).parents[2]
SYSTEM = ["the cat sat on the mat", "", "a third line is here"]
OTHER = ["the cat sat", "the dog ran", "a line here"]
REFERENCE = ["the cat sat on a mat", "the dog ran off", "a third line was here"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    tokenizer = make_byte_tokenizer()
    config = RobertaConfig(
        vocab_size=len(tokenizer.dictionary),
        max_positions=40,
        encoder_layers=2,
        embed_dim=12,
        ffn_embed_dim=12,
        attention_heads=2,
    )
    return Engine(make_tiny_model(config), tokenizer, 64)


@pytest.fixture
def files(tmp_path: Path, engine: Engine) -> dict[str, str]:
    """Return the paths of a model and of texts."""
    native.save(tmp_path / "model", engine.model, engine.tokenizer)
    nbest = ["0 ||| the cat sat on the mat ||| -1", "0 ||| mat ||| -2", "1 ||| the ||| 0", "2 ||| a line ||| -3"]
    for name, lines in (("system", SYSTEM), ("other", OTHER), ("reference", REFERENCE), ("nbest", nbest)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    return {name: str(tmp_path / name) for name in ("model", "system", "other", "reference", "nbest", "lines", "best")}


@pytest.fixture
def score(files: dict[str, str], capsys: pytest.CaptureFixture[str]):
    """Return a function that runs roberta-score on such files and returns its JSON."""

    def call(arguments: str) -> dict:
        assert main([files.get(argument, argument) for argument in arguments.split()]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def test_without_a_model_the_metrics_of_sacrebleu_are_computed(score):
    result = score("system --ref reference")
    assert (result["lines"], result["empty"]) == (3, 1)
    assert result["scores"]["bleu"]["score"] == pytest.approx(sacrebleu.corpus_bleu(SYSTEM, [REFERENCE]).score)
    assert result["scores"]["chrf"]["score"] == pytest.approx(sacrebleu.corpus_chrf(SYSTEM, [REFERENCE]).score)
    assert result["scores"]["ter"]["score"] == pytest.approx(sacrebleu.corpus_ter(SYSTEM, [REFERENCE]).score)
    assert all("version:" in scores["signature"] for scores in result["scores"].values())


def test_without_a_model_torch_is_not_imported(files):
    code = "import sys; from roberta_cli.score import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, files["system"], "--ref", files["reference"]], cwd=ROOT, check=True)


def test_with_a_model_bertscore_stands_beside_them_and_says_how(score, files, engine):
    found = score("system --ref reference other --model model --idf --layer 1")["scores"]["bertscore"]
    expected = bert_score(engine, parallel(SYSTEM, [REFERENCE, OTHER]), BertScoreConfig(layer=1, idf=True)).mean
    assert (found["precision"], found["recall"], found["score"]) == pytest.approx(
        (expected.precision, expected.recall, expected.f1), abs=1e-6
    )
    assert found["signature"].startswith(f"nrefs:2|model:{files['model']}|layer:1|idf:yes|version:roberta ")


def test_a_baseline_is_compared_by_every_metric(score):
    arguments = "other --ref reference --model model --baseline system --test randomisation --num-samples 50"
    compared = score(arguments)["baseline"]
    assert (compared["test"], compared["num_samples"]) == ("randomisation", 50)
    for name in ("bleu", "chrf", "ter", "bertscore"):
        scores = compared["scores"][name]
        assert 0 < scores["p_value"] <= 1
        assert scores["difference"] == pytest.approx(score(arguments)["scores"][name]["score"] - scores["score"])


def test_scores_of_lines_are_written_as_json_lines(score, files):
    result = score("system --ref reference --model model --metrics chrf bertscore --per-line lines")
    records = [json.loads(line) for line in Path(files["lines"]).read_text().splitlines()]
    assert [record["text"] for record in records] == SYSTEM
    assert records[1]["bertscore"] == records[1]["chrf"] == 0
    mean = sum(record["bertscore"] for record in records) / 3
    assert result["scores"]["bertscore"]["score"] == pytest.approx(mean)
    assert records[0]["chrf"] == pytest.approx(sacrebleu.sentence_chrf(SYSTEM[0], [REFERENCE[0]]).score)


def test_nbest_lists_are_rescored_for_every_weight(score, files):
    result = score("nbest --ref reference --nbest --model model --metrics chrf --weights 0 -100 --output best")
    assert (result["lines"], result["candidates"]) == (3, 4)
    first, second = (row["scores"]["chrf"]["score"] for row in result["weights"])
    assert first == pytest.approx(sacrebleu.corpus_chrf(["the cat sat on the mat", "the", "a line"], [REFERENCE]).score)
    assert first != second or Path(files["best"]).read_text().startswith("the cat")
    assert len(Path(files["best"]).read_text().splitlines()) == 3


def test_gaps_are_filled(score, files):
    result = score("reference --infill --model model --joint independent --per-line lines")
    assert (result["gaps"], result["skipped"]) == (3, 0)
    assert 0 <= result["chrf"]["score"] <= 100
    assert json.loads(Path(files["lines"]).read_text().splitlines()[0])["masked"].count("<mask>") >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("system", "give --ref with files of references, or --infill"),
        ("system --ref reference --infill", "give --ref with files of references, or --infill"),
        ("system --ref nbest", "has 3 lines"),
        ("system --ref nowhere", "nowhere: No such file"),
        ("system --ref reference --metrics bertscore", "bertscore needs a model: give --model"),
        ("system --ref reference --metrics bleu bleu", "none of them twice"),
        ("system --ref reference --model model --layer 9", "layer 9: the model has 2"),
        ("nbest --ref reference --nbest", "required: --model"),
        ("nbest --ref reference --nbest --model model --baseline system", "--nbest goes with --ref alone"),
        ("system --ref reference --output best", "--output is where --nbest writes"),
        ("system --ref reference --metrics blue", "invalid choice: 'blue'"),
        ("system --ref reference --weights 0.1", "--weights has no effect without --nbest; give both, or neither"),
        ("system --ref reference --test bootstrap", "--test has no effect without --baseline"),
        ("system --ref reference --idf", "--idf has no effect without BERTScore, which --model adds"),
        (
            "system --ref reference --model model --metrics bleu",
            "--model has no effect without --nbest, --infill or bert",
        ),
        ("reference --infill --model model --idf", "--idf has no effect without BERTScore"),
        ("reference --infill --model model --lowercase", "--lowercase has no effect without --ref"),
        ("reference --infill --model model --baseline other", "--baseline has no effect without --ref"),
        (
            "system --ref reference --model model --metrics bertscore --lowercase",
            "--lowercase has no effect without a metric of sacrebleu; give both, or neither",
        ),
        ("system --ref reference --metrics chrf --bleu-tokenize char", "no effect without bleu among --metrics"),
        ("system --ref reference --beam 2", "--beam has no effect without --infill"),
        ("system --ref reference --max-tokens 9", "--max-tokens has no effect without --model"),
    ],
)
def test_what_does_not_fit_gives_one_line_and_exit_code_2(files, capsys, arguments, message):
    assert main([files.get(argument, argument) for argument in arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_weights_that_are_no_numbers_are_refused():
    with pytest.raises(ConfigError, match="--weights takes at least one number, and finite ones"):
        ScoreConfig(ref=(Path("ref.txt"),), nbest=True, model="roberta.mini", weights=(math.nan,))
