"""Files from the network: a cache, downloads that are whole or absent, and archives opened member by member.

A file appears under its final name only when every byte of it has arrived and been checked; two processes that fetch
or unpack the same thing at once both end with a good copy, without a lock. Nothing here knows what a model is: which
archives exist, and their checksums, is the business of `pretrained`.
"""

import contextlib
import glob
import gzip
import hashlib
import logging
import os
import re
import shutil
import tarfile
import time
import zlib
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from roberta.errors import DownloadError
from roberta.files import temporary
from roberta.progress import progress_bar

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

_CHUNK = 2**20  # bytes
_MAX_TRIES = 3
_MAX_MISMATCHES = 2
_MAX_REDIRECTS = 10
_MAX_RETRY_AFTER = 60.0  # seconds; a server that asks for more is treated as one that asks for nothing
_STALE_SECONDS = 24 * 3600.0
_MAX_UNPACKED_BYTES = 32 * 2**30  # 355M parameters take 1.4 GB in float32; what grows past this is a bomb
_MAX_TRAILING_BYTES = 2**20
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, ValueError)  # what reading such an archive raises
_REQUIRED_MEMBERS = frozenset({"model.pt", "dict.txt"})
_MEMBER = re.compile(
    r"model\.pt|dict\.txt|encoder\.json|vocab\.bpe|vocab\.json|merges\.txt|sentencepiece\.bpe\.model|NOTE|README[\w.-]{0,40}",
    re.ASCII,
)


class DamagedArchiveError(DownloadError):
    """An archive is not as it was packed: cut, changed, or something else; another download may be whole."""


class _TryError(DownloadError):
    """One try at a download failed; up to `tries` of this kind are worth making."""

    def __init__(self, cause: str, *, tries: int = 1, retry_after: float = 0.0) -> None:
        super().__init__(cause)
        self.tries = tries
        self.retry_after = retry_after


def cache_dir() -> Path:
    """Return the folder for downloads, `$ROBERTA_CACHE` or `~/.cache/roberta`, readable by its owner only when new.

    Raises:
        DownloadError: the folder can't be made.
    """
    given = os.environ.get("ROBERTA_CACHE") or "~/.cache/roberta"
    try:
        folder = Path(given).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise DownloadError(
            f"can't make the cache folder {given}: {error}; set ROBERTA_CACHE to a writable one"
        ) from error
    return folder


