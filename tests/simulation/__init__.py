"""Deterministic simulation: the server, the clients and their frames in one process, over a network made of a seed.

The wall-clock driver's own code runs here unchanged: rank 0's server, the clients, the broadcasts, the frames. What
is made is the rest: MPI (mpi.py), the ranks' turns and their clock (world.py), the training (wall.py). A seed decides
on the experiment, on who computes when, how long each message takes, and what goes wrong. The same seed gives the
same run, so one that breaks an invariant is a test.
"""
