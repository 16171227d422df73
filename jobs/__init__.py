"""The SLURM templates, for `qafel-mpi jobs`."""
