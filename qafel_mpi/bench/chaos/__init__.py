"""Runs under a seeded schedule of faults, beside the same runs without: `qafel-mpi bench chaos`."""
