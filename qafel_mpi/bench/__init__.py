"""Benchmarks: one file each; what they share is timing.py (samples), result.py (files), check.py (belief)."""
