"""Kernels: what the codecs do on their hot path. reference.py says what, cpu.py and gpu.py do it fast."""
