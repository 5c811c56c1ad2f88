"""fairseq checkpoints: three generations of names, options that lie, damaged files and hostile pickles.

The files are tiny and made here; those that fairseq itself wrote are read where they are at hand.
"""

import argparse
import builtins
import os
import pickle
import random
import struct
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from roberta.checkpoint import pickles
from roberta.checkpoint.assembly import assemble
from roberta.checkpoint.fairseq_format import read
from roberta.data.readers.binarized import binarized_labels
from roberta.errors import CheckpointError, VocabError
from roberta.layout import SequenceLayout
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig, RegressionHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel

VOCAB, POSITIONS, WIDTH, INNER, LAYERS, CLASSES = 20, 12, 8, 16, 2, 3
SENTENCE_ENCODER = "decoder.sentence_encoder."
ARGS = {
    "arch": "roberta",
    "data": "../../etc",
    "encoder_layers": LAYERS,
    "encoder_embed_dim": WIDTH,
    "encoder_ffn_embed_dim": INNER,
    "encoder_attention_heads": 2,
    "max_positions": POSITIONS - 2,
    "dropout": 0.2,
    "attention_dropout": 0.05,
    "activation_fn": "gelu_accurate",
    "pooler_dropout": 0.3,
}
Weights = dict[str, Tensor]


def oldest_weights() -> Weights:
    """Return random weights under the names of fairseq v0.8.0, with a head `mnli` of three classes."""
    shapes = {
        "embed_tokens.weight": (VOCAB, WIDTH),
        "embed_positions.weight": (POSITIONS, WIDTH),
        "emb_layer_norm.weight": (WIDTH,),
        "emb_layer_norm.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        shapes |= {
            f"layers.{layer}.self_attn.in_proj_weight": (3 * WIDTH, WIDTH),
            f"layers.{layer}.self_attn.in_proj_bias": (3 * WIDTH,),
            f"layers.{layer}.self_attn.out_proj.weight": (WIDTH, WIDTH),
            f"layers.{layer}.self_attn.out_proj.bias": (WIDTH,),
            f"layers.{layer}.self_attn_layer_norm.weight": (WIDTH,),
            f"layers.{layer}.self_attn_layer_norm.bias": (WIDTH,),
            f"layers.{layer}.fc1.weight": (INNER, WIDTH),
            f"layers.{layer}.fc1.bias": (INNER,),
            f"layers.{layer}.fc2.weight": (WIDTH, INNER),
            f"layers.{layer}.fc2.bias": (WIDTH,),
            f"layers.{layer}.final_layer_norm.weight": (WIDTH,),
            f"layers.{layer}.final_layer_norm.bias": (WIDTH,),
        }
    shapes = {SENTENCE_ENCODER + name: shape for name, shape in shapes.items()}
    shapes |= {
        "decoder.lm_head.bias": (VOCAB,),
        "decoder.lm_head.dense.weight": (WIDTH, WIDTH),
        "decoder.lm_head.dense.bias": (WIDTH,),
        "decoder.lm_head.layer_norm.weight": (WIDTH,),
        "decoder.lm_head.layer_norm.bias": (WIDTH,),
        "classification_heads.mnli.dense.weight": (WIDTH, WIDTH),
        "classification_heads.mnli.dense.bias": (WIDTH,),
        "classification_heads.mnli.out_proj.weight": (CLASSES, WIDTH),
        "classification_heads.mnli.out_proj.bias": (CLASSES,),
    }
    rng = torch.Generator().manual_seed(0)
    weights = OrderedDict((name, torch.randn(shape, generator=rng)) for name, shape in shapes.items())
    weights["decoder.lm_head.weight"] = weights[SENTENCE_ENCODER + "embed_tokens.weight"]
    return weights


def in_v09_names(weights: Weights) -> Weights:
    """Return v0.8.0 weights as v0.9.0 writes them: q, k and v apart, k first."""
    renamed: Weights = {}
    for name, tensor in weights.items():
        if ".in_proj_" in name:
            thirds = dict(zip("qkv", tensor.chunk(3), strict=True))
            for part in "kvq":
                renamed[name.replace("in_proj_", f"{part}_proj.")] = thirds[part].clone()
        else:
            renamed[name] = tensor
    return renamed


