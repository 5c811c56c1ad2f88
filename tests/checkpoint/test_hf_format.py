"""Hugging Face folders both ways: with transformers where it is installed, and by their files alone."""

import contextlib
import json
import logging
import math
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from roberta.bpe.gpt2 import ALPHABET, GPT2BPE
from roberta.checkpoint import hf_format, hf_tokenizer
from roberta.data.dictionary import Dictionary
from roberta.data.tokenizer import Tokenizer
from roberta.errors import CheckpointError, ConfigError, VocabError
from roberta.layout import SequenceLayout
from roberta.models.heads import (
    ChoiceHeadConfig,
    ClassificationHeadConfig,
    MaskedLMHeadConfig,
    RegressionHeadConfig,
    SpanHeadConfig,
    TaggingHeadConfig,
    select_rows,
)
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.pretrained import load
from tests.builders import make_tiny_model

TEXTS = [
    "Hello world!",
    " two  spaces,\ttabs\n\nand lines ",
    "Zoë’s naïve 🤗s don't\u200bcost 1,000.50€",
    "한국어 中文 العربية \u00ad\x00\x7f\ufeff",
    "x" * 50,
    " ",
    "<|endoftext|> <maske>",
]


@pytest.fixture(scope="module")
def transformers():
    """Return the package, or skip."""
    return pytest.importorskip("transformers", reason="needs transformers: pip install transformers")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Return a BPE of two merges with a made-up word at the end of its dictionary: 265 tokens."""
    bpe = GPT2BPE(["h e", "Ġ he"])
    symbols = [str(index) for index in reversed(range(259))] + ["madeupword0000"]
    return Tokenizer(bpe, Dictionary(symbols, [0] * len(symbols)))


@pytest.fixture(scope="module")
def model(tokenizer) -> RobertaModel:
    """Return a model with two heads, "lm" and "topic", in fp32."""
    shape = {"encoder_layers": 2, "embed_dim": 12, "ffn_embed_dim": 20, "attention_heads": 3, "max_positions": 30}
    return make_tiny_model(RobertaConfig(vocab_size=len(tokenizer.dictionary), **shape)).float()


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    hf_format.write(tmp_path / "model", model, tokenizer, "lm")
    return tmp_path / "model"


def edit(folder, **options) -> None:
    """Change options of config.json; None removes one."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **options}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def edit_tensors(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def assert_same_state(state, model, *heads) -> None:
    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(("encoder.", *(f"heads.{head}." for head in heads)))
    }
    assert state.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []


def test_a_written_folder_has_these_files_and_no_others(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "merges.txt",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_the_config_is_in_the_words_of_transformers(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "model_type": "roberta",
        "architectures": ["RobertaForMaskedLM"],
        "tie_word_embeddings": True,
        "vocab_size": 265,
        "num_hidden_layers": 2,
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_attention_heads": 3,
        "max_position_embeddings": 32,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "layer_norm_eps": 1e-5,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }


def test_what_is_written_is_read_bit_for_bit(folder, model):
    found = hf_format.read(folder)
    assert found.config == model.config
    assert found.heads == {"lm": MaskedLMHeadConfig()}
    assert_same_state(found.state_dict, model, "lm")


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("classification", ClassificationHeadConfig(num_classes=2, labels=("no", "yes"), dropout=0.3)),
        ("tagging", TaggingHeadConfig(num_classes=3, labels=("O", "B", "I"), dropout=0.3)),
        ("tagging", TaggingHeadConfig(num_classes=1)),
        ("regression", RegressionHeadConfig(dropout=0.3)),
        ("choice", ChoiceHeadConfig(dropout=0.3)),
        ("span", SpanHeadConfig()),
    ],
)
def test_a_head_keeps_its_options_and_is_named_as_its_kind(name, head, model, tokenizer, tmp_path):
    model = make_tiny_model(model.config).float()
    model.register_head(name, head)
    hf_format.write(tmp_path / "model", model, tokenizer, name)
    found = hf_format.read(tmp_path / "model")
    assert found.heads == {name: head}
    assert_same_state(found.state_dict, model, name)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (RegressionHeadConfig(minimum=0.0, maximum=5.0), "its scale has no place .* 0 stands for 0 and 1 for 5"),
        (SpanHeadConfig(dropout=0.2), "its dropout 0.2 has no place"),
    ],
)
def test_what_a_folder_has_no_place_for_is_logged(head, message, model, tokenizer, tmp_path, caplog):
    model = RobertaModel(model.config)
    model.register_head("x", head)
    with caplog.at_level(logging.WARNING, logger="roberta"):
        hf_format.write(tmp_path / "model", model, tokenizer)
    assert re.search(f"head 'x': {message}", caplog.text)


