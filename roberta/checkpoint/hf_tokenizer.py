"""The tokenizer's files in a folder of Hugging Face transformers.

    vocab.json, merges.txt      tokens by their ids in the model, and the merges; what older releases write, with
                                added_tokens.json where there are any
    tokenizer.json              all of it, and how texts are split; what transformers 5 writes, alone

Both are written. `tokenizer.json` carries the rule that the space before `<mask>` belongs to it, which transformers 5
forgets without it. In a text transformers takes the names of special tokens for these tokens; here they are characters.
Symbols added after `<mask>` are added tokens there too, and found in texts likewise.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from roberta.bpe.gpt2 import ALPHABET, ENCODER_NAMES, GPT2BPE, MERGES_NAMES
from roberta.checkpoint.foreign import spell
from roberta.data.dictionary import MASK, SPECIALS, Dictionary
from roberta.data.tokenizer import Tokenizer, has_vocabulary
from roberta.errors import VocabError
from roberta.files import read_json, write_text

TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
MERGES, VOCAB, ADDED = MERGES_NAMES[1], ENCODER_NAMES[1], "added_tokens.json"
FILES = (TOKENIZER, TOKENIZER_CONFIG, MERGES, VOCAB, ADDED)

# What must be so in tokenizer.json where it is said at all: texts are split and merged in one way here.
_SPLITTING = {"add_prefix_space": False, "use_regex": True}
_MERGING = {"dropout": 0, "ignore_merges": False, "continuing_subword_prefix": "", "end_of_word_suffix": ""}
_FINDING = {"single_word": False, "lstrip": False, "rstrip": False}

_NAMES = ("Roberta", "Bart", "Longformer")
# Which frame texts themselves, whatever the file says; None is what RoBERTa models have.
_CLASSES = (None, *(name + kind for name in _NAMES for kind in ("Tokenizer", "TokenizerFast")))
_FRAMES = {"single": ["<s>", "A", "</s>"], "pair": ["<s>", "A", "</s>", "</s>", "B", "</s>"]}

_ROLES = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
}


def read(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder, from tokenizer.json if there, otherwise from vocab.json and merges.txt.

    A folder without any of them has RoBERTa's own, as that of a model saved alone.

    Raises:
        VocabError: a file is damaged, is not a byte-level BPE with the special tokens of RoBERTa, or has a rule for
            texts that is not followed here.
    """
    path = folder / TOKENIZER
    settings = _read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    _check_rules(settings, {"add_prefix_space": False}, folder / TOKENIZER_CONFIG)
    if not path.is_file():
        return _with_added(Tokenizer.load(folder if has_vocabulary(folder) else None), folder / ADDED)
    vocab, merges, symbols = _parts(path, settings.get("tokenizer_class"))
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        try:
            _write_parts(temporary, vocab, merges)
            return Tokenizer.load(temporary).with_symbols(symbols)
        except UnicodeEncodeError as error:
            raise VocabError(f"{path}: a token has half of a surrogate pair: {error}; restore the file") from error
        except VocabError as error:
            raise VocabError(f"{path}: {str(error).replace(str(temporary), str(folder))}") from error


