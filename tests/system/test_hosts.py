"""Ranks on three hosts over TCP: namespaces of this machine, with an interface, a name and a clock of their own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

import qafel_mpi
from qafel_mpi.wire import Kind
from tests.support import ROOT
from tests.system.namespaces import CLOCKS_APART_S, Hosts, launcher, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "needs namespaces")

COMMAND = shutil.which("qafel-mpi", path=str(Path(sys.executable).parent)) or "qafel-mpi"
CHECKED = str(ROOT / "jobs/checked.sh")
MOST_SECONDS = 30  # until a message of what is wrong
SMALL = ("--set", "stop.uploads=60", "--set", "task.clients=20", "--set", "evaluation.every_steps=5")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts(3) as lab:
        yield lab


@pytest.fixture
def broken() -> Iterator[Hosts]:
    """Hosts of which a test spoils one."""
    with Hosts(3) as lab:
        yield lab


def run(lab: Hosts, *words: str, ranks: int = 3, cwd: Path) -> subprocess.CompletedProcess[str]:
    return lab.run("h1", *lab.mpirun(ranks, *words), cwd=cwd, timeout_s=90)


def test_info_shows_ranks_on_three_hosts(hosts, tmp_path):
    done = run(hosts, "qafel-mpi", "info", "--json", ranks=6, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ranks = json.loads(done.stdout)["ranks"]
    assert [rank["host"] for rank in ranks] == ["h1", "h2", "h3"] * 2
    assert len({rank["mpi"] for rank in ranks}) == 1


def test_a_wall_run_over_three_hosts_has_one_trace_in_which_everything_balances(hosts, tmp_path):
    done = run(hosts, "qafel-mpi", "run", "digits", *SMALL, "--out", "a.h5", ranks=4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "a.h5") as file:
        messages, ranks, clock = (file[name][:] for name in ("messages", "ranks", "clock"))
        final, attributes = file["final"].attrs["x_hat_digest"], dict(file.attrs)
    assert [host.decode() for host in ranks["host"]] == ["h1", "h2", "h3", "h1"]
    assert {digest.decode() for digest in ranks["x_hat_digest"]} == {final}
    assert attributes["checksum"] == "full", "payloads go over a network"
    columns = ["kind", "src", "dst", "client", "version", "sequence", "payload_bytes", "wire_bytes"]
    sent, received = (messages[messages["end"] == end][columns] for end in (0, 1))
    assert Counter(sent.tolist()) == Counter(received.tolist())
    up = received[received["kind"] == Kind.UPDATE]
    assert up["payload_bytes"].sum() == attributes["payload_bytes_up"]
    assert up["wire_bytes"].sum() == attributes["wire_bytes_up"]
    assert not list(tmp_path.glob(".*")), "the marks of the handshake are gone"
    assert clocks_agree(messages, clock)


def clocks_agree(messages: np.ndarray, clock: np.ndarray) -> bool:
    """Hosts' clocks are a thousand seconds apart; corrected, no message is taken before it was posted."""
    apart_s = -CLOCKS_APART_S * (clock["rank"] % 3)
    assert (np.abs(clock["offset_s"] - apart_s) <= clock["error_bound_s"] + 1e-6).all()
    bound_s = clock["error_bound_s"].max()
    assert bound_s < 0.1
    key = ["kind", "src", "dst", "client", "sequence"]
    posted = {tuple(row[key]): row["t_post"] for row in messages[messages["end"] == 0]}
    taken = {tuple(row[key]): row["t_complete"] for row in messages[messages["end"] == 1]}
    early_s = max(posted[name] - taken[name] for name in taken)
    assert early_s <= 2 * bound_s + 1e-3  # drift between the two readings adds little in a second
    return True


def test_a_virtual_run_over_three_hosts_is_that_of_one_process(hosts, tmp_path):
    words = ("qafel-mpi", "run", "digits", *SMALL, "--set", "clock.kind=virtual", "--json")
    spread = run(hosts, *words, "--out", "spread.h5", cwd=tmp_path)
    alone = hosts.run("h2", *words, "--out", "alone.h5", cwd=tmp_path)
    assert spread.returncode == alone.returncode == 0, spread.stderr + alone.stderr
    assert json.loads(spread.stdout)["x_digest"] == json.loads(alone.stdout)["x_digest"]


