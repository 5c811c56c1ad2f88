"""The hub interface, on a small random model with the real vocabulary, and on fairseq's golden files."""

import copy
import json

import pytest
import torch

from roberta.data.tokenizer import Tokenizer
from roberta.errors import CheckpointError, ConfigError, DataError
from roberta.hub import RobertaHubInterface, from_pretrained
from roberta.models.roberta import RobertaConfig, RobertaModel


def padded(*rows: list[int], left: bool = False) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[1] * (width - len(row)) + row if left else row + [1] * (width - len(row)) for row in rows])


def test_encode_gives_the_published_ids(roberta):
    assert roberta.encode("Hello world!").tolist() == [0, 31414, 232, 328, 2]
    assert roberta.encode("Hello", " world").tolist() == [0, 31414, 2, 2, 232, 2]
    assert roberta.encode("Hello", " world", no_separator=True).tolist() == [0, 31414, 2, 232, 2]
    assert roberta.encode("").tolist() == [0, 2]


def test_special_tokens_in_a_text_are_plain_characters(roberta):
    tokens = roberta.encode("a <mask> </s> b")
    assert not {2, 50264} & set(tokens[1:-1].tolist())
    assert roberta.decode(tokens) == "a <mask> </s> b"


def test_decode_undoes_encode(roberta):
    assert roberta.decode(roberta.encode("Hello world!")) == "Hello world!"
    assert roberta.decode(roberta.encode("Hello", "you")) == ["Hello", "you"]


@pytest.mark.parametrize("text", [["a", "b"], 3, None])
def test_encode_refuses_what_is_no_string(roberta, text):
    with pytest.raises(DataError, match="encode takes strings, not"):
        roberta.encode(text)


def test_features_have_one_row_per_token(roberta):
    tokens = roberta.encode("Hello world!")
    features = roberta.extract_features(tokens)
    layers = roberta.extract_features(tokens, return_all_hiddens=True)
    assert features.shape == (1, 5, 16)
    assert len(layers) == 3
    assert torch.equal(layers[-1], features)


@pytest.mark.parametrize("left", [False, True])
def test_padding_on_either_side_changes_nothing_but_zeros(roberta, left):
    rows = [roberta.encode(text).tolist() for text in ("Hello world!", "a", "one two three four")]
    batch = roberta.extract_features(padded(*rows, left=left))
    for row, features in zip(rows, batch, strict=True):
        real = features[-len(row) :] if left else features[: len(row)]
        rest = features[: -len(row)] if left else features[len(row) :]
        torch.testing.assert_close(real, roberta.extract_features(torch.tensor(row))[0], atol=1e-6, rtol=1e-5)
        assert torch.all(rest == 0)


def test_predictions_are_log_probabilities_with_gradients(roberta):
    tokens = roberta.encode("a", "b")
    log_probabilities = roberta.predict("mnli", tokens)
    assert log_probabilities.shape == (1, 3)
    assert log_probabilities.exp().sum().item() == pytest.approx(1.0)
    logits = roberta.predict("mnli", tokens, return_logits=True)
    torch.testing.assert_close(logits.log_softmax(-1), log_probabilities)
    log_probabilities[0, 1].backward()
    assert roberta.model.encoder.embed_tokens.weight.grad[0].abs().sum() > 0
    roberta.zero_grad()


def test_batches_of_predictions_equal_single_ones_in_input_order(roberta):
    texts = ["a", "one two three", "", "b c d e f g h", "x y"]
    sequences = [roberta.encode(text).tolist() for text in texts]
    found = {}
    for indices, logits in roberta.predict_batches("mnli", sequences, max_tokens=8):
        found.update(zip(indices, logits, strict=True))
    assert sorted(found) == list(range(len(texts)))
    for index, tokens in enumerate(sequences):
        expected = roberta.predict("mnli", torch.tensor(tokens), return_logits=True)[0]
        torch.testing.assert_close(found[index], expected.detach(), atol=1e-6, rtol=1e-5)


def test_a_registered_head_learns(roberta):
    torch.manual_seed(0)
    roberta.register_classification_head("colour", num_classes=2)
    texts, labels = ["red as blood", "green as grass"], torch.tensor([0, 1])
    tokens = padded(*[roberta.encode(text).tolist() for text in texts])
    optimizer = torch.optim.Adam(roberta.parameters(), lr=1e-2)
    first = torch.nn.functional.nll_loss(roberta.predict("colour", tokens), labels).item()
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.nll_loss(roberta.predict("colour", tokens), labels).backward()
        optimizer.step()
    last = torch.nn.functional.nll_loss(roberta.predict("colour", tokens), labels).item()
    assert last < 0.1 < first


