"""Our checkpoint folders: whole or not at all, and never silently wrong."""

import hashlib
import json
import math
import mmap
import shutil

import pytest
import torch

from roberta import manifest
from roberta.checkpoint import native
from roberta.data.binarize import PreprocessConfig, preprocess
from roberta.data.indexed import IndexedDataset
from roberta.data.tokenizer import Tokenizer
from roberta.errors import CheckpointError, StorageError


@pytest.fixture
def folder(tiny_model, tmp_path):
    training = native.TrainingState({"trainer": {"seed": 1}}, {"exp_avg.x": torch.ones(2)}, {"num_updates": 7})
    native.save(tmp_path / "run" / native.step_name(7), tiny_model, Tokenizer.load(), training)
    return tmp_path / "run" / "step_0000007"


def test_a_checkpoint_comes_back_as_it_was(folder, tiny_model):
    loaded = native.load(folder)
    assert loaded.model.config == tiny_model.config
    assert loaded.model.head_configs == tiny_model.head_configs
    assert not loaded.model.training
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert loaded.tokenizer.encode("Hello world!") == [31414, 232, 328]
    assert loaded.training.progress == {"num_updates": 7}
    assert torch.equal(loaded.training.optimizer["exp_avg.x"], torch.ones(2))


def test_nothing_but_the_folder_is_left_behind(folder):
    assert [path.name for path in folder.parent.iterdir()] == ["step_0000007"]