@pytest.mark.parametrize(
    ("architectures", "pooler", "expected"),
    [
        (None, False, TaggingHeadConfig(num_classes=1, dropout=0.1)),
        (None, True, ChoiceHeadConfig(dropout=0.1)),
        (["RobertaForTokenClassification"], True, TaggingHeadConfig(num_classes=1, dropout=0.1)),  # of old releases
        ("RobertaForTokenClassification", True, ChoiceHeadConfig(dropout=0.1)),
    ],
)
def test_a_lone_classifier_is_told_by_the_class_or_else_by_the_pooler(architectures, pooler, expected, folder):
    def change(tensors):
        for name in [name for name in tensors if name.startswith("lm_head.")]:
            del tensors[name]
        tensors |= {"classifier.weight": torch.zeros(1, 12), "classifier.bias": torch.zeros(1)}
        if pooler:
            tensors |= {
                "roberta.pooler.dense.weight": torch.zeros(12, 12),
                "roberta.pooler.dense.bias": torch.zeros(12),
            }

    edit_tensors(folder, change)
    edit(folder, architectures=architectures)
    assert list(load(folder).model.head_configs.values()) == [expected]


def test_a_choice_head_without_its_dense_layer_is_refused(model, tokenizer, tmp_path):
    model = RobertaModel(model.config)
    model.register_head("x", ChoiceHeadConfig())
    hf_format.write(tmp_path / "model", model, tokenizer)
    edit_tensors(tmp_path / "model", lambda tensors: tensors.pop("roberta.pooler.dense.weight"))
    with pytest.raises(CheckpointError, match=r"missing: roberta\.pooler\.dense\.weight"):
        hf_format.read(tmp_path / "model")


