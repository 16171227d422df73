"""Drivers: they carry messages between the algorithms, the transport, the clock and the trace."""
