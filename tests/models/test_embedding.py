"""The gradient of a matrix that is looked up at one end of a model and projected with at the other."""

from threading import Thread

import pytest
import torch
import torch.nn.functional as F

from roberta.layout import SequenceLayout
from roberta.models.embedding import TokenEmbedding, projection
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel

PAD = 1
TOKENS = torch.tensor([0, 5, 5, 7, PAD, 5, 2, 0, 9, 2])


def make_model(**head) -> RobertaModel:
    torch.manual_seed(0)
    shape = {"encoder_layers": 2, "embed_dim": 16, "ffn_embed_dim": 32, "attention_heads": 2, "max_positions": 16}
    model = RobertaModel(RobertaConfig(vocab_size=60, dropout=0.0, attention_dropout=0.0, **shape))
    model.register_head("lm", MaskedLMHeadConfig(**head))
    model.register_head("topic", ClassificationHeadConfig(num_classes=2))
    return model


def loss_of(model: RobertaModel, **options) -> torch.Tensor:
    layout = SequenceLayout.from_lengths([7, 3])
    return model(TOKENS, layout, "lm", torch.tensor([1, 5, 8]), torch.tensor([5, 11, 59]), **options)


def gradients(loss: torch.Tensor, model: RobertaModel) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_both_gradients_together_are_bit_for_bit_those_of_two(tied, autocast, monkeypatch):
    model, found = make_model(tied=tied), []
    for is_shared in (True, False):
        if not is_shared:
            monkeypatch.setattr(TokenEmbedding, "forward", torch.nn.Embedding.forward)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = loss_of(model)
        found.append([loss.detach(), *gradients(loss, model)])
    assert len(found[0]) > 20
    for shared, apart in zip(*found, strict=True):
        assert torch.equal(shared, apart)


def nodes(node) -> list[str]:
    """Return the names of the functions that a backward pass goes through."""
    found, seen = [node], {node}
    for one in found:
        for other, _ in one.next_functions:
            if other is not None and other not in seen:
                seen.add(other)
                found.append(other)
    return [one.name() for one in found]


def test_the_embedding_has_no_gradient_of_its_own_beside_that_of_the_projection():
    names = nodes(loss_of(make_model()).grad_fn)
    assert names.count("_SharedBackward") == names.count("EmbeddingBackward0") == 1  # the other is that of positions


def test_losses_of_two_passes_have_gradients_of_their_own():
    model = make_model()
    passes = ({}, {"perturb": lambda x: 2.0 * x})
    alone = [gradients(loss_of(model, **options), model) for options in passes]
    losses = [loss_of(model, **options) for options in passes]
    together = [gradients(loss, model) for loss in reversed(losses)][::-1]
    for found, wanted in zip(together, alone, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_what_is_looked_up_may_take_no_part():
    model = make_model()
    weight = model.encoder.embed_tokens.weight
    (found,) = torch.autograd.grad(loss_of(model, perturb=torch.Tensor.detach), weight)
    assert not torch.equal(found, torch.autograd.grad(loss_of(model), weight)[0])
    rows = model.encoder(TOKENS, SequenceLayout.from_lengths([7, 3]), torch.Tensor.detach, torch.tensor([1, 5, 8]))
    logits = model.heads["lm"](rows)
    loss = F.cross_entropy(logits, torch.tensor([5, 11, 59]), reduction="sum")
    (wanted,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("how", ["inside", "before", "in another thread"])
def test_a_look_up_without_gradients_takes_none_away(how, monkeypatch):
    """As a clean pass beside a perturbed one does, an encoder that learns nothing of what is looked up, and threads."""
    model = make_model()
    embedding, found = model.encoder.embed_tokens, []

    @torch.no_grad()
    def look_up(x):
        embedding(TOKENS)
        return x

    def in_a_thread(x):
        thread = Thread(target=look_up, args=(x,))
        thread.start()
        thread.join()
        return x

    for is_shared in (True, False):
        if not is_shared:
            monkeypatch.setattr(TokenEmbedding, "forward", torch.nn.Embedding.forward)
        if how == "before":
            monkeypatch.setattr(model.encoder, "embed", torch.no_grad()(model.encoder.embed))
        perturb = {"inside": look_up, "before": None, "in another thread": in_a_thread}[how]
        found.append(gradients(loss_of(model, perturb=perturb), model))
        monkeypatch.undo()
    assert embedding.weight.grad is not None
    for shared, apart in zip(*found, strict=True):
        assert torch.equal(shared, apart)


@pytest.mark.parametrize("tied", [False, True])
def test_a_plain_embedding_in_its_place_has_the_same_gradients(tied):
    model = make_model(tied=tied)
    wanted = gradients(loss_of(model), model)
    plain = torch.nn.Embedding(60, 16, PAD)
    plain.weight = model.encoder.embed_tokens.weight
    model.encoder.embed_tokens = plain
    if tied:
        model.heads["lm"]._embed_tokens = (plain,)
    for gradient, other in zip(gradients(loss_of(model), model), wanted, strict=True):
        assert torch.equal(gradient, other)


@pytest.mark.parametrize("case", ["no gradients", "frozen", "an error"])
def test_nothing_stays_shared(case):
    model = make_model()
    embedding = model.encoder.embed_tokens
    if case == "no gradients":
        with torch.no_grad():
            assert not loss_of(model).requires_grad
    elif case == "frozen":
        embedding.requires_grad_(False)
        assert "_SharedBackward" not in nodes(loss_of(model).grad_fn)
    else:
        with pytest.raises(IndexError):
            loss_of(model, perturb=lambda x: x[:, 99])
    assert projection(embedding) is embedding.weight
    assert embedding(TOKENS).grad_fn is None or embedding(TOKENS).grad_fn.name() == "EmbeddingBackward0"
