"""What the commands `qafel-mpi bench …` run: each gives a function that measures, for measure.py's run.

The modules of bench/ and drivers/ are imported when that is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qafel_mpi.commands.bench.measure import Measure, say
from qafel_mpi.config_text import ConfigError
from qafel_mpi.parsing import DataError, Place, integer

if TYPE_CHECKING:
    from mpi4py import MPI

    from qafel_mpi.bench.measuring.result import Row
    from qafel_mpi.bench.measuring.timing import Limits


def that_fit(sizes: Sequence[int], bytes_per_element: int) -> list[int]:
    """The numbers of elements whose vectors fit into half the free memory. The others are named as skipped."""
    import psutil

    most = psutil.virtual_memory().available / 2
    for size in sizes:
        if size * bytes_per_element >= most:
            say(f"d = {size:,} is skipped: it does not fit into half the free memory")
    return [size for size in sizes if size * bytes_per_element < most]


def codec(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
    """The default codec, on rank 0 alone; the command of that name has all of them."""
    from qafel_mpi.bench import codec as ours
    from qafel_mpi.bench.measuring.ranks import first

    points = ours.sweep(["qsgd"], [4], [29_282, 1_000_000], [1])
    return first(comm, 1, lambda _: ours.rows(points, limits))


def p2p(smallest: int, largest: int) -> Measure:
    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from qafel_mpi.bench import p2p as ours
        from qafel_mpi.bench.measuring.ranks import first, powers_of_two

        return first(comm, 2, lambda pair: ours.rows(pair, limits, powers_of_two(smallest, largest)))

    return measure


def ingest(sizes: str) -> Measure:
    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from qafel_mpi.bench import ingest as ours
        from qafel_mpi.drivers.rows import received_row

        return ours.rows(comm, limits, sizes_in_bytes(sizes), received_row)

    return measure


def broadcast(sizes: str, algorithms: list[str] | None) -> Measure:
    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from qafel_mpi.bench import broadcast as ours

        unknown = set(algorithms or ()) - set(ours.ALGORITHMS)
        if unknown:
            raise ConfigError([f"--algorithm {sorted(unknown)[0]}: not one of {', '.join(ours.ALGORITHMS)}"])
        return ours.rows(comm, limits, sizes_in_bytes(sizes), algorithms or list(ours.ALGORITHMS))

    return measure


def backoff(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
    from qafel_mpi.bench import backoff as ours
    from qafel_mpi.bench.measuring.ranks import first

    return first(comm, 2, lambda pair: ours.rows(pair, limits, say))


def overlap(uploads: int) -> Measure:
    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from qafel_mpi.bench import overlap as ours
        from qafel_mpi.drivers.wall import alone
        from qafel_mpi.drivers.wall import run as wall

        least = ours.uploads_needed(comm.size - 1)
        if comm.rank == 0 and uploads < least:
            say(
                f"{least} uploads instead of {uploads}: {comm.size - 1} clients would do little more than warm up"
            )
        return ours.rows(comm, wall.run, alone.trainings, uploads)

    return measure


def tracing(uploads: int) -> Measure:
    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from qafel_mpi.bench import digests
        from qafel_mpi.bench import tracing as ours
        from qafel_mpi.drivers.digests import digester
        from qafel_mpi.drivers.rows import received_row
        from qafel_mpi.drivers.wall import run as wall

        yield from ours.rows(comm, limits, received_row, wall.run, uploads)
        if comm.size > 1:
            yield from digests.rows(comm, limits, digester, wall.run)

    return measure


def data(megabytes: int) -> Measure:
    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from qafel_mpi.bench import data as ours

        return ours.rows(comm, megabytes)

    return measure


def startup(name: str) -> Measure:
    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from qafel_mpi.bench import startup as ours
        from qafel_mpi.drivers.wall import run as wall

        return ours.rows(comm, wall.run, name)

    return measure


def sizes(d: Sequence[int], algorithm: str, uploads: int) -> Measure:
    """d: ascending. Raises ConfigError."""

    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from qafel_mpi.bench import sizes as ours
        from qafel_mpi.drivers.wall import run as wall

        if algorithm not in ours.ALGORITHMS:
            raise ConfigError([f"--algorithm {algorithm}: none of {', '.join(ours.ALGORITHMS)}"])
        return ours.rows(comm, wall.run, d, algorithm, uploads)

    return measure


def checkpoint(d: Sequence[int], uploads: int) -> Measure:
    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from functools import partial

        from qafel_mpi.bench import checkpoint as ours
        from qafel_mpi.drivers.survival.checkpoints import LEAST_SECONDS, SHARE
        from qafel_mpi.drivers.survival.every import Every
        from qafel_mpi.drivers.wall import run as wall

        drive = partial(wall.run, every=Every(steps=1))
        return ours.rows(comm, drive, d, uploads, least_s=LEAST_SECONDS, share=SHARE)

    return measure


def sizes_in_bytes(text: str) -> list[int]:
    """What --bytes names. Raises ConfigError."""
    try:
        sizes = [integer(part.strip(), Place("--bytes")) for part in text.split(",")]
    except DataError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise ConfigError([f"--bytes {text}: not a list of sizes in bytes like 15000,4194304"])
    return sizes


def virtual(only: Sequence[str], uploads: int, steps: int, clients: Sequence[int]) -> Measure:
    """only: of memory, overhead, speed-up, replay. clients: ascending."""

    def measure(comm: MPI.Intracomm, limits: Limits) -> Iterable[Row]:
        from qafel_mpi.bench import virtual as ours
        from qafel_mpi.bench.measuring.ranks import first
        from qafel_mpi.bench.replay import rows as replays
        from qafel_mpi.drivers.replay.run import run as again
        from qafel_mpi.drivers.virtual.run import run as drive

        sizes = {"cnn_uploads": uploads, "logistic_steps": steps}
        if "memory" in only:  # first: a peak never falls
            yield from ours.memory(drive, comm, clients)
        if "overhead" in only:
            yield from first(comm, 1, lambda _: ours.overhead(drive, limits, **sizes))
        if "speed-up" in only:
            yield from ours.speedup(drive, comm, limits, cnn_uploads=uploads)
        if "replay" in only:
            yield from first(comm, 1, lambda _: replays(drive, again, limits, **sizes))

    return measure
