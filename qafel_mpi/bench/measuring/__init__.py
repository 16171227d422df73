"""What benchmarks share: timing.py (samples), result.py (files), check.py (belief), compare.py, references.py, …"""
