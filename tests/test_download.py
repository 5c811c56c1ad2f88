"""Downloads against a loopback server that misbehaves on request, and archives that should not be unpacked."""

import gzip
import hashlib
import io
import os
import random
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from roberta import download
from roberta.download import cache_dir, fetch, unpack
from roberta.errors import DownloadError

ROOT = Path(__file__).parents[1]
BODY = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()

Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """A web site on 127.0.0.1: what each path answers, one answer after another, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[str] = []
        self.released = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                self.requests.append(handler.path)
                answers = self.answers[handler.path]
                (answers.pop(0) if len(answers) > 1 else answers[0])(handler)

            def log_message(handler, *args: object) -> None:  # noqa: N805
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def serve(self, path: str, *answers: Answer) -> str:
        self.answers[path] = list(answers)
        return self.url + path


def body(content: bytes = BODY, declared: int | None = len(BODY)) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if declared is not None:
            handler.send_header("Content-Length", str(declared))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.released.set()
    site.server.shutdown()
    site.server.server_close()
    thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the seconds that `fetch` wanted to sleep, without sleeping."""
    seconds: list[float] = []
    monkeypatch.setattr(download.time, "sleep", seconds.append)
    return seconds


# A process that waits for the others at the gate, its standard input, before it does its part.
FETCH = """import sys
from pathlib import Path
from roberta.download import fetch
print("ready", flush=True)
sys.stdin.read()
print(fetch(sys.argv[1], sha256=sys.argv[2], folder=Path(sys.argv[3])))
"""
UNPACK = """import sys
from pathlib import Path
from roberta.download import unpack
print("ready", flush=True)
sys.stdin.read()
print(unpack(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def in_processes(number: int, program: str, *arguments: object) -> list[Path]:
    """Run a program in several processes that begin together, and return the paths that they print."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(number)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None  # or `communicate` flushes it
        printed = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * number
    return [Path(text.strip()) for text in printed]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_cache_dir_is_the_environment_variable_and_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROBERTA_CACHE", str(tmp_path / "a" / "b"))
    assert cache_dir() == tmp_path / "a" / "b"
    assert stat.S_IMODE(cache_dir().stat().st_mode) == 0o700


def test_cache_dir_lies_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ROBERTA_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "roberta"


def test_a_cache_dir_that_cannot_be_made_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ROBERTA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match="ROBERTA_CACHE"):
        cache_dir()


def test_fetch_stores_the_body_under_the_name_in_the_url(site: Site, tmp_path: Path) -> None:
    path = fetch(site.serve("/models/x.tar.gz?v=1", body()), sha256=SHA256, folder=tmp_path)
    assert path.name == "x.tar.gz"
    assert path.read_bytes() == BODY
    assert files(tmp_path) == ["x.tar.gz"]