def _with_added(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    """Return a tokenizer with the tokens of an added_tokens.json that are not in its dictionary, if there is one."""
    ids = _read_json(path) if path.is_file() else {}
    known, first = set(tokenizer.dictionary.symbols), len(tokenizer.dictionary)
    new = {token: number for token, number in ids.items() if token not in known}
    if any(type(number) is not int for number in new.values()) or {*new.values()} != {*range(first, first + len(new))}:
        raise VocabError(f"{path}: the ids of its {len(new)} new tokens are not {first} and on; restore the file")
    return tokenizer.with_symbols(sorted(new, key=new.__getitem__))


def write(folder: Path, tokenizer: Tokenizer, *, max_tokens: int) -> None:
    """Write the files into a folder; `max_tokens` is the longest sequence of the model, in tokens.

    Raises:
        VocabError: the dictionary lacks a token of the BPE, or two ids have one name.
        StorageError: a file can't be written.
    """
    vocab, merges = _vocab(tokenizer), list(_gpt2(tokenizer).merges)
    mask = _added(MASK)
    added = [*map(_added, SPECIALS), mask, *map(_added, tokenizer.added_symbols)]
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


def _parts(path: Path, name: Any) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return the vocabulary up to `<mask>`, the merges and the symbols added after it, of a tokenizer.json.

    name: of the class that transformers opens the file with; None is RoBERTa's.
    """
    values = _read_json(path)
    model, splitter = values.get("model"), values.get("pre_tokenizer")
    if not isinstance(model, dict) or not isinstance(splitter, dict):
        raise VocabError(f"{path}: it has no model or no pre_tokenizer; restore the file")
    if model.get("type") != "BPE" or splitter.get("type") != "ByteLevel":
        raise VocabError(f"{path}: {model.get('type')} of {splitter.get('type')}; allowed: BPE of ByteLevel")
    _check_rules(values, {"normalizer": None}, path)
    if name not in _CLASSES:
        _check_frame(values.get("post_processor"), path)
    _check_rules(splitter, _SPLITTING, path)
    _check_rules(model, _MERGING, path)
    vocab, merges, added = model.get("vocab"), model.get("merges"), values.get("added_tokens", [])
    if not isinstance(vocab, dict) or not isinstance(merges, list) or not isinstance(added, list):
        raise VocabError(f"{path}: it has no vocab, merges or added_tokens; restore the file")
    try:
        vocab = vocab | {token["content"]: token["id"] for token in added}
        new = {token["id"]: token for token in added if token["id"] > vocab.get(MASK, len(vocab))}
        symbols = [new[number]["content"] for number in sorted(new)]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    except (KeyError, TypeError) as error:
        raise VocabError(f"{path}: a merge or an added token is damaged: {error}; restore the file") from error
    if sorted(new) != list(range(len(vocab) - len(symbols), len(vocab))):
        raise VocabError(f"{path}: the ids of its {len(vocab)} tokens are not 0 to {len(vocab) - 1}; restore the file")
    for token in new.values():
        _check_rules(token, _FINDING, path)
    return {token: number for token, number in vocab.items() if token not in symbols}, merges, symbols


def _check_frame(processor: Any, path: Path) -> None:
    """Refuse a file that frames texts otherwise than `<s> text </s></s> text </s>`, as far as that can be told."""
    values = processor if isinstance(processor, dict) else {}
    if values.get("type") == "Sequence" and isinstance(values.get("processors"), list):
        parts = [part for part in values["processors"] if isinstance(part, dict) and part.get("type") != "ByteLevel"]
        values = parts[0] if len(parts) == 1 else {}
    kind = values.get("type")
    is_template = kind == "TemplateProcessing"
    if kind != "RobertaProcessing" and not (is_template and {k: _pieces(values.get(k)) for k in _FRAMES} == _FRAMES):
        raise VocabError(
            f"{path}: post_processor is {spell(kind)}; allowed: RobertaProcessing, or a TemplateProcessing that puts "
            "texts between <s>, </s></s> and </s>, as no other is followed here"
        )


def _pieces(template: Any) -> list[Any] | None:
    """Return the names of what a template is made of; None if it makes no sense."""
    if not isinstance(template, list) or not all(isinstance(piece, dict) for piece in template):
        return None
    return [part.get("id") for piece in template for part in piece.values() if isinstance(part, dict)]


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, VocabError, missing="without it the tokenizer is not whole")


def _check_rules(values: dict[str, Any], rules: dict[str, Any], path: Path) -> None:
    for name, value in rules.items():
        if values.get(name) not in (None, value):
            raise VocabError(
                f"{path}: {name} is {spell(values[name])}; allowed: {value!r}, as no other rule is followed here"
            )


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
    """Return how a special token or an added symbol is found in a text; `<mask>` takes the space before it."""
    return {
        "content": token,
        "single_word": False,
        "lstrip": token == MASK,
        "rstrip": False,
        "normalized": False,
        "special": token in (*SPECIALS, MASK),
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
