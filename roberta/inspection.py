"""What a model looks at: attention maps of a text, and which tokens move its answer, as a web page or a picture.

The attention of a head says from which tokens it mixes. Gradient x input says how much the log-probability of an answer
would change, to first order, if a token's embedding went to zero; it is of the loss, not of the attention. Both
describe one text and explain no model. The page is plain HTML with its pictures inside, and needs no network.

Shapes: S tokens of the text, L layers, H heads of attention, C embed_dim, K outputs of a head.
"""

import base64
import html
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roberta.data.dictionary import MASK
from roberta.errors import ConfigError, DataError
from roberta.files import write_text
from roberta.hub import RobertaHubInterface
from roberta.hub.filling import MaskedText
from roberta.hub.scoring import check_lm_head
from roberta.layout import SequenceLayout
from roberta.models.heads import LM_HEAD, ClassificationHeadConfig
from roberta.models.mode import evaluation_mode
from roberta.plotting import FORMATS, figure_class, literal, save, shortened

MOST_TOKENS = 128  # of a page that people still read, and browsers still draw
PAGE = ".html"

_DARKEST = (16, 52, 110)  # of an attention map, for 1
_FOR, _AGAINST = (214, 110, 20), (40, 100, 190)
_CELL = 13  # pixels of a map's cell
_LONGEST_LABEL = 12  # characters of a token
_LABEL = 78  # pixels of the labels beside a map
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #2b2b2b }
h1 { font-size: 1.3em } h2 { font-size: 1.1em; margin-top: 1.6em }
table { border-collapse: collapse } td { padding: 0 1em 0 0; white-space: pre-wrap }
.tokens { font-size: 1.2em; white-space: pre-wrap } .tokens span { border-radius: 3px; padding: 2px 0 }
details { display: inline-block; vertical-align: top; margin: 0 1em 1em 0 } summary { cursor: pointer }
.heads { display: flex; flex-wrap: wrap; gap: 1em } figure { margin: 0 } figcaption { text-align: center }
svg { font: 10px system-ui, sans-serif; max-width: 100%; height: auto; fill: #2b2b2b }
"""
_UNFIT = ("Cc", "Cs")  # Unicode's control characters and lone surrogates


@dataclass(frozen=True)
class Answer:
    """What a model says at a mask or of the text, what else is likely, and what each token adds to it."""

    place: str
    likeliest: tuple[tuple[str, float], ...]  # with probabilities; the first is the answer
    saliency: NDArray[np.float64]  # (S,): gradient x input of the answer's log-probability


@dataclass(frozen=True)
class Inspection:
    """A text as the model sees it."""

    text: str
    tokens: tuple[str, ...]
    attentions: NDArray[np.float32]  # (L, H, S, S): row by row what a token attends to
    answers: tuple[Answer, ...]


def inspect(roberta: RobertaHubInterface, text: str, *, head: str | None = None, topk: int = 5) -> Inspection:
    """Return attention maps of a text, and what moves the model's answers.

    The answers are those at each `<mask>`, from the masked-LM head; with `head`, the class of a classification head.

    Raises:
        ConfigError: the model has no such head, it is none of classes, or `topk` is below 1.
        DataError: the text has more than `MOST_TOKENS` tokens or more than the model takes.
    """
    if topk < 1:
        raise ConfigError(f"--topk is {topk}; it must be at least 1")
    tokenizer = roberta.tokenizer
    masks: tuple[int, ...] = ()
    ids = tuple(tokenizer.encode_sequence(text))
    if head is None and MASK in text:
        masked = MaskedText.encode(tokenizer, text)
        ids, masks = masked.tokens, masked.masks
    limit = min(MOST_TOKENS, roberta.max_tokens)
    if len(ids) > limit:
        raise DataError(f"the text has {len(ids)} tokens; at most {limit} can be shown: shorten it")
    specials = {tokenizer.dictionary.bos: "<s>", tokenizer.dictionary.eos: "</s>"}
    shown = tuple(specials.get(token) or tokenizer.decode([token]) for token in ids)
    tokens = torch.tensor(ids, device=roberta.device)
    attentions = torch.stack(_attentions(roberta, tokens)).float().cpu().numpy()
    answers = [_at_mask(roberta, tokens, position, number, topk) for number, position in enumerate(masks, start=1)]
    if head is not None:
        answers.append(_of_text(roberta, tokens, head, topk))
    return Inspection(text, shown, attentions, tuple(answers))


def write(inspection: Inspection, output: Path) -> None:
    """Write a page (.html), or a picture (.png, .svg, .pdf) of the answers and each layer's mean attention.

    Raises:
        ConfigError: the name ends in something else, or a picture is asked for without matplotlib.
        StorageError: the file can't be written.
    """
    if output.suffix == PAGE:
        write_text(output, page(inspection), escape=True)
        return
    save(picture(inspection), output)


def check_output(output: Path) -> None:
    """Refuse a file name that is neither a page's nor a picture's.

    Raises:
        ConfigError: it is not.
    """
    if output.suffix not in (PAGE, *FORMATS):
        raise ConfigError(f"--output {output}: the name must end in {', '.join((PAGE, *FORMATS))}")


def _attentions(roberta: RobertaHubInterface, tokens: Tensor) -> list[Tensor]:
    with evaluation_mode(roberta.model), torch.no_grad():
        return roberta.attentions(tokens)


def _at_mask(roberta: RobertaHubInterface, tokens: Tensor, position: int, number: int, topk: int) -> Answer:
    check_lm_head(roberta.model)
    log_probabilities, embeddings = _forward(roberta, tokens, LM_HEAD, position)
    values, ids = log_probabilities.topk(min(topk, len(log_probabilities)))
    names = [roberta.tokenizer.decode([token]) for token in ids.tolist()]
    likeliest = tuple(zip(names, values.exp().tolist(), strict=True))
    return Answer(f"mask {number}", likeliest, _saliency(values[0], embeddings))


def _of_text(roberta: RobertaHubInterface, tokens: Tensor, head: str, topk: int) -> Answer:
    config = roberta.model.head_config(head)
    if not isinstance(config, ClassificationHeadConfig) or config.multi_label:
        raise ConfigError(f"--head {head} does not choose among classes; name one that does")
    log_probabilities, embeddings = _forward(roberta, tokens, head, 0)
    values, ids = log_probabilities.topk(min(topk, config.num_classes))
    names = [config.labels[index] if config.labels else str(index) for index in ids.tolist()]
    return Answer(head, tuple(zip(names, values.exp().tolist(), strict=True)), _saliency(values[0], embeddings))


def _forward(roberta: RobertaHubInterface, tokens: Tensor, head: str, row: int) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of a head (K,) at a row, and the token embeddings (S, C) that they depend on."""
    leaves = []

    def keep(embeddings: Tensor) -> Tensor:
        leaves.append(embeddings.detach().requires_grad_())
        return leaves[0]

    layout = SequenceLayout.from_lengths([len(tokens)], tokens.device)
    select = torch.tensor([row], device=tokens.device)
    with evaluation_mode(roberta.model), torch.enable_grad():
        logits = roberta.model(tokens, layout, head, select, perturb=keep)  # (1, K)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return logits[0].log_softmax(dim=0, dtype=dtype), leaves[0]


def _saliency(value: Tensor, embeddings: Tensor) -> NDArray[np.float64]:
    (gradient,) = torch.autograd.grad(value, embeddings)
    return (gradient.double() * embeddings.detach().double()).sum(dim=1).cpu().numpy()


def page(inspection: Inspection) -> str:
    """Return an inspection as a web page of its own."""
    answers = "".join(_answer_html(inspection.tokens, answer) for answer in inspection.answers)
    means = inspection.attentions.mean(axis=1)  # (L, S, S)
    layers = "".join(_layer_html(inspection, number, mean) for number, mean in enumerate(means, start=1))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_escaped(inspection.text[:60])}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{_escaped(inspection.text)}</h1>\n{answers}"
        "<h2>Attention</h2>\n<p>Row by row, what each token attends to, from white for 0 to blue for 1; the shade goes "
        f"with the square root. Each layer's mean over its heads; open it to see them.</p>\n{layers}</body></html>\n"
    )


