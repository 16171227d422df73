"""The kernels of a CPU, in numba."""
