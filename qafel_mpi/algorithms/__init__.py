"""The algorithms as pure state machines: they take and return values; drivers move bytes."""
