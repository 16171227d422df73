"""The command `qafel-mpi`: a file a command; process.py is the command as one process of a job."""