@pytest.mark.parametrize("num_classes", [1, 3])
def test_classes_that_do_not_exclude_each_other_are_classes(num_classes, model, tokenizer, tmp_path):
    model = RobertaModel(model.config)
    model.register_head("x", ClassificationHeadConfig(num_classes=num_classes))
    hf_format.write(tmp_path / "model", model, tokenizer)
    edit(tmp_path / "model", problem_type="multi_label_classification")
    several = ClassificationHeadConfig(num_classes=num_classes, multi_label=True)
    assert hf_format.read(tmp_path / "model").heads == {"classification": several}
    model.register_head("x", several)
    hf_format.write(tmp_path / "again", model, tokenizer)
    assert json.loads((tmp_path / "again/config.json").read_text())["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_fp32(dtype, folder):
    halves = {}

    def halve(tensors):
        halves.update({name: tensor.to(dtype) for name, tensor in tensors.items()})
        tensors.update(halves)

    edit_tensors(folder, halve)
    state = hf_format.read(folder).state_dict
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert torch.equal(state["heads.lm.bias"], halves["lm_head.bias"].float())
    assert load(folder).model.encoder.embed_tokens.weight.dtype == torch.float32


def test_an_untied_projection_is_kept(model, tokenizer, tmp_path):
    model = RobertaModel(model.config)
    model.register_head("lm", MaskedLMHeadConfig(tied=False))
    torch.nn.init.normal_(model.heads["lm"].weight)
    torch.nn.init.normal_(model.heads["lm"].bias)
    hf_format.write(tmp_path / "model", model, tokenizer)
    found = hf_format.read(tmp_path / "model")
    assert not found.heads["lm"].tied
    assert_same_state(found.state_dict, model, "lm")


def test_an_untied_projection_that_is_absent_is_missing(folder):
    edit(folder, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.decoder\.weight"):
        hf_format.read(folder)


def test_a_model_without_heads_is_written_and_read(model, tokenizer, tmp_path):
    bare = RobertaModel(model.config)
    hf_format.write(tmp_path / "model", bare, tokenizer)
    found = hf_format.read(tmp_path / "model")
    assert found.heads == {}
    assert_same_state(found.state_dict, bare)


def test_weights_in_shards_and_in_a_pickle_are_the_same(folder, model):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert_same_state(hf_format.read(folder).state_dict, model, "lm")
    (folder / "pytorch_model.bin").unlink()
    names = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for shard in set(names.values()):
        save_file({name: tensors[name] for name in tensors if names[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert_same_state(hf_format.read(folder).state_dict, model, "lm")


def test_names_of_old_releases_and_what_says_nothing_are_understood(folder, model):
    def age(tensors):
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)
        tensors["roberta.embeddings.position_ids"] = torch.arange(32)
        tensors["roberta.pooler.dense.weight"] = torch.zeros(12, 12)
        tensors["lm_head.decoder.weight"] = tensors["roberta.embeddings.word_embeddings.weight"].clone()
        tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"].clone()

    edit_tensors(folder, age)
    found = hf_format.read(folder)
    assert found.heads == {"lm": MaskedLMHeadConfig(tied=True)}
    assert_same_state(found.state_dict, model, "lm")


def test_the_one_token_type_is_folded_into_the_positions(folder, model):
    row = torch.arange(12.0)[None]
    edit_tensors(folder, lambda tensors: tensors.update({"roberta.embeddings.token_type_embeddings.weight": row}))
    positions = hf_format.read(folder).state_dict["encoder.embed_positions.weight"]
    assert torch.equal(positions, model.encoder.embed_positions.weight + row)


def test_the_token_type_of_half_precision_is_added_in_fp32(folder):
    row = torch.linspace(0.1, 0.2, 12).half()[None]

    def change(tensors):
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})
        tensors["roberta.embeddings.token_type_embeddings.weight"] = row

    edit_tensors(folder, change)
    stored = load_file(folder / "model.safetensors")["roberta.embeddings.position_embeddings.weight"]
    positions = hf_format.read(folder).state_dict["encoder.embed_positions.weight"]
    assert torch.equal(positions, stored.float() + row.float())
    assert not torch.equal(positions, (stored + row).float())


def test_projections_that_are_single_numbers_are_refused(folder):
    def change(tensors):
        for part in ("query", "key", "value"):
            tensors[f"roberta.encoder.layer.0.attention.self.{part}.bias"] = torch.tensor(1.0)

    edit_tensors(folder, change)
    with pytest.raises(CheckpointError, match=r"q_proj\.bias and those of k and v beside it are single numbers"):
        hf_format.read(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "robert"}, "model_type is 'robert'; only models of type roberta are read"),
        ({"model_type": "t5"}, "model_type is 't5'; only models of type roberta are read$"),
        ({"type_vocab_size": 2}, "type_vocab_size is 2; allowed: 1, .* cut token_type_embeddings.weight"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0.0; it must lie in"),
        ({"layer_norm_eps": "1e-5"}, "layer_norm_eps is '1e-5'; allowed"),
        ({"pad_token_id": 0}, "pad_token_id is 0; allowed: 1"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True; allowed: False"),
        ({"hidden_size": "12"}, "hidden_size is '12'; allowed: 1 to"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; allowed: 1 to 1000"),
        ({"num_attention_heads": 5}, "embed_dim 12 is not a multiple of attention_heads 5"),
        ({"max_position_embeddings": 2}, "max_positions is 0"),
        ({"max_position_embeddings": 33}, r"of another shape: encoder\.embed_positions\.weight"),
        ({"hidden_act": "gelu_knew"}, "hidden_act is 'gelu_knew'; allowed: gelu, .*; did you mean gelu_new"),
        ({"hidden_act": ["gelu"]}, "hidden_act is a list"),
        ({"hidden_dropout_prob": math.nan}, "hidden_dropout_prob is nan"),
        ({"num_hidden_layers": 1}, r"unknown: roberta\.encoder\.layer\.1\.attention"),
        ({"num_hidden_layers": 3}, r"missing: roberta\.encoder\.layer\.2\.attention"),
    ],
)
def test_options_that_can_not_be_read_are_refused(options, message, folder):
    edit(folder, **options)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_missing_and_unknown_tensors_are_listed_in_one_error(folder):
    def change(tensors):
        tensors["lm_head.extra.weight"] = tensors.pop("lm_head.dense.weight")

    edit_tensors(folder, change)
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.dense\.weight; unknown: lm_head\.extra\.weight"):
        hf_format.read(folder)


@pytest.mark.parametrize(
    ("id2label", "message"),
    [
        ({"0": "a", "1": "b"}, "names 2 classes; the classifier has 3"),
        ({"1": "a", "2": "b", "3": "c"}, "from 0"),
        (["a", "b", "c"], "not an object"),
        ({"0": 1, "1": 2, "2": 3}, "not an object of id: name"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(id2label, message, model, tokenizer, tmp_path):
    hf_format.write(tmp_path / "model", model, tokenizer, "topic")
    edit(tmp_path / "model", id2label=id2label)
    with pytest.raises(CheckpointError, match=message):
        hf_format.read(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_damaged_files_are_named(name, content, folder):
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        hf_format.read(folder)


def test_a_folder_without_weights_says_what_to_copy(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors, .* or pytorch_model\.bin"):
        hf_format.read(folder)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "pytorch_model.bin"])
def test_shards_elsewhere_are_refused(shard, folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": shard}}))
    with pytest.raises(CheckpointError, match="refused: .* is not a safetensors file beside it"):
        hf_format.read(folder)


def test_a_pickle_that_names_code_is_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"x": print}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="refused global"):
        hf_format.read(folder)


def test_one_of_several_heads_must_be_named(model, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="holds one head; name it .*: lm, topic"):
        hf_format.write(tmp_path / "model", model, tokenizer)
    with pytest.raises(ConfigError, match="no head 'topics'; .* did you mean topic"):
        hf_format.write(tmp_path / "model", model, tokenizer, "topics")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (MaskedLMHeadConfig(activation_fn="relu"), "activation_fn is relu; in a Hugging Face folder it is gelu"),
        (ClassificationHeadConfig(num_classes=2, activation_fn="relu"), "in a Hugging Face folder it is tanh"),
        (ClassificationHeadConfig(num_classes=2, inner_dim=5), "inner_dim is 5"),
        (RegressionHeadConfig(inner_dim=5), "inner_dim is 5"),
        (ChoiceHeadConfig(activation_fn="gelu"), "activation_fn is gelu; in a Hugging Face folder it is tanh"),
    ],
)
def test_heads_that_transformers_computes_otherwise_are_refused(head, message, model, tokenizer, tmp_path):
    model = RobertaModel(model.config)
    model.register_head("x", head)
    with pytest.raises(ConfigError, match=message):
        hf_format.write(tmp_path / "model", model, tokenizer)


def test_the_tokenizer_comes_back_from_either_of_its_forms(folder, tokenizer):
    for names in (["tokenizer.json"], ["vocab.json", "merges.txt"]):
        copy = folder.with_name("copy")
        shutil.copytree(folder, copy, ignore=lambda _, found, names=names: [name for name in found if name in names])
        found = hf_tokenizer.read(copy)
        assert found.dictionary == tokenizer.dictionary
        assert [found.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
        shutil.rmtree(copy)


def test_made_up_words_and_the_mask_keep_their_ids(folder, tokenizer):
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    assert (vocab["<s>"], vocab["<pad>"], vocab["</s>"], vocab["<unk>"]) == (0, 1, 2, 3)
    assert (vocab["madeupword0000"], vocab["<mask>"]) == (263, 264)
    assert vocab["Ġhe"] == tokenizer.encode(" he")[0]
    assert list(vocab.values()) == list(range(265))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("model"), "no model"),
        (lambda values: values["model"].update(type="Unigram"), "Unigram of ByteLevel; allowed: BPE"),
        (lambda values: values["model"].update(merges=[["h"], 3]), "a merge or an added token is damaged"),
        (lambda values: values["model"].update(merges=["h q x"]), "expected two tokens"),
        (lambda values: values["model"]["vocab"].pop("h"), "no id for 'h'|not 0 to"),
        (lambda values: values["model"]["vocab"].update(new=265), "no merge makes 'new'"),
        (
            lambda values: values["added_tokens"].append({"id": 266, "content": "new"}),
            "ids of its 266 tokens are not 0 to 265",
        ),
        (lambda values: values["added_tokens"].append({"id": "265", "content": "new"}), "an added token is damaged"),
        (lambda values: values["model"]["vocab"].update({"\ud800": 265}), "half of a surrogate pair"),
    ],
)
def test_a_damaged_tokenizer_is_named(change, message, folder):
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    values = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(values)
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(VocabError, match=message) as caught:
        hf_tokenizer.read(folder)
    assert str(folder / "tokenizer.json") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tokenizer.json", lambda values: values.update(normalizer={"type": "Lowercase"}), "normalizer is a dict"),
        ("tokenizer.json", lambda values: values["pre_tokenizer"].update(add_prefix_space=True), "add_prefix_space"),
        ("tokenizer.json", lambda values: values["pre_tokenizer"].update(use_regex=False), "use_regex is False"),
        ("tokenizer.json", lambda values: values["model"].update(dropout=0.1), "dropout is 0.1"),
        ("tokenizer.json", lambda values: values["model"].update(ignore_merges=True), "ignore_merges is True"),
        (
            "tokenizer.json",
            lambda values: values["added_tokens"].append({"id": 265, "content": "new", "single_word": True}),
            "single_word is True",
        ),
        ("tokenizer_config.json", lambda values: values.update(add_prefix_space=True), "add_prefix_space is True"),
    ],
)
def test_a_rule_for_texts_that_is_not_followed_here_is_named(name, change, message, folder):
    values = json.loads((folder / name).read_text(encoding="utf-8"))
    change(values)
    (folder / name).write_text(json.dumps(values))
    with pytest.raises(VocabError, match=f"{re.escape(str(folder / name))}: {message}"):
        hf_tokenizer.read(folder)


