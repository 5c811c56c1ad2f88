"""A pretrained model with its tokenizer: from texts to tokens and back, its heads, its forms and its files.

Shapes: B sequences, S padded length.
"""

import logging
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from roberta.checkpoint import native, onnx_format
from roberta.data.tokenizer import Span, Tokenizer
from roberta.errors import DataError
from roberta.hub import alignment, border
from roberta.hub.border import BATCH_TOKENS, Engine, Text, as_sequences, as_word_list
from roberta.model_card import write_card
from roberta.models.heads import ClassificationHeadConfig
from roberta.models.linear import CpuEngineChoice
from roberta.models.roberta import RobertaModel
from roberta.progress import in_millions

logger = logging.getLogger(__name__)


class HubModel(nn.Module):
    """RoBERTa and its tokenizer.

    `.cuda()`, `.half()`, `.eval()`, `.train()` and the like act on the model as on any module.
    `batch_tokens` is how many tokens go through the model at once where there is a list; raise it on a large GPU.
    """

    def __init__(self, model: RobertaModel, tokenizer: Tokenizer, *, batch_tokens: int = BATCH_TOKENS) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.train(model.training)

    def __repr__(self) -> str:
        config = self.model.config
        return (
            f"{type(self).__name__}({config.encoder_layers} layers, embed_dim {config.embed_dim}, "
            f"{in_millions(self.model.num_parameters)}M parameters{self._precision}, "
            f"{'' if self.model.cpu_engine == 'torch' else f'products by {self.model.cpu_engine}, '}"
            f"vocabulary {config.vocab_size}, max_tokens {self.max_tokens}, "
            f"heads: {', '.join(self.model.heads) or 'none'}, {self.device}, "
            f"{'training' if self.training else 'evaluation'} mode)"
        )

    @property
    def _precision(self) -> str:
        """Return in which number format the parameters are; nothing for single precision."""
        dtype = self.model.encoder.embed_tokens.weight.dtype
        name = "int8" if self.model.is_int8 else str(dtype).removeprefix("torch.")
        return "" if name == "float32" else f" in {name}"

    @property
    def device(self) -> torch.device:
        """Where the model is, and where tokens are moved to."""
        return border.device_of(self.model)

    @property
    def max_tokens(self) -> int:
        """The longest sequence the model takes, in tokens, `<s>` and `</s>` included.

        >>> roberta.max_tokens
        512
        """
        return self.model.config.max_positions

    def encode(self, sentence: str, *addl_sentences: str, no_separator: bool = False, truncate: bool = False) -> Tensor:
        """Return the token ids of `<s> sentence </s>`, each further sentence as `</s> sentence </s>`: (S,) int64.

        With `no_separator` a further sentence has no `</s>` before it. Special tokens in the text are plain characters.
        `truncate` cuts the ends of the longest sentences until all fit into `max_tokens`; without it the length is not
        limited here, and the model says so when it is too long.

        Raises:
            DataError: something other than a string was given.

        >>> roberta.encode("Hello world!")
        tensor([    0, 31414,   232,   328,     2])
        """
        sentences = (sentence, *addl_sentences)
        if wrong := [type(text).__name__ for text in sentences if not isinstance(text, str)]:
            raise DataError(f"encode takes strings, not {wrong[0]}; use encode_batch for a list")
        limit = self.max_tokens if truncate else None
        return torch.tensor(self.tokenizer.encode_sequence(*sentences, separator=not no_separator, max_tokens=limit))

    def encode_batch(self, texts: Sequence[Text], *, truncate: bool = False) -> Tensor:
        """Return the token ids of texts, or of tuples of texts such as pairs, padded on the right: (B, S) int64.

        Raises:
            DataError: an item is neither a string nor a tuple or list of strings, or they are in a tuple, not a list.

        >>> roberta.encode_batch(["Hello world!", ("Hello", " world")])
        tensor([[    0, 31414,   232,   328,     2,     1],
                [    0, 31414,     2,     2,   232,     2]])
        """
        if isinstance(texts, tuple) and texts and all(isinstance(text, str) for text in texts):
            raise DataError("a tuple of texts may be a pair or a batch; give a list: [pair], or [text, text]")
        sequences = self._engine.encode(as_sequences(texts)[0], truncate=truncate)
        return border.padded(sequences, self.tokenizer.dictionary.pad)

    def encode_words(self, words: Sequence[str]) -> alignment.EncodedWords:
        """Return the tokens of a list of words, the word of each token, and the characters each token touches.

        A space is put between any two words, so the tokens are those of the running text. The spans count characters
        of `.text`, the words with their spaces.

        Raises:
            DataError: not a list of strings, or a word is empty.

        >>> encoded = roberta.encode_words(["Hello", "don't"])
        >>> encoded.word_ids
        (None, 0, 1, 1, None)
        >>> encoded.character_spans
        ((0, 0), (0, 5), (5, 9), (9, 11), (11, 11))
        """
        return alignment.encode_words(self.tokenizer, words)

    def character_spans(self, text: str) -> list[Span]:
        """Return the characters that each token of `encode(text)` touches, as (start, end); empty for `<s>` and `</s>`.

        The space that a token begins with is in its span. A character that several tokens share is in the span of each.

        Raises:
            DataError: not a string.

        >>> roberta.character_spans("Hello 😀")
        [(0, 0), (0, 5), (5, 7), (6, 7), (7, 7)]
        """
        if not isinstance(text, str):
            raise DataError(f"character_spans takes a text, not {text!r:.60}")
        return [(0, 0), *self.tokenizer.align(text).character_spans, (len(text), len(text))]

    def windows(self, tokens: Tensor, *, max_tokens: int | None = None, stride: int | None = None) -> Tensor:
        """Return the tokens of one long text as sequences that the model takes, padded on the right: (B, S) int64.

        tokens: (L,) from `encode`. Each window begins with `<s>`, ends with `</s>`, and has at most `max_tokens`, as
        many as the model takes if not given. It begins `stride` tokens after the one before; without it they do not
        overlap. The last one ends with the text.

        Raises:
            DataError: not the tokens of one text, or `max_tokens` or `stride` is out of range.

        >>> roberta.windows(roberta.encode("one two three four"), max_tokens=4, stride=1)
        tensor([[   0, 1264,   80,    2],
                [   0,   80,  130,    2],
                [   0,  130,  237,    2]])
        """
        return border.windows(tokens, self._engine, max_tokens=max_tokens, stride=stride)

    def decode(self, tokens: Tensor) -> str | list[Any]:
        """Return the text of (S,) token ids, a list of texts if they hold several; a list of those for (B, S).

        `<pad>` on either side vanishes; `<mask>` appears as it is. Any device.

        Raises:
            DataError: not a tensor of one or two dimensions, or holds ids outside the vocabulary.

        >>> roberta.decode(roberta.encode_batch(["Hello world!", ("Hello", "you")]))
        ['Hello world!', ['Hello', 'you']]
        """
        return border.decode(tokens, self._engine)

    def register_classification_head(
        self, name: str, num_classes: int, inner_dim: int | None = None, labels: Sequence[str] = ()
    ) -> None:
        """Add a new classification head, or replace the one of that name; it is trained through `predict`.

        inner_dim: width of its dense layer, embed_dim where not given. labels: names of the classes, in order.

        Raises:
            ConfigError: num_classes is no number or below 1, or there is not one label for each class.
            DataError: labels are no list of strings.

        >>> roberta.register_classification_head("topic", 2, labels=["sport", "politics"])
        >>> roberta.predict("topic", "The match ended 3:2.").label in ("sport", "politics")
        True
        """
        names = tuple(as_word_list(labels, "labels"))
        # Numbers of numpy's are numbers too.
        sizes = {"num_classes": num_classes, "inner_dim": inner_dim}
        whole: dict[str, Any] = {key: int(n) if isinstance(n, Integral) else n for key, n in sizes.items()}
        self.register_head(name, ClassificationHeadConfig(**whole, labels=names))

    def register_head(self, name: str, config: Any) -> None:
        """Add a new head of any kind, or replace the one of that name; heads of all kinds go side by side.

        config: one of `roberta.models.heads`, such as `RegressionHeadConfig(maximum=5.0)` or `TaggingHeadConfig`.

        Raises:
            ConfigError: the name can't name a head, or the config is not that of a head.

        >>> from roberta.models.heads import TaggingHeadConfig
        >>> roberta.register_head("tags", TaggingHeadConfig(num_classes=2, labels=("O", "NAME")))
        >>> len(roberta.predict("tags", "Ada was born in London."))  # one for each token between <s> and </s>
        7
        """
        replaced = self.model.head_configs.get(name)
        self.model.register_head(name, config)
        if replaced is not None:
            logger.warning("the head %r that was there, %s, is replaced by one of random weights", name, replaced)

    def add_tokens(self, symbols: Sequence[str]) -> None:
        """Add symbols that `encode` finds in texts as one token each; all old token ids stay, `<mask>` included.

        Their embeddings, and their outputs in masked-LM heads, begin as the mean of those there are. The parameters
        that grow are new ones: make optimizers afterwards. Checkpoints of ours keep the symbols.

        Raises:
            VocabError: a symbol is there already, or can't stand in a dictionary. DataError: not a list.

        >>> roberta.add_tokens(["<gene>"])
        >>> roberta.encode("a <gene>")
        tensor([    0,   102,  1437, 50265,     2])
        """
        symbols = as_word_list(symbols, "symbols")
        tokenizer = self.tokenizer.with_symbols(symbols)
        self.model.add_symbols(len(symbols))
        self.tokenizer = tokenizer

    def set_cpu_engine(self, engine: CpuEngineChoice = "auto") -> Self:
        """Choose what multiplies matrices on a CPU, and return self: the fastest one differs by processor.

        "torch" is what models start with; "numpy" takes the BLAS of numpy, in fp32; "onednn", for a model in fp32 or
        bf16 that was frozen by `.requires_grad_(False)`, oneDNN with a second copy of the weights in its own layout;
        "auto" measures for some seconds and takes the fastest of those. Answers differ in the last bits; all else stays
        as it is.

        Raises:
            ConfigError: no such engine, it can't take this model's precision, the model isn't on the CPU, or "onednn"
                for one that isn't frozen.

        >>> roberta.set_cpu_engine("numpy").model.cpu_engine
        'numpy'
        """
        self.model.set_cpu_engine(engine)
        return self

    def int8(self) -> Self:
        """Turn the linear maps of the encoder's layers into int8 and return self: faster on a CPU, and a little off.

        Embeddings, attention, LayerNorms and heads stay in fp32. The model gives no gradients afterwards, and can't be
        moved, copied, saved or exported.

        Raises:
            ConfigError: the model isn't on the CPU in fp32, or is in int8 already.

        >>> roberta.int8().model.is_int8
        True
        """
        self.model.int8()
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model with all its heads, its tokenizer and a model card, as a folder that `from_pretrained` opens.

        A checkpoint of ours in a folder of that name is replaced; anything else there is not.

        Raises:
            ConfigError: modules of the model were exchanged, so that its config doesn't tell how to build it.
            StorageError: the folder can't be written, or holds other things than a checkpoint.

        >>> roberta.save_pretrained(folder / "mine")
        >>> from roberta.hub import from_pretrained
        >>> from_pretrained(folder / "mine").model.heads.keys() == roberta.model.heads.keys()
        True
        """
        native.save(Path(folder), self.model, self.tokenizer)
        write_card(Path(folder))

    def export_onnx(self, path: str | Path, head: str | None = None) -> None:
        """Write the model, with one head or none, as an ONNX file that takes padded tokens (B, S) of any B and S.

        Raises:
            ConfigError: there is no such head, the model is too large, or a package is missing. StorageError: the
                file can't be written.
        """
        onnx_format.export_onnx(self.model, Path(path), head)

    @property
    def _engine(self) -> Engine:
        return Engine(self.model, self.tokenizer, self.batch_tokens)
