"""What a run does when something fails: ranks that end or hang, messages that lie, interrupts, disks."""