def test_added_symbols_come_back(folder, tokenizer):
    added = tokenizer.with_symbols(["COVID19x", "[NEW] one"])
    hf_tokenizer.write(folder, added, max_tokens=30)
    found = hf_tokenizer.read(folder)
    assert found.added_symbols == ("COVID19x", "[NEW] one")
    assert found.dictionary == added.dictionary


def test_a_dictionary_without_some_tokens_can_not_be_written(model, tmp_path):
    symbols = [str(index) for index in range(len(ALPHABET))]
    tokenizer = Tokenizer(GPT2BPE(["h e"]), Dictionary(symbols, [0] * len(symbols)))
    with pytest.raises(VocabError, match="lacks 1 tokens of the BPE, such as 'he'"):
        hf_format.write(tmp_path / "model", model, tokenizer, "lm")
    assert not list(tmp_path.iterdir())


def test_a_dictionary_with_a_symbol_twice_can_not_be_written(model, tmp_path):
    symbols = [*map(str, range(257)), "5"]
    tokenizer = Tokenizer(GPT2BPE([]), Dictionary(symbols, [0] * len(symbols)))
    with pytest.raises(VocabError, match="1 symbols of the dictionary are there twice"):
        hf_format.write(tmp_path / "model", model, tokenizer, "lm")


