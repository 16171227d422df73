"""Several hosts on one machine: Linux namespaces with a network between them, for mpirun over TCP.

    python -m tests.system.namespaces --hosts 3 -n 4 [--rate 100mbit] [--map-by node] -- qafel-mpi info

A host has its own network interface and address, host name, mounts, System V memory and monotonic clock (a host's
uptime differs from the others'), and one of the machine's cores, in turn. All of them and the switch between them
live in one process namespace, the lab: when its first process ends, however that comes, the kernel ends every process
in it and removes every interface. Nothing reaches the machine's own network, and no name or mount is left on the
machine. Needs root.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.support import ROOT, mpi_environment, mpirun, search_path
from tests.system.relay import bytes_a_second

START_SECONDS = 20
RELAY = Path(__file__).with_name("relay.py")
PACKET_BYTES, BUCKET_BYTES = 15_000, 16_384  # the largest packet, and what a shaped link lets through at once
FINEST_TIMER_S = (
    50e-6  # a bucket that holds less than the rate brings meanwhile makes a fast link slower than that
)
CLOCKS_APART_S = 1000  # host k's monotonic clock is k times so much ahead of the machine's

# The lab's first process. It waits for its end, and reaps what its hosts leave behind.
LAB = r"""
set -eu
mount -t tmpfs none /dev/shm
ip link set lo up
ip link add switch type bridge
ip link set switch up
echo "127.0.0.1 localhost" > $lab/hosts
for k in $(seq $count); do echo "10.77.0.$k h$k" >> $lab/hosts; done
for k in $(seq $count); do
    unshare -n -u -i -m -T --monotonic $((k * apart_s)) --fork bash -c '
        hostname h'$k'
        mount --bind $lab/hosts /etc/hosts
        mount -t tmpfs none /dev/shm
        ip link set lo up
        echo $$ > $lab/.h'$k'
        mv $lab/.h'$k' $lab/h'$k'
        exec sleep infinity' &
    until [ -e $lab/h$k ]; do sleep 0.02; kill -0 $!; done
done
pids=$(for k in $(seq $count); do cat $lab/h$k; done)
if [ -n "$relay" ]; then exec $relay $pids; fi
k=0
for pid in $pids; do
    k=$((k + 1))
    ip link add port$k type veth peer name eth0 netns $pid
    ip link set port$k master switch up
    nsenter -t $pid -n ip addr add 10.77.0.$k/24 dev eth0
    nsenter -t $pid -n ip link set eth0 gso_max_size $packet_bytes up