def in_current_names(weights: Weights) -> Weights:
    """Return v0.8.0 weights as fairseq writes them since 2021."""
    renamed = {
        name.replace("decoder.", "encoder.").replace("emb_layer_norm", "layernorm_embedding"): tensor
        for name, tensor in in_v09_names(weights).items()
    }
    return {**renamed, "encoder.sentence_encoder.version": torch.tensor([3.0])}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a checkpoint: options changed as told, `None` meaning that one is absent."""

    def write(model: Any = None, *, is_zip: bool = True, state: dict[str, Any] | None = None, **options: Any) -> Path:
        given = {name: value for name, value in {**ARGS, **options}.items() if value is not None}
        contents = {"args": argparse.Namespace(**given), "model": oldest_weights() if model is None else model}
        path = tmp_path / "model.pt"
        torch.save({**contents, **(state or {})}, path, _use_new_zipfile_serialization=is_zip)
        return path

    return write


def assert_same(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


Save = Callable[..., Path]


def test_options_become_the_config_and_the_heads(save: Save) -> None:
    checkpoint = read(save())
    assert checkpoint.config == RobertaConfig(
        vocab_size=VOCAB,
        max_positions=POSITIONS - 2,
        encoder_layers=LAYERS,
        embed_dim=WIDTH,
        ffn_embed_dim=INNER,
        attention_heads=2,
        dropout=0.2,
        attention_dropout=0.05,
        activation_dropout=0.0,
        activation_fn="gelu_tanh",
    )
    assert checkpoint.heads == {
        "lm": MaskedLMHeadConfig(activation_fn="gelu_tanh", tied=True),
        "mnli": ClassificationHeadConfig(num_classes=CLASSES, activation_fn="tanh", dropout=0.3),
    }


@pytest.mark.parametrize("is_zip", [True, False])
def test_every_weight_arrives_under_its_name(is_zip: bool, save: Save) -> None:
    weights = oldest_weights()
    del weights["decoder.lm_head.weight"]
    expected = {}
    for name, tensor in weights.items():
        for old, new in (
            (SENTENCE_ENCODER, "encoder."),
            ("decoder.lm_head.", "heads.lm."),
            ("classification_heads.", "heads."),
            ("emb_layer_norm", "layernorm_embedding"),
            ("in_proj_", "qkv_proj."),
        ):
            name = name.replace(old, new)
        expected[name] = tensor
    assert_same(read(save(is_zip=is_zip)).state_dict, expected)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("rename", [in_v09_names, in_current_names])
def test_all_generations_of_names_give_the_same(rename: Callable[[Weights], Weights], is_zip: bool, save: Save) -> None:
    expected = read(save()).state_dict
    expected = {name: tensor.clone() for name, tensor in expected.items()}
    assert_same(read(save(rename(oldest_weights()), is_zip=is_zip)).state_dict, expected)


def test_the_result_loads_into_a_model(save: Save) -> None:
    checkpoint = read(save())
    model = RobertaModel(checkpoint.config)
    for name, head in checkpoint.heads.items():
        model.register_head(name, head)
    model.load_weights(checkpoint.state_dict, source="the checkpoint")
    tokens, layout = torch.tensor([0, 5, 2]), SequenceLayout.from_lengths([3])
    assert model(tokens, layout, "mnli", layout.first).shape == (1, CLASSES)
    assert model(tokens, layout, "lm").shape == (3, VOCAB)


def test_layer_norms_of_2018_are_renamed(save: Save) -> None:
    expected = {name: tensor.clone() for name, tensor in read(save()).state_dict.items()}
    renamed = {
        name.replace("self_attn_layer_norm", "layer_norms.0").replace(".final_layer_norm", ".layer_norms.1"): tensor
        for name, tensor in oldest_weights().items()
    }
    assert_same(read(save(renamed)).state_dict, expected)


def test_options_are_found_in_cfg_as_a_namespace_or_a_dict(save: Save) -> None:
    expected = read(save()).config
    for model in (argparse.Namespace(**ARGS), ARGS):
        assert read(save(state={"args": None, "cfg": {"model": model}})).config == expected


def test_absent_options_take_the_defaults_of_fairseq(save: Save) -> None:
    names = ("max_positions", "dropout", "attention_dropout", "activation_fn", "pooler_dropout")
    checkpoint = read(save(**dict.fromkeys(names)))
    assert checkpoint.config.max_positions == POSITIONS - 2
    assert (checkpoint.config.dropout, checkpoint.config.attention_dropout) == (0.1, 0.1)
    assert checkpoint.config.activation_fn == "gelu"
    assert checkpoint.heads["mnli"].dropout == 0.0


def test_a_projection_of_its_own_is_untied(save: Save) -> None:
    weights = oldest_weights()
    weights["decoder.lm_head.weight"] = weights["decoder.lm_head.weight"] + 1
    checkpoint = read(save(weights))
    assert not checkpoint.heads["lm"].tied
    assert torch.equal(checkpoint.state_dict["heads.lm.weight"], weights["decoder.lm_head.weight"])


def test_a_stored_copy_of_the_embedding_is_tied(save: Save) -> None:
    weights = oldest_weights()
    weights["decoder.lm_head.weight"] = weights["decoder.lm_head.weight"].clone()
    assert read(save(weights)).heads["lm"].tied


def test_a_projection_of_another_precision_is_untied(save: Save) -> None:
    weights = oldest_weights()
    weights["decoder.lm_head.weight"] = weights["decoder.lm_head.weight"].half()
    assert not read(save(weights)).heads["lm"].tied


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("is_zip", [True, False])
def test_any_precision_is_read_as_fp32(dtype: torch.dtype, is_zip: bool, save: Save) -> None:
    expected = {name: tensor.to(dtype).float() for name, tensor in read(save()).state_dict.items()}
    weights = {name: tensor.to(dtype) for name, tensor in in_v09_names(oldest_weights()).items()}
    assert_same(read(save(weights, is_zip=is_zip)).state_dict, expected)


def test_weights_said_to_be_untied_are_untied_even_if_equal(save: Save) -> None:
    checkpoint = read(save(untie_weights_roberta=True))
    assert not checkpoint.heads["lm"].tied
    assert torch.equal(checkpoint.state_dict["heads.lm.weight"], checkpoint.state_dict["encoder.embed_tokens.weight"])


def test_a_projection_that_is_said_to_be_untied_must_be_there(save: Save) -> None:
    weights = oldest_weights()
    del weights["decoder.lm_head.weight"]
    with pytest.raises(CheckpointError, match=r"missing: heads\.lm\.weight"):
        read(save(weights, untie_weights_roberta=True))


def with_layers(numbers: list[int]) -> Weights:
    """Return weights whose layers have these numbers; every parameter of layer n is that of layer 0, raised by n."""
    source = oldest_weights()
    weights = {name: tensor for name, tensor in source.items() if ".layers." not in name}
    for number in numbers:
        for name, tensor in source.items():
            if ".layers.0." in name:
                weights[name.replace(".layers.0.", f".layers.{number}.")] = tensor + number
    return weights


@pytest.mark.parametrize("keep", ["0,2,4", "4,0,2"])
@pytest.mark.parametrize(("numbers", "encoder_layers"), [([0, 1, 2, 3, 4, 5], 6), ([0, 2, 4], 3), ([0, 1, 2], 3)])
def test_layers_kept_by_layerdrop_are_numbered_anew(
    numbers: list[int], encoder_layers: int, keep: str, save: Save
) -> None:
    checkpoint = read(
        save(with_layers(numbers), encoder_layers=encoder_layers, encoder_layers_to_keep=keep, encoder_layerdrop=0.2)
    )
    assert checkpoint.config.encoder_layers == 3
    first, *others = (checkpoint.state_dict[f"encoder.layers.{number}.fc1.bias"] for number in range(3))
    expected = [1, 2] if numbers == [0, 1, 2] else [2, 4]
    assert [round((other - first).mean().item()) for other in others] == expected
    assert not any(name.startswith("encoder.layers.3.") for name in checkpoint.state_dict)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("0,7,9", "encoder_layers_to_keep names layers that it does not have: 7, 9"),
        ("0;1", "encoder_layers_to_keep is '0;1'; expected numbers such as"),
        ("-1", "encoder_layers_to_keep is '-1'"),
        ([0], "encoder_layers_to_keep is a list"),
        ("9" * 5000, "encoder_layers_to_keep is '999"),
    ],
)
def test_layers_to_keep_that_can_not_be_are_an_error(keep: Any, message: str, save: Save) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(save(encoder_layers_to_keep=keep))


def test_a_file_trained_with_layerdrop_keeps_all_its_layers(save: Save) -> None:
    checkpoint = read(save(encoder_layerdrop=0.2, encoder_layers_to_keep=None))
    assert checkpoint.config.encoder_layers == LAYERS


def test_a_regression_head_is_told_by_its_option(save: Save) -> None:
    weights = oldest_weights()
    weights["classification_heads.mnli.out_proj.weight"] = torch.ones(1, WIDTH)
    weights["classification_heads.mnli.out_proj.bias"] = torch.ones(1)
    head = read(save(weights, regression_target=True)).heads["mnli"]
    assert head == RegressionHeadConfig(activation_fn="tanh", dropout=0.3)
    assert isinstance(read(save(weights)).heads["mnli"], ClassificationHeadConfig)


LABELS = "neutral 111\ncontradiction 95\nentailment 94\nmadeupword0000 0\nmadeupword0001 0\n"


def write_labels(folder: Path, text: str = LABELS) -> Path:
    (folder / "label").mkdir()
    (folder / "label" / "dict.txt").write_text(text, encoding="utf-8")
    return folder


def test_labels_come_in_the_order_of_their_file_without_made_up_words(tmp_path: Path) -> None:
    assert binarized_labels(write_labels(tmp_path)) == ("neutral", "contradiction", "entailment")
    assert binarized_labels(tmp_path / "label") == ()


def test_a_damaged_label_file_is_an_error(save: Save, tmp_path: Path) -> None:
    write_labels(tmp_path, "neutral 111\ncontradiction\n")
    with pytest.raises(VocabError, match=r"label/dict\.txt:2"):
        read(save())


def test_the_head_that_labels_fit_gets_them(save: Save, tmp_path: Path) -> None:
    weights = oldest_weights()
    for part in ("dense.weight", "dense.bias"):
        weights[f"classification_heads.topic.{part}"] = weights[f"classification_heads.mnli.{part}"]
    weights["classification_heads.topic.out_proj.weight"] = torch.ones(7, WIDTH)
    weights["classification_heads.topic.out_proj.bias"] = torch.ones(7)
    assert read(save(weights)).heads["mnli"].labels == ()
    write_labels(tmp_path)
    heads = read(save(weights)).heads
    assert (heads["mnli"].labels, heads["topic"].labels) == (("neutral", "contradiction", "entailment"), ())


def test_labels_that_fit_two_heads_are_given_to_neither(save: Save, tmp_path: Path) -> None:
    weights = oldest_weights()
    for name, tensor in oldest_weights().items():
        weights[name.replace(".mnli.", ".other.")] = tensor
    write_labels(tmp_path)
    heads = read(save(weights)).heads
    assert (heads["mnli"].labels, heads["other"].labels) == ((), ())


def test_the_inner_width_of_a_head_is_its_own(save: Save) -> None:
    weights = oldest_weights()
    head = "classification_heads.mnli."
    weights[f"{head}dense.weight"], weights[f"{head}dense.bias"] = torch.ones(5, WIDTH), torch.ones(5)
    weights[f"{head}out_proj.weight"] = torch.ones(CLASSES, 5)
    assert read(save(weights)).heads["mnli"].inner_dim == 5


def test_teacher_and_regression_weights_are_passed_over(save: Save) -> None:
    expected = {name: tensor.clone() for name, tensor in read(save()).state_dict.items()}
    weights = {**oldest_weights(), "encoder._ema": {"any": 1}, "encoder.regression_head.weight": torch.ones(1)}
    assert_same(read(save(weights)).state_dict, expected)


class AverageMeter:
    def __init__(self) -> None:
        self.sum = 1.0


def test_meters_of_old_training_checkpoints_do_no_harm(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(state={"extra_state": {"train_meters": OrderedDict(loss=AverageMeter())}})
    rewrite_pickle(
        path, lambda data: data.replace(f"{__name__}\nAverageMeter".encode(), b"fairseq.meters\nAverageMeter")
    )
    assert read(path).config.vocab_size == VOCAB


# What does not fit.


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("encoder_layers", 10**9, "encoder_layers is 1000000000; allowed: 1 to"),
        ("encoder_layers", 3, "encoder_layers is 3, but it has tensors of 2 layers"),
        ("encoder_layers", 0, "encoder_layers is 0"),
        ("encoder_layers", True, "encoder_layers is True; allowed"),
        ("encoder_layers", "2", "encoder_layers is '2'"),
        ("encoder_layers", None, "encoder_layers is None"),
        ("encoder_layers", [2], "encoder_layers is a list"),
        ("encoder_embed_dim", 16, r"embed_tokens.weight is \(20, 8\).*encoder_embed_dim 16.*\(20, 16\)"),
        ("encoder_embed_dim", 10**12, "encoder_embed_dim is 1000000000000"),
        ("encoder_ffn_embed_dim", 8, r"fc1.weight is \(16, 8\).*encoder_ffn_embed_dim 8"),
        ("encoder_attention_heads", 3, "not a multiple of attention_heads 3"),
        ("encoder_attention_heads", -2, "encoder_attention_heads is -2"),
        ("max_positions", 512, r"embed_positions.weight is \(12, 8\).*max_positions 512"),
        ("dropout", 1.5, "dropout is 1.5"),
        ("dropout", float("nan"), "dropout is nan"),
        ("attention_dropout", "0.1", "attention_dropout is '0.1'"),
        ("activation_fn", "swish", "activation_fn is 'swish'; allowed: gelu"),
        ("activation_fn", ["gelu"], "activation_fn is a list"),
        ("pooler_activation_fn", "linear", "pooler_activation_fn is 'linear'"),
        ("untie_weights_roberta", 1, "untie_weights_roberta is 1; allowed: True and False"),
    ],
)
def test_an_option_that_can_not_be_is_named(option: str, value: Any, message: str, save: Save) -> None:
    path = save(**{option: value})
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "decoder.sentence_encoder.embed_tokens.weight",
        "decoder.sentence_encoder.embed_positions.weight",
        "decoder.sentence_encoder.layers.1.fc2.bias",
        "decoder.lm_head.bias",
        "classification_heads.mnli.out_proj.bias",
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (4, 4), (2, 2, 2)])
def test_a_tensor_of_a_wrong_shape_is_an_error(name: str, shape: tuple[int, ...], save: Save) -> None:
    with pytest.raises(CheckpointError, match="need"):
        read(save({**oldest_weights(), name: torch.ones(shape)}, max_positions=None))


def test_q_k_and_v_of_different_shapes_are_an_error(save: Save) -> None:
    weights = in_v09_names(oldest_weights())
    weights[f"{SENTENCE_ENCODER}layers.0.self_attn.k_proj.weight"] = torch.ones(WIDTH, WIDTH + 1)
    with pytest.raises(CheckpointError, match="k_proj"):
        read(save(weights))


def test_missing_and_unknown_tensors_are_listed(save: Save) -> None:
    weights = oldest_weights()
    del weights["decoder.lm_head.dense.bias"], weights[f"{SENTENCE_ENCODER}layers.1.fc1.bias"]
    weights["encoder.sentence_encoder.layer_norm.weight"] = torch.ones(WIDTH)
    with pytest.raises(CheckpointError) as caught:
        read(save(weights))
    assert "missing: encoder.layers.1.fc1.bias, heads.lm.dense.bias; unknown: encoder.layer_norm.weight" in str(
        caught.value
    )


def test_fused_and_split_projections_in_one_file_are_an_error(save: Save) -> None:
    weights = in_v09_names(oldest_weights())
    weights[f"{SENTENCE_ENCODER}layers.0.self_attn.in_proj_weight"] = torch.ones(3 * WIDTH, WIDTH)
    with pytest.raises(CheckpointError, match=r"unknown: encoder\.layers\.0\.self_attn\.qkv_proj\.weight"):
        read(save(weights))


def test_layers_with_gaps_are_an_error(save: Save) -> None:
    weights = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in oldest_weights().items()}
    with pytest.raises(CheckpointError, match=r"missing: encoder\.layers\.1\..*unknown: encoder\.layers\.7\."):
        read(save(weights))


def test_a_long_list_of_unknown_tensors_is_cut(save: Save) -> None:
    with pytest.raises(CheckpointError, match="and 980 more") as caught:
        read(save({**oldest_weights(), **{f"x{i}": torch.ones(1) for i in range(1000)}}))
    assert len(str(caught.value)) < 1000


def test_the_same_tensor_under_two_names_is_an_error(save: Save) -> None:
    with pytest.raises(CheckpointError, match=r"two tensors for heads\.lm\.bias"):
        read(save({**oldest_weights(), "encoder.lm_head.bias": torch.ones(VOCAB)}))


def test_a_classification_head_named_lm_is_an_error(save: Save) -> None:
    weights = {name.replace(".mnli.", ".lm."): tensor for name, tensor in oldest_weights().items()}
    with pytest.raises(CheckpointError, match="head 'lm'"):
        read(save(weights))


@pytest.mark.parametrize(
    "value",
    [7, "text", None, torch.ones(VOCAB, dtype=torch.long), torch.ones(1).expand(10**6, 10**6)],
    ids=["number", "text", "none", "integers", "one number spread out"],
)
def test_a_weight_that_is_no_ordinary_tensor_is_an_error(value: Any, save: Save) -> None:
    with pytest.raises(CheckpointError, match=r"lm_head\.bias is not an ordinary tensor"):
        read(save({**oldest_weights(), "decoder.lm_head.bias": value}))


@pytest.mark.parametrize("contents", [{}, [1], {"model": 3}, {"state_dict": {}}, torch.ones(1)])
def test_a_file_of_another_kind_is_an_error(contents: Any, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a fairseq checkpoint"):
        read(tmp_path / "other.pt")


@pytest.mark.parametrize("state", [{"args": None}, {"cfg": {"model": None}}, {"args": None, "cfg": 5}])
def test_a_file_without_options_is_an_error(state: dict[str, Any], save: Save) -> None:
    with pytest.raises(CheckpointError, match="no options"):
        read(save(state=state))


def test_a_weight_without_a_name_is_an_error(save: Save) -> None:
    with pytest.raises(CheckpointError, match="not the name of a tensor: a int"):
        read(save({**oldest_weights(), 3: torch.ones(1)}))


# Damage.


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_cut_anywhere_is_an_error(is_zip: bool, save: Save) -> None:
    path = save(is_zip=is_zip)
    whole = path.read_bytes()
    cuts = {0, 1, 3, 4, 30, 100, 1000, len(whole) // 2, len(whole) - 100, len(whole) - 22, len(whole) - 1}
    for length in sorted(cuts):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="get a whole copy"):
            read(path)


def test_a_flipped_bit_in_a_zip_never_gives_other_weights(save: Save) -> None:
    path = save()
    expected = {name: tensor.clone() for name, tensor in read(path).state_dict.items()}
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for trial in range(100):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        flipped = path.with_name(f"{trial}.pt")  # a new file each time: the weights of the last one are mapped
        flipped.write_bytes(damaged)
        try:
            assert_same(read(flipped).state_dict, expected)
        except CheckpointError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("name", ["absent.pt", "."])
def test_a_path_that_is_no_file_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="can't be read"):
        read(tmp_path / name)


@pytest.mark.parametrize("content", [b"text\n" * 100, bytes(1000), b"\x80\x02}.", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_no_checkpoint_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="can't be read"):
        read(tmp_path / "model.pt")


def test_a_compressed_container_is_refused(save: Save) -> None:
    path = save()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match="compressed"):
        read(path)


# Malice.


def rewrite_pickle(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the pickle in a zip checkpoint, with a right checksum."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(content) if name.endswith("/data.pkl") else content)


class Payload:
    """Pickles to a call of `function`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def payloads(canary: Path) -> Iterator[Payload]:
    code = f"open({str(canary)!r}, 'w')"
    yield Payload(os.system, f"touch {canary}")
    yield Payload(subprocess.check_call, ["touch", str(canary)])
    yield Payload(builtins.eval, code)
    yield Payload(builtins.exec, code)
    yield Payload(builtins.open, str(canary), "w")
    yield Payload(getattr, Payload(__import__, "os"), "system")
    yield Payload(torch.load, str(canary))
    yield Payload(torch.hub.load, str(canary), "x")
    yield Payload(pickle.loads, pickle.dumps(Payload(builtins.eval, code)))
    yield Payload(bytearray, 2**40)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_no_payload_runs_and_each_is_named(is_zip: bool, protocol: int, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pt"
    for payload in payloads(canary):
        state = {"args": argparse.Namespace(**ARGS, x=payload), "model": oldest_weights()}
        torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(CheckpointError, match=r"refused global \w+\.\w+"):
            read(path)
        assert not canary.exists()


def test_a_payload_before_or_behind_the_weights_of_a_legacy_file_does_not_run(save: Save, tmp_path: Path) -> None:
    path, canary = save(is_zip=False), tmp_path / "canary"
    whole, evil = path.read_bytes(), pickle.dumps(Payload(os.system, f"touch {canary}"), protocol=2)
    path.write_bytes(evil + whole)
    with pytest.raises(CheckpointError, match="refused global"):
        read(path)
    path.write_bytes(whole + evil)  # legacy readers stop at the last storage
    read(path)
    assert not canary.exists()


@pytest.mark.parametrize("instruction", [b"cos\nsystem\n", b"(ios\nsystem\n", b"\x82\x01", b"c__builtin__\neval\n"])
def test_every_way_to_name_a_function_is_refused(instruction: bytes, save: Save) -> None:
    path = save()
    rewrite_pickle(path, lambda data: data[:2] + instruction + data[2:])
    with pytest.raises(CheckpointError, match="refused global"):
        read(path)


def test_what_the_user_allows_in_torch_is_not_allowed_here(save: Save) -> None:
    before = get_safe_globals()
    add_safe_globals([AverageMeter])
    try:
        with pytest.raises(CheckpointError, match="AverageMeter"):
            read(save(state={"x": AverageMeter()}))
    finally:
        clear_safe_globals()
        add_safe_globals(before)


@pytest.mark.parametrize("theirs", [[], [argparse.Namespace], [argparse.Namespace, AverageMeter]])
def test_the_table_of_allowed_globals_is_left_as_it_was(theirs: list[Any], save: Save) -> None:
    before = get_safe_globals()
    clear_safe_globals()
    add_safe_globals(theirs)
    try:
        read(save())
        with pytest.raises(CheckpointError):
            read(save().with_name("absent.pt"))
        assert set(get_safe_globals()) == set(theirs)
    finally:
        clear_safe_globals()
        add_safe_globals(before)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_of_endless_instructions_is_refused(is_zip: bool, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MAX_PICKLE_BYTES", 1000)
    with pytest.raises(CheckpointError, match="over 1000 bytes"):
        read(save(is_zip=is_zip))


def test_deep_nesting_is_survived(save: Save) -> None:
    path = save(state={"x": 0x6363})
    nested = b"]" * 100_000 + b"a" * 99_999
    rewrite_pickle(path, lambda data: data.replace(b"M\x63\x63", nested))
    assert read(path).config.encoder_layers == LAYERS


def test_tuples_too_deep_to_hash_are_refused(save: Save) -> None:
    path = save(state={"x": {0x6363: 1}})
    rewrite_pickle(path, lambda data: data.replace(b"M\x63\x63", b"N" + b"\x85" * 300_000))
    with pytest.raises(CheckpointError, match="over 50000 tuples"):
        read(path)


def test_a_tensor_that_reaches_beyond_the_file_is_an_error(save: Save) -> None:
    path = save()
    rows, count, huge = bytes([VOCAB]), bytes([VOCAB * WIDTH]), struct.pack("<i", 2**30)

    def stretch(data: bytes) -> bytes:
        assert b"K" + rows + b"K" in data
        assert b"K" + count + b"t" in data
        return data.replace(b"K" + rows + b"K", b"J" + huge + b"K").replace(b"K" + count + b"t", b"J" + huge + b"t")

    rewrite_pickle(path, stretch)
    with pytest.raises(CheckpointError, match="can't be read"):
        read(path)


# What fairseq itself wrote.


def test_files_of_2019_and_of_today_give_the_same_model(shared: Path) -> None:
    oldest, newest = (read(shared / "golden" / name / "model.pt") for name in ("ckpt2019", "ckpt_cfg"))
    assert oldest.config == newest.config
    assert oldest.heads == newest.heads
    assert_same(newest.state_dict, oldest.state_dict)
    assert (oldest.config.vocab_size, oldest.config.encoder_layers, oldest.config.embed_dim) == (50265, 3, 64)
    assert oldest.heads["mnli"].num_classes == 3


def test_a_genuine_file_in_the_names_between_gives_the_same_model(shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden" / "ckpt2019" / "model.pt"
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(golden, weights_only=True)
    torch.save({**state, "model": in_v09_names(state["model"])}, tmp_path / "model.pt")
    assert_same(read(tmp_path / "model.pt").state_dict, read(golden).state_dict)


def test_the_features_of_fairseq_are_reproduced(shared: Path) -> None:
    checkpoint = read(shared / "golden" / "ckpt2019" / "model.pt")
    model = RobertaModel(checkpoint.config)
    for name, head in checkpoint.heads.items():
        model.register_head(name, head)
    model.load_weights(checkpoint.state_dict, source="ckpt2019")
    model.eval()
    golden = torch.load(shared / "golden" / "io" / "golden_io.pt", weights_only=True)
    for name in ("s0", "s2", "s4"):
        tokens, features = (
            golden[name]["tokens"].flatten(),
            golden[name]["features"].view(-1, checkpoint.config.embed_dim),
        )
        with torch.no_grad():
            found = model(tokens, SequenceLayout.from_lengths([len(tokens)]))
        torch.testing.assert_close(found, features, atol=2e-5, rtol=0)  # float32 sums in another order


def test_features_of_a_half_precision_file_are_near_those_of_the_whole(shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden" / "ckpt2019" / "model.pt"
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(golden, weights_only=True)
    halves = {name: tensor.half() for name, tensor in state["model"].items()}
    torch.save({**state, "model": halves}, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    tokens = torch.load(shared / "golden" / "io" / "golden_io.pt", weights_only=True)["s2"]["tokens"].flatten()
    features = []
    for path in (golden, tmp_path / "model.pt"):
        checkpoint = read(path)
        model = assemble(checkpoint.config, checkpoint.heads, checkpoint.state_dict, source=str(path))
        with torch.no_grad():
            features.append(model(tokens, SequenceLayout.from_lengths([len(tokens)])))
    whole, half = features
    assert half.dtype == torch.float32
    assert (half - whole).norm() < 1e-3 * whole.norm()  # rounding each parameter to 11 bits does 7e-4


def test_the_labels_that_fairseq_counted_are_read(shared: Path) -> None:
    assert binarized_labels(shared / "golden" / "glue" / "PAIR-bin") == ("neutral", "contradiction", "entailment")