def random_model(transformers, kind, **options):
    torch.manual_seed(1)
    config = transformers.RobertaConfig(
        vocab_size=50265,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=40,
        type_vocab_size=1,
        bos_token_id=0,
        eos_token_id=2,
        **{"layer_norm_eps": 1e-5} | options,
    )
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def their_logits(model, texts, tokenizer):
    """Return their outputs for a padded batch, (B, K) or by token (B, S, K), and the batch."""
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    name = type(model).__name__
    with torch.inference_mode():
        if name == "RobertaForMultipleChoice":  # each text the only choice of its question
            return model(**{key: tensor[:, None] for key, tensor in batch.items()}).logits, batch
        found = model(**batch)
        if name == "RobertaForQuestionAnswering":
            return torch.stack([found.start_logits, found.end_logits], dim=2), batch
        return found.logits, batch


def our_logits(model, ids, head):
    layout = SequenceLayout.from_lengths([len(ids)])
    with torch.inference_mode():
        select = None if head is None else select_rows(model.head_config(head), layout)
        return model(torch.tensor(ids), layout, head, select)


SENTENCES = ["Hello world!", "My name is <mask>.", "a"]


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize(
    ("kind", "head", "options"),
    [
        ("RobertaForMaskedLM", "lm", {}),
        ("RobertaForMaskedLM", "lm", {"tie_word_embeddings": False}),
        ("RobertaForMaskedLM", "lm", {"hidden_act": "gelu_new"}),
        ("RobertaForMaskedLM", "lm", {"layer_norm_eps": 0.1}),
        ("RobertaForMaskedLM", "lm", {"layer_norm_eps": 1e-12}),  # transformers' default
        ("RobertaForSequenceClassification", "classification", {"num_labels": 3}),
        ("RobertaForSequenceClassification", "classification", {"id2label": {0: "no", 1: "yes"}}),
        ("RobertaForSequenceClassification", "regression", {"num_labels": 1, "problem_type": "regression"}),
        ("RobertaForSequenceClassification", "regression", {"num_labels": 1}),
        ("RobertaForTokenClassification", "tagging", {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}}),
        ("RobertaForQuestionAnswering", "span", {}),
        ("RobertaForMultipleChoice", "choice", {}),
    ],
)
def test_models_of_transformers_compute_the_same_here_and_back(kind, head, options, safe, transformers, tmp_path):
    theirs = random_model(transformers, kind, **options)
    if safe:
        theirs.save_pretrained(tmp_path / "theirs")
    else:
        (tmp_path / "theirs").mkdir()
        theirs.config.save_pretrained(tmp_path / "theirs")
        torch.save(theirs.state_dict(), tmp_path / "theirs" / "pytorch_model.bin")
    ours = load(tmp_path / "theirs")
    assert list(ours.model.heads) == [head]
    hf_format.write(tmp_path / "back", ours.model, ours.tokenizer)
    auto = getattr(transformers, kind.replace("Roberta", "AutoModel"))
    back, report = auto.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values())
    assert type(back) is type(theirs)
    assert back.config.id2label == theirs.config.id2label
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    expected, batch = their_logits(theirs, SENTENCES, tokenizer)
    torch.testing.assert_close(their_logits(back, SENTENCES, tokenizer)[0], expected, atol=1e-5, rtol=1e-5)
    for row, mask in enumerate(batch["attention_mask"].bool()):
        found = our_logits(ours.model, batch["input_ids"][row][mask].tolist(), head)
        wanted = expected[row][mask] if expected.dim() == 3 else expected[row][None]
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_encoder_saved_alone_gives_its_features(transformers, tmp_path):
    theirs = random_model(transformers, "RobertaModel")
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs").model
    ids = [0, 31414, 232, 2]
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).last_hidden_state[0]
    torch.testing.assert_close(our_logits(ours, ids, None), expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def their_tokenizer(transformers, tmp_path_factory):
    """Return what transformers makes of RoBERTa's tokenizer as written here."""
    folder = tmp_path_factory.mktemp("tokenizer")
    hf_tokenizer.write(folder, Tokenizer.load(), max_tokens=512)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_gives_the_same_tokens(text, their_tokenizer):
    ours = Tokenizer.load()
    assert their_tokenizer(text).input_ids == ours.encode_sequence(text)
    assert their_tokenizer(text, "b" + text).input_ids == ours.encode_sequence(text, "b" + text)


def test_the_mask_takes_the_space_before_it_in_transformers(their_tokenizer, tmp_path, transformers):
    expected = [0, 2387, 766, 16, 50264, 4, 2]
    assert their_tokenizer("My name is <mask>.").input_ids == expected
    their_tokenizer.save_pretrained(tmp_path)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("My name is <mask>.").input_ids == expected
    assert their_tokenizer.model_max_length == 512


def test_added_symbols_are_found_in_texts_by_transformers_too(tmp_path, transformers):
    ours = Tokenizer.load().with_symbols(["COVID19x", "COVID19xy", "[NEW]"])
    (tmp_path / "ours").mkdir()
    hf_tokenizer.write(tmp_path / "ours", ours, max_tokens=512)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    text = "A COVID19x, aCOVID19xyb [NEW][NEW] end"
    assert theirs(text).input_ids == ours.encode_sequence(text)
    assert {50265, 50266, 50267} < set(theirs(text).input_ids)
    assert theirs.decode([50265], skip_special_tokens=True) == "COVID19x"
    theirs.save_pretrained(tmp_path / "theirs")
    assert hf_tokenizer.read(tmp_path / "theirs").dictionary == ours.dictionary


def test_a_tokenizer_that_transformers_saved_is_read(their_tokenizer, tmp_path):
    their_tokenizer.save_pretrained(tmp_path)
    found, ours = hf_tokenizer.read(tmp_path), Tokenizer.load()
    assert found.dictionary == ours.dictionary
    assert [found.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]


@pytest.mark.parametrize(("architectures", "level"), [(["RobertaModel"], "WARNING"), (["RobertaForMaskedLM"], "INFO")])
def test_a_pooler_that_may_have_been_trained_is_left_aside_with_a_warning(architectures, level, folder, caplog):
    caplog.set_level("INFO")
    edit(folder, architectures=architectures)
    edit_tensors(folder, lambda tensors: tensors.update({"roberta.pooler.dense.weight": torch.zeros(12, 12)}))
    with contextlib.suppress(CheckpointError):  # of the LM head, which an encoder alone has not
        hf_format.read(folder)
    assert [record.levelname for record in caplog.records if "its pooler is left aside" in record.message] == [level]


def frames(processor, name="PreTrainedTokenizerFast"):
    return {"post_processor": processor}, {"tokenizer_class": name}


def template(*ids):
    return [{"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": 0}} for name in ids]


