"""Other frameworks of federated learning, given the same work as ours.

A peer is a recipe here, PEER.py: what it installs, what of its usual set-up was changed and why, and `train`, which
does the work with its own classes. A recipe runs in a virtual environment of the peer's (environments.py), in a
process of its own (runner.py), which trains once for every line that it reads. rows.py samples all of them in turns.
"""
