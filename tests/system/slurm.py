"""A SLURM of the tests' own on this machine: munged, slurmctld and slurmd for three make-believe nodes, a GPU each.

Everything lies in one folder and listens on ports of its own: a SLURM that runs here already is not disturbed.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import mpi_environment, search_path

DAEMONS = ("munged", "slurmctld", "slurmd")
NODES = ("n1", "n2", "n3")
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

# cred_expire: a requeued job starts again after so many seconds, not two minutes.
# MinJobAge: an ended job is kept until its test looks, an hour and not five minutes: the tests share one SLURM.
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={run}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={run}/state
SlurmdSpoolDir={run}/spool-%n
SlurmdPidFile={run}/slurmd-%n.pid
SlurmctldPidFile={run}/slurmctld.pid
SlurmctldLogFile={run}/slurmctld.log
SlurmdLogFile={run}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
GresTypes=gpu
KillWait=20
MinJobAge=3600
SchedulerParameters=bf_interval=1,sched_interval=2
NodeName=DEFAULT CPUs=8 RealMemory=1000 Gres=gpu:1 State=UNKNOWN
NodeName=n[1-3] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[3]}]
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """What this machine lacks, as the reason of a skip; None: nothing."""
    if os.geteuid() != 0:
        return "needs root, to start SLURM's daemons"
    absent = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=_path()) is None]
    return f"needs {', '.join(absent)} (Debian: slurm-wlm)" if absent else None


@dataclass(frozen=True)
class Job:
    """What SLURM says of a job, or of one task of an array."""

    state: str
    code: int
    restarts: int
    log: Path


@dataclass
class Slurm:
    """The daemons; stop() ends them in any case."""

    run: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        plain = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        return plain | {"SLURM_CONF": f"{self.run}/slurm.conf", "PATH": _path()}

    def start(self) -> None:
        """Raises RuntimeError with the daemons' logs if the nodes are not idle within a minute."""
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.run / name).mkdir(parents=True)
        host = socket.gethostname().split(".")[0]
        ports = _free_ports()
        (self.run / "slurm.conf").write_text(CONF.format(host=host, ports=ports, run=self.run))
        (self.run / "gres.conf").write_text("NodeName=n[1-3] Name=gpu File=/dev/null\n")
        for node in NODES:  # a folder of its own for PMIx: on hosts of their own /tmp would be that
            own = self.run / f"conf-{node}"
            own.mkdir()
            for name in ("slurm.conf", "gres.conf"):
                (own / name).symlink_to(self.run / name)
            (own / "tmp").mkdir()
            (own / "mpi.conf").write_text(f"PMIxCliTmpDirBase={own}/tmp\n")
        key = self.run / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._begin(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            *(f"--{option}={self.run}/munge.{suffix}" for option, suffix in files.items()),
        )
        _wait(lambda: (self.run / "munge.socket").exists(), 10, self._logs)
        self._begin("slurmctld", "-D")
        # The other nodes have a core each: ranks that all take all of them for theirs wait for each other.
        cores = sorted(os.sched_getaffinity(0))
        for k, node in enumerate(NODES):
            cores_of = ("taskset", "--cpu-list", str(cores[-k % len(cores)])) if k else ()
            self._begin(*cores_of, "slurmd", "-D", "-N", node, "-f", f"{self.run}/conf-{node}/slurm.conf")
        _wait(lambda: self.command("sinfo", "-h", "-o", "%T").split() == ["idle"], 60, self._logs)

    def _begin(self, *command: str) -> None:
        log = open(self.run / f"daemon-{len(self.daemons)}.out", "wb")  # noqa: SIM115
        self.daemons.append(
            subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=self.environment)
        )
        log.close()

    def _logs(self) -> str:
        texts = [
            f"{p.name}:\n{p.read_text(errors='replace')[-1500:]}" for p in self.run.glob("*.*") if p.is_file()
        ]
        return "SLURM did not come up\n" + "\n".join(t for t in texts if ".key" not in t.split(":")[0])

    def cancel(self) -> None:
        """End every job, and wait until it has: ranks of one that outlives slurmd would run for ever."""
        self.command("scancel", "--user=root")
        deadline_s = time.monotonic() + 30
        while self.command("squeue", "-h") and time.monotonic() < deadline_s:
            time.sleep(0.3)

    def stop(self) -> None:
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def command(self, *arguments: str) -> str:
        done = subprocess.run(arguments, capture_output=True, text=True, env=self.environment, timeout=30)
        return done.stdout

    def submit(self, script: Path, *options: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
        """sbatch. Returns the job's id."""
        environment = self.environment | mpi_environment() | {"VENV": ""} | dict(env or {})
        done = subprocess.run(
            ["sbatch", "--parsable", *options, str(script)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=cwd,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().split(";")[0]

    def jobs(self, number: str) -> list[Job]:
        """The job, or all tasks of an array, in the order of their numbers."""
        found = []
        for line in self.command("scontrol", "show", "job", number, "--oneliner").splitlines():
            say = dict(re.findall(r"(\w+)=(\S*)", line))
            code = int(say["ExitCode"].split(":")[0])
            job = Job(say["JobState"], code, int(say["Restarts"]), Path(say["StdOut"]))
            found.append((int(say.get("ArrayTaskId", "0").split("-")[0]), job))
        return [job for _, job in sorted(found, key=lambda pair: pair[0])]

    def until(self, numbers: Sequence[str], ready: Callable[[], bool], seconds: float = 200) -> None:
        """Raises RuntimeError, with what the jobs printed, when that takes longer."""

        def logs() -> str:
            jobs = [job for number in numbers for job in self.jobs(number)]
            return "\n".join(f"{job}\n{said(job)}" for job in jobs)

        _wait(ready, seconds, logs)

    def wait(self, numbers: Sequence[str], seconds: float) -> list[Job]:
        """The jobs when all are over. Raises RuntimeError, with what they printed, when that takes longer."""

        def over() -> bool:
            return all(job.state in FINAL for number in numbers for job in self.jobs(number))

        self.until(numbers, over, seconds)
        return [job for number in numbers for job in self.jobs(number)]


def said(job: Job) -> str:
    """What the job printed."""
    return job.log.read_text(errors="replace") if job.log.exists() else ""


def _path() -> str:
    return os.pathsep.join([search_path(), "/usr/sbin", "/sbin"])


def _free_ports() -> list[int]:
    """One for slurmctld, and one for each slurmd, in a row."""
    count = 1 + len(NODES)
    for first in range(20_000 + os.getpid() % 10_000, 32_000, count):
        ports = list(range(first, first + count))
        if all(map(_is_free, ports)):
            return ports
    raise RuntimeError(f"no {count} free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _wait(ready: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(why())
        time.sleep(0.3)
