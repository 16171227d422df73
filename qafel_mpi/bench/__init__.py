"""Benchmarks: one file each; measuring/ has what they share."""
