"""The commands `qafel-mpi jobs …`."""