def test_fill_mask_ranks_tokens_and_fills_them_in(roberta):
    filled = roberta.fill_mask("The capital of France is <mask>.", topk=4)
    assert len(filled) == 4
    assert [p for _, p, _ in filled] == sorted((p for _, p, _ in filled), reverse=True)
    for text, probability, token in filled:
        assert 0 < probability < 1
        assert text == f"The capital of France is{token}."


def test_fill_mask_predicts_in_evaluation_mode_and_restores_the_mode(roberta):
    roberta.train()
    assert roberta.fill_mask("a <mask>") == roberta.fill_mask("a <mask>")
    assert roberta.training
    assert roberta.model.training
    roberta.eval()


def test_answers_leave_each_module_in_its_own_mode(roberta):
    roberta.train()
    roberta.model.encoder.eval()
    modes = [module.training for module in roberta.modules()]
    roberta.embed("x")
    assert [module.training for module in roberta.modules()] == modes
    roberta.eval()


def test_batches_are_predicted_in_evaluation_mode_and_yielded_in_the_models_own(roberta):
    sequences = [[0, 9, 2], [0, 9, 8, 2]]
    expected = {tuple(indices): logits for indices, logits in roberta.predict_batches("mnli", sequences)}
    roberta.train()
    for indices, logits in roberta.predict_batches("mnli", sequences):
        assert torch.equal(logits, expected[tuple(indices)])
        assert all(module.training for module in roberta.modules())
    roberta.eval()


@pytest.mark.parametrize("text", ["no mask", "<mask> and <mask>"])
def test_fill_mask_wants_exactly_one_mask(roberta, text):
    with pytest.raises(DataError, match="takes a text with one <mask>, not [02]"):
        roberta.fill_mask(text)


def test_texts_over_the_limit_are_refused_before_any_computation(roberta):
    with pytest.raises(DataError, match="sequence 0 has 42 tokens; the model takes at most 32"):
        roberta.extract_features(roberta.encode("a " * 39 + "b"))
    assert roberta.extract_features(torch.tensor([0] + [9] * 30 + [2])).shape == (1, 32, 16)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([0, 50265]), "the vocabulary has ids 0 to 50264"),
        (torch.tensor([-1, 2]), "ids from -1"),
        (torch.tensor([[0, 2], [1, 1]]), "sequence 1 has no tokens"),
        (torch.tensor([], dtype=torch.int64), "sequence 0 has no tokens"),
        (torch.zeros(1, 1, 2, dtype=torch.int64), "1-D or 2-D"),
        (torch.tensor([0.0, 2.0]), "1-D or 2-D tensor of ids, not torch.float32"),
    ],
)
def test_tokens_that_are_none_are_refused(roberta, tokens, message):
    with pytest.raises(DataError, match=message):
        roberta.extract_features(tokens)


def test_decode_refuses_what_is_no_sequence_and_foreign_ids(roberta):
    for tokens in (torch.zeros(2, 3, 4, dtype=torch.int64), torch.tensor(0), torch.zeros(3)):
        with pytest.raises(DataError, match="1-D or 2-D tensor of token ids"):
            roberta.decode(tokens)
    with pytest.raises(DataError, match="ids 0 to 50264"):
        roberta.decode(torch.tensor([50265]))


def test_an_unknown_head_is_refused(roberta):
    with pytest.raises(ConfigError, match="no head 'mnly'.*did you mean mnli"):
        roberta.predict("mnly", roberta.encode("a"))


def test_half_precision_and_modes_act_on_the_model():
    torch.manual_seed(0)
    model = RobertaModel(RobertaConfig(encoder_layers=1, embed_dim=8, ffn_embed_dim=8, attention_heads=1))
    roberta = RobertaHubInterface(model, Tokenizer.load()).eval().half()
    assert not model.training
    assert roberta.extract_features(roberta.encode("a")).dtype == torch.float16
    assert roberta.train().model.training


def test_the_representation_tells_what_the_model_is(roberta):
    assert "2 layers, embed_dim 16" in repr(roberta)
    assert "heads: lm, mnli" in repr(roberta)
    assert " in " not in repr(roberta)
    assert "parameters in bfloat16, " in repr(copy.deepcopy(roberta).bfloat16())
    assert "parameters in int8, " in repr(copy.deepcopy(roberta).int8())


