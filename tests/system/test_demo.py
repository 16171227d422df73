"""The demo on a fresh machine: what it does for its second data set, and how it ends.

The runs themselves are left out here: a stand-in for each says that it was asked for. Lists and downloads are real,
from a server on this machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import ROOT

CONTENT = b"1 1:1\n2 2:1\n"
QAFEL_MPI = """#!{python}
import sys
from pathlib import Path
if sys.argv[1] == "suite":
    folder = Path(sys.argv[sys.argv.index("--out") + 1])
    folder.mkdir(parents=True)
    (folder / "qafel-seed0.h5").touch()
    print("ran", sys.argv[2])
else:
    from qafel_mpi.tasks import fetch
    file = fetch.RemoteFile("mushrooms", "sha256:{sha}", "mushrooms.libsvm")
    fetch.SOURCES["mushrooms"] = fetch.Source("{url}", (file,))
    from qafel_mpi.commands.app import main
    main()
"""
QAFEL_ANALYSIS = """#!/bin/sh
for last; do :; done
case $1 in
    report) echo "$last" ;;
    *) echo "analysed with $last" ;;
esac
"""


@dataclass
class Server:
    """A web server. answer: what it does with a request; asked: the paths of the requests."""

    url: str = ""
    answer: Callable[[BaseHTTPRequestHandler], None] = lambda request: None
    asked: list[str] = field(default_factory=list)


def sends(content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    here = Server(answer=sends(CONTENT))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append(self.path)
            here.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving.daemon_threads, serving.block_on_close = True, False
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    here.url = f"http://127.0.0.1:{serving.server_port}"
    yield here
    serving.shutdown()
    serving.server_close()
    thread.join()


@pytest.fixture
def demo(server: Server, tmp_path: Path) -> Callable[..., list[str]]:
    """demo(*options, **variables): the lines that the demo prints; it must end with exit code 0."""
    (tmp_path / "jobs").mkdir()
    for name in ("demo.sh", "local.env"):
        shutil.copy(ROOT / "jobs" / name, tmp_path / "jobs")
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    sha = hashlib.sha256(CONTENT).hexdigest()
    for name, text in {
        "qafel-mpi": QAFEL_MPI.format(python=sys.executable, sha=sha, url=server.url),
        "mpirun": '#!/bin/sh\nshift 2\nexec "$@"\n',
        "qafel-analysis": QAFEL_ANALYSIS,
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    fresh = {k: v for k, v in os.environ.items() if k != "QAFEL_DATA_DIR"}
    fresh |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "no_proxy": "127.0.0.1"}

    def run(*options: str, **variables: str) -> list[str]:
        done = subprocess.run(
            ["sh", "jobs/demo.sh", *options],
            cwd=tmp_path, env=fresh | variables, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[-1] == "analysed with --sentence"
        return lines

    return run


def about_mushrooms(lines: list[str]) -> str:
    """The one line that says what was done for the data set."""
    (line,) = (line for line in lines if line.startswith("mushrooms "))
    return line


def test_a_fresh_machine_downloads_the_second_data_set_and_a_second_call_finds_it(demo, server, tmp_path):
    lines = demo()
    folder = tmp_path / "cache/qafel_mpi/mushrooms"
    assert about_mushrooms(lines) == f"mushrooms was downloaded to {folder}"
    assert [line for line in lines if line.startswith("ran ")] == ["ran digits", "ran mushrooms"]
    assert (folder / "mushrooms.libsvm").read_bytes() == CONTENT
    again = demo("--offline")
    assert about_mushrooms(again) == "mushrooms is already on this machine"
    assert "ran mushrooms" in again
    assert server.asked == ["/mushrooms"]


def test_offline_asks_no_server(demo, server):
    lines = demo("--offline")
    assert about_mushrooms(lines) == (
        "mushrooms is left out: it is not on this machine, and --offline downloads nothing"
    )
    assert [line for line in lines if line.startswith("ran ")] == ["ran digits"]
    assert server.asked == []


def test_a_server_that_never_answers_does_not_hold_it_up(demo, server):
    ended = threading.Event()
    server.answer = lambda request: ended.wait(60) and None
    begun_s = time.monotonic()
    lines = demo(FETCH_SECONDS="8")
    ended.set()
    assert time.monotonic() - begun_s < 50
    assert server.asked == ["/mushrooms"], "it was on its way when its time was up"
    assert "its download took too long; qafel-mpi data fetch mushrooms goes on with it" in about_mushrooms(
        lines
    )
    assert "ran mushrooms" not in lines


def test_a_download_that_fails_is_said_with_its_reason(demo, server):
    server.answer = lambda request: request.send_error(404)
    lines = demo()
    assert about_mushrooms(lines).startswith("mushrooms is left out: ")
    assert "the server answered 404" in about_mushrooms(lines)
    assert "ran mushrooms" not in lines


def test_an_option_that_it_does_not_have_is_refused(tmp_path):
    done = subprocess.run(["sh", str(ROOT / "jobs/demo.sh"), "--ofline"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the only option is --offline" in done.stderr
