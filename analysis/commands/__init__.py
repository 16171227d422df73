"""The command `qafel-analysis`."""
