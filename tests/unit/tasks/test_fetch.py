"""Downloads, served from this machine: whole, interrupted, damaged, missing, unreachable."""

from __future__ import annotations

import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from qafel_mpi.tasks import DataError
from qafel_mpi.tasks import fetch as module
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.datasets import DATASETS
from qafel_mpi.tasks.fetch import RemoteFile, Source, download, fetch

CONTENT = np.random.default_rng(0).bytes(1_000_003)
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@dataclass
class Site:
    """A web server. breaks: after how many bytes each of its next answers breaks off."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: {"data": CONTENT})
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)  # the Range of each request


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    here = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            here.asked.append(wanted)
            content = here.files.get(self.path.lstrip("/"))
            if content is None:
                return self.send_error(404)
            begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and here.ranges else 0
            if begin and begin >= len(content):
                return self.send_error(416)
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            end = begin + here.breaks.pop(0) if here.breaks else len(content)
            self.wfile.write(content[begin:end])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    here.url = f"http://127.0.0.1:{server.server_port}"
    yield here
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_reports_its_progress_and_leaves_no_part(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    download(f"{site.url}/data", tmp_path / "data", SHA, lambda *report: seen.append(report))
    assert (tmp_path / "data").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert seen[-1] == ("data", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_broken_connection_is_taken_up_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.breaks = [300_000, 200_000, 100_000]
    download(f"{site.url}/data", tmp_path / "data", SHA)
    assert (tmp_path / "data").read_bytes() == CONTENT
    assert site.asked == [None, "bytes=300000-", "bytes=500000-", "bytes=600000-"]


def test_a_download_goes_on_in_the_next_call(site: Site, tmp_path: Path) -> None:
    site.breaks = [400_000, *[0] * module.ATTEMPTS]
    with pytest.raises(DataError, match="after 400000 bytes; they are kept, and the next call continues"):
        download(f"{site.url}/data", tmp_path / "data", SHA)
    assert not (tmp_path / "data").exists()
    site.asked.clear()
    download(f"{site.url}/data", tmp_path / "data", SHA)
    assert site.asked == ["bytes=400000-"]
    assert (tmp_path / "data").read_bytes() == CONTENT


def test_a_server_without_ranges_is_asked_for_everything_again(site: Site, tmp_path: Path) -> None:
    site.ranges, site.breaks = False, [300_000]
    download(f"{site.url}/data", tmp_path / "data", SHA)
    assert (tmp_path / "data").read_bytes() == CONTENT


def test_a_part_that_is_complete_already_is_used(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.part").write_bytes(CONTENT)
    download(f"{site.url}/data", tmp_path / "data", SHA)
    assert (tmp_path / "data").read_bytes() == CONTENT


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    site.files["data"] = CONTENT[:-1] + b"?"
    with pytest.raises(
        DataError, match=rf"{site.url}/data: the file is damaged.*checksum is sha256:.*instead of {SHA}"
    ):
        download(f"{site.url}/data", tmp_path / "data", SHA)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_not_asked_for_again_and_never_replaced(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(CONTENT)
    download(f"{site.url}/data", tmp_path / "data", SHA)
    (tmp_path / "data").write_bytes(b"mine")
    with pytest.raises(DataError, match="exists already, with checksum"):
        download(f"{site.url}/data", tmp_path / "data", SHA)
    assert (tmp_path / "data").read_bytes() == b"mine"
    assert site.asked == []


def test_a_missing_file_is_the_servers_word(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mushrooms: the server answered 404"):
        fetch("mushrooms", tmp_path, base_url=site.url)
    assert len(site.asked) == 1


def test_no_internet_says_what_to_do(site: Site, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DataError) as caught:
            fetch("mushrooms", tmp_path, base_url=url)
    for part in ("can't reach 127.0.0.1", "internet", f"{url}/mushrooms", "mushrooms/mushrooms.libsvm"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits", "needs no download"),
        ("celeba", "accept their terms"),
        ("mnist", "unknown; available for download:"),
    ],
)
def test_names_that_can_not_be_fetched_say_why(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"data set {name}: .*{message}"):
        fetch(name, tmp_path)


def test_a_fetched_data_set_is_where_the_loader_looks(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"1 1:1\n2 2:1\n"
    source = Source(
        site.url,
        (RemoteFile("mushrooms", f"sha256:{hashlib.sha256(text).hexdigest()}", "mushrooms.libsvm"),),
    )
    monkeypatch.setitem(module.SOURCES, "mushrooms", source)
    site.files["mushrooms"] = text
    assert fetch("mushrooms", tmp_path) == tmp_path / "mushrooms"
    assert len(DATASETS["mushrooms"](TaskConfig(), tmp_path, 1, 0).y) == 2


def archive_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def cifar(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    records = bytes(2 * 3073)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    files = {f"cifar-10-batches-bin/{name}": records for name in names}
    site.files["cifar.tar.gz"] = archive_of({**files, "../escaped": b"x", "cifar-10-batches-bin/../up": b"x"})
    checksum = f"md5:{hashlib.md5(site.files['cifar.tar.gz']).hexdigest()}"
    source = Source(site.url, (RemoteFile("cifar.tar.gz", checksum),), unpacked="cifar-10-batches-bin")
    monkeypatch.setitem(module.SOURCES, "cifar10", source)
    return site


def test_an_archive_is_unpacked_into_its_folder_alone(cifar: Site, tmp_path: Path) -> None:
    for _ in range(2):
        folder = fetch("cifar10", tmp_path)
    assert len(cifar.asked) == 1  # the second time it is there
    assert [path.name for path in folder.iterdir()] == ["cifar-10-batches-bin"]
    assert len(list(folder.glob("*/*.bin"))) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10"]
    assert len(DATASETS["cifar10"](TaskConfig(), tmp_path, 1, 0).y) == 10


def test_an_archive_without_the_folder_is_refused(cifar: Site, tmp_path: Path) -> None:
    cifar.files["cifar.tar.gz"] = content = archive_of({"other/file": b"x"})
    source = Source(
        cifar.url,
        (RemoteFile("cifar.tar.gz", f"md5:{hashlib.md5(content).hexdigest()}"),),
        "cifar-10-batches-bin",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.SOURCES, "cifar10", source)
        with pytest.raises(DataError, match="no files of cifar-10-batches-bin"):
            fetch("cifar10", tmp_path)


def test_a_folder_that_can_not_be_written_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file/mushrooms: can't be written"):
        fetch("mushrooms", tmp_path / "file", base_url=site.url)