def told_by_fetch(site: Site, folder: Path, *options: str) -> str:
    """Return what a command writes on stderr that downloads a file, off a terminal, where every step is a line."""
    code = (
        "import sys; from pathlib import Path; from roberta import download, progress\n"
        "from roberta_cli.entry import run\n"
        "progress.LINE_SECONDS = 0.0\n"
        "sys.exit(run(lambda argv: download.fetch(argv[0], folder=Path(argv[1])) and None, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, site.serve("/model.bin", body()), str(folder), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr


def test_a_long_download_tells_how_far_it_is_unless_it_is_to_be_quiet(site: Site, tmp_path: Path) -> None:
    told = told_by_fetch(site, tmp_path / "told")
    assert told.splitlines()[-1].startswith("model.bin: 256k of 256k B, ")
    assert told_by_fetch(site, tmp_path / "quiet", "--quiet") == ""


def test_fetch_takes_the_cache_dir_when_no_folder_is_given(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBERTA_CACHE", str(tmp_path / "cache"))
    assert fetch(site.serve("/x", body())).is_relative_to(tmp_path / "cache")


def test_fetch_stores_an_empty_file(site: Site, tmp_path: Path) -> None:
    assert fetch(site.serve("/x", body(b"", 0)), folder=tmp_path).read_bytes() == b""


def test_a_second_fetch_asks_no_server(site: Site, tmp_path: Path) -> None:
    url = site.serve("/x", body())
    assert fetch(url, folder=tmp_path) == fetch(url, sha256=SHA256, folder=tmp_path)
    assert site.requests == ["/x"]


def test_files_of_the_same_name_from_different_urls_do_not_clash(site: Site, tmp_path: Path) -> None:
    one = fetch(site.serve("/1/model.pt", body(b"one", 3)), folder=tmp_path)
    two = fetch(site.serve("/2/model.pt", body(b"two", 3)), folder=tmp_path)
    assert (one.read_bytes(), two.read_bytes()) == (b"one", b"two")


def test_a_damaged_file_in_the_cache_is_replaced(site: Site, tmp_path: Path) -> None:
    url = site.serve("/x", body())
    fetch(url, folder=tmp_path).write_bytes(b"damaged")
    assert fetch(url, sha256=SHA256, folder=tmp_path).read_bytes() == BODY


def test_a_compressed_body_is_stored_as_it_was_sent(site: Site, tmp_path: Path) -> None:
    packed = gzip.compress(BODY)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(packed)))
        handler.end_headers()
        handler.wfile.write(packed)

    assert fetch(site.serve("/x.tar.gz", answer), folder=tmp_path).read_bytes() == packed


def test_a_missing_file_fails_at_once_and_names_url_cause_and_remedy(
    site: Site, tmp_path: Path, pauses: list[float]
) -> None:
    url = site.serve("/x", status(404))
    with pytest.raises(DownloadError) as caught:
        fetch(url, folder=tmp_path)
    message = str(caught.value)
    assert url in message
    assert "404" in message
    assert str(tmp_path) in message
    assert "ROBERTA_CACHE" in message
    assert "HTTPS_PROXY" in message
    assert site.requests == ["/x"]
    assert pauses == []
    assert files(tmp_path) == []


def test_a_file_put_where_the_message_says_is_found(site: Site, tmp_path: Path) -> None:
    url = site.serve("/x", status(403))
    with pytest.raises(DownloadError) as caught:
        fetch(url, folder=tmp_path)
    place = Path(str(caught.value).split("put the file at ")[1].split(";")[0])
    place.write_bytes(BODY)
    assert fetch(url, sha256=SHA256, folder=tmp_path) == place


