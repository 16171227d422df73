"""The job scripts of jobs/, through sbatch on a real SLURM: as they are, at small size."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import psutil
import pytest

from tests.support import ROOT, search_path
from tests.system.namespaces import launcher
from tests.system.slurm import Job, Slurm, said

SECONDS = 300  # for all jobs of one test
SMALL = "--set stop.uploads=40"
# The pauses leave the cores to the jobs beside it.
ENDLESS = {"OPTIONS": "--set stop.uploads=100000000 --set stop.accuracy=1.0 --set client.pause_seconds=0.05"}
TWO = """
[task]
clients = 20
[variants.short.stop]
uploads = 30
[variants.long.stop]
seconds = 8.0
"""


def with_jobs(folder: Path) -> Path:
    """Where a user submits from: a checkout's jobs folder, by a link."""
    (folder / "jobs").symlink_to(ROOT / "jobs")
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return with_jobs(tmp_path)


def template(name: str) -> Path:
    return ROOT / f"jobs/{name}.sbatch"


@dataclass(frozen=True)
class Submitted:
    """Every template, submitted in a row from one folder: SLURM starts them as its nodes become free."""

    folder: Path
    numbers: dict[str, str]

    def runs(self, pattern: str) -> set[str]:
        return {path.name for path in (self.folder / "runs").glob(pattern)}


