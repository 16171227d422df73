"""The commands `qafel-mpi bench …`."""
