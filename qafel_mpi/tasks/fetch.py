"""Download data sets: resumed where it broke off, checked, put in place by one rename.

An unfinished download stays beside its place as NAME.part. Nothing but the standard library, and no torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from qafel_mpi.tasks.errors import DataError

Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in all where known

CHUNK_BYTES = 2**18
ATTEMPTS = 4  # without a byte of progress in between
PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class RemoteFile:
    """name: at the server; checksum: 'md5:…' or 'sha256:…', as its authors publish it or taken from a good copy;
    saved_as: its name here, where it differs."""

    name: str
    checksum: str
    saved_as: str | None = None


@dataclass(frozen=True)
class Source:
    """What a data set consists of. unpacked: the folder that its files hold, where they are archives."""

    base_url: str
    files: tuple[RemoteFile, ...]
    unpacked: str | None = None


SOURCES: dict[str, Source] = {
    "mushrooms": Source(
        "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary",
        (
            RemoteFile(
                "mushrooms",
                "sha256:f39a4eb628dc61a7d43760815b061c9e497aa728ce1ad8bde57a09ef6043b538",
                "mushrooms.libsvm",
            ),
        ),
    ),
    "fashion-mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        (
            RemoteFile("train-images-idx3-ubyte.gz", "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            RemoteFile("train-labels-idx1-ubyte.gz", "md5:25c81989df183df01b3e8a0aad5dffbe"),
            RemoteFile("t10k-images-idx3-ubyte.gz", "md5:bef4ecab320f06d8554ea6380940ec79"),
            RemoteFile("t10k-labels-idx1-ubyte.gz", "md5:bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz",
        (RemoteFile("cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"),),
        unpacked="cifar-10-batches-bin",
    ),
}


def fetch(
    name: str, directory: Path, *, base_url: str | None = None, progress: Progress | None = None
) -> Path:
    """Download data set `name` into directory/name, and return that folder; what is there already is kept.

    base_url: a mirror to take the same files from. Raises DataError: unknown name, no internet, no such file,
    wrong checksum, connection that keeps breaking (call again: it goes on where it stopped).
    """
    source = SOURCES.get(name)
    if source is None:
        raise DataError(f"data set {name}: {_why_not(name)}; available for download: {', '.join(SOURCES)}")
    folder = directory / name
    if source.unpacked is not None and (folder / source.unpacked).is_dir():
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in source.files:
            path = folder / (file.saved_as or file.name)
            url = f"{(base_url or source.base_url).rstrip('/')}/{file.name}"
            download(url, path, file.checksum, progress)
            if source.unpacked is not None:
                _unpack(path, folder / source.unpacked)
                path.unlink()
    except OSError as error:
        raise DataError(f"{folder}: can't be written: {error}") from error
    return folder


def _why_not(name: str) -> str:
    if name in ("digits", "stdlib-text", "synthetic"):
        return "needs no download"
    if name == "celeba":
        return (
            "its authors provide it to those who accept their terms, at "
            "mmlab.ie.cuhk.edu.hk/projects/CelebA.html; put it into a folder `celeba`"
        )
    return "unknown"


def download(url: str, path: Path, checksum: str, progress: Progress | None = None) -> None:
    """url -> path, through path.part, whose bytes are not asked for again.

    A file that is at path already is never touched. Raises DataError, or OSError of the disk.
    """
    with _alone(path.with_name(path.name + ".part")) as part:
        _download(url, path, part, checksum, progress)


@contextmanager
def _alone(part: Path) -> Iterator[Path]:
    """Keep other downloads from appending to the file too. Raises DataError; a disk that can't lock does not help."""
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{part}: another process is downloading it") from None
        except OSError:
            pass
        try:
            yield part
        finally:
            if part.exists() and not _size(part):
                part.unlink()


def _download(url: str, path: Path, part: Path, checksum: str, progress: Progress | None) -> None:
    if path.exists():
        if (found := _digest(path, checksum)) != checksum:
            raise DataError(
                f"{path}: exists already, with checksum {found} instead of {checksum}; move it away to download "
                "it again"
            )
        return
    attempts = ATTEMPTS
    while attempts:
        before = _size(part)
        try:
            complete, why = _receive(url, part, path.name, progress), "the connection broke"
        except urllib.error.HTTPError as error:
            raise DataError(f"{url}: the server answered {error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            complete, why = False, str(getattr(error, "reason", error)) or type(error).__name__
        if complete:
            break
        attempts = ATTEMPTS if _size(part) > before else attempts - 1
        if attempts:
            time.sleep(PAUSE_SECONDS)
    else:
        raise DataError(_unreachable(url, path, part, why))
    if (found := _digest(part, checksum)) != checksum:
        part.unlink()
        raise DataError(
            f"{url}: the file is damaged or not the expected one: its checksum is {found} instead of "
            f"{checksum}; it was deleted"
        )
    os.replace(part, path)


def _receive(url: str, part: Path, name: str, progress: Progress | None) -> bool:
    """Append to part what it lacks. Returns whether it has everything now."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing beyond what is here: the checksum tells whether it is all
            return True
        raise
    with reply:
        resumed = reply.status == 206 and reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not resumed:
            have = 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        with open(part, "ab" if resumed else "wb") as file:
            for chunk in _chunks(reply):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(name, have, total)
    return total is None or have == total


def _chunks(reply: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = reply.read(CHUNK_BYTES)
        except OSError as error:  # of the network, not of the disk
            raise http.client.HTTPException(str(error)) from error
        if not chunk:
            return
        yield chunk


def _unreachable(url: str, path: Path, part: Path, why: str) -> str:
    if (have := _size(part)) > 0:
        return f"{url}: {why}, after {have} bytes; they are kept, and the next call continues from there"
    return (
        f"can't reach {urlsplit(url).hostname}: {why}. Is there an internet connection? If not, download {url} "
        f"elsewhere and save it as {path}"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, checksum: str) -> str:
    """The file's checksum, of the kind of the given one."""
    kind = checksum.partition(":")[0]
    with open(path, "rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def _unpack(archive: Path, folder: Path) -> None:
    """The archive's plain files below folder.name, into folder by one rename; nothing else of it is written."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        try:
            with tarfile.open(archive) as members:
                for member in members:
                    parent, _, file_name = member.name.removeprefix("./").rpartition("/")
                    content = (
                        members.extractfile(member) if member.isfile() and parent == folder.name else None
                    )
                    if content is not None:
                        with content, open(made / file_name, "wb") as file:
                            shutil.copyfileobj(content, file)
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{archive}: not an archive that can be read: {error}") from error
        if not any(made.iterdir()):
            raise DataError(f"{archive}: no files of {folder.name} in it")
        os.replace(made, folder)