def test_a_name_that_is_nothing_is_refused_with_the_releases():
    with pytest.raises(CheckpointError, match=r"roberta\.bigger: neither a file or folder nor.*roberta\.base"):
        from_pretrained("roberta.bigger")


def test_an_empty_folder_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no MANIFEST\.json .* and no model\.pt"):
        from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def golden_roberta(shared) -> RobertaHubInterface:
    return from_pretrained(shared / "golden/ckpt2019")


@pytest.fixture(scope="module")
def golden(shared) -> dict:
    io = shared / "golden/io"
    return {
        "texts": json.loads((io / "golden_io.json").read_text()),
        **torch.load(io / "golden_io.pt", weights_only=True),
    }


def test_golden_single_texts(golden_roberta, golden):
    compared = 0
    for number, case in enumerate(golden["texts"]["single"]):
        tokens = golden_roberta.encode(case["text"])
        assert tokens.tolist() == case["tokens"]
        assert golden_roberta.decode(tokens) == case["decoded"]
        expected = golden.get(f"s{2 * number}")
        if expected is None:
            continue
        hiddens = golden_roberta.extract_features(tokens, return_all_hiddens=True)
        logits = golden_roberta.model.heads["lm"](hiddens[-1])
        compare = {
            **{f"hidden {depth}": (hiddens[depth], wanted) for depth, wanted in enumerate(expected["hiddens"])},
            "features": (golden_roberta.extract_features(tokens), expected["features"]),
            "logits": (logits.gather(-1, expected["logits_top"]["indices"]), expected["logits_top"]["values"]),
            "predict": (golden_roberta.predict("mnli", tokens), expected["predict"]),
            "predict_logits": (golden_roberta.predict("mnli", tokens, return_logits=True), expected["predict_logits"]),
        }
        if "logits" in expected:
            compare["all logits"] = (logits, expected["logits"])
        for name, (ours, wanted) in compare.items():
            torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5, msg=f"{case['text']!r}: {name} differs")
        compared += 1
    assert compared >= 20


def test_golden_pairs(golden_roberta, golden):
    for case in golden["texts"]["pairs"]:
        tokens = golden_roberta.encode(*case["texts"], no_separator=case["no_separator"])
        assert tokens.tolist() == case["tokens"]
        assert golden_roberta.decode(tokens) == case["decoded"]
        torch.testing.assert_close(
            golden_roberta.predict("mnli", tokens), torch.tensor(case["predict"]), atol=1e-5, rtol=0
        )


def test_golden_padded_batch(golden_roberta, golden):
    batch = golden["batch_right"]
    is_token = batch["tokens"] != 1
    hiddens = golden_roberta.extract_features(batch["tokens"], return_all_hiddens=True)
    for ours, wanted in zip(hiddens, batch["hiddens"], strict=True):
        torch.testing.assert_close(ours[is_token], wanted[is_token], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(golden_roberta.predict("mnli", batch["tokens"]), batch["predict"], atol=1e-5, rtol=1e-5)


def test_golden_masked_projection(golden_roberta, golden):
    case = golden["masked_projection"]
    features = golden_roberta.extract_features(case["tokens"])[case["masked_tokens"]]
    torch.testing.assert_close(golden_roberta.model.heads["lm"](features), case["logits"], atol=1e-5, rtol=1e-5)


def test_golden_fill_mask(golden_roberta, golden):
    for case in golden["texts"]["fill_mask"]:
        ours = golden_roberta.fill_mask(case["text"], topk=case["topk"])
        assert [(text, token) for text, _, token in ours] == [(text, token) for text, _, token in case["out"]]
        assert [p for _, p, _ in ours] == pytest.approx([p for _, p, _ in case["out"]], abs=1e-5)


def test_a_saved_model_opens_with_all_its_heads_and_the_same_answers(roberta, tmp_path):
    roberta.save_pretrained(tmp_path / "model")
    for verify in (True, False):
        again = from_pretrained(tmp_path / "model", verify=verify)
        assert list(again.model.heads) == list(roberta.model.heads)
        for name, tensor in roberta.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], tensor), name
        tokens = roberta.encode("Hello world!")  # mapped weights lie otherwise in memory, and kernels differ by that
        torch.testing.assert_close(again.predict("mnli", tokens), roberta.predict("mnli", tokens), atol=1e-6, rtol=0)