ROBERTA_TEMPLATE = {
    "type": "TemplateProcessing",
    "single": template("<s>", "A", "</s>"),
    "pair": template("<s>", "A", "</s>", "</s>", "B", "</s>"),
}


@pytest.mark.parametrize(
    ("processor", "name", "is_read"),
    [
        (None, "RobertaTokenizer", True),
        (None, None, True),
        (None, "BartTokenizerFast", True),
        ({"type": "RobertaProcessing"}, "PreTrainedTokenizerFast", True),
        (
            {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "RobertaProcessing"}]},
            "PreTrainedTokenizerFast",
            True,
        ),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}]}, "PreTrainedTokenizerFast", False),
        (ROBERTA_TEMPLATE, "PreTrainedTokenizerFast", True),
        (None, "PreTrainedTokenizerFast", False),
        (None, ["RobertaTokenizer"], False),
        ({"type": "BertProcessing"}, "PreTrainedTokenizerFast", False),
        (ROBERTA_TEMPLATE | {"pair": template("<s>", "A", "</s>", "B", "</s>")}, "PreTrainedTokenizerFast", False),
        (ROBERTA_TEMPLATE | {"single": "<s> A </s>"}, "PreTrainedTokenizerFast", False),
    ],
)
def test_texts_that_are_framed_otherwise_are_refused(processor, name, is_read, folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": processor}))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": name}))
    if is_read:
        assert hf_tokenizer.read(folder).encode_sequence("a", "b")[2:4] == [2, 2]
    else:
        with pytest.raises(
            VocabError, match="post_processor is .*; allowed: RobertaProcessing, or a TemplateProcessing"
        ):
            hf_tokenizer.read(folder)


