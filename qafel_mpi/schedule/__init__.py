"""Virtual time: who starts when, how long it takes, and in which order things happen."""
