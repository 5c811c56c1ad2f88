"""Attention maps and saliency: numbers against finite differences, and pages that show any text as it is."""

import base64
import json
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from roberta.checkpoint import native
from roberta.errors import ConfigError, DataError
from roberta.hub import RobertaHubInterface
from roberta.inspection import inspect, page, write
from roberta.layout import SequenceLayout
from roberta.models.heads import RegressionHeadConfig
from roberta.models.roberta import RobertaConfig
from roberta_cli.inspect import main
from tests.builders import make_byte_tokenizer, make_tiny_model

TEXT = "it <mask>s & <b>so</b> on<mask>"


@pytest.fixture(scope="module")
def roberta() -> RobertaHubInterface:
    tokenizer = make_byte_tokenizer()
    config = RobertaConfig(
        vocab_size=len(tokenizer.dictionary),
        max_positions=140,
        encoder_layers=2,
        embed_dim=24,
        ffn_embed_dim=20,
        attention_heads=3,
    )
    model = make_tiny_model(config)
    model.register_head("stars", RegressionHeadConfig())
    return RobertaHubInterface(model.double(), tokenizer)


class Reader(HTMLParser):
    """Collects the tags of a page, the text outside its style, and the links of its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data):
        self.text += "" if self.tags[-1:] == ["style"] and "{" in data else data


def log_probability(roberta, ids: list[int], head: str, row: int, answer: int, token: int, scale: float) -> float:
    """Return the log-probability of an answer when the embedding of one token is scaled."""

    def scaled(embeddings):
        factors = torch.ones(len(embeddings), 1, dtype=embeddings.dtype)
        factors[token] = scale
        return embeddings * factors

    layout = SequenceLayout.from_lengths([len(ids)])
    with torch.no_grad():
        logits = roberta.model(torch.tensor(ids), layout, head, torch.tensor([row]), perturb=scaled)
    return logits.log_softmax(dim=1)[0, answer].item()


def test_saliency_is_the_slope_of_scaling_a_token(roberta):
    tokenizer = roberta.tokenizer
    inspection = inspect(roberta, TEXT)
    specials = {"<s>": 0, "</s>": 2, "<mask>": tokenizer.dictionary.mask}
    ids = [specials.get(name) or (0 if name == "<s>" else tokenizer.encode(name)[0]) for name in inspection.tokens]
    masks = [position for position, token in enumerate(ids) if token == tokenizer.dictionary.mask]
    assert [answer.place for answer in inspection.answers] == ["mask 1", "mask 2"]
    for position, answer in zip(masks, inspection.answers, strict=True):
        logits = roberta.model(
            torch.tensor(ids), SequenceLayout.from_lengths([len(ids)]), "lm", torch.tensor([position])
        )
        best = int(logits.argmax())
        for token in range(len(ids)):
            up, down = (
                log_probability(roberta, ids, "lm", position, best, token, scale) for scale in (1 + 1e-5, 1 - 1e-5)
            )
            assert answer.saliency[token] == pytest.approx((up - down) / 2e-5, abs=1e-7)


def test_answers_of_masks_are_those_of_fill_mask(roberta):
    (answer,) = inspect(roberta, "it <mask>s", topk=3).answers
    expected = roberta.fill_mask("it <mask>s", topk=3)
    assert [name for name, _ in answer.likeliest] == [token for _, _, token in expected]
    assert [p for _, p in answer.likeliest] == pytest.approx([p for _, p, _ in expected])


def test_the_answer_of_a_head_is_the_class_it_predicts(roberta):
    (answer,) = inspect(roberta, TEXT, head="topic").answers  # here <mask> is plain text
    prediction = roberta.predict("topic", TEXT)
    assert answer.likeliest[0][0] == prediction.label
    assert dict(answer.likeliest) == pytest.approx(dict(prediction.probabilities))
    ids = roberta.encode(TEXT).tolist()
    number = ("a", "b", "c").index(prediction.label)
    slope = [log_probability(roberta, ids, "topic", 0, number, 4, scale) for scale in (1 + 1e-5, 1 - 1e-5)]
    assert answer.saliency[4] == pytest.approx((slope[0] - slope[1]) / 2e-5, abs=1e-7)


def test_attention_maps_are_those_of_the_hub_and_nothing_is_left_behind(roberta):
    roberta.train()
    try:
        inspection = inspect(roberta, "no mask")
        assert roberta.model.training
    finally:
        roberta.eval()
    assert inspection.answers == ()
    assert inspection.tokens == ("<s>", *"no mask", "</s>")
    expected = torch.stack(roberta.attentions("no mask")).detach().float().numpy()
    np.testing.assert_allclose(inspection.attentions, expected, atol=1e-7)
    assert all(parameter.grad is None for parameter in roberta.parameters())


def test_a_page_shows_the_text_as_it_is_and_needs_nothing_else(roberta):
    read = Reader(page(inspect(roberta, TEXT)))
    assert read.text.count(TEXT) >= 1
    assert not {"b", "mask", "script", "s", "img", "link"} & set(read.tags)
    assert read.links
    assert all(link.startswith("data:image/png;base64,") for link in read.links)
    assert read.tags.count("svg") == 2 * (1 + 3)  # layers, each its mean and its heads
    assert read.tags.count("table") == 2


def test_control_characters_are_no_trouble(roberta, tmp_path):
    write(inspect(roberta, "a\0b\u0085\x1b[1m é"), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search("[\0\x1b\u0085]", text)
    assert "a\ufffdb\ufffd\ufffd[1m é" in text


def test_the_pictures_in_the_page_are_the_maps(roberta):
    inspection = inspect(roberta, "abc")
    first = Reader(page(inspection)).links[1]  # layer 1, head 1, behind the mean
    raw = base64.b64decode(first.partition(",")[2])
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, position = {}, 8
    while position < len(raw):
        (length,) = struct.unpack_from(">I", raw, position)
        body = raw[position + 4 : position + 8 + length]
        assert struct.unpack_from(">I", raw, position + 8 + length)[0] == zlib.crc32(body)
        chunks[body[:4]] = body[4:]
        position += 12 + length
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (5, 5)
    pixels = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(5, 6)
    np.testing.assert_array_equal(pixels[:, 0], 0)
    np.testing.assert_allclose(pixels[:, 1:] / 255, np.sqrt(inspection.attentions[0, 0]), atol=0.5 / 255 + 1e-6)
    palette = np.frombuffer(chunks[b"PLTE"], dtype=np.uint8).reshape(256, 3)
    assert palette[0].tolist() == [255, 255, 255]
    assert (np.diff(palette.astype(int), axis=0) <= 0).all()  # darker and darker


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures_are_drawn(roberta, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    write(inspect(roberta, "costs $5 or $6 <mask>"), tmp_path / f"picture{suffix}")
    assert (tmp_path / f"picture{suffix}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"text": "x" * 127}, DataError, "the text has 129 tokens; at most 128 can be shown: shorten it"),
        ({"text": "x", "head": "topics"}, ConfigError, "the model has no head 'topics'"),
        ({"text": "x", "head": "stars"}, ConfigError, "--head stars does not choose among classes"),
        ({"text": "x", "topk": 0}, ConfigError, "--topk is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_shown_is_refused(roberta, options, error, message):
    with pytest.raises(error, match=message):
        inspect(roberta, options.pop("text"), **options)


def test_the_command_writes_the_page_and_prints_the_answers(roberta, tmp_path, capsys):
    native.save(tmp_path / "model", roberta.model, roberta.tokenizer)
    output = tmp_path / "page.html"
    assert main([TEXT, "--model", str(tmp_path / "model"), "--output", str(output), "--topk", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["output"], result["tokens"]) == (str(output), len(inspect(roberta, TEXT).tokens))
    assert [len(answer["likeliest"]) for answer in result["answers"]] == [2, 2]
    assert output.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text"], "required: --model"),
        (["text", "--model", "m", "--output", "page.txt"], "--output page.txt: the name must end in .html, .svg"),
    ],
)
def test_bad_arguments_give_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
