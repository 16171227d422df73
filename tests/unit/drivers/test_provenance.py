"""What a trace says of its machine, from files as the kernel writes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qafel_mpi.drivers import provenance

DOCKER = "a1" * 32
PODMAN = "b2" * 32


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_network_hardware_is_listed_with_its_rate_and_the_rest_left_out(tmp_path):
    write(tmp_path / "infiniband/mlx5_0/ports/1/rate", "100 Gb/sec (4X EDR)\n")
    write(tmp_path / "net/eth0/speed", "25000\n")
    write(tmp_path / "net/eth0/device/vendor", "0x15b3\n")
    write(tmp_path / "net/ens5/speed", "-1\n")
    write(tmp_path / "net/ens5/device/vendor", "0x1af4\n")
    write(tmp_path / "net/lo/speed", "")
    assert provenance.network_devices(tmp_path) == {
        "mlx5_0:1": "100 Gb/sec (4X EDR)",
        "eth0": "25000 Mbit/s",
        "ens5": "",
    }


def test_libraries_of_fast_networks_are_named_where_they_are_loaded(tmp_path):
    maps = tmp_path / "maps"
    line = "7f00-7f01 r-xp 00000000 08:01 42 "
    files = (
        "/usr/lib/libucp.so.0.0.0",
        "/usr/lib/libibverbs-1a2b.so.1",
        "/usr/lib/libc.so.6",
        "/x/libfabrics.so",
    )
    write(
        maps, "".join(f"{line}{file}\n" for file in (*files, files[0])) + "7f02-7f03 rw-p 00000000 00:00 0\n"
    )
    assert provenance.network_libraries(maps) == ["libibverbs-1a2b.so.1", "libucp.so.0.0.0"]


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "found"),
    [
        (f"4:memory:/docker/{DOCKER}\n", "", DOCKER),
        (f"0::/system.slice/docker-{DOCKER}.scope\n", "", DOCKER),
        (f"0::/machine.slice/libpod-{PODMAN}.scope\n", "", PODMAN),
        (f"0::/kubepods/pod1/cri-containerd-{PODMAN}.scope\n", "", PODMAN),
        ("0::/\n", f"5 4 8:1 /var/lib/docker/containers/{DOCKER}/hostname /etc/hostname rw\n", DOCKER),
        ("0::/\n", f"5 4 0:1 /run/overlay-containers/{PODMAN}/userdata/hosts /etc/hosts rw\n", PODMAN),
        # Not in a container, on a host where one runs.
        (
            "0::/\n",
            f"9 8 0:2 / /var/lib/containers/storage/overlay-containers/{PODMAN}/userdata/shm rw\n",
            "",
        ),
        ("0::/\n", f"9 8 0:2 /docker/containers/{DOCKER}/mounts/shm /mnt/shm rw - tmpfs shm rw\n", ""),
        ("0::/user.slice/session-3.scope\n", "22 27 0:21 / /proc rw - proc proc rw\n", ""),
        (f"0::/service/{DOCKER}\n", "", ""),
    ],
)
def test_a_container_is_named_by_its_id(cgroup, mountinfo, found, tmp_path):
    write(tmp_path / "cgroup", cgroup)
    write(tmp_path / "mountinfo", mountinfo)
    assert provenance.container({}, tmp_path) == found


def test_apptainers_image_names_its_container(tmp_path):
    assert provenance.container({"APPTAINER_CONTAINER": "/images/q.sif"}, tmp_path) == "/images/q.sif"
    assert provenance.container({}, tmp_path) == "", "no /proc: not Linux"


def test_every_setting_of_an_mpi_library_is_kept_and_nothing_of_the_very_job():
    """How ranks wait changes results more than the transport does."""
    chosen = {
        "OMPI_MCA_pml": "ucx",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMPI_MCA_orte_tmpdir_base": "/tmp",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "UCX_TLS": "rc,sm",
        "UCX_RNDV_THRESH": "8k",
        "FI_PROVIDER": "tcp",
        "MPIR_CVAR_CH4_NETMOD": "ofi",
        "MPICH_ASYNC_PROGRESS": "1",
        "I_MPI_FABRICS": "shm",
    }
    others = {
        "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:4711",
        "OMPI_MCA_orte_precondition_transports": "5f3-9a1",
        "OMPI_MCA_ess_base_jobid": "7",
        "OMPI_MCA_num_procs": "4",
        "OMPI_MCA_initial_wdir": "/home/me",
        "TOKEN": "secret",
        "PATH": "/bin",
    }
    assert provenance.mpi_settings(chosen | others) == chosen


def test_slurms_ways_of_placing_tasks_are_kept(monkeypatch):
    placing = {
        "SLURM_TASKS_PER_NODE": "2(x2)",
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
        "SLURM_DISTRIBUTION": "cyclic",
    }
    for name, value in placing.items():
        monkeypatch.setenv(name, value)
    assert placing.items() <= provenance.provenance([])["scheduler"].items()


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A package in a repository of its own, committed."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    write(tmp_path / "qafel_mpi/a.py", "")
    write(tmp_path / ".gitignore", "*.pyc\n")
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "all")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path / "qafel_mpi"


def test_a_checkout_is_dirty_where_files_of_it_changed_or_its_package_has_new_ones(checkout):
    commit, dirty = provenance.git_state(checkout)
    assert (len(commit), dirty) == (40, False)
    write(checkout.parent / "runs/a.h5", "")
    write(checkout / "a.pyc", "")
    assert provenance.git_state(checkout) == (commit, False)
    write(checkout / "b.py", "")
    assert provenance.git_state(checkout) == (commit, True)
    (checkout / "b.py").unlink()
    write(checkout / "a.py", "x = 1")
    assert provenance.git_state(checkout) == (commit, True)


def test_two_checkouts_of_one_version_are_told_apart_by_their_sources(checkout):
    def digest() -> str:
        provenance.source_digest.cache_clear()
        return provenance.source_digest(checkout)

    first = digest()
    write(checkout / "notes.txt", "no source")
    assert digest() == first
    write(checkout / "codecs/b.py", "")
    second = digest()
    write(checkout / "a.py", "x = 1")
    assert len({first, second, digest()}) == 3


def test_somebody_elses_checkout_is_read_too(checkout, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = subprocess.run(["git", "status"], cwd=checkout, capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    assert provenance.git_state(checkout)[1] is False


def test_where_nobody_knows_whether_a_checkout_is_clean_it_is_unknown(checkout, monkeypatch):
    assert provenance.git_state(checkout.parent) == ("", "unknown"), "inside another repository"
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent))
    assert provenance.git_state(checkout) == ("", "unknown"), "installed: no repository"
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state(checkout) == ("", "unknown"), "no git"
