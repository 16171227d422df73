"""The trace: every rank records into arrays and shards; rank 0 merges them into one HDF5 file."""