def _answer_html(tokens: Sequence[str], answer: Answer) -> str:
    largest = np.abs(answer.saliency).max() or 1.0
    spans = []
    for token, value in zip(tokens, answer.saliency.tolist(), strict=True):
        red, green, blue = _FOR if value >= 0 else _AGAINST
        colour = f"rgba({red},{green},{blue},{abs(value) / largest:.3f})"
        spans.append(f'<span style="background:{colour}" title="{value:+.4f}">{_escaped(token)}</span>')
    rows = "".join(f"<tr><td>{_escaped(name)}</td><td>{p:.4f}</td></tr>" for name, p in answer.likeliest)
    return (
        f"<h2>{_escaped(answer.place)}: {_escaped(answer.likeliest[0][0])}</h2>\n<table>{rows}</table>\n"
        f'<p class="tokens">{"".join(spans)}</p>\n<p>Gradient x input: orange tokens speak for '
        f"&ldquo;{_escaped(answer.likeliest[0][0].strip())}&rdquo;, blue ones against it; the strongest by "
        f"{largest:.4f} nats.</p>\n"
    )


def _layer_html(inspection: Inspection, number: int, mean: NDArray[np.float32]) -> str:
    heads = "".join(
        f"<figure>{_map_svg(inspection.tokens, attention)}<figcaption>head {head}</figcaption></figure>"
        for head, attention in enumerate(inspection.attentions[number - 1], start=1)
    )
    return (
        f"<details><summary>Layer {number}<br>{_map_svg(inspection.tokens, mean)}</summary>"
        f'<div class="heads">{heads}</div></details>\n'
    )


