"""Opening models by name and path; the published archives come from a loopback server here."""

import argparse
import dataclasses
import errno
import http.server
import io
import json
import shutil
import socket
import sys
import tarfile
import threading
import types

import pytest
import torch
from safetensors.torch import load_file

from roberta import pretrained
from roberta.checkpoint import hf_format, native
from roberta.data.tokenizer import Tokenizer
from roberta.errors import CheckpointError, DownloadError, VocabError
from roberta.hub import from_pretrained
from roberta.layout import SequenceLayout
from roberta.models.heads import ClassificationHeadConfig, MaskedLMHeadConfig
from roberta.models.roberta import RobertaConfig, RobertaModel
from roberta.pretrained import load


def make_model(**options) -> RobertaModel:
    torch.manual_seed(0)
    shape = {"encoder_layers": 1, "embed_dim": 8, "ffn_embed_dim": 8, "attention_heads": 1, "max_positions": 16}
    model = RobertaModel(RobertaConfig(**{**shape, **options}))
    model.register_head("lm", MaskedLMHeadConfig())
    model.register_head("mnli", ClassificationHeadConfig(num_classes=3))
    return model.eval()


def fairseq_2019(model: RobertaModel) -> dict:
    """Return what fairseq of 2019 would have saved of a model."""
    config = model.config
    args = argparse.Namespace(
        encoder_layers=config.encoder_layers,
        encoder_embed_dim=config.embed_dim,
        encoder_ffn_embed_dim=config.ffn_embed_dim,
        encoder_attention_heads=config.attention_heads,
        max_positions=config.max_positions,
        activation_fn="gelu",
        pooler_activation_fn="tanh",
        dropout=0.1,
        attention_dropout=0.1,
    )
    state = {"decoder.lm_head.weight": model.encoder.embed_tokens.weight.detach()}
    for name, tensor in model.state_dict().items():
        foreign = name.replace("encoder.", "decoder.sentence_encoder.", 1).replace("heads.lm.", "decoder.lm_head.")
        foreign = foreign.replace("heads.mnli.", "classification_heads.mnli.")
        foreign = foreign.replace("layernorm_embedding", "emb_layer_norm").replace("qkv_proj.", "in_proj_")
        state[foreign] = tensor
    return {"args": args, "model": state}


@pytest.fixture
def archive(tmp_path) -> bytes:
    """Return a hub archive as published: one folder with model.pt, dict.txt and a note."""
    folder = tmp_path / "roberta.large.mnli"
    folder.mkdir()
    torch.save(fairseq_2019(make_model()), folder / "model.pt", _use_new_zipfile_serialization=False)
    Tokenizer.load().dictionary.save(folder / "dict.txt")
    (folder / "NOTE").write_text("a note")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return stream.getvalue()


@pytest.fixture
def cuts() -> list[int]:
    """Return the bytes that the server's next answers end after, without saying their length."""
    return []


