"""Tests: unit (one process), mpi (under mpirun, through run_mpi.py), system (whole commands)."""
