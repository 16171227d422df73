"""A network with delays between the hosts of namespaces.py, in user space: for kernels without netem.

    python tests/system/relay.py --delay-ms 10 [--rate 100mbit] --ready FILE PID...

Makes a TUN device eth0 in the network namespace of each PID, host k = 1, 2, ... having the address 10.77.0.k, and
forwards IP packets between them: each is handed over `delay` after it was sent, and no sooner than its receiver's
link has room for it at `rate`. Packets that would wait longer than QUEUE_S for room are dropped, as a switch does.
One Python process: it carries some 50,000 packets a second, on a core that it shares with the hosts.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import re
import select
import struct
import subprocess
import time
from collections import deque
from pathlib import Path

MTU = 9000  # bytes: fewer, larger packets for a forwarder in Python
QUEUE_S = 0.2
QUEUE_BYTES = 64 << 20  # where the rate sets no limit
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
DESTINATION = 19  # last byte of an IPv4 packet's destination: the host's number


def why_not() -> str:
    """What the machine lacks for such devices, as the reason of a skip; empty where it lacks nothing."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"needs a kernel with TUN devices: {error}"
    return ""


def open_device(pid: int, address: str) -> int:
    """The file descriptor of a new TUN device eth0 in the network namespace of `pid`. This process moves there."""
    with Path(f"/proc/{pid}/ns/net").open() as namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns to the network of process {pid}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TUN | IFF_NO_PI))
    for words in (
        f"addr add {address}/24 dev eth0",
        f"link set eth0 mtu {MTU} txqueuelen 1000 up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    return device


def bytes_a_second(rate: str) -> float:
    """A rate as tc writes it ("100mbit")."""
    if (match := re.fullmatch(r"(\d+)([kmg])bit", rate)) is None:
        raise argparse.ArgumentTypeError(f"{rate!r}: like 100mbit")
    return int(match[1]) * {"k": 1e3, "m": 1e6, "g": 1e9}[match[2]] / 8


class Link:
    """The way to one host: packets in the order of their release."""

    def __init__(self, device: int, delay_s: float, rate_bytes: float):
        self.device, self.delay_s, self.rate_bytes = device, delay_s, rate_bytes
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.waiting_bytes = 0
        self.free_s = 0.0  # when the link has carried all that waits

    def take(self, packet: bytes, now_s: float) -> None:
        arrives_s = now_s + self.delay_s
        begins_s = max(arrives_s, self.free_s)
        if begins_s - arrives_s > QUEUE_S or self.waiting_bytes > QUEUE_BYTES:
            return
        self.free_s = begins_s + len(packet) / self.rate_bytes
        self.waiting.append((self.free_s, packet))
        self.waiting_bytes += len(packet)

    def release(self, now_s: float) -> float:
        """Hand over what is due. Returns when there is more to do."""
        while self.waiting and self.waiting[0][0] <= now_s:
            _, packet = self.waiting.popleft()
            self.waiting_bytes -= len(packet)
            try:
                os.write(self.device, packet)
            except OSError:  # the host is gone, or takes no more: lost, as on a wire
                continue
        return self.waiting[0][0] if self.waiting else float("inf")


def forward(links: dict[int, Link]) -> None:
    """For ever."""
    devices = [link.device for link in links.values()]
    next_s = float("inf")
    while True:
        patience_s = None if next_s == float("inf") else max(0.0, next_s - time.monotonic())
        for device in select.select(devices, [], [], patience_s)[0]:
            try:
                packet = os.read(device, MTU)
            except BlockingIOError:
                continue
            if len(packet) > DESTINATION and (link := links.get(packet[DESTINATION])):
                link.take(packet, time.monotonic())
        now_s = time.monotonic()
        next_s = min(link.release(now_s) for link in links.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="A network with delays between namespaces.")
    parser.add_argument("--delay-ms", type=float, required=True, help="one way")
    parser.add_argument("--rate", type=bytes_a_second, default=float("inf"), help="of what a host receives")
    parser.add_argument("--ready", type=Path, required=True, help="made when the network is there")
    parser.add_argument("pids", type=int, nargs="+", metavar="PID")
    given = parser.parse_args()
    hosts = enumerate(given.pids, 1)
    links = {k: Link(open_device(pid, f"10.77.0.{k}"), given.delay_ms / 1e3, given.rate) for k, pid in hosts}
    given.ready.touch()
    forward(links)


if __name__ == "__main__":
    main()
