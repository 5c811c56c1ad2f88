"""fairseq itself beside this library, where it is installed: examples/benchmark/fairseq_peer.py says how.

    pytest -m slow tests/test_fairseq.py

What it computes on the same weights, the files that go from either to the other, and the bytes of a binarised text.
"""

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import roberta
from roberta.checkpoint import fairseq_writer
from roberta.criterions.masked_lm import MaskedLMLoss, MaskedLMLossConfig
from roberta.criterions.sentence_prediction import SentencePredictionLoss, SentencePredictionLossConfig
from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.sample import sample_corpus
from roberta.data.tokenizer import Tokenizer
from roberta.layout import Batch, SequenceLayout
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.optim.adam import AdamConfig, adam

PEER = Path(__file__).parents[1] / "examples/benchmark/fairseq_peer.py"
TEXTS = ["Hello world!", " two  spaces", "naïve café, 東京, \N{GRINNING FACE}", "x" * 50, "Nothing\tmore."]
VOCAB = 50265
LR = 1e-3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # its own
    pytest.mark.skipif(importlib.util.find_spec("fairseq") is None, reason="needs fairseq: see fairseq_peer.py"),
]


@pytest.fixture(scope="module")
def peer():
    spec = importlib.util.spec_from_file_location("fairseq_peer", PEER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model() -> RobertaModel:
    """A small model of RoBERTa's vocabulary, no parameter at its starting value, without dropout."""
    torch.manual_seed(0)
    shape = {"encoder_layers": 2, "embed_dim": 24, "ffn_embed_dim": 40, "attention_heads": 3, "max_positions": 64}
    model = RobertaModel(RobertaConfig(vocab_size=VOCAB, dropout=0.0, attention_dropout=0.0, **shape))
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("topic", ClassificationHeadConfig(num_classes=3, dropout=0.0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def their_files(monkeypatch) -> None:
    """Let fairseq open its own files: torch asks for this since 2.6, and fairseq says nothing to it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


def their_hub(folder: Path):
    from fairseq.models.roberta import RobertaModel as TheirModel

    names = {"gpt2_encoder_json": folder / "encoder.json", "gpt2_vocab_bpe": folder / "vocab.bpe"}
    found = TheirModel.from_pretrained(str(folder), **{name: str(path) for name, path in names.items()})
    return found.eval()


def run(module: str, *arguments: object) -> str:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


@torch.no_grad()
def test_fairseq_opens_what_is_written_for_it_and_computes_the_same(model, their_files, tmp_path):
    fairseq_writer.write(tmp_path / "model", model, Tokenizer.load())
    ours, theirs = roberta.from_pretrained(tmp_path / "model"), their_hub(tmp_path / "model")
    for text in TEXTS:
        tokens = ours.encode(text)
        assert torch.equal(tokens, theirs.encode(text))
        assert ours.decode(tokens) == theirs.decode(tokens)
        for mine, other in zip(
            ours.extract_features(tokens, return_all_hiddens=True),
            theirs.extract_features(tokens, return_all_hiddens=True),
            strict=True,
        ):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.predict("topic", tokens), theirs.predict("topic", tokens), rtol=1e-5, atol=1e-5)
    mine, other = (hub.fill_mask("The <mask> is here.", topk=5) for hub in (ours, theirs))
    assert [(text, symbol) for text, _, symbol in mine] == [(text, symbol) for text, _, symbol in other]
    assert [share for _, share, _ in mine] == pytest.approx([share for _, share, _ in other], rel=1e-4)


def random_batch(seed: int, *, is_lm: bool) -> Batch:
    """Return sequences of different lengths with targets."""
    generator = torch.Generator().manual_seed(seed)
    layout = SequenceLayout.from_lengths([9, 17, 4, 12])
    tokens = torch.randint(4, VOCAB - 1, (layout.num_tokens,), generator=generator)
    select = torch.randperm(layout.num_tokens, generator=generator)[:11].sort().values if is_lm else layout.first
    targets = torch.randint(4, VOCAB, (11,), generator=generator) if is_lm else torch.tensor([0, 2, 1, 2])
    return Batch(tokens, layout, select, targets, len(targets), (0, 1, 2, 3))


def gradients_of(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy whose parameters are the gradients of the model's, 0 where there is none."""
    found = copy.deepcopy(model)
    for mine, parameter in zip(found.parameters(), model.parameters(), strict=True):
        mine.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
    return found


def in_their_names(peer, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters of a model of ours, or of theirs, under fairseq's names."""
    theirs = peer.twin(model)[0] if isinstance(model, RobertaModel) else model
    return {name: parameter.detach() for name, parameter in theirs.named_parameters()}


@pytest.mark.parametrize("is_lm", [True, False])
def test_losses_gradients_and_twenty_updates_are_fairseqs(peer, model, is_lm):
    theirs, task = peer.twin(model)
    their_loss = peer.mean_loss(theirs.train(), task, is_lm=is_lm)
    criterion = (
        MaskedLMLoss(MaskedLMLossConfig(), "lm")
        if is_lm
        else SentencePredictionLoss(SentencePredictionLossConfig(), "topic")
    )
    model.train()
    ours, other = adam(AdamConfig(weight_decay=0.01), list(model.named_parameters())), peer.adam(theirs, LR)
    for group in ours.param_groups:
        group["lr"] = LR
    losses = []
    for update in range(20):
        batch = random_batch(update % 2, is_lm=is_lm)
        loss, expected = criterion(model, batch)[0] / batch.num_targets, their_loss(batch)
        losses.append(loss.item())
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4 if update else 1e-6)
        loss.backward()
        expected.backward()
        if update == 0:
            gradients = in_their_names(peer, gradients_of(model))
            torch.testing.assert_close(gradients, in_their_names(peer, gradients_of(theirs)), rtol=1e-4, atol=1e-6)
        for optimizer in (ours, other):
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[1]  # of the same batch
    torch.testing.assert_close(in_their_names(peer, model), in_their_names(peer, theirs), rtol=0, atol=LR / 4)


def test_binarised_text_has_fairseqs_bytes_and_fairseq_trains_on_it_what_is_opened_here(
    peer, model, their_files, tmp_path
):
    text, bpe, made, theirs = (tmp_path / name for name in ("train.txt", "train.bpe", "ours", "theirs"))
    text.write_text(sample_corpus("train")[:20_000] + "\n\n  \n café\n", encoding="utf-8")
    preprocess(PreprocessConfig(trainpref=(text,), validpref=(text,), destdir=made))
    run(
        "fairseq.examples.roberta.multiprocessing_bpe_encoder",
        *("--encoder-json", made / "encoder.json", "--vocab-bpe", made / "vocab.bpe", "--keep-empty"),
        *("--inputs", text, "--outputs", bpe, "--workers", 1),
    )
    dictionary = made / "dict.txt"
    run("fairseq_cli.preprocess", "--only-source", "--srcdict", dictionary, "--trainpref", bpe, "--destdir", theirs)
    for name in ("train.bin", "train.idx", "dict.txt"):
        assert (made / name).read_bytes() == (theirs / name).read_bytes()

    fairseq_writer.write(tmp_path / "model", model, Tokenizer.load())
    run(
        *("fairseq_cli.train", made, "--task", "masked_lm", "--criterion", "masked_lm", "--arch", "roberta_base"),
        *("--encoder-layers", 2, "--encoder-embed-dim", 24, "--encoder-ffn-embed-dim", 40),
        *("--encoder-attention-heads", 3, "--max-positions", 64, "--tokens-per-sample", 64),
        *("--restore-file", tmp_path / "model" / "model.pt", "--reset-optimizer", "--reset-dataloader"),
        *("--optimizer", "adam", "--lr", LR, "--lr-scheduler", "polynomial_decay", "--total-num-update", 5),
        *("--batch-size", 4, "--max-update", 5, "--save-dir", tmp_path / "run", "--no-progress-bar", "--cpu"),
    )
    trained = tmp_path / "run" / "checkpoint_last.pt"
    for name in ("dict.txt", "encoder.json", "vocab.bpe"):
        (tmp_path / "run" / name).write_bytes((made / name).read_bytes())
    trained.rename(tmp_path / "run" / "model.pt")
    ours, other = roberta.from_pretrained(tmp_path / "run"), their_hub(tmp_path / "run")
    before = roberta.from_pretrained(tmp_path / "model").extract_features(TEXTS[0])
    for each in TEXTS:
        with torch.no_grad():
            expected = other.extract_features(other.encode(each))[0]
        torch.testing.assert_close(ours.extract_features(each), expected, rtol=1e-5, atol=1e-5)
    assert (ours.extract_features(TEXTS[0]) - before).abs().max() > 1e-3  # it was trained