# --- bad input: one message that names the host, and no hang -----------------------------------------


def refused(lab: Hosts, *words: str, cwd: Path, ranks: int = 3) -> str:
    """What is said by a command that must fail within the time that a user is ready to wait."""
    begun_s = time.monotonic()
    done = run(lab, *words, ranks=ranks, cwd=cwd)
    assert time.monotonic() - begun_s < MOST_SECONDS
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_folder_that_is_not_shared_is_refused_before_the_first_step(broken, tmp_path):
    broken.shell("h3", f"mount -t tmpfs none {tmp_path}")
    said = refused(broken, "qafel-mpi", "run", "digits", *SMALL, "--out", f"{tmp_path}/a.h5", cwd=ROOT)
    assert said.count(f"{tmp_path} on h3 is not the folder of h1: h1 has another one") == 1
    assert not list(tmp_path.glob("*"))


def test_a_folder_that_a_host_can_not_write_is_refused(broken, tmp_path):
    broken.shell("h2", f"mount -t tmpfs -o ro none {tmp_path}")
    said = refused(broken, "qafel-mpi", "run", "digits", *SMALL, "--out", f"{tmp_path}/a.h5", cwd=ROOT)
    assert said.count(f"{tmp_path} on h2 is not the folder of h1: rank 1 can't write there: Read-only") == 1


def test_a_host_without_the_command_is_named(broken, tmp_path):
    broken.shell("h3", f"mount --bind /dev/null {COMMAND}")
    said = refused(broken, "sh", CHECKED, "qafel-mpi", "run", "digits", *SMALL, cwd=tmp_path, ranks=6)
    assert said.count("h3: no qafel-mpi on the PATH of this host") == 1
    assert "not found" not in said, "the host's other rank does not speak"


def test_a_host_without_the_package_is_named(broken, tmp_path):
    package = Path(qafel_mpi.__file__).parent
    broken.shell("h3", f"mount -t tmpfs none {package}")
    said = refused(broken, "sh", CHECKED, "qafel-mpi", "run", "digits", *SMALL, cwd=tmp_path, ranks=6)
    assert said.count("h3: ") == 1
    assert "does not start on this host: " in said
    assert "No module named 'qafel_mpi" in said


# The library looks for its launcher when it is loaded; what it does not find then, it never finds.
ALIEN = """
import os, sys
hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(("PMI_", "PMIX_"))}
from mpi4py import MPI
os.environ |= hidden
from qafel_mpi.commands.app import main
main()
"""


def test_a_host_whose_mpi_library_is_not_the_launchers_is_named(hosts, tmp_path):
    """On h3 the library finds no launcher: what any library does that is not the launcher's own."""
    alien = f'[ $(hostname) = h3 ] && exec {sys.executable} -c "$ALIEN" run digits; exec {COMMAND} run digits'
    said = refused(hosts, "env", f"ALIEN={ALIEN}", "sh", "-c", alien, cwd=tmp_path)
    if (
        launcher() == "orte"
    ):  # Open MPI 4's library does not let us speak: it aborts in MPI_Init, naming the host
        assert "An error occurred in MPI_Init" in said
        assert "[h3:" in said
        return
    words = r"rank 2 on h3: the launcher has started 3 ranks \(\w+ says so\), and the MPI library here \("
    assert len(re.findall(words, said)) == 1
    assert not list(tmp_path.glob("*"))


def test_a_host_without_an_mpi_library_is_named(hosts, tmp_path):
    lost = f"[ $(hostname) = h3 ] && export MPI4PY_LIBMPI=/none/libmpi.so; exec {COMMAND} run digits"
    said = refused(hosts, "sh", "-c", lost, cwd=tmp_path)
    assert said.count("rank 2 on h3: mpi4py finds no MPI library here (") == 1
    assert not list(tmp_path.glob("*"))