def test_embeddings_that_were_padded_to_a_multiple_are_opened(transformers, tmp_path, caplog):
    theirs = random_model(transformers, "RobertaForMaskedLM")
    theirs.resize_token_embeddings(50265, pad_to_multiple_of=64)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    assert "has 50304 rows, and the tokenizer 50265 tokens: the last 39 are taken for padding" in caplog.text
    assert ours.model.config.vocab_size == 50304 == len(ours.tokenizer.dictionary)
    ids = ours.tokenizer.encode_sequence("Hello madeupword50270!")
    assert ids == Tokenizer.load().encode_sequence("Hello madeupword50270!")
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(our_logits(ours.model, ids, "lm"), expected, atol=1e-5, rtol=1e-5)


def test_added_tokens_of_older_releases_are_read(tmp_path):
    ours = Tokenizer.load().with_symbols(["[B]", "[A]"])
    hf_tokenizer.write(tmp_path, Tokenizer.load(), max_tokens=512)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[A]": 50266, "[B]": 50265, "<mask>": 50264}))
    found = hf_tokenizer.read(tmp_path)
    assert found.dictionary == ours.dictionary
    assert found.encode("a [A][B]") == ours.encode("a [A][B]")
    for ids in ({"[A]": 50266}, {"[A]": "50265"}, {"[A]": [50265]}):
        (tmp_path / "added_tokens.json").write_text(json.dumps(ids))
        with pytest.raises(VocabError, match=r"added_tokens\.json: the ids of its 1 new tokens are not 50265 and on"):
            hf_tokenizer.read(tmp_path)