def _map_svg(tokens: Sequence[str], attention: NDArray[np.float32]) -> str:
    """Return a map as SVG: a picture of a pixel a cell, drawn large, with the tokens on the left and on top."""
    side = _CELL * len(tokens)
    size = side + _LABEL
    labels = []
    for index, token in enumerate(tokens):
        name, middle = _escaped(_label(token)), _LABEL + _CELL * (index + 0.72)
        labels.append(f'<text x="{_LABEL - 4}" y="{middle:.0f}" text-anchor="end">{name}</text>')
        labels.append(f'<text transform="translate({middle:.0f},{_LABEL - 4}) rotate(-90)">{name}</text>')
    image = base64.b64encode(_png(attention)).decode("ascii")
    return (
        f'<svg width="{size}" height="{size}" viewBox="0 0 {size} {size}" role="img">{"".join(labels)}'
        f'<image x="{_LABEL}" y="{_LABEL}" width="{side}" height="{side}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{image}"/></svg>'
    )


def _png(values: NDArray[np.float32]) -> bytes:
    """Return numbers from 0 to 1 (S, S) as a PNG with a palette from white to the darkest colour."""
    shades = np.sqrt(values.clip(0.0, 1.0))
    pixels = np.rint(255 * shades).astype(np.uint8)
    palette = np.rint(np.linspace((255, 255, 255), _DARKEST, 256)).astype(np.uint8)
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)  # 0: no filter
    height, width = pixels.shape
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),  # 8 bits, with a palette
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def picture(inspection: Inspection) -> Any:
    """Return a matplotlib Figure: a strip of tokens for each answer, below it each layer's mean attention.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    count, num_layers, answers = len(inspection.tokens), len(inspection.attentions), inspection.answers
    columns = min(4, num_layers)
    rows = -(-num_layers // columns)
    width = max(7.0, columns * max(2.4, 0.16 * count))
    figure = figure_class()(figsize=(width, len(answers) * 1.9 + rows * width / columns), dpi=130, layout="constrained")
    heights = [1.9] * len(answers) + [width / columns] * rows
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for row, answer in enumerate(answers):
        _draw_answer(figure.add_subplot(grid[row, :]), inspection.tokens, answer)
    for layer, mean in enumerate(inspection.attentions.mean(axis=1)):
        axes = figure.add_subplot(grid[len(answers) + layer // columns, layer % columns])
        axes.imshow(np.sqrt(mean), cmap="Blues", vmin=0.0, vmax=1.0)
        _name_ticks(axes, "x", inspection.tokens)
        _name_ticks(axes, "y", inspection.tokens if layer % columns == 0 else ())
        axes.set_title(f"layer {layer + 1}, mean of heads", fontsize=8)
    return figure


def _draw_answer(axes: Any, tokens: Sequence[str], answer: Answer) -> None:
    colours = ["#d66e14" if value >= 0 else "#2864be" for value in answer.saliency]
    axes.bar(range(len(tokens)), answer.saliency, color=colours)
    axes.axhline(0.0, color="#999999", linewidth=0.8)
    axes.margins(x=0.01)
    _name_ticks(axes, "x", tokens)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylabel("gradient x input", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    name, probability = answer.likeliest[0]
    axes.set_title(literal(f"{answer.place}: “{name.strip()}” ({probability:.3f})"), fontsize=9, loc="left")


def _name_ticks(axes: Any, direction: str, tokens: Sequence[str]) -> None:
    set_ticks = axes.set_xticks if direction == "x" else axes.set_yticks
    names = [literal(_label(token)) for token in tokens]
    axes.tick_params(length=2, color="#999999")
    axes.spines[:].set_color("#999999")
    set_ticks(range(len(tokens)), labels=names, fontsize=7, rotation=90 if direction == "x" else 0)


def _label(token: str) -> str:
    flat = token.strip() or "␣"
    return shortened(flat, _LONGEST_LABEL)


def _escaped(text: str) -> str:
    """Return a text as it may stand in HTML; control characters, which may not, become U+FFFD."""
    visible = "".join("\ufffd" if unicodedata.category(c) in _UNFIT and c not in "\n\t" else c for c in text)
    return html.escape(visible)