def test_saving_again_replaces_the_folder(folder, tiny_model):
    native.save(folder, tiny_model, Tokenizer.load())
    assert native.load(folder).training is None
    assert [path.name for path in folder.parent.iterdir()] == ["step_0000007"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "dict.txt", "vocab.bpe", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_damage_is_found_and_named(folder, name, damage):
    path = folder / name
    raw = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(raw[:-1])
    else:
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        native.load(folder)


def flip(path, position):
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("name", ["config.json", "dict.txt", "vocab.bpe", "state.json"])
def test_small_files_are_always_checked(folder, name):
    flip(folder / name, 9)
    with pytest.raises(CheckpointError, match=f"{name}: sha256 differs"):
        native.load(folder, training=False, check_tensors=False)


def test_tensors_just_checked_need_no_second_check(folder):
    intact = native.load(folder).model.encoder.embed_tokens.weight.clone()
    flip(folder / "model.safetensors", -1)
    loaded = native.load(folder, check_tensors=False)
    assert torch.equal(loaded.model.encoder.embed_tokens.weight, intact)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: sha256 differs"):
        native.load(folder)


def test_a_cut_or_unreadable_tensor_file_is_found_without_its_sha256(folder):
    flip(folder / "model.safetensors", 9)
    with pytest.raises(CheckpointError, match="can't be read as a checkpoint"):
        native.load(folder, check_tensors=False)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: 0 bytes"):
        native.load(folder, check_tensors=False)


def test_a_wrong_sha256_is_the_reason_given_for_an_unreadable_file(folder):
    flip(folder / "model.safetensors", 9)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: sha256 differs"):
        native.load(folder)


def test_the_optimizer_is_left_aside_where_it_is_not_asked_for(folder):
    flip(folder / "optimizer.safetensors", -1)
    assert native.load(folder, training=False).training is None
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: sha256 differs"):
        native.load(folder)


def test_loading_draws_no_random_numbers(folder):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    native.load(folder)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("entry", [None, [], {}, {"bytes": 5}])
def test_a_manifest_without_sums_is_refused(folder, entry):
    manifest = json.loads((folder / native.MANIFEST).read_text())
    manifest["files"]["dict.txt"] = entry
    (folder / native.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json: no bytes or sha256 of dict\.txt"):
        native.load(folder)


def test_a_folder_without_its_manifest_is_refused(folder):
    (folder / native.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json: missing"):
        native.load(folder)


def test_an_unknown_version_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["version"] = 99
    (folder / "config.json").write_text(json.dumps(config))
    (folder / native.MANIFEST).unlink()
    native._write_manifest(folder)
    with pytest.raises(CheckpointError, match="version 99; this package reads 'roberta' version 1"):
        native.load(folder)


def test_the_newest_intact_checkpoint_wins(folder):
    for step in (8, 10):
        shutil.copytree(folder, folder.with_name(native.step_name(step)))
    (folder.with_name(native.step_name(10)) / "model.safetensors").write_bytes(b"")
    assert native.newest(folder.parent).name == "step_0000008"
    assert native.newest(folder.parent / "elsewhere") is None


def test_a_run_with_damaged_checkpoints_only_is_an_error(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no intact checkpoint in .*model\.safetensors"):
        native.newest(folder.parent)


def test_pruning_keeps_the_newest_and_sweeps_leftovers(folder):
    for step in (8, 9, 10):
        shutil.copytree(folder, folder.with_name(native.step_name(step)))
    (folder.parent / ".tmp-step_0000011-x").mkdir()
    native.prune(folder.parent, keep=2)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["step_0000009", "step_0000010"]


def test_a_folder_that_can_not_be_made_is_a_storage_error(tiny_model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't write checkpoint"):
        native.save(tmp_path / "file" / "step_0000001", tiny_model, Tokenizer.load())


def test_a_folder_of_other_things_is_not_replaced(tiny_model, tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(StorageError, match="other things than a checkpoint; they would be lost"):
        native.save(tmp_path, tiny_model, Tokenizer.load())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_is_not_replaced_by_a_checkpoint(folder, tiny_model):
    with pytest.raises(StorageError, match="other things than a checkpoint"):
        native.save(folder.parent, tiny_model, Tokenizer.load())
    native.verify(folder)


def test_a_corpus_is_not_replaced_by_a_checkpoint(tiny_model, tmp_path):
    """It has a manifest too."""
    (tmp_path / "a.txt").write_text("Hello world!\n")
    preprocess(PreprocessConfig(trainpref=(tmp_path / "a.txt",), destdir=tmp_path / "data-bin", workers=1))
    with pytest.raises(StorageError, match="other things than a checkpoint"):
        native.save(tmp_path / "data-bin", tiny_model, Tokenizer.load())
    assert len(IndexedDataset(tmp_path / "data-bin" / "train")) == 1


def test_what_lies_beside_a_checkpoint_is_not_lost_with_it(folder, tiny_model):
    (folder / "notes.txt").write_text("lr was too high")
    with pytest.raises(StorageError, match=r"step_0000007 holds notes\.txt, which is no part of the checkpoint in it"):
        native.save(folder, tiny_model, Tokenizer.load())
    assert native.load(folder).training.progress == {"num_updates": 7}
    assert [path.name for path in folder.parent.iterdir()] == ["step_0000007"]
    (folder / "notes.txt").rename(folder / "README.md")
    native.save(folder, tiny_model, Tokenizer.load())
    assert native.load(folder).training is None
    assert (folder / "README.md").read_text() == "lr was too high"


def test_what_a_file_manager_leaves_goes_along(folder, tiny_model):
    (folder / ".DS_Store").write_bytes(b"view")
    native.save(folder, tiny_model, Tokenizer.load())
    assert native.load(folder).training is None
    assert (folder / ".DS_Store").read_bytes() == b"view"


def test_a_file_is_not_replaced_by_a_checkpoint(tiny_model, tmp_path):
    (tmp_path / "model").write_text("years")
    with pytest.raises(StorageError, match="is a file; it would be lost"):
        native.save(tmp_path / "model", tiny_model, Tokenizer.load())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("model", "years")]


def test_an_empty_folder_and_the_target_of_a_link_are_replaced(tiny_model, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for _ in range(2):
        native.save(tmp_path / "link", tiny_model, Tokenizer.load())
    native.verify(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]
    assert (tmp_path / "link").is_symlink()


def test_the_newest_checkpoint_can_be_found_by_sizes_alone(folder):
    flip(folder / "model.safetensors", -1)
    assert native.newest(folder.parent, check_content=False) == folder
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        native.newest(folder.parent)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="the file is cut"):
        native.newest(folder.parent, check_content=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": []}, "heads: expected an object, found list"),
        ({"heads": {"lm": 5}}, "head lm: expected an object, found int"),
        ({"model": 5}, "model: expected an object, found int"),
        ({"model": {"type": []}}, r"unknown model '\[\]'"),
        ({"model": {"type": "roberta", "vocab_size": 2**62}}, "vocab_size is 4611686018427387904"),
        ({"model": {"type": "roberta", "max_positions": 2**64}}, "max_positions is 18446744073709551616"),
        ({"model": {"type": "roberta", "encoder_layers": 10**9}}, "encoder_layers is 1000000000"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(folder, changes, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / native.MANIFEST).unlink()
    native._write_manifest(folder)
    with pytest.raises(CheckpointError, match=message):
        native.load(folder)


def check(path, sums, mapped):
    if not mapped:
        manifest.check_content(path, sums, CheckpointError)
    for part in manifest.mapped_checks(path, sums, CheckpointError) if mapped else ():
        part()


PIECE = mmap.ALLOCATIONGRANULARITY


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 5 * PIECE // 2])
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("is_older", [False, True])
def test_a_change_or_a_cut_anywhere_shows_in_the_sums(size, mapped, is_older, tmp_path, monkeypatch):
    """Of the file, and in newer manifests of its pieces, whatever the size of pieces is by then."""
    monkeypatch.setattr(manifest, "_PIECE", PIECE)
    path, content = tmp_path / "file", bytes(range(256)) * PIECE
    content = content[:size]
    path.write_bytes(content)
    manifest.write(tmp_path, ["file"])
    monkeypatch.setattr(manifest, "_PIECE", 3 * PIECE)
    sums = manifest.checked_sums(tmp_path, CheckpointError)[path]
    assert sums.whole == hashlib.sha256(content).hexdigest()
    assert len(sums.pieces) == (math.ceil(size / PIECE) if size > PIECE else 0)
    sums = manifest.Sums(sums.whole) if is_older else sums
    check(path, sums, mapped)
    for place in {0, size // 2, size - 1} if size else ():
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match="sha256 differs"):
            check(path, sums, mapped)
        path.write_bytes(content[:place])
        with pytest.raises(CheckpointError, match="sha256 differs"):
            check(path, sums, mapped)


@pytest.mark.parametrize(
    "pieces",
    [
        3,
        ["0" * 64] * 3,
        {"bytes": PIECE, "sha256": ["0" * 64] * 2},
        {"bytes": PIECE, "sha256": ["0" * 64] * 4},
        {"bytes": PIECE, "sha256": [1, 2, 3]},
        {"bytes": PIECE, "sha256": "012"},
        {"bytes": PIECE - 1, "sha256": ["0" * 64] * 3},
        {"bytes": 0, "sha256": []},
        {"bytes": "many", "sha256": ["0" * 64] * 3},
    ],
)
def test_a_manifest_with_sums_of_other_pieces_is_refused(pieces, tmp_path):
    (tmp_path / "file").write_bytes(bytes(3 * PIECE - 5))
    manifest.write(tmp_path, ["file"])
    content = json.loads((tmp_path / manifest.MANIFEST).read_text())
    content["files"]["file"]["pieces"] = pieces
    (tmp_path / manifest.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match=r"MANIFEST\.json: file: sums of pieces that it hasn't; restore the folder"
    ):
        manifest.checked_sums(tmp_path, CheckpointError)