@pytest.fixture(scope="module")
def submitted(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    folder = with_jobs(tmp_path_factory.mktemp("submitted"))
    two = ("--ntasks-per-node=2",)
    scaling = {"SEEDS": "0", "OPTIONS": f"{SMALL} --variant wall-2 --variant wall-4"}
    # The warning comes up to half a minute earlier than it is asked for: 60 to 90 s after the start.
    limited = ("--job-name=limited", "--time=00:03:00", "--signal=B:USR1@90", *two)
    options = {
        "limited": (limited, ENDLESS),
        "single-node": ((), {"OPTIONS": SMALL}),
        "multi-node-gpu": (("--gpus-per-node=1", *two), {"EXPERIMENT": "digits", "OPTIONS": SMALL}),
        "sweep-array": ((), {"OPTIONS": SMALL}),
        "strong-scaling": (two, scaling),
        "weak-scaling": (two, scaling),
    }
    numbers = {}
    for name, (flags, env) in options.items():
        script = template("single-node" if name == "limited" else name)
        numbers[name] = slurm.submit(script, *flags, cwd=folder, env=env)
        if name == "limited":  # it goes on before the warning comes, also on a busy machine
            slurm.until([numbers[name]], lambda: any(folder.glob("runs/limited-*.shards/updates*")))
    return Submitted(folder, numbers)


def complete(slurm: Slurm, submitted: Submitted, name: str) -> list[Job]:
    jobs = slurm.wait([submitted.numbers[name]], SECONDS)
    for job in jobs:
        assert (job.state, job.code) == ("COMPLETED", 0), said(job)
    return jobs


def test_single_node(slurm, submitted):
    complete(slurm, submitted, "single-node")
    with h5py.File(submitted.folder / f"runs/qafel-single-{submitted.numbers['single-node']}.h5") as trace:
        assert (trace.attrs["ranks"], trace.attrs["driver"]) == (4, "wall")


def test_multi_node_gpu_has_a_client_for_each_gpu_and_the_server(slurm, submitted):
    complete(slurm, submitted, "multi-node-gpu")
    number = submitted.numbers["multi-node-gpu"]
    with h5py.File(submitted.folder / f"runs/qafel-gpu-{number}.h5") as trace:
        assert trace.attrs["ranks"] == 3
        assert number in str(dict(trace.attrs)), "SLURM's variables are kept"


def test_sweep_array_does_one_run_a_task(slurm, submitted):
    assert len(complete(slurm, submitted, "sweep-array")) == 4
    names = {f"{variant}-seed{seed}.h5" for variant in ("qafel", "fedbuff") for seed in (0, 1)}
    assert submitted.runs("digits/*") == names
    tasks = set()
    for name in names:
        with h5py.File(submitted.folder / "runs/digits" / name) as trace:
            scheduler = json.loads(trace.attrs["scheduler"])
        assert scheduler["SLURM_ARRAY_JOB_ID"] == submitted.numbers["sweep-array"]
        tasks.add(scheduler["SLURM_ARRAY_TASK_ID"])
    assert tasks == {"0", "1", "2", "3"}, "every trace names the task that made it"


@pytest.mark.parametrize("kind", ["strong", "weak"])
def test_scaling_ends_with_a_table(kind, slurm, submitted):
    (job,) = complete(slurm, submitted, f"{kind}-scaling")
    assert submitted.runs(f"{kind}-scaling/*") == {"wall-2-seed0.h5", "wall-4-seed0.h5"}
    assert "efficiency" in said(job).lower()


@dataclass(frozen=True)
class Requeued:
    """A suite's job that SLURM warned of its limit, and that has begun anew."""

    number: str
    short: Path  # the variants' traces
    long: Path
    short_written_s: float


@pytest.fixture(scope="module")
def requeued(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Requeued]:
    """By launcher, all at once: until SLURM starts a job again it waits more than it works."""
    jobs: dict[str, Requeued] = {}
    launchers: dict[str, tuple[tuple[str, ...], dict[str, str]]]
    launchers = {"mpirun": (("--nodes=1", "--ntasks-per-node=2"), {})}
    if not srun_missing():
        launchers["srun"] = (("--nodes=2", "--ntasks-per-node=1"), srun_environment())
    started = {}
    for name, (flags, env) in launchers.items():
        folder = with_jobs(tmp_path_factory.mktemp(f"requeued-{name}"))
        (folder / "two.toml").write_text(TWO)
        env = {"SUITE": "two.toml", "SEEDS": "0"} | env
        started[name] = (slurm.submit(template("strong-scaling"), *flags, cwd=folder, env=env), folder)

    def warned() -> bool:
        """Warn each job that is in its second run."""
        for name in started.keys() - jobs.keys():
            number, folder = started[name]
            short, long = (folder / f"runs/two/{variant}-seed0.h5" for variant in ("short", "long"))
            if short.exists() and any(long.with_suffix(".shards").glob("updates*")):
                jobs[name] = Requeued(number, short, long, short.stat().st_mtime)
                slurm.command("scancel", "--signal=USR1", "--batch", number)
        return started.keys() == jobs.keys()

    numbers = [number for number, _ in started.values()]
    slurm.until(numbers, warned)
    slurm.until(numbers, lambda: all(slurm.jobs(number)[0].restarts == 1 for number in numbers))
    return jobs


def test_a_suite_that_ran_out_of_time_is_requeued_and_goes_on(slurm, requeued):
    goes_on(slurm, requeued["mpirun"])


def goes_on(slurm: Slurm, requeued: Requeued) -> None:
    """A warning from SLURM ends the ranks with 75; the job is requeued, and does what is left."""
    (job,) = slurm.wait([requeued.number], SECONDS)
    assert (job.state, job.code) == ("COMPLETED", 0), said(job)
    assert requeued.short.stat().st_mtime == requeued.short_written_s, "what was done is not done again"
    with h5py.File(requeued.long) as trace:
        assert trace.attrs["outcome"] == "finished"


def test_a_single_run_whose_job_is_requeued_goes_on_from_its_checkpoint(slurm, site):
    env = ENDLESS | {"OPTIONS": f"{ENDLESS['OPTIONS']} --checkpoint-every 2"}
    number = slurm.submit(template("single-node"), "--ntasks-per-node=2", cwd=site, env=env)
    shards = site / f"runs/qafel-single-{number}.shards"
    slurm.until([number], lambda: any(shards.glob("checkpoint.*.qck")))
    slurm.command("scontrol", "requeue", number)  # as SLURM does by itself when a node fails
    slurm.until([number], lambda: "goes on from version" in said(slurm.jobs(number)[0]))
    slurm.command("scancel", number)
    (job,) = slurm.wait([number], 60)
    assert (job.state, job.restarts) == ("CANCELLED", 1)
    # Each start says first where its trace will be; progress it may not say before its first checkpoint.
    assert said(job).count("trace: ") == 2, "the log of the first start is kept"
    assert [path.name for path in shards.parent.glob("*.shards")] == [shards.name]


def test_tasks_of_an_array_that_ran_out_of_time_go_on_from_their_checkpoints(slurm, site):
    """Each is requeued by itself: the number of the last one is that of the whole array."""
    (site / "two.toml").write_text(TWO)
    env = {"SUITE": "two.toml", "SEEDS": "0-1"}
    env["OPTIONS"] = f"--variant long --checkpoint-every 1 {ENDLESS['OPTIONS']} --set stop.seconds=3600"
    number = slurm.submit(template("sweep-array"), "--array=0-1", cwd=site, env=env)
    shards = [site / f"runs/two/long-seed{seed}.shards" for seed in (0, 1)]
    slurm.until([number], lambda: all(any(folder.glob("checkpoint.*.qck")) for folder in shards), SECONDS)
    slurm.command("scancel", "--signal=USR1", "--batch", f"{number}_0", f"{number}_1")

    def second_starts() -> list[str]:
        return [said(job).partition("interrupted: requeued")[2] for job in slurm.jobs(number)]

    slurm.until([number], lambda: all("  uploads " in text for text in second_starts()), SECONDS)
    assert [job.restarts for job in slurm.jobs(number)] == [1, 1]
    assert not any("uploads 0  steps 0" in text for text in second_starts()), "neither begins anew"
    slurm.command("scancel", number)
    for job in slurm.wait([number], SECONDS):
        assert (job.state, job.restarts) == ("CANCELLED", 1), said(job)


def test_a_rendered_script_runs_on_its_own(slurm, tmp_path):
    """Nothing beside it: the site's facts are inside. Nor from the shell that submits it, as on some sites."""
    script = tmp_path / "job.sbatch"
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(
        [
            *("qafel-mpi", "jobs", "render", "single-node", "--nodes", "2", "--ntasks-per-node", "1"),
            *("--partition", "debug", "--sbatch", "export=NONE", "--sbatch", "comment=rendered"),
            *("--options", SMALL, "--out", str(script)),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": search_path()},
    )
    assert (done.returncode, done.stdout) == (0, f"sbatch {script}\n"), done.stderr
    number = slurm.submit(script, cwd=tmp_path)
    (job,) = slurm.wait([number], SECONDS)
    assert job.state == "COMPLETED", said(job)
    with h5py.File(tmp_path / f"runs/qafel-single-{number}.h5") as trace:
        assert (trace.attrs["ranks"], trace.attrs["outcome"]) == (2, "finished")


def test_the_time_limits_warning_ends_a_run_with_its_trace_and_exit_code_75(slurm, submitted):
    number = submitted.numbers["limited"]
    (job,) = slurm.wait([number], SECONDS)
    assert (job.state, job.code) == ("FAILED", 75), said(job)
    with h5py.File(submitted.folder / f"runs/limited-{number}.h5") as trace:
        assert trace.attrs["outcome"].startswith("interrupted")
        assert len(trace["updates"]) == trace.attrs["uploads"] > 0


def test_what_scancel_leaves_can_be_read(slurm, site):
    number = slurm.submit(template("single-node"), "--ntasks-per-node=2", cwd=site, env=ENDLESS)
    shards = site / f"runs/qafel-single-{number}.shards"
    slurm.until([number], lambda: any(shards.glob("updates*")))
    time.sleep(2)  # a flush or two
    slurm.command("scancel", number)
    (job,) = slurm.wait([number], 60)
    assert job.state == "CANCELLED"
    assert len(left(shards)["updates"]) > 0


def left(shards: Path) -> h5py.File:
    """The trace of a run that was ended: the ranks' own, which they may be writing yet, else of their parts."""
    trace = shards.with_suffix(".h5")
    deadline = time.monotonic() + 30
    while shards.exists() and not trace.exists() and pids_with(SLURM_JOB_ID=shards.stem.split("-")[-1]):
        assert time.monotonic() < deadline, "ranks go on after the end of their job"
        time.sleep(0.5)
    if not trace.exists():
        subprocess.run(
            ["qafel-mpi", "merge", str(shards)], check=True, env=os.environ | {"PATH": search_path()}
        )
    return h5py.File(trace)


def pids_with(**variables: str) -> list[int]:
    """The processes of qafel-mpi that have these in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if variables.items() <= process.environ().items() and "qafel-mpi" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


# Last, when the nodes are free: these jobs are not among those that are submitted at once.


@pytest.fixture(scope="module")
def srun() -> dict[str, str]:
    """The variables of a job that starts its ranks by srun; skips where SLURM can't do that."""
    if reason := srun_missing():
        pytest.skip(reason)
    return srun_environment()


def srun_environment() -> dict[str, str]:
    """With the protocol that the MPI library speaks."""
    return {"LAUNCHER": "srun", "SRUN_MPI": "pmi2" if launcher() == "hydra" else "pmix"}


def srun_missing() -> str | None:
    """Why srun can't start ranks here; None: it can."""
    loads = [sys.executable, "-c", "import ctypes; ctypes.CDLL('libpmix.so')"]
    if srun_environment()["SRUN_MPI"] == "pmix" and subprocess.run(loads, capture_output=True).returncode:
        return "needs libpmix-dev, which SLURM loads for --mpi=pmix"
    return None


def test_srun_starts_the_ranks_as_mpirun_does(slurm, site, srun):
    """Two tasks: SLURM binds each to a core, which must be there."""
    env = {"OPTIONS": SMALL} | srun
    number = slurm.submit(template("single-node"), "--ntasks-per-node=2", cwd=site, env=env)
    (job,) = slurm.wait([number], SECONDS)
    assert (job.state, job.code) == ("COMPLETED", 0), said(job)
    with h5py.File(site / f"runs/qafel-single-{number}.h5") as trace:
        assert trace.attrs["ranks"] == len(trace["ranks"]) == 2


# MPI_Finalize of Open MPI waits in a fence of PMIx, to which no rank brings data.
LATE = """
import os, time
from pathlib import Path
from mpi4py import MPI
came = Path("came")
if MPI.COMM_WORLD.rank == 0:
    time.sleep(2)  # a rank that waits for nobody has left by then
    came.touch()
MPI.Finalize()
print("met" if came.exists() else "left early", flush=True)
"""


def test_sruns_ranks_on_two_nodes_wait_for_each_other(slurm, site, srun):
    """Without SLURM_PMIX_FENCE=ring SLURM lets them go on, and MPI_Init of Open MPI may crash."""
    (site / "late.py").write_text(LATE)
    script = site / "late.sbatch"
    script.write_text(f"#!/bin/bash\n. jobs/site.env\n. jobs/job.sh\nlaunch 2 {sys.executable} late.py\n")
    flags = ("--nodes=2", "--ntasks-per-node=1")
    number = slurm.submit(script, *flags, cwd=site, env=srun | {"QAFEL_JOBS": "jobs"})
    (job,) = slurm.wait([number], SECONDS)
    assert (job.state, job.code) == ("COMPLETED", 0), said(job)
    assert said(job).splitlines() == ["met", "met"]


def test_the_server_has_a_node_of_another_kind_in_a_heterogeneous_job(slurm, tmp_path, srun):
    """Rendered, in two parts: n1 has the server, the other two a client for their GPU each."""
    script = tmp_path / "apart.sbatch"
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(
        [
            *("qafel-mpi", "jobs", "render", "server-apart", "--nodes", "2", "--gpus-per-node", "1"),
            *("--experiment", "digits", "--options", SMALL, "--sbatch", "nodelist=n2,n3", "--time", "10"),
            *("--out", str(script)),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": search_path()},
    )
    assert done.returncode == 0, done.stderr
    script.write_text(script.read_text().replace("--cpus-per-task=4", "--nodelist=n1", 1))
    numbers = {
        name: slurm.submit(script, cwd=tmp_path, env=srun | {"LAUNCHER": name}) for name in ("srun", "mpirun")
    }
    (first, *_) = slurm.wait([numbers["srun"]], SECONDS)  # SLURM 22.05's srun sometimes stays, and is ended
    assert (first.state, first.code) == ("COMPLETED", 0), said(first)
    with h5py.File(tmp_path / f"runs/qafel-apart-{numbers['srun']}.h5") as trace:
        assert (trace.attrs["ranks"], trace.attrs["outcome"]) == (3, "finished")
        scheduler = json.loads(trace.attrs["scheduler"])
    assert [scheduler[f"SLURM_JOB_NODELIST_HET_GROUP_{part}"] for part in (0, 1)] == ["n1", "n[2-3]"]
    assert scheduler["SLURM_STEP_NODELIST"] == "n[1-3]"
    refused = slurm.wait([numbers["mpirun"]], SECONDS)[0]
    assert (refused.state, refused.code) == ("FAILED", 2), said(refused)
    assert "set LAUNCHER=srun" in said(refused)


def test_sruns_ranks_on_two_nodes_are_warned_and_requeued_as_mpiruns(slurm, srun, requeued):
    """A rank's 75 does not become another code though srun ends the step at the first such rank."""
    goes_on(slurm, requeued["srun"])


# Rank 0 is the last to be gone: srun ends what is left of a step as soon as one rank has left with 75.
LINGERS = """
import atexit, os, time
from qafel_mpi.tasks import datasets

def load(*settings):
    if os.environ["SLURM_PROCID"] == "0":
        atexit.register(time.sleep, 3)
    return datasets.digits(*settings)
"""


@pytest.fixture(scope="module")
def endless(slurm: Slurm, srun, tmp_path_factory) -> dict[str, tuple[str, Path]]:
    """Runs by srun on two nodes that go on, and where their traces will be: one for each end that awaits them."""
    runs = {}
    for end in ("warned", "cancelled", "dies"):
        site = with_jobs(tmp_path_factory.mktemp(end))
        (site / "lingers.py").write_text(LINGERS)
        env = ENDLESS | srun | {"PYTHONPATH": str(site)}
        env["OPTIONS"] += " --set task.dataset=lingers:load"
        flags = ("--nodes=2", "--nodelist=n1,n2", "--ntasks-per-node=1")
        number = slurm.submit(template("single-node"), *flags, cwd=site, env=env)
        runs[end] = (number, site / f"runs/qafel-single-{number}.shards")
    numbers = [number for number, _ in runs.values()]
    slurm.until(numbers, lambda: all(any(shards.glob("updates*")) for _, shards in runs.values()))
    return runs


def test_sruns_ranks_write_their_trace_when_slurm_warns_of_the_limit(slurm, endless):
    number, shards = endless["warned"]
    slurm.command("scancel", "--signal=USR1", "--batch", number)
    (job,) = slurm.wait([number], 60)
    assert (job.state, job.code) == ("FAILED", 75), said(job)
    with h5py.File(shards.with_suffix(".h5")) as trace:
        assert trace.attrs["outcome"].startswith("interrupted")
        assert len(trace["updates"]) == trace.attrs["uploads"] > 0


def test_what_scancel_leaves_of_sruns_ranks_can_be_read(slurm, endless):
    number, shards = endless["cancelled"]
    slurm.command("scancel", number)
    (job,) = slurm.wait([number], 60)
    assert job.state == "CANCELLED"
    assert len(left(shards)["updates"]) > 0


def test_a_rank_of_sruns_that_dies_ends_the_job_which_names_it(slurm, endless):
    number, shards = endless["dies"]
    (client,) = pids_with(SLURM_JOB_ID=number, SLURM_PROCID="1")
    os.kill(client, signal.SIGKILL)
    (job,) = slurm.wait([number], 60)
    assert job.state == "FAILED", said(job)
    assert job.code not in (0, 75), "137, or what the MPI library makes of a peer that is gone"
    assert "n2: task 1: Killed" in said(job)
    assert len(left(shards)["updates"]) > 0


def test_multi_node_gpu_deals_a_client_to_each_gpu_of_three_hosts(slurm, tmp_path):
    """Ranks that filled the hosts' places one after the other would leave a client too many on the second."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    for name in ("site.env", "job.sh"):
        (jobs / name).symlink_to(ROOT / "jobs" / name)
    # In the program's place. Open MPI 5.0's mpirun waits for ever now and then if ranks leave as soon as they start.
    (jobs / "checked.sh").write_text('echo "$SLURMD_NODENAME" >> "$SEEN"; sleep 1\n')
    flags = ("--nodes=3", "--gpus-per-node=1", "--ntasks-per-node=2")
    seen = tmp_path / "seen"
    number = slurm.submit(template("multi-node-gpu"), *flags, cwd=tmp_path, env={"SEEN": str(seen)})
    (job,) = slurm.wait([number], SECONDS)
    assert (job.state, job.code) == ("COMPLETED", 0), said(job)
    assert sorted(seen.read_text().split()) == ["n1", "n1", "n2", "n3"], (
        "the server beside a client, then clients"
    )


def test_a_process_started_by_hand_in_the_shell_of_srun_is_one_on_its_own(slurm, tmp_path):
    """It inherits the variables of a rank of the shell's own step, here of two tasks."""
    by_hand = f"[ $SLURM_PROCID = 0 ] || exit 0; qafel-mpi run digits {SMALL} --out by-hand.h5"
    command = ["srun", "-n2", "--mpi=pmi2", "--pty", "sh", "-c", by_hand]
    ours, its = pty.openpty()
    with subprocess.Popen(
        command, cwd=tmp_path, env=slurm.environment, stdin=its, stdout=its, stderr=its
    ) as shell:
        os.close(its)
        said = b""
        with suppress(OSError):  # a terminal whose other end is closed
            while more := os.read(ours, 4096):
                said += more
    os.close(ours)
    assert shell.returncode == 0, said.decode()
    assert b"running in one process on the virtual clock" in said
    with h5py.File(tmp_path / "by-hand.h5") as trace:
        assert len(trace["updates"]) == 40
