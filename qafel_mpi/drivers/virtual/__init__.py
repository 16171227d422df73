"""The virtual clock: an event-driven run of many clients, in one process or with worker ranks."""
