"""Your site for ReFrame: change names, `access` and modules, and add a partition for each kind of node.

    reframe -C jobs/site/reframe_settings.py -c jobs/site/reframe_qafel.py --list

Results are held against references by the name of rank 0's host (`qafel-mpi bench references --system`).
"""

import os

VENV = os.environ.get("VENV", os.path.abspath(".venv"))

site_configuration = {
    "systems": [
        {
            "name": "here",
            "descr": "the machine that ReFrame runs on, and the cluster that its SLURM leads to",
            "hostnames": [".*"],
            "partitions": [
                {
                    "name": "local",
                    "descr": "the node that ReFrame runs on",
                    "scheduler": "local",
                    "launcher": "mpirun",
                    "environs": ["qafel"],
                    "max_jobs": 1,  # two at a time would disturb each other's times
                },
                {
                    "name": "slurm",
                    "descr": "nodes that SLURM gives",
                    "scheduler": "squeue",  # "slurm" where sacct keeps accounts
                    "launcher": "mpirun",  # or "srun", where MPI was built with SLURM's PMI
                    "access": [],  # such as ["--account=p123", "--partition=compute"]
                    "environs": ["qafel"],
                    "max_jobs": 8,
                },
            ],
        }
    ],
    "environments": [
        {
            "name": "qafel",
            "modules": [],  # such as ["python/3.11", "openmpi/4.1"]
            "prepare_cmds": [f". {VENV}/bin/activate"],
            # Under srun, ranks of Open MPI on several nodes wait for each other only so (docs/clusters.md).
            "env_vars": [["SLURM_PMIX_FENCE", "ring"]],
        }
    ],
}
