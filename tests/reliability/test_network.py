"""Downloads from servers that fail in every way, again and again. Numbers are those of SECURITY.md's table."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from roberta.download import fetch
from roberta.errors import DownloadError

ROOT = Path(__file__).parents[2]
BODY = random.Random(0).randbytes(200_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
FETCH = """import sys
from pathlib import Path
from roberta.download import fetch
fetch(sys.argv[1], sha256=sys.argv[2], folder=Path(sys.argv[3]))
"""

Fault = Callable[[BaseHTTPRequestHandler], None]


def head(handler: BaseHTTPRequestHandler, status: int = 200, length: int | None = len(BODY), **headers: str) -> None:
    handler.send_response(status)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def whole(handler: BaseHTTPRequestHandler) -> None:
    head(handler)
    handler.wfile.write(BODY)


def drip(handler: BaseHTTPRequestHandler) -> None:
    head(handler)
    for start in range(0, len(BODY), 2000):
        handler.wfile.write(BODY[start : start + 2000])
        time.sleep(0.01)


def corrupt(handler: BaseHTTPRequestHandler) -> None:
    head(handler)
    handler.wfile.write(BODY[:-1] + bytes([BODY[-1] ^ 1]))


def short(handler: BaseHTTPRequestHandler) -> None:
    head(handler)
    handler.wfile.write(BODY[:1000])


def short_without_length(handler: BaseHTTPRequestHandler) -> None:
    head(handler, length=None)
    handler.wfile.write(BODY[:1000])


def longer(handler: BaseHTTPRequestHandler) -> None:
    head(handler, length=None)
    handler.wfile.write(BODY + b"more")


def stall(handler: BaseHTTPRequestHandler) -> None:
    head(handler)
    handler.wfile.write(BODY[:1000])
    time.sleep(0.4)


def no_answer(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\xffnot http\r\n\r\n")


def other_range(handler: BaseHTTPRequestHandler) -> None:
    head(handler, status=206, length=1000)
    handler.wfile.write(BODY[-1000:])


def page(handler: BaseHTTPRequestHandler) -> None:
    head(handler, length=len(b"<html>log in"))
    handler.wfile.write(b"<html>log in")


def status(code: int, **headers: str) -> Fault:
    return lambda handler: head(handler, status=code, length=0, **headers)


FAULTS: dict[str, Fault] = {
    "not found": status(404),
    "server error": status(500),
    "busy": status(503, **{"Retry-After": "1"}),
    "redirect loop": status(302, Location="/"),
    "redirect to a file": status(302, Location="file:///etc/passwd"),
    "redirect without target": status(302),
    "corrupt": corrupt,
    "short": short,
    "short without length": short_without_length,
    "longer": longer,
    "stall": stall,
    "no http": no_answer,
    "another range": other_range,
    "a page of a portal": page,
}


class Server:
    """A server on 127.0.0.1 that fails as it is told to, `failures` times, and then answers."""

    def __init__(self) -> None:
        self.fault: Fault = whole
        self.failures = 0
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                with self.lock:
                    self.headers.append(dict(handler.headers))
                    fails, self.failures = self.failures > 0, self.failures - 1
                try:
                    (self.fault if fails else whole)(handler)
                except (BrokenPipeError, ConnectionResetError):
                    handler.close_connection = True

            def log_message(handler, *args: object) -> None:  # noqa: N805
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/model.tar.gz"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def endure(server: Server, folder: Path, fault: str, repeats: int) -> dict[str, int]:
    """Fetch a file from a server that fails up to three times; return how often it came and how often it did not."""
    server.fault = FAULTS[fault]
    counts = {"right": 0, "refused": 0}
    for repeat in range(repeats):
        server.failures = repeat % 4 * (20 if fault == "redirect loop" else 1)
        cache = folder / str(repeat)
        try:
            fetch(server.url, sha256=SHA256, folder=cache, timeout=(0.3, 0.15), pause=0.001)
            outcome, expected = "right", [BODY]
        except DownloadError:
            outcome, expected = "refused", []
        counts[outcome] += 1
        assert [item.read_bytes() for item in cache.rglob("*") if item.is_file()] == expected, "poisoned"
    assert counts["right"] >= repeats // 4
    return counts


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "busy"])
def test_34_a_failing_server_gives_the_right_file_or_an_error(fault, server, tmp_path):
    counts = endure(server, tmp_path, fault, repeats=4)
    assert counts["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_34_a_failing_server_twenty_times(fault, server, tmp_path):
    print(json.dumps({"fault": fault, **endure(server, tmp_path, fault, repeats=20)}))


def test_37_a_download_never_asks_for_a_part(server, tmp_path):
    """A server that ignores, or answers wrongly, what it was not asked can do no harm."""
    fetch(server.url, sha256=SHA256, folder=tmp_path)
    assert not any("Range" in headers for headers in server.headers)


def test_32_many_at_once_from_a_failing_server_poison_nothing(server, tmp_path):
    server.fault, server.failures = corrupt, 5

    def fetched(_: int) -> bool:
        try:
            return fetch(server.url, sha256=SHA256, folder=tmp_path, pause=0.001).read_bytes() == BODY
        except DownloadError:
            return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fetched, range(24)))
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [BODY]


def kill_downloads(server: Server, folder: Path, kills: int, seed: int) -> int:
    """Kill processes in the middle of a download; return how many had not ended. Nothing is ever there in part."""
    server.fault, rng, killed = drip, random.Random(seed), 0
    for _ in range(kills):
        server.failures = 1
        asked = len(server.headers)
        process = subprocess.Popen([sys.executable, "-c", FETCH, server.url, SHA256, str(folder)], cwd=ROOT)
        while len(server.headers) == asked:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.9))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += not list(folder.rglob("model.tar.gz"))
        assert all(path.read_bytes() == BODY for path in folder.rglob("model.tar.gz"))
        for path in folder.rglob("model.tar.gz"):
            path.unlink()
    assert fetch(server.url, sha256=SHA256, folder=folder).read_bytes() == BODY
    return killed


def test_04_a_killed_download_leaves_nothing_under_the_final_name(server, tmp_path):
    assert kill_downloads(server, tmp_path, kills=2, seed=4) > 0


@pytest.mark.slow
def test_04_many_killed_downloads(server, tmp_path):
    print(json.dumps({"download kills": kill_downloads(server, tmp_path, kills=50, seed=4)}))


def test_31_a_cache_that_can_not_be_written_is_read_and_otherwise_named(server, tmp_path):
    cache = tmp_path / "cache"
    path = fetch(server.url, sha256=SHA256, folder=cache)
    with mounted_read_only(cache):
        assert fetch(server.url, sha256=SHA256, folder=cache) == path
        with pytest.raises(DownloadError, match=r"Read-only file system.*ROBERTA_CACHE moves the cache"):
            fetch(server.url + "2", sha256=SHA256, folder=cache)


class mounted_read_only:  # noqa: N801
    """A folder that cannot be written within the block, not even by root."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __enter__(self) -> None:
        if os.geteuid() or subprocess.run(["mount", "--bind", self.folder, self.folder], check=False).returncode:
            pytest.skip("needs the right to mount; run as root")
        subprocess.run(["mount", "-o", "remount,ro,bind", self.folder], check=True)

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", self.folder], check=True)
