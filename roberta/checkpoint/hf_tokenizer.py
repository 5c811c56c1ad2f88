"""The tokenizer's files in a folder of Hugging Face transformers.

    vocab.json, merges.txt      tokens by their ids in the model, and the merges; what older releases write
    tokenizer.json              all of it, and how texts are split; what transformers 5 writes, alone

Both are written. `tokenizer.json` carries the rule that the space before `<mask>` belongs to it, which transformers 5
forgets without it. In a text transformers takes the names of special tokens for these tokens; here they are characters.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from roberta.bpe.gpt2 import ALPHABET, ENCODER_NAMES, GPT2BPE, MERGES_NAMES, write_text
from roberta.checkpoint.folders import read_json
from roberta.data.dictionary import MASK, SPECIALS, Dictionary
from roberta.data.tokenizer import Tokenizer
from roberta.errors import CheckpointError, VocabError

TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
MERGES, VOCAB = MERGES_NAMES[1], ENCODER_NAMES[1]
FILES = (TOKENIZER, MERGES, VOCAB)

_ROLES = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
}


def read(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder, from vocab.json and merges.txt if there, otherwise from tokenizer.json.

    A folder without any of them has RoBERTa's own, as that of a model saved alone.

    Raises:
        VocabError: a file is damaged, or is not a byte-level BPE with the special tokens of RoBERTa.
    """
    path = folder / TOKENIZER
    if (folder / MERGES).is_file() or not path.is_file():
        return Tokenizer.load(folder)
    vocab, merges = _parts(path)
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        _write_parts(temporary, vocab, merges)
        try:
            return Tokenizer.load(temporary)
        except VocabError as error:
            raise VocabError(f"{path}: {str(error).replace(str(temporary), str(folder))}") from error


def write(folder: Path, tokenizer: Tokenizer, *, max_tokens: int) -> None:
    """Write the files into a folder; `max_tokens` is the longest sequence of the model, in tokens.

    Raises:
        VocabError: the dictionary lacks a token of the BPE, or two ids have one name.
        StorageError: a file can't be written.
    """
    vocab, merges = _vocab(tokenizer), list(_gpt2(tokenizer).merges)
    added = [_added(token) for token in (*SPECIALS, MASK)]
    mask = added[-1]
    _write_parts(folder, vocab, merges)
    write_text(folder / TOKENIZER, json.dumps(_tokenizer_json(vocab, merges, added), ensure_ascii=False))
    settings = {
        "tokenizer_class": "RobertaTokenizer",
        **_ROLES,
        "mask_token": {"__type": "AddedToken", **mask},
        "added_tokens_decoder": {str(vocab[token["content"]]): token for token in added},
        "add_prefix_space": False,
        "trim_offsets": True,
        "errors": "replace",
        "model_max_length": max_tokens,
    }
    write_text(folder / TOKENIZER_CONFIG, json.dumps(settings, indent=2) + "\n")
    write_text(folder / SPECIAL_TOKENS, json.dumps({**_ROLES, "mask_token": mask}, indent=2) + "\n")


def _parts(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the vocabulary and the merges of a tokenizer.json."""
    try:
        values = read_json(path)
    except CheckpointError as error:
        raise VocabError(str(error)) from error
    model, splitter = values.get("model"), values.get("pre_tokenizer")
    if not isinstance(model, dict) or not isinstance(splitter, dict):
        raise VocabError(f"{path}: it has no model or no pre_tokenizer; restore the file")
    if model.get("type") != "BPE" or splitter.get("type") != "ByteLevel":
        raise VocabError(f"{path}: {model.get('type')} of {splitter.get('type')}; allowed: BPE of ByteLevel")
    vocab, merges, added = model.get("vocab"), model.get("merges"), values.get("added_tokens", [])
    if not isinstance(vocab, dict) or not isinstance(merges, list) or not isinstance(added, list):
        raise VocabError(f"{path}: it has no vocab, merges or added_tokens; restore the file")
    try:
        extra = {token["content"]: token["id"] for token in added}
        return {**vocab, **extra}, [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    except (KeyError, TypeError) as error:
        raise VocabError(f"{path}: a merge or an added token is damaged: {error}; restore the file") from error


def _write_parts(folder: Path, vocab: dict[str, Any], merges: list[str]) -> None:
    write_text(folder / VOCAB, json.dumps(vocab, ensure_ascii=False))
    write_text(folder / MERGES, "\n".join(["#version: 0.2", *merges]) + "\n")


def _gpt2(tokenizer: Tokenizer) -> GPT2BPE:
    if not isinstance(tokenizer.bpe, GPT2BPE):
        raise VocabError(f"a Hugging Face folder holds a byte-level BPE, not a {type(tokenizer.bpe).__name__}")
    return tokenizer.bpe


def _vocab(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the id in the model of each token, in the order of the ids."""
    bpe, dictionary = _gpt2(tokenizer), tokenizer.dictionary
    token_of = dict(zip(bpe.symbols, sorted(bpe.encoder, key=bpe.encoder.__getitem__), strict=True))
    made = {*ALPHABET, *(merge.replace(" ", "") for merge in bpe.merges)}  # all that a text can become
    absent = [
        token for symbol, token in token_of.items() if token in made and dictionary.index(symbol) == Dictionary.unk
    ]
    if absent:
        raise VocabError(
            f"the dictionary lacks {len(absent)} tokens of the BPE, such as {absent[0]!r}; here they are <unk>, "
            "which a Hugging Face tokenizer can't express"
        )
    vocab = {token_of.get(symbol, symbol): index for index, symbol in enumerate(dictionary.symbols)}
    if len(vocab) < len(dictionary):
        raise VocabError(
            f"{len(dictionary) - len(vocab)} symbols of the dictionary are there twice, "
            "which a Hugging Face tokenizer can't express"
        )
    return vocab


def _added(token: str) -> dict[str, Any]:
    """Return how a special token is found in a text; `<mask>` takes the space before it."""
    return {
        "content": token,
        "single_word": False,
        "lstrip": token == MASK,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _tokenizer_json(vocab: dict[str, int], merges: list[str], added: list[dict[str, Any]]) -> dict[str, Any]:
    splitter = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocab[token["content"]], **token} for token in added],
        "normalizer": None,
        "pre_tokenizer": splitter,
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": ["</s>", Dictionary.eos],
            "cls": ["<s>", Dictionary.bos],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        "decoder": splitter,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