def fetch(
    url: str,
    *,
    sha256: str | None = None,
    size: int | None = None,
    folder: Path | None = None,
    timeout: tuple[float, float] = (5.0, 30.0),
    pause: float = 1.0,
) -> Path:
    """Return the local path of the file at `url`, downloading it if it is not in the cache yet.

    `sha256` is the expected digest in hexadecimal, `size` the expected bytes; without them the only check is the length
    that the server declares.
    `folder` stands in for `cache_dir()`. `timeout` is seconds to connect and seconds between bytes; `pause` is seconds
    before the second try, doubled for each further one. Timeouts, broken connections and server errors (5xx) are tried
    again, refusals (4xx) are not.

    Raises:
        DownloadError: the file could not be fetched, verified or stored; the message says where to put it by hand.
    """
    path = (folder or cache_dir()) / hashlib.sha256(url.encode()).hexdigest()[:16] / _file_name(url)
    tries = 0
    try:
        if _is_cached(path, sha256, size):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, f"{glob.escape(path.name)}.*.part")
        while True:
            tries += 1
            try:
                return _try_once(url, path, sha256=sha256, size=size, timeout=timeout)
            except _TryError as error:
                if tries >= error.tries:
                    raise
                logger.warning("download of %s failed (%s); trying again", url, error)
                time.sleep(max(pause * 2 ** (tries - 1), error.retry_after))
    except (_TryError, OSError) as error:
        raise DownloadError(
            f"could not download {url}: {error}{f' (tries: {tries})' if tries > 1 else ''}; behind a proxy set "
            f"HTTPS_PROXY; without network put the file at {path}; ROBERTA_CACHE moves the cache"
        ) from error


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a fairseq hub archive, one top folder in a tar.gz, and return `folder`, which then holds its files.

    Only regular files with the names that such archives have are written; the archive itself is never changed. A
    `folder` that already holds a model is returned as it is.

    Raises:
        DamagedArchiveError: the archive is damaged.
        DownloadError: it lacks a file, or holds a member that no hub archive has; or the folder can't be written.
    """
    if is_unpacked(folder):
        return folder
    part = temporary(folder)
    try:
        sweep(folder.parent, f"{glob.escape(folder.name)}.*.part")
        part.mkdir(parents=True)
        _extract(archive, part)
        _rename_folder(part, folder)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, RecursionError, MemoryError) as error:
        kind = DamagedArchiveError if isinstance(error, _DAMAGE) else DownloadError
        raise kind(
            f"could not unpack {archive} into {folder}: {type(error).__name__}: {error}; "
            "if the archive is damaged, delete it and download it again; if that folder holds other files, move it away"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def is_unpacked(folder: Path) -> bool:
    """Return whether a folder has the files that every hub archive has."""
    return all((folder / name).is_file() for name in _REQUIRED_MEMBERS)


def sweep(parent: Path, pattern: str) -> None:
    """Delete the files and folders of these names that killed processes left; live ones are touched far more often."""
    for part in parent.glob(pattern):
        with contextlib.suppress(OSError):  # another process swept it, or another user's it is
            if time.time() - max(path.stat().st_mtime for path in (part, *part.rglob("*"))) > _STALE_SECONDS:
                shutil.rmtree(part) if part.is_dir() else part.unlink()


def _file_name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name or "download"


def _is_cached(path: Path, sha256: str | None, size: int | None) -> bool:
    if not path.is_file():
        return False
    if size not in (None, path.stat().st_size):
        logger.warning("%s has %d bytes instead of %d; downloading it again", path, path.stat().st_size, size)
        return False
    if sha256 is None:
        return True
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        logger.warning("%s has sha256 %s instead of %s; downloading it again", path, found, sha256)
    return found == sha256.lower()


def _try_once(url: str, path: Path, *, sha256: str | None, size: int | None, timeout: tuple[float, float]) -> Path:
    import requests  # slow: 200 ms, which those whose files are there already need not wait
    import urllib3

    part = temporary(path)
    try:
        with requests.Session() as session, _open(session, url, timeout) as response, part.open("wb") as file:
            found = _receive(response, file, path.name)
            file.flush()
            os.fsync(file.fileno())
        if size not in (None, part.stat().st_size):
            raise _TryError(f"it has {part.stat().st_size} bytes, expected {size}", tries=_MAX_TRIES)
        if sha256 is not None and found != sha256.lower():
            raise _TryError(f"its sha256 is {found}, expected {sha256}", tries=_MAX_MISMATCHES)
        os.replace(part, path)
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise _TryError(f"{type(error).__name__}: {error}", tries=_MAX_TRIES) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _open(session: "requests.Session", url: str, timeout: tuple[float, float]) -> "requests.Response":
    """Return the open response of status 200 that `url` leads to."""
    for _ in range(_MAX_REDIRECTS):
        # A server may only compress on request; the bytes that are stored are those it sends.
        response = session.get(
            url, stream=True, timeout=timeout, allow_redirects=False, headers={"Accept-Encoding": "identity"}
        )
        if response.status_code == HTTPStatus.OK:
            return response
        response.close()
        if not response.is_redirect:
            tries = _MAX_TRIES if response.status_code >= 500 else 1
            cause = f"the server answered {response.status_code} {response.reason}"
            raise _TryError(cause, tries=tries, retry_after=_retry_after(response))
        target = urljoin(url, response.headers["Location"])
        if url.startswith("https:") and not target.startswith("https:"):
            raise _TryError(f"refused its redirect from https to {target}")
        url = target
    raise _TryError(f"more than {_MAX_REDIRECTS} redirects")


def _retry_after(response: "requests.Response") -> float:
    value = response.headers.get("Retry-After", "")
    seconds = float(value) if re.fullmatch(r"\d{1,6}", value, re.ASCII) else 0.0
    return seconds if seconds <= _MAX_RETRY_AFTER else 0.0


def _receive(response: "requests.Response", file: IO[bytes], name: str) -> str:
    """Write the body of a response to `file` and return its sha256."""
    declared = response.headers.get("Content-Length", "")
    expected = int(declared) if re.fullmatch(r"\d{1,18}", declared, re.ASCII) else None
    digest = hashlib.sha256()
    received = 0
    with progress_bar(desc=name, unit="B", total=expected, scale=True, lines=True) as bar:
        for chunk in response.raw.stream(_CHUNK, decode_content=False):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            bar.update(len(chunk))
    if expected is not None and received != expected:  # urllib3 before 2 does not notice
        raise _TryError(f"{received} bytes came, {expected} were declared", tries=_MAX_TRIES)
    return digest.hexdigest()


def _extract(archive: Path, part: Path) -> None:
    # Opened by gzip, not by tarfile: only gzip checks the CRC, and only at the end of the stream.
    with gzip.open(archive, "rb") as stream:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            _extract_members(tar, archive, part)
        if len(stream.read(_MAX_TRAILING_BYTES)) == _MAX_TRAILING_BYTES:
            raise DownloadError(f"{archive}: refused; {_MAX_TRAILING_BYTES} bytes or more follow the last member")
    missing = sorted(name for name in _REQUIRED_MEMBERS if not (part / name).is_file())
    if missing:
        raise DownloadError(
            f"{archive}: holds no {' and no '.join(missing)}; a fairseq hub archive has both model.pt and dict.txt"
        )


def _extract_members(tar: tarfile.TarFile, archive: Path, part: Path) -> None:
    seen: set[tuple[str, ...]] = set()
    total = 0
    for member in tar:
        names = PurePosixPath(member.name).parts
        total += member.size
        fault = _fault(member, names, seen, total)
        if fault:
            raise DownloadError(
                f"{archive}: refused member {member.name[:200]!r}: {fault}; "
                f"if you trust the archive, unpack it yourself and give the folder"
            )
        seen.add(names)
        if member.isreg():
            _extract_file(tar, member, part / names[-1])


def _fault(member: tarfile.TarInfo, names: tuple[str, ...], seen: set[tuple[str, ...]], total: int) -> str | None:
    """Return what is wrong with a member, or None; `names` are the parts of its path, `total` bytes include it."""
    if names in seen:
        return "it comes twice"
    if ".." in names or member.name.startswith("/"):
        return "its path leads out of the folder"
    if any(names[:1] != other[:1] for other in seen if names and other):
        return "it lies under a second top folder"
    if member.isdir():
        return None if len(names) <= 1 else "a folder below the top folder"
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        return "not a regular file"
    if len(names) != 2:
        return "it does not lie directly under one top folder"
    if not _MEMBER.fullmatch(names[-1]):
        return "not a file of a hub archive"
    if total > _MAX_UNPACKED_BYTES:
        return f"more than {_MAX_UNPACKED_BYTES} bytes in all"
    return None


def _extract_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None, "a regular file has contents"
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
        file.flush()
        os.fsync(file.fileno())


def _rename_folder(part: Path, folder: Path) -> None:
    try:
        os.rename(part, folder)
    except OSError:
        if not is_unpacked(folder):  # otherwise another process was first, and its copy is as good
            raise
