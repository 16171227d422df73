"""Links that are slow or long: how many seconds messages take between hosts on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import pytest

from tests.system import relay
from tests.system.namespaces import BUCKET_BYTES, PACKET_BYTES, Hosts, why_not
from tests.system.test_hosts import SMALL, clocks_agree, run

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "needs namespaces")


def test_a_shaped_link_carries_what_it_should_and_the_lab_leaves_nothing_behind(tmp_path):
    """8 megabits in each direction of a link of 16 Mbit/s take half a second, less the burst."""
    script = (
        "import numpy as np, time; from mpi4py import MPI; c = MPI.COMM_WORLD; b = np.zeros(1_000_000, np.uint8)\n"
        "seconds = []\n"
        "for i in range(3):\n"
        "    c.Barrier(); begun = time.perf_counter()\n"
        "    c.Sendrecv(b, 1 - c.rank, recvbuf=np.empty_like(b))\n"
        "    seconds.append(time.perf_counter() - begun)\n"
        "if c.rank == 0: print(sorted(seconds)[1])"
    )
    with Hosts(2, rate="16mbit") as lab:
        done = lab.run("h1", *lab.mpirun(2, sys.executable, "-c", script), cwd=tmp_path)
        first, folder = lab.lab.pid, lab.folder
    assert 0.4 < float(done.stdout) < 3, done.stderr  # one of a byte a bit would take 4
    assert not folder.exists()
    assert not Path(f"/proc/{first}").exists()


def test_no_packet_is_larger_than_a_links_bucket():
    """A larger one is cut up by the kernel: that costs a fast link the processor's time, and a free one nothing."""
    packet = "ip -d link show eth0 | grep -o 'gso_max_size [0-9]*'"
    bucket = "tc qdisc show dev eth0 | grep -o 'burst [0-9KMb]*'"
    for rate, size in (("1gbit", "burst 16Kb"), ("10gbit", "burst 61250b")):  # tc counts in its own ticks
        with Hosts(2, rate=rate) as lab:
            assert lab.shell("h2", bucket).strip() == size
            assert lab.shell("h2", packet).strip() == f"gso_max_size {PACKET_BYTES}"
    with Hosts(2) as lab:
        assert lab.shell("h1", packet).strip() == f"gso_max_size {PACKET_BYTES}"
    assert PACKET_BYTES < BUCKET_BYTES


@pytest.mark.skipif(bool(relay.why_not()), reason=relay.why_not() or "needs a kernel with TUN devices")
def test_a_relay_delays_what_hosts_say_to_each_other(tmp_path):
    """10 ms one way: a round trip takes 20 and little more, half of it is the clocks' error bound, and one-way
    latencies are told from it because the way is as long there as back."""
    small = ("qafel-mpi", "run", "digits", *SMALL)
    with Hosts(3, rate="100mbit", delay_ms=10) as lab:
        done = run(lab, *small, "--out", "a.h5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "a.h5") as file:
        messages, clock = (file[name][:] for name in ("messages", "clock"))
    bound_s = clock["error_bound_s"][clock["rank"] > 0]
    assert (bound_s >= 0.010).all()
    assert bound_s.min() < 0.013
    assert clocks_agree(messages, clock)
    sent, taken = (messages[messages["end"] == end] for end in (0, 1))
    key = ["kind", "src", "dst", "client", "sequence"]
    posted = {tuple(row[key]): row["t_post"] for row in sent}
    least_s = min(row["t_complete"] - posted[tuple(row[key])] for row in taken)
    assert 0.007 < least_s < 0.020