def test_server_errors_are_tried_again_after_growing_pauses(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    url = site.serve("/x", status(500), status(502), body())
    assert fetch(url, folder=tmp_path, pause=0.5).read_bytes() == BODY
    assert pauses == [0.5, 1.0]


def test_the_third_server_error_is_final(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    with pytest.raises(DownloadError, match=r"500.*tries: 3"):
        fetch(site.serve("/x", status(500)), folder=tmp_path)
    assert len(site.requests) == 3


@pytest.mark.parametrize(("asked", "waited"), [("7", 7.0), ("86400", 1.0), ("soon", 1.0)])
def test_a_small_retry_after_is_honoured(
    asked: str, waited: float, site: Site, tmp_path: Path, pauses: list[float]
) -> None:
    fetch(site.serve("/x", status(503, Retry_After=asked), body()), folder=tmp_path)
    assert pauses == [waited]


def test_a_body_shorter_than_declared_is_never_stored(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    with pytest.raises(DownloadError, match="tries: 3"):
        fetch(site.serve("/x", body(BODY[:1000])), folder=tmp_path)
    assert files(tmp_path) == []


def test_a_short_body_without_a_length_fails_the_checksum(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    with pytest.raises(DownloadError, match="sha256"):
        fetch(site.serve("/x", body(BODY[:1000], None)), sha256=SHA256, folder=tmp_path)
    assert files(tmp_path) == []


def test_a_short_body_without_a_length_fails_the_size(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    url = site.serve("/x", body(BODY[:1000], None), body())
    assert fetch(url, size=len(BODY), folder=tmp_path).read_bytes() == BODY
    with pytest.raises(DownloadError, match=f"it has {len(BODY)} bytes, expected 1000 .tries: 3."):
        fetch(url, size=1000, folder=tmp_path)


def test_a_file_of_another_size_in_the_cache_is_replaced(site: Site, tmp_path: Path) -> None:
    path = fetch(site.serve("/x", body()), folder=tmp_path)
    path.write_bytes(BODY[:1000])
    assert fetch(site.serve("/x", body()), size=len(BODY), folder=tmp_path).read_bytes() == BODY


def test_a_wrong_checksum_is_tried_once_more(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    url = site.serve("/x", body(BODY[::-1]))
    with pytest.raises(DownloadError, match=f"expected {SHA256}"):
        fetch(url, sha256=SHA256, folder=tmp_path)
    assert len(site.requests) == 2
    assert files(tmp_path) == []


def test_a_checksum_may_be_right_the_second_time(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    url = site.serve("/x", body(BODY[::-1]), body())
    assert fetch(url, sha256=SHA256.upper(), folder=tmp_path).read_bytes() == BODY


def test_a_stalled_server_ends_in_an_error(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    def stall(handler: BaseHTTPRequestHandler) -> None:
        body(BODY[:1000])(handler)
        site.released.wait(20)

    start = time.monotonic()
    with pytest.raises(DownloadError, match="timed out"):
        fetch(site.serve("/x", stall), folder=tmp_path, timeout=(1.0, 0.1))
    assert time.monotonic() - start < 5
    assert files(tmp_path) == []


def test_a_refused_connection_ends_in_an_error(tmp_path: Path, pauses: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
    with pytest.raises(DownloadError, match=r"ConnectionError.*tries: 3"):
        fetch(url, folder=tmp_path)


def test_a_redirect_is_followed(site: Site, tmp_path: Path) -> None:
    site.serve("/new", body())
    path = fetch(site.serve("/old.txt", status(302, Location="/new")), folder=tmp_path)
    assert path.name == "old.txt"
    assert path.read_bytes() == BODY


def test_a_redirect_loop_ends_in_an_error(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="redirects"):
        fetch(site.serve("/x", status(302, Location="/x")), folder=tmp_path)


def test_a_redirect_from_https_to_http_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(session: requests.Session, url: str, **options: object) -> requests.Response:
        assert url.startswith("https:"), "asked the plain server"
        response = requests.Response()
        response.status_code = 301
        response.headers["Location"] = "http://example.org/x"
        response.raw = io.BytesIO()
        return response

    monkeypatch.setattr(requests.Session, "get", get)
    with pytest.raises(DownloadError, match="from https to http:"):
        fetch("https://example.org/x", folder=tmp_path)


@pytest.mark.parametrize("url", ["ftp://example.org/x", "x.tar.gz", "http://"])
def test_an_address_that_is_none_ends_in_an_error(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="could not download"):
        fetch(url, folder=tmp_path)


def test_a_folder_that_cannot_be_written_ends_in_an_error(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="ROBERTA_CACHE"):
        fetch(site.serve("/x", body()), folder=tmp_path / "file")


def test_an_interrupt_leaves_no_temporary_file(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(site.serve("/x", body()), folder=tmp_path)
    assert files(tmp_path) == []


def test_what_a_killed_process_left_is_swept_and_a_live_download_is_not(site: Site, tmp_path: Path) -> None:
    url = site.serve("/x", body())
    path = fetch(url, folder=tmp_path)
    stale, live = (path.with_name(f"x.{pid}.0.part") for pid in (1, 2))
    for part in (stale, live):
        part.write_bytes(b"half")
    os.utime(stale, (0, 0))
    path.unlink()
    fetch(url, folder=tmp_path)
    assert files(tmp_path) == ["x", live.name]


def test_parallel_downloads_of_one_url_all_end_right(site: Site, tmp_path: Path) -> None:
    url = site.serve("/x", body())
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: fetch(url, sha256=SHA256, folder=tmp_path), range(8)))
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == BODY
    assert files(tmp_path) == ["x"]


def test_processes_that_fetch_one_url_at_once_all_end_right(site: Site, tmp_path: Path) -> None:
    together = threading.Barrier(3)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        together.wait(20)  # no process has the file when the last one asks
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        for start in range(0, len(BODY), 16_000):
            handler.wfile.write(BODY[start : start + 16_000])
            time.sleep(0.01)

    paths = in_processes(3, FETCH, site.serve("/x", drip), SHA256, tmp_path)
    assert site.requests == ["/x"] * 3
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == BODY
    assert files(tmp_path) == ["x"]


GOOD = {"m/model.pt": b"weights" * 1000, "m/dict.txt": b"13 850314647\n"}


def regular(name: str, content: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def make_archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    members = [special("m", tarfile.DIRTYPE), *(regular(name, content) for name, content in GOOD.items())]
    return make_archive(tmp_path / "m.tar.gz", *members)


def test_unpack_gives_the_files_of_the_top_folder(archive: Path, tmp_path: Path) -> None:
    before = archive.read_bytes()
    folder = unpack(archive, tmp_path / "new" / "folder")
    assert folder == tmp_path / "new" / "folder"
    assert {f"m/{path.name}": path.read_bytes() for path in folder.iterdir()} == GOOD
    assert archive.read_bytes() == before
    assert files(tmp_path) == ["dict.txt", "m.tar.gz", "model.pt"]


def test_every_file_that_hub_archives_hold_is_unpacked(tmp_path: Path) -> None:
    names = {"encoder.json", "vocab.bpe", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "NOTE", "README.md"}
    names |= {"model.pt", "dict.txt"}
    path = make_archive(tmp_path / "a.tar.gz", *(regular(f"./m/{name}") for name in sorted(names)))
    assert {file.name for file in unpack(path, tmp_path / "folder").iterdir()} == names


def test_a_folder_that_is_unpacked_already_is_returned_at_once(archive: Path, tmp_path: Path) -> None:
    folder = unpack(archive, tmp_path / "folder")
    archive.unlink()
    assert unpack(archive, folder) == folder


def test_a_foreign_folder_in_the_way_is_left_alone(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("")
    with pytest.raises(DownloadError, match="folder"):
        unpack(archive, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["folder"]
    assert files(tmp_path / "folder") == ["mine"]


def test_modes_of_members_are_not_taken_over(tmp_path: Path) -> None:
    member, content = regular("m/model.pt")
    member.mode = 0o6777
    path = make_archive(tmp_path / "a.tar.gz", (member, content), regular("m/dict.txt"))
    assert unpack(path, tmp_path / "folder").joinpath("model.pt").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize(
    "member",
    [
        regular("m/../../model.pt"),
        regular("../dict.txt"),
        regular("/m/dict.txt"),
        regular("//m/dict.txt"),
        regular("dict.txt"),
        regular("m/deep/dict.txt"),
        regular("other/dict.txt"),
        regular("m/sitecustomize.py"),
        regular("m/README\x7f.md"),
        regular("m/" + "long/" * 800 + "dict.txt"),
        regular("m/" + "n" * 4000),
        regular("m/modèl.pt"),
        regular("m/model.pt"),
        special("m/deep", tarfile.DIRTYPE),
        special("m/NOTE", tarfile.SYMTYPE, "/etc/passwd"),
        special("m/NOTE", tarfile.LNKTYPE, "m/model.pt"),
        special("m/NOTE", tarfile.CHRTYPE),
        special("m/NOTE", tarfile.BLKTYPE),
        special("m/NOTE", tarfile.FIFOTYPE),
        special("m/NOTE", tarfile.CONTTYPE),
    ],
    ids=lambda member: f"{member[0].name[:20]!a}-{member[0].type.decode()}",
)
def test_a_member_that_no_hub_archive_has_is_refused(member: tuple[tarfile.TarInfo, bytes], tmp_path: Path) -> None:
    good = [regular(name, content) for name, content in GOOD.items()]
    path = make_archive(tmp_path / "a.tar.gz", *good, member)
    with pytest.raises(DownloadError) as caught:
        unpack(path, tmp_path / "in" / "folder")
    assert str(path) in str(caught.value)
    assert repr(member[0].name[:200]) in str(caught.value)
    assert files(tmp_path) == ["a.tar.gz"]
    assert list(tmp_path.joinpath("in").iterdir()) == []


@pytest.mark.parametrize("absent", ["model.pt", "dict.txt"])
def test_an_archive_without_a_needed_file_is_refused(absent: str, tmp_path: Path) -> None:
    path = make_archive(tmp_path / "a.tar.gz", *(regular(name) for name in GOOD if not name.endswith(absent)))
    with pytest.raises(DownloadError, match=f"no {absent}"):
        unpack(path, tmp_path / "folder")


def test_an_archive_larger_than_the_limit_is_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_MAX_UNPACKED_BYTES", 7000)
    with pytest.raises(DownloadError, match="more than 7000 bytes"):
        unpack(archive, tmp_path / "folder")


def test_an_archive_with_much_after_its_end_is_refused(archive: Path, tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes() + gzip.compress(bytes(2**21)))
    with pytest.raises(DownloadError, match="follow the last member"):
        unpack(archive, tmp_path / "folder")


def test_an_archive_cut_anywhere_is_damaged(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    for length in range(0, len(whole), 7):
        archive.write_bytes(whole[:length])
        with pytest.raises(DownloadError, match=r"m\.tar\.gz"):
            unpack(archive, tmp_path / "folder")
    assert files(tmp_path) == ["m.tar.gz"]


def test_a_flipped_bit_never_gives_other_contents(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    rng = random.Random(1)
    refused = 0
    for trial in range(200):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        archive.write_bytes(damaged)
        try:
            folder = unpack(archive, tmp_path / str(trial))
        except DownloadError:
            refused += 1
        else:  # only the gzip header has bytes that no checksum covers
            assert {f"m/{path.name}": path.read_bytes() for path in folder.iterdir()} == GOOD
    assert refused > 150


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", gzip.compress(b"", mtime=0), gzip.compress(b"text" * 1000, mtime=0)]
)
def test_a_file_that_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=r"a\.tar\.gz"):
        unpack(path, tmp_path / "folder")


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"absent\.tar\.gz"):
        unpack(tmp_path / "absent.tar.gz", tmp_path / "folder")


def test_parallel_unpacking_of_one_archive_all_ends_right(archive: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: unpack(archive, tmp_path / "folder"), range(8)))
    assert folders == {tmp_path / "folder"}
    assert files(tmp_path) == ["dict.txt", "m.tar.gz", "model.pt"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["folder"]


def test_processes_that_unpack_one_archive_at_once_all_end_right(tmp_path: Path) -> None:
    weights = random.Random(1).randbytes(2**24)  # long enough for the processes to overlap
    path = make_archive(tmp_path / "m.tar.gz", regular("m/model.pt", weights), regular("m/dict.txt", b"13 1\n"))
    folders = in_processes(3, UNPACK, path, tmp_path / "folder")
    assert folders == [tmp_path / "folder"] * 3
    assert (tmp_path / "folder" / "model.pt").read_bytes() == weights
    assert (tmp_path / "folder" / "dict.txt").read_bytes() == b"13 1\n"
    assert files(tmp_path) == ["dict.txt", "m.tar.gz", "model.pt"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["folder"]
