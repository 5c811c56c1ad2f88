"""What these tests damage and kill: a vocabulary, a corpus, a checkpoint and a run, all as small as can be."""

import random
from pathlib import Path

import torch

from roberta.bpe import GPT2BPE
from roberta.checkpoint import native
from roberta.criterions.masked_lm import MaskedLMLossConfig
from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.dictionary import Dictionary
from roberta.data.tokenizer import Tokenizer
from roberta.models.heads import MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.optim.adam import AdamConfig
from roberta.optim.schedules import PolynomialDecayConfig
from roberta.recipe import Recipe, TrainerConfig
from roberta.tasks.masked_lm import MaskedLMTaskConfig

WORDS = "the cat sat on a mat and it was his hat".split()
SHAPE = {"encoder_layers": 1, "embed_dim": 8, "ffn_embed_dim": 8, "attention_heads": 2, "max_positions": 32}


def make_tokenizer() -> Tokenizer:
    """Return a tokenizer of 262 symbols, whose files take 5 kB."""
    bpe = GPT2BPE(["t h", "th e", "a t", "Ġ the", "Ġ a"])
    return Tokenizer(bpe, Dictionary(bpe.symbols, [1] * len(bpe.symbols)))


def make_text(path: Path, lines: int, seed: int = 1) -> Path:
    rng = random.Random(seed)
    path.write_text("".join(f"{' '.join(rng.choices(WORDS, k=12))}\n" for _ in range(lines)), encoding="utf-8")
    return path


def make_data(folder: Path) -> Path:
    """Return a binarised folder of 60 training and 10 validation sentences."""
    (folder / "vocab").mkdir(parents=True)
    make_tokenizer().save(folder / "vocab")
    train, valid = make_text(folder / "train.txt", 60), make_text(folder / "valid.txt", 10, seed=2)
    preprocess(
        PreprocessConfig(
            trainpref=(train,), validpref=(valid,), destdir=folder / "data-bin", vocab=folder / "vocab", workers=1
        )
    )
    return folder / "data-bin"


def make_model(value: float) -> RobertaModel:
    """Return a model whose every parameter is `value`."""
    model = RobertaModel(RobertaConfig(vocab_size=len(make_tokenizer().dictionary), **SHAPE))
    model.register_head("lm", MaskedLMHeadConfig())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model.eval()


def save_checkpoint(folder: Path, value: float) -> Path:
    """Write a checkpoint with training state whose every number is `value`."""
    model = make_model(value)
    moments = {f"exp_avg.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    native.save(folder, model, make_tokenizer(), native.TrainingState({}, moments, {"num_updates": int(value)}))
    return folder


def make_recipe(data: Path, save_dir: Path, max_update: int, resume: bool = True) -> Recipe:
    """Return a run with dropout, accumulation, several epochs, and a checkpoint every third update."""
    return Recipe(
        task=MaskedLMTaskConfig(data=data, tokens_per_sample=32),
        model=RobertaConfig(**SHAPE),
        criterion=MaskedLMLossConfig(),
        optimizer=AdamConfig(),
        lr_scheduler=PolynomialDecayConfig(lr=1e-2, warmup_updates=2, total_num_update=1000),
        trainer=TrainerConfig(
            save_dir=save_dir,
            max_update=max_update,
            batch_size=8,
            update_freq=(2,),
            device="cpu",
            save_interval_updates=3,
            validate_interval_updates=10,
            log_interval=1,
            keep_best=True,
            resume=resume,
        ),
    )
