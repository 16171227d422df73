"""A recipe of hpccm (HPC Container Maker) for Docker and Apptainer. From the folder of the repository:

    hpccm --recipe jobs/site/container.py --format docker > jobs/site/Dockerfile
    hpccm --recipe jobs/site/container.py --format singularity > jobs/site/apptainer.def
    hpccm --recipe jobs/site/container.py --format docker --userarg mpi=wheel    # Open MPI's wheel inside

hpccm brings Stage0, USERARG and its building blocks. mpi=host, the default: no MPI inside. The host's is bound to
/opt/host-mpi, and what it needs itself to /opt/host-mpi-needs (docs/clusters.md, "Containers"). Ubuntu 24.04's glibc
is newer than that of most hosts, whose libraries need theirs or a newer one. `--userarg image=NAME` takes another
image with apt and Python 3.11 or newer.
"""

MPIS = ("host", "wheel")
mpi = USERARG.get("mpi", "host")
if mpi not in MPIS:
    raise RuntimeError(f"--userarg mpi={mpi}: it is one of {', '.join(MPIS)}")
extras = "analysis" if mpi == "host" else "mpi,analysis"

Stage0 += comment(
    "qafel-mpi; made by hpccm from jobs/site/container.py, which is the file to change", reformat=False
)
Stage0 += baseimage(image=USERARG.get("image", "ubuntu:24.04"))
Stage0 += apt_get(ospackages=["python3", "python3-venv"])
for path in ("qafel_mpi", "analysis", "jobs"):
    Stage0 += copy(src=path, dest=f"/opt/src/{path}")
Stage0 += copy(src=["pyproject.toml", "README.md", "LICENSE", ".ci/constraints.txt"], dest="/opt/src/")
Stage0 += shell(
    commands=[
        "python3 -m venv /opt/qafel",
        f"/opt/qafel/bin/pip install --no-cache-dir -c /opt/src/constraints.txt '/opt/src[{extras}]'",
        "rm -rf /opt/src",
        "mkdir -p /opt/host-mpi /opt/host-mpi-needs",
    ]
)
variables = {"PATH": "/opt/qafel/bin:$PATH"}
if mpi == "host":
    variables["LD_LIBRARY_PATH"] = "/opt/host-mpi/lib:/opt/host-mpi-needs"
Stage0 += environment(variables=variables)
Stage0 += runscript(commands=["qafel-mpi"])
