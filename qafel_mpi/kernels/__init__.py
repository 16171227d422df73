"""Kernels: the hot path of the codecs. reference.py says what; numba/ does it on a CPU, triton/ on a GPU."""
