"""qafel_analysis: from trace files to tables. Needs no MPI, no GPU and nothing of the program but its reader."""