@pytest.fixture
def server(archive, cuts, monkeypatch, tmp_path):
    """Serve the archive under every path, count the requests, and point the release table and the cache at it."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            if not cuts:
                self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive[: cuts.pop(0)] if cuts else archive)

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    base = f"http://127.0.0.1:{httpd.server_address[1]}"
    releases = {
        name: pretrained.Release(release.url.replace(pretrained.FAIRSEQ_MODELS, base), release.labels)
        for name, release in pretrained.RELEASES.items()
    }
    monkeypatch.setattr(pretrained, "RELEASES", releases)
    monkeypatch.setenv("ROBERTA_CACHE", str(tmp_path / "cache"))
    yield requests
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_the_model_that_ships_opens_by_name_without_a_network_and_is_small(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    shipped = pretrained.SHIPPED["roberta.mini"]
    assert sum(path.stat().st_size for path in shipped.iterdir()) < 12e6
    roberta = from_pretrained("roberta.mini")
    assert not roberta.training
    assert {parameter.dtype for parameter in roberta.parameters()} == {torch.float32}
    native.verify(shipped)
    assert roberta.max_tokens == 128
    assert roberta.decode(roberta.encode("Hello world!")) == "Hello world!"


@pytest.mark.parametrize(
    ("text", "sensible"),
    [
        ("She opened the <mask> and went into the house.", {"door", "gate"}),
        ("My dear <mask>, said the old lady.", {"sir", "child", "boy", "lady", "madam", "girl", "friend"}),
        ("He held out his <mask>.", {"hand", "hands", "arm", "arms"}),
        ("They had been married for ten <mask>.", {"years", "days", "weeks", "months"}),
        ('"I do not <mask>," he said.', {"know", "think", "understand", "mean", "believe"}),
    ],
)
def test_the_model_that_ships_fills_masks_sensibly(text, sensible):
    found = {token.strip() for _, _, token in from_pretrained("roberta.mini").fill_mask(text, topk=3)}
    assert found & sensible


def test_torch_hub_opens_the_model_that_ships():
    import hubconf

    assert getattr(hubconf, "roberta.mini")().fill_mask("It was a <mask>.", topk=1)


def test_releases_are_the_published_urls():
    for name, release in pretrained.RELEASES.items():
        assert release.url == f"https://dl.fbaipublicfiles.com/fairseq/models/{name}.tar.gz"


def test_a_release_is_downloaded_once_and_gives_the_models_numbers(server):
    roberta = from_pretrained("roberta.large.mnli")
    again = from_pretrained("roberta.large.mnli")
    assert server == ["/roberta.large.mnli.tar.gz"]
    tokens = roberta.encode("Hello world!")
    expected = make_model()
    layout = SequenceLayout.from_lengths([len(tokens)])
    torch.testing.assert_close(
        roberta.predict("mnli", tokens, return_logits=True), expected(tokens, layout, "mnli", layout.first)
    )
    torch.testing.assert_close(roberta.extract_features(tokens), again.extract_features(tokens), atol=1e-6, rtol=0)
    assert roberta.model.head_config("mnli").labels == ("contradiction", "neutral", "entailment")
    assert not roberta.training


def test_an_unpacked_release_is_not_downloaded_again_when_its_archive_is_removed(server, tmp_path):
    from_pretrained("roberta.large.mnli")
    (archive,) = (tmp_path / "cache").glob("*/*.tar.gz")
    archive.unlink()
    from_pretrained("roberta.large.mnli")
    assert len(server) == 1


@pytest.mark.parametrize("missing", ["model.pt", "dict.txt"])
def test_half_a_folder_is_no_unpacked_release(server, tmp_path, missing):
    from_pretrained("roberta.large.mnli")
    (tmp_path / "cache/roberta.large.mnli" / missing).unlink()
    shutil.rmtree(next((tmp_path / "cache").glob("*/*.tar.gz")).parent)
    with pytest.raises(DownloadError, match="could not unpack .*; if that folder holds other files, move it away"):
        from_pretrained("roberta.large.mnli")
    assert len(server) == 2


def test_an_archive_that_came_short_is_downloaded_once_more(server, archive, cuts, caplog):
    cuts.append(len(archive) // 2)
    from_pretrained("roberta.large.mnli")
    assert len(server) == 2
    assert "downloading it again" in caplog.text


def test_an_archive_that_comes_short_twice_is_an_error_that_lasts_no_longer_than_its_cause(server, archive, cuts):
    cuts += [len(archive) // 2, 0]
    with pytest.raises(DownloadError, match="could not unpack"):
        from_pretrained("roberta.large.mnli")
    assert len(server) == 2
    from_pretrained("roberta.large.mnli")
    assert len(server) == 3


def test_a_full_disk_costs_no_download(server, monkeypatch, tmp_path):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("roberta.download._rename_folder", fail)
    for _ in range(2):
        with pytest.raises(DownloadError, match="No space left on device"):
            from_pretrained("roberta.large.mnli")
    assert len(server) == 1


@pytest.mark.parametrize(("known", "said"), [({"sha256": "0" * 64}, "its sha256 is"), ({"size": 5}, "expected 5")])
def test_what_is_known_of_a_release_is_checked(server, monkeypatch, known, said):
    monkeypatch.setattr("roberta.download.time.sleep", lambda seconds: None)
    release = dataclasses.replace(pretrained.RELEASES["roberta.large.mnli"], **known)
    monkeypatch.setitem(pretrained.RELEASES, "roberta.large.mnli", release)
    with pytest.raises(DownloadError, match=said):
        from_pretrained("roberta.large.mnli")


def test_torch_hub_downloads_a_release_by_its_name(server):
    import hubconf

    roberta = getattr(hubconf, "roberta.large.mnli")()
    assert server == ["/roberta.large.mnli.tar.gz"]
    assert "mnli" in roberta.model.heads


def test_a_local_archive_is_opened_and_left_as_it_was(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBERTA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(archive)
    assert from_pretrained(path).encode("a").tolist() == [0, 102, 2]
    assert path.read_bytes() == archive


def test_a_fairseq_folder_and_its_file_open_alike(archive, tmp_path):
    folder = tmp_path / "roberta.large.mnli"
    (folder / "model.pt").rename(folder / "best.pt")
    by_folder = from_pretrained(folder, checkpoint_file="best.pt")
    by_file = from_pretrained(folder / "best.pt")
    tokens = by_folder.encode("a")
    torch.testing.assert_close(by_folder.extract_features(tokens), by_file.extract_features(tokens), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["fairseq", "native"])
def test_a_dictionary_that_does_not_fit_the_embedding_is_refused(kind, tmp_path):
    model = make_model(vocab_size=50000)
    if kind == "native":
        native.save(tmp_path / "model", model, Tokenizer.load())
    else:
        (tmp_path / "model").mkdir()
        torch.save(fairseq_2019(model), tmp_path / "model" / "model.pt")
    with pytest.raises(VocabError, match="the dictionary has 50265 symbols .* the token embedding 50000 rows"):
        from_pretrained(tmp_path / "model")


@pytest.fixture
def hugging_face_hub(monkeypatch, tmp_path):
    """Stand in for the package huggingface_hub: one repository "me/tiny", and a list of the patterns asked for."""
    asked = []
    repository = tmp_path / "repository"

    class HfHubHTTPError(Exception):
        pass

    def snapshot_download(name, allow_patterns):
        asked.append(set(allow_patterns))
        if name != "me/tiny":
            raise HfHubHTTPError("404 Client Error.\n\nRepository Not Found")
        return str(repository)

    package, errors = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.errors")
    package.snapshot_download, errors.HfHubHTTPError = snapshot_download, HfHubHTTPError
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    hf_format.write(repository, make_model(), Tokenizer.load(), "lm")
    return repository, asked


def test_a_hugging_face_folder_opens_by_its_path(hugging_face_hub):
    repository, _ = hugging_face_hub
    roberta = from_pretrained(repository)
    assert roberta.encode("Hello world!").tolist() == [0, 31414, 232, 328, 2]
    assert list(roberta.model.heads) == ["lm"]
    assert not roberta.training


def test_a_name_of_the_hugging_face_hub_is_fetched_without_pickles(hugging_face_hub):
    _, asked = hugging_face_hub
    weights = pretrained.load("hf:me/tiny").model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in make_model().state_dict().items() if "lm" in name)
    assert len(asked) == 1
    assert "pytorch_model.bin" not in asked[0]
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "merges.txt"} <= asked[0]


def test_pickled_weights_are_fetched_where_there_are_no_others(hugging_face_hub):
    repository, asked = hugging_face_hub
    torch.save(load_file(repository / "model.safetensors"), repository / "pytorch_model.bin")
    (repository / "model.safetensors").unlink()
    assert list(pretrained.load("hf:me/tiny").model.heads) == ["lm"]
    assert ["pytorch_model.bin" in patterns for patterns in asked] == [False, True]


@pytest.mark.usefixtures("hugging_face_hub")
def test_a_name_that_the_hugging_face_hub_lacks_is_a_download_error():
    with pytest.raises(DownloadError, match=r"^hf:me/tinny: can't be fetched: 404 Client Error\.; check the name"):
        pretrained.load("hf:me/tinny")


def test_without_the_optional_package_the_error_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
        pretrained.load("hf:me/tiny")


def test_the_options_of_a_run_are_found_from_its_folder_its_best_model_and_its_checkpoints(tmp_path):
    model, tokenizer = make_model(), Tokenizer.load()
    options = {"task": {"type": "span", "doc_stride": 9}}
    state = native.TrainingState(options, {"m": torch.zeros(1)}, {})
    for run in (tmp_path / "one", tmp_path / "two" / "lr1e-05_seed1"):
        native.save(run / "step_0000003", model, tokenizer, state)
    for run in ("one", "two"):
        native.save(tmp_path / run / "best", model, tokenizer)
    for place in ("one", "one/best", "one/step_0000003", "two", "two/best"):
        assert pretrained.training_options(tmp_path / place) == options
    native.save(tmp_path / "best", model, tokenizer)  # stands beside a run, and is not of it
    for place in (tmp_path / "best", tmp_path / "nowhere", "roberta.base", "hf:me/tiny"):
        assert pretrained.training_options(place) == {}


def test_the_options_of_a_sweep_are_those_of_the_run_that_left_the_best_model(tmp_path):
    model, tokenizer = make_model(), Tokenizer.load()
    for seed, stride in ((1, 9), (2, 7)):
        state = native.TrainingState({"task": {"type": "span", "doc_stride": stride}}, {"m": torch.zeros(1)}, {})
        native.save(tmp_path / f"lr1e-05_seed{seed}" / "step_0000003", model, tokenizer, state)
    for best, stride in (("runs/old/lr1e-05_seed2", 7), (None, 9)):
        (tmp_path / "report.json").write_text(json.dumps({"best": {"save_dir": best}}))
        assert pretrained.training_options(tmp_path)["task"]["doc_stride"] == stride


def test_a_folder_of_no_known_kind_says_what_it_lacks(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"no MANIFEST\.json .* no config\.json with a model_type .* no model\.pt"
    ):
        pretrained.load(tmp_path)


def test_the_name_of_a_file_goes_with_fairseqs_folders_alone(tmp_path):
    model, tokenizer = make_model(), Tokenizer.load()
    native.save(tmp_path / "ours", model, tokenizer)
    hf_format.write(tmp_path / "theirs", model, tokenizer, "lm")
    for name, whose in (("ours", "this package"), ("theirs", "Hugging Face")):
        assert load(tmp_path / name).model.config == model.config
        with pytest.raises(CheckpointError, match=f"best.pt would be a file of a fairseq .* is one of {whose}"):
            load(tmp_path / name, "best.pt")
    with pytest.raises(CheckpointError, match="hf:owner/name: best.pt would be a file of a fairseq folder"):
        load("hf:owner/name", "best.pt")


@pytest.mark.parametrize("name", [None, 3])
def test_what_is_neither_a_name_nor_a_path_is_refused(name):
    with pytest.raises(CheckpointError, match=f"{name} is neither the name of a model nor a path"):
        from_pretrained(name)


def test_what_sentence_transformers_adds_is_told_to_be_left_aside(tmp_path, caplog):
    hf_format.write(tmp_path / "model", make_model(), Tokenizer.load(), "lm")
    load(tmp_path / "model")
    assert not caplog.text
    (tmp_path / "model" / "modules.json").write_text("[]")
    load(tmp_path / "model")
    assert "what sentence-transformers does beside the model is not read from it" in caplog.text


def test_a_fairseq_folder_without_the_file_names_those_it_has(tmp_path):
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="files as checkpoint_file: checkpoint_best.pt, checkpoint_last.pt"):
        load(tmp_path)
