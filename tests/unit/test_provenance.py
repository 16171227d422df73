"""What a trace says of its machine, from files as the kernel writes them."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "found"),
    [
        (f"4:memory:/docker/{DOCKER}\n", "", DOCKER),
        (f"0::/system.slice/docker-{DOCKER}.scope\n", "", DOCKER),
        (f"0::/machine.slice/libpod-{PODMAN}.scope\n", "", PODMAN),
        (f"0::/kubepods/pod1/cri-containerd-{PODMAN}.scope\n", "", PODMAN),
        ("0::/\n", f"5 4 8:1 /var/lib/docker/containers/{DOCKER}/hostname /etc/hostname rw\n", DOCKER),
        ("0::/\n", f"5 4 0:1 /run/overlay-containers/{PODMAN}/userdata/hosts /etc/hosts rw\n", PODMAN),
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


def test_only_settings_that_choose_a_transport_are_kept():
    chosen = {"OMPI_MCA_pml": "ucx", "UCX_TLS": "rc,sm", "FI_PROVIDER": "tcp", "MPIR_CVAR_CH4_NETMOD": "ofi"}
    others = {"OMPI_MCA_mpi_yield_when_idle": "1", "UCX_LOG_LEVEL": "info", "TOKEN": "secret", "PATH": "/bin"}
    assert provenance.transport_settings(chosen | others) == chosen
