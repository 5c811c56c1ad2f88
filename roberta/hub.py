"""The hub interface: a pretrained model and its tokenizer, as people use them in a notebook.

This is the only place where tokens are padded: 1-D and padded 2-D tensors come in and go out, packed ones inside.

Shapes: B sequences, S padded length, T packed tokens, C embed_dim, K classes.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roberta import pretrained
from roberta.data.batching import batches
from roberta.data.tokenizer import Tokenizer
from roberta.errors import DataError
from roberta.layout import SequenceLayout
from roberta.models.heads import ClassificationHeadConfig
from roberta.models.roberta import RobertaModel

MASK = "<mask>"
LM_HEAD = "lm"


def from_pretrained(name_or_path: str | Path, checkpoint_file: str = "model.pt") -> "RobertaHubInterface":
    """Return the hub interface of a released model, a run of ours, or a fairseq checkpoint, in evaluation mode.

    name_or_path: `roberta.base`, `roberta.large`, `roberta.large.mnli` (downloaded once), a run or checkpoint folder,
    a fairseq folder with its `checkpoint_file`, a `.pt` file, or a `.tar.gz` archive of such a folder.

    Raises:
        CheckpointError, DownloadError, VocabError: it can't be found, fetched or read; the message says why.
    """
    loaded = pretrained.load(name_or_path, checkpoint_file)
    return RobertaHubInterface(loaded.model, loaded.tokenizer)


class RobertaHubInterface(nn.Module):
    """RoBERTa with text on one side and tensors on the other.

    `.cuda()`, `.half()`, `.eval()`, `.train()` and the like act on the model as on any module.
    """

    def __init__(self, model: RobertaModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.train(model.training)

    def __repr__(self) -> str:
        config = self.model.config
        return (
            f"RobertaHubInterface({config.encoder_layers} layers, embed_dim {config.embed_dim}, "
            f"{sum(parameter.numel() for parameter in self.parameters()) / 1e6:.1f}M parameters, "
            f"vocabulary {config.vocab_size}, max_tokens {self.max_tokens}, "
            f"heads: {', '.join(self.model.heads) or 'none'}, {self.device}, "
            f"{'training' if self.training else 'evaluation'} mode)"
        )

    @property
    def device(self) -> torch.device:
        """Where the model is, and where tokens are moved to."""
        return self.model.encoder.embed_tokens.weight.device

    @property
    def max_tokens(self) -> int:
        """The longest sequence the model takes, in tokens, `<s>` and `</s>` included."""
        return self.model.config.max_positions

    def encode(self, sentence: str, *addl_sentences: str, no_separator: bool = False) -> Tensor:
        """Return the token ids of `<s> sentence </s>`, each further sentence as `</s> sentence </s>`: (S,) int64.

        With `no_separator` a further sentence has no `</s>` before it. Special tokens in the text are plain characters.
        The length is not limited here; the model says so when it is too long.

        Raises:
            DataError: something other than a string was given.
        """
        sentences = (sentence, *addl_sentences)
        for text in sentences:
            if not isinstance(text, str):
                raise DataError(f"encode takes strings, not {type(text).__name__}; call it once for each text")
        return torch.tensor(self.tokenizer.encode_sequence(*sentences, separator=not no_separator))

    def decode(self, tokens: Tensor) -> str | list[str]:
        """Return the text of a 1-D tensor of token ids; a list of texts if it holds several sentences.

        Raises:
            DataError: the tensor is not 1-D, or holds ids outside the vocabulary.
        """
        if tokens.dim() != 1:
            raise DataError(f"decode takes a 1-D tensor of token ids, not {tokens.dim()}-D; call it for each row")
        self._check_ids(tokens)
        return self.tokenizer.decode_sequence(tokens.tolist())

    def extract_features(self, tokens: Tensor, return_all_hiddens: bool = False) -> Tensor | list[Tensor]:
        """Return the features of the last layer, or of all layers beginning with the embedding output.

        tokens: (S,) or padded (B, S) int64, with `<pad>` on either side. Each result: (B, S, C), zero at `<pad>`.
        Gradients flow, as in training.

        Raises:
            DataError: a sequence is empty or longer than `max_tokens`, or an id is outside the vocabulary.
        """
        packed, layout, cells = self._pack(tokens)
        shape = (layout.num_sequences, tokens.shape[-1])
        if return_all_hiddens:
            return [_unpack(hidden, cells, shape) for hidden in self.model.encoder.all_hiddens(packed, layout)]
        return _unpack(self.model(packed, layout), cells, shape)

    def register_classification_head(
        self, name: str, num_classes: int, inner_dim: int | None = None, labels: Sequence[str] = ()
    ) -> None:
        """Add a new classification head, or replace the one of that name; it is trained through `predict`.

        inner_dim: width of its dense layer, embed_dim where not given. labels: names of the classes, in order.

        Raises:
            ConfigError: num_classes is below 1, or there is not one label for each class.
        """
        config = ClassificationHeadConfig(num_classes=num_classes, inner_dim=inner_dim, labels=tuple(labels))
        self.model.register_head(name, config)
        self.model.train(self.training)

    def predict(self, head: str, tokens: Tensor, return_logits: bool = False) -> Tensor:
        """Return the log-probabilities (or logits) of a classification head: (B, K). Gradients flow.

        tokens: (S,) or padded (B, S) int64.

        Raises:
            ConfigError: the model has no such head.
            DataError: a sequence is empty or longer than `max_tokens`, or an id is outside the vocabulary.
        """
        self.model.head_config(head)
        packed, layout, _ = self._pack(tokens)
        logits = self.model(packed, layout, head, layout.first)
        return logits if return_logits else F.log_softmax(logits, dim=-1)

    @torch.inference_mode()
    def predict_batches(
        self, head: str, sequences: Sequence[Sequence[int]], *, max_tokens: int = 4096
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield (indices, logits (M, K)) of a head for many sequences of token ids, batch by batch.

        Sequences of like length go together, at most `max_tokens` tokens at once; the longest come first, so that what
        does not fit into memory shows at once. Every index appears in exactly one batch.

        Raises:
            ConfigError: the model has no such head.
            DataError: a sequence is empty, too long, or holds an id outside the vocabulary.
        """
        self.model.head_config(head)
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        by_length = np.argsort(-lengths, kind="stable")
        offsets = batches(lengths[by_length], max_tokens=max(max_tokens, self.max_tokens))
        for start, end in pairwise(offsets.tolist()):
            indices = by_length[start:end].tolist()
            layout = SequenceLayout.from_lengths(lengths[indices], self.device)
            self._check_lengths(layout)
            packed = torch.tensor([token for index in indices for token in sequences[index]], dtype=torch.int64)
            self._check_ids(packed)
            yield indices, self.model(packed.to(self.device), layout, head, layout.first)

    @torch.inference_mode()
    def fill_mask(self, masked_input: str, topk: int = 5) -> list[tuple[str, float, str]]:
        """Return the likeliest tokens for the one `<mask>` of a text: (filled text, probability, token), best first.

        White space before `<mask>` belongs to the token that fills it. The model predicts in evaluation mode.

        Raises:
            DataError: the text does not hold exactly one `<mask>`, is too long, or `topk` is not in the vocabulary's
                range.
            ConfigError: the model has no masked-LM head.
        """
        found = masked_input.count(MASK)
        if found != 1:
            raise DataError(f"fill_mask takes a text with one {MASK}, not {found}, for example: 'He is a {MASK} guy'")
        self.model.head_config(LM_HEAD)
        dictionary = self.tokenizer.dictionary
        if not 1 <= topk <= len(dictionary):
            raise DataError(f"topk is {topk}; it must lie between 1 and the vocabulary's {len(dictionary)}")
        before, after = (self.tokenizer.encode(part.rstrip()) for part in masked_input.split(MASK))
        tokens = torch.tensor([dictionary.bos, *before, dictionary.mask, *after, dictionary.eos])
        packed, layout, _ = self._pack(tokens)
        select = torch.tensor([1 + len(before)], device=self.device)
        was_training = self.training
        self.eval()
        try:
            logits = self.model(packed, layout, LM_HEAD, select)[0]  # (V,)
        finally:
            self.train(was_training)
        probabilities, ids = logits.float().softmax(dim=0).topk(topk)
        gap = f" {MASK}" if f" {MASK}" in masked_input else MASK
        filled = []
        for probability, index in zip(probabilities.tolist(), ids.tolist(), strict=True):
            token = self.tokenizer.decode([index])
            filled.append((masked_input.replace(gap, token), probability, token))
        return filled

    def _pack(self, tokens: Tensor) -> tuple[Tensor, SequenceLayout, Tensor]:
        """Return the real tokens (T,), their layout, and the cell of each in the flattened (B * S) grid."""
        if tokens.dim() not in (1, 2) or tokens.is_floating_point():
            raise DataError(
                f"tokens must be a 1-D or 2-D tensor of ids, not {tokens.dtype} of shape {tuple(tokens.shape)}"
            )
        grid = tokens.unsqueeze(0) if tokens.dim() == 1 else tokens  # (B, S)
        self._check_ids(grid)
        is_token = grid != self.tokenizer.dictionary.pad
        layout = SequenceLayout.from_lengths(is_token.sum(dim=1).cpu().numpy(), self.device)
        self._check_lengths(layout)
        cells = is_token.flatten().nonzero().squeeze(1)  # (T,)
        packed = grid.flatten()[cells]
        return packed.to(self.device), layout, cells.to(self.device)

    def _check_ids(self, tokens: Tensor) -> None:
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.model.config.vocab_size:
            raise DataError(
                f"token ids from {int(tokens.min())} to {int(tokens.max())}; "
                f"the vocabulary has ids 0 to {self.model.config.vocab_size - 1}"
            )

    def _check_lengths(self, layout: SequenceLayout) -> None:
        for row, length in enumerate(layout.lengths):
            if not length:
                raise DataError(f"sequence {row} has no tokens; a sequence holds at least <s> and </s>")
            if length > self.max_tokens:
                raise DataError(
                    f"sequence {row} has {length} tokens; the model takes at most {self.max_tokens}: "
                    "shorten or split the text"
                )


def _unpack(packed: Tensor, cells: Tensor, shape: tuple[int, int]) -> Tensor:
    grid = packed.new_zeros((shape[0] * shape[1], packed.shape[1]))
    return grid.index_copy(0, cells, packed).view(*shape, -1)  # (B, S, C)