done
# A port forwards once the kernel has noticed that its other end is up: on a busy machine that takes a while.
until [ $(bridge link show master switch | grep -c 'state forwarding') = $count ]; do sleep 0.02; done
# And a host answers once its own end is up: then nobody listens at port 9 of h1, but h1 says so.
answers() { nsenter -t $1 -n bash -c 'exec 3<>/dev/tcp/10.77.0.1/9' 2>&1 | grep -q refused; }
for k in $(seq $count); do until answers $(cat $lab/h$k); do sleep 0.02; done; done
touch $lab/ready
wait
"""

# How mpirun reaches a host: in ssh's place, with ssh's manner of arguments. `unshare -T` and its like have made the
# host; a process joins it for good, so that what mpirun ends there is that process alone.
AGENT = r"""#!/bin/bash
while [[ ${1:-} == -* ]]; do shift; done
pid=$(cat "$(dirname "$0")/$1") || { echo "ssh: no host $1" >&2; exit 255; }
core=$((${1#h} % $(nproc --all)))
shift
exec nsenter -t $pid -n -u -i -m -T -- taskset -c $core sh -c "$*"
"""


class Hosts:
    """`count` hosts h1, h2, ... with the addresses 10.77.0.1, ...; a context manager.

    rate: of each host's link in each direction as tc writes it ("100mbit"); None: as fast as memory. delay_ms: of
    each packet, one way, by relay.py in the switch's place; 0: the kernel's switch.
    """

    def __init__(self, count: int = 3, *, rate: str | None = None, delay_ms: float = 0):
        self.names = [f"h{k}" for k in range(1, count + 1)]
        self.rate, self.delay_ms = rate, delay_ms

    def __enter__(self) -> Self:
        # A short path: those of mpirun's sockets may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="qafel-lab-", dir="/tmp"))
        self.agent = self.folder / "agent"
        self.agent.write_text(AGENT)
        self.agent.chmod(0o755)
        settings = {
            "lab": self.folder,
            "count": len(self.names),
            "apart_s": CLOCKS_APART_S,
            "packet_bytes": PACKET_BYTES,
        }
        environment = os.environ | {name: str(value) for name, value in settings.items()}
        environment["relay"] = shlex.join(self._relay())
        # The parent's death ends setpriv's process, whose end ends the lab: also after kill -9 of the tests.
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-n", "-m", "-p", "--mount-proc", "--fork"]
        self.lab = subprocess.Popen(
            [*command, "--kill-child", "bash", "-c", LAB],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            self._wait()
            for name in self.names if self.rate else ():
                self.shape(name, str(self.rate))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process of every host."""
        self.lab.send_signal(signal.SIGKILL)
        self.lab.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, host: str, *words: str, cwd: Path) -> list[str]:
        """The words as a command line that runs on that host, in that folder."""
        return [*self._in_the_lab(), str(self.agent), host, shlex.join(["env", "-C", str(cwd), *words])]

    def run(
        self,
        host: str,
        *words: str,
        timeout_s: float = 60,
        cwd: Path = ROOT,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on one host, to its end. Raises TimeoutExpired; what still runs then ends with the lab."""
        process = subprocess.Popen(
            self.command(host, *words, cwd=cwd), cwd=cwd, env=_environment() | (env or {}), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as hung:
            process.kill()
            raise AssertionError(f"{' '.join(words)} hangs: {hung.stdout!r} {hung.stderr!r}") from hung
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def shell(self, host: str, script: str) -> str:
        """Run a shell script on one host; its output. Raises AssertionError where it fails."""
        done = self.run(host, "sh", "-ec", script)
        assert done.returncode == 0, f"{host}: {script}: {done.stdout}{done.stderr}"
        return done.stdout

    def mpirun(self, ranks: int, *words: str, map_by: str = "node") -> list[str]:
        """The command line of mpirun on h1 that spreads so many ranks of `words` over all hosts, by TCP alone.

        map_by: "node" deals the ranks to the hosts in turn, "slot" fills one host after the other.
        """
        slots = -(-ranks // len(self.names))
        filled = ",".join(f"{name}:{slots}" for name in self.names)
        agent, command = str(self.agent), [mpirun(), "-n", str(ranks)]
        match launcher():
            case "hydra":
                hosts = filled if map_by == "slot" else ",".join(self.names)
                command += ["-launcher", "ssh", "-launcher-exec", agent, "-hosts", hosts, "-iface", "eth0"]
                return [*command, "-genv", "UCX_TLS", "tcp,self", "-genv", "UCX_NET_DEVICES", "eth0", *words]
            case "orte":
                command += ["--mca", "plm_rsh_agent", agent, "--mca", "oob_tcp_if_include", "eth0"]
                command += ["--mca", "orte_tmpdir_base", str(self.folder)]
                command += ["--map-by", map_by, "--oversubscribe"]
            case "prrte":
                command += ["--prtemca", "plm", "ssh", "--prtemca", "plm_ssh_agent", agent]
                command += ["--prtemca", "prte_if_include", "eth0", "--map-by", f"{map_by}:OVERSUBSCRIBE"]
                # Its daemons try ten times to reach it, by default without a pause: too early on a busy machine.
                command += ["--prtemca", "oob_tcp_retry_delay", "1"]
                # A lab counts its processes from 1: in /tmp they would meet what those of a killed lab have left.
                command += ["--prtemca", "prte_tmpdir_base", str(self.folder)]
        network = ["--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "eth0"]
        return [*command, "--host", filled, *network, *words]

    def shape(self, host: str, rate: str) -> None:
        """Limit the host's link to `rate` in each direction: by tc's token bucket at both of its ends.

        The bucket is small, so that messages of a few kilobytes are slowed down too; the queue holds 200 ms. No
        packet is larger than the bucket: the kernel would cut it, and that costs the processor more than a free
        link does.
        """
        bucket_bytes = max(BUCKET_BYTES, round(bytes_a_second(rate) * FINEST_TIMER_S))
        shaper = f"root tbf rate {rate} burst {bucket_bytes} latency 200ms"
        self.shell(host, f"tc qdisc replace dev eth0 {shaper}")
        if self.delay_ms:  # the relay has the other end
            return
        port = f"port{host.removeprefix('h')}"
        command = [*self._in_the_lab(), "tc", "qdisc", "replace", "dev", port, *shaper.split()]
        subprocess.run(command, check=True)

    def _relay(self) -> list[str]:
        """The command that stands for the switch where packets are delayed; else nothing."""
        if not self.delay_ms:
            return []
        words = [
            sys.executable,
            str(RELAY),
            "--delay-ms",
            str(self.delay_ms),
            "--ready",
            str(self.folder / "ready"),
        ]
        return [*words, "--rate", self.rate] if self.rate else words

    def _in_the_lab(self) -> list[str]:
        """What joins the lab: its first process is the only child of the one that made it."""
        first = Path(f"/proc/{self.lab.pid}/task/{self.lab.pid}/children").read_text().split()[0]
        return ["nsenter", "-t", first, "-n", "-m", "-p", "--"]

    def _wait(self) -> None:
        deadline_s = time.monotonic() + START_SECONDS
        while not (self.folder / "ready").exists():
            if self.lab.poll() is not None or time.monotonic() > deadline_s:
                self.lab.kill()
                raise RuntimeError(f"no hosts: {self.lab.communicate()[0]}")
            time.sleep(0.02)


def _environment() -> dict[str, str]:
    return os.environ | mpi_environment() | {"PATH": search_path()}


@cache
def launcher() -> Literal["prrte", "orte", "hydra"]:
    """Whose mpirun it is: Open MPI 5's, Open MPI 4's, or MPICH's."""
    about = subprocess.run([mpirun(), "--version"], env=_environment(), capture_output=True, text=True).stdout
    if "Open MPI" not in about:
        return "hydra"
    return "orte" if re.search(r"\b[1-4]\.\d", about) else "prrte"


def why_not() -> str:
    """What the machine lacks for such hosts, as the reason of a skip; empty where it lacks nothing."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    for tool in ("ip", "tc", "bridge", "unshare", "nsenter", "setpriv"):
        if shutil.which(tool) is None:
            return f"needs {tool} (Debian: iproute2, util-linux)"
    trial = subprocess.run(
        ["unshare", "-n", "-u", "-i", "-m", "-p", "-T", "--fork", "ip", "link", "add", "x", "type", "bridge"],
        capture_output=True, text=True,
    )  # fmt: skip
    return "" if trial.returncode == 0 else f"needs namespaces of network and time: {trial.stderr.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Run a command under mpirun, its ranks spread over several hosts."
    )
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("-n", type=int, default=3, metavar="RANKS", help="number of ranks")
    parser.add_argument("--rate", help="of every host's link, as tc writes it: 100mbit, 1gbit")
    parser.add_argument(
        "--delay-ms", type=float, default=0, help="of each packet, one way, by a relay in user space"
    )
    parser.add_argument(
        "--map-by", default="node", help="how mpirun spreads the ranks: node (in turn) or slot"
    )
    parser.add_argument("command", nargs="+", metavar="WORD", help="after --")
    options = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    with Hosts(options.hosts, rate=options.rate, delay_ms=options.delay_ms) as hosts:
        words = hosts.mpirun(options.n, *options.command, map_by=options.map_by)
        sys.exit(subprocess.run(hosts.command("h1", *words, cwd=Path.cwd()), env=_environment()).returncode)


if __name__ == "__main__":
    main()
