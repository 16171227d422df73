"""Blocks of docs/results.md: messages, uploads, waiting and broadcasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from docs.render.pages import table
from docs.render.records import (
    NOTHING,
    content,
    digits,
    first,
    interval,
    measured,
    met,
    not_measured,
    one,
    origin,
    record,
    rows,
    span,
    time,
    values,
)

CHECKSUMS = {"header": "header", "full": "header and payload"}


def messages() -> str:
    """Our messages against raw mpi4py, 16 kB and 4 MB."""
    lines = []
    for name, size, operations in (
        ("p2p-16k", 16_384, ("latency", "vector")),
        ("p2p-4M", 4_194_304, ("bandwidth", "vector bandwidth")),
    ):
        for operation in operations:
            for checksum, words in CHECKSUMS.items():
                row = one(name, operation=operation, bytes=size, checksum=checksum)
                lines.append(
                    (
                        f"{_OPERATIONS[operation]}, {_size(size)}",
                        words,
                        span(values(row, "median_us"), time),
                        span(values(row, "ratio")),
                        _target(row) if checksum == "header" else NOTHING,
                    )
                )
    header = ("operation", "checksum covers", "time", "raw mpi4py / ours", "target")
    return f"{table(header, lines, right=(2, 3))}\n\n{origin('p2p-16k', 'p2p-4M')}"


_OPERATIONS = {
    "latency": "one-way latency",
    "bandwidth": "time of a message in a stream",
    "vector": "one-way latency of a vector, encoded to 4 bits and decoded",
    "vector bandwidth": "time of a vector in a stream, encoded to 4 bits and decoded",
}


def _size(size: int) -> str:
    return f"{size // 1024} KiB" if size < 1 << 20 else f"{size >> 20} MiB"


def _target(row: dict[str, Any]) -> str:
    operation = row["parameters"]["operation"]
    if operation == "latency":
        extra = values(row, "extra_us")
        return f"at most 5 µs more than raw: {span(extra)} µs more, {met(extra, 5, at_least=False)}"
    if operation == "bandwidth":
        return f"ratio 0.95, {met(values(row, 'ratio'), 0.95, at_least=True)}"
    return NOTHING


def uploads() -> str:
    """What rank 0 takes in, what a run hides, and what the trace costs."""
    lines = []
    for size, words, target in ((15_001, "15 kB", 0.70), (4_194_304, "4 MiB", 0.90)):
        for checksum, covers in CHECKSUMS.items():
            row = one("ingest", bytes=size, checksum=checksum)
            ratios = values(row, "ratio")
            wanted = f"ratio {target:.2f}, {met(ratios, target, at_least=True)}"
            lines.append(
                (
                    f"uploads of {words}, one client",
                    covers,
                    f"{span(values(row, 'uploads_per_s'), lambda v: f'{v:,.0f}')} per second",
                    span(ratios),
                    wanted if checksum == "header" else NOTHING,
                )
            )
    header = ("rank 0 takes", "checksum covers", "rate", "raw loop / ours", "target")
    return f"{table(header, lines, right=(2, 3))}\n\n{origin('ingest')}"


def hidden() -> str:
    """Communication behind training, and the trace's cost."""
    (row,) = content("overlap")
    shares = [100 * value for value in values(row, "exposed_share")]
    bounds = [f"[{100 * low:.1f}, {100 * high:.1f}]" for low, high in _column(row, "exposed_share_ci95")]
    exposed = "; ".join(f"{share:.1f}% {bound}" for share, bound in zip(shares, bounds, strict=True))
    message, run = one("tracing", operation="message"), one("tracing", operation="wall run")
    cost, share = values(message, "median_us"), [100 * v for v in values(run, "share")]
    lines = [
        (
            "communication of one participation, CNN",
            span(values(row, "communication_us"), time),
            NOTHING,
        ),
        ("exposed share, in each run [95%]", exposed, f"at most 10%, {met(shares, 10, at_least=False)}"),
        (
            "share of the time of messages that lies inside trainings, from the trace",
            span([100 * v for v in values(row, "hidden_share")], lambda v: f"{v:.1f}%"),
            NOTHING,
        ),
        (
            "time of a participation, without messages / with messages",
            span(values(row, "ratio")),
            NOTHING,
        ),
        ("the trace, per message", span(cost, time), f"at most 2 µs, {met(cost, 2, at_least=False)}"),
        (
            "the trace, share of a run's time on the wall clock",
            span(share, lambda v: f"{v:.3f}%"),
            f"at most 1%, {met(share, 1, at_least=False)}",
        ),
    ]
    return f"{table(('', 'measured', 'target'), lines)}\n\n{origin('overlap', 'tracing')}"


def progress() -> str:
    """What moves of a message while the rank computes, by MPI library."""
    if not measured("progress-libraries"):
        return not_measured("progress-libraries")
    found = content("progress-libraries")
    points = dict.fromkeys((row["parameters"]["library"], row["parameters"]["bytes"]) for row in found)
    lines = []
    for library, size in sorted(points):
        sent, taken = (_by_look(library, size, operation) for operation in ("send", "receive"))
        whole = [time(first(rows["poll"], "transfer_us")) for rows in (sent, taken)]
        lines.append((_short(library), f"{size:,}", whole[0], *_moved(sent), whole[1], *_moved(taken)))
    header = (
        "MPI library", "bytes", "sending alone", "moved: no call", "moved: thread", "receiving alone",
        "moved: no call", "moved: thread",
    )  # fmt: skip
    return f"{table(header, lines, right=range(1, 8))}\n\n{origin('progress-libraries')}"


def _by_look(library: str, size: int, operation: str) -> dict[str, dict[str, Any]]:
    rows_of = rows("progress-libraries", library=library, bytes=size, operation=operation)
    return {row["parameters"]["looks"]: row for row in rows_of}


def _moved(by_look: dict[str, dict[str, Any]]) -> list[str]:
    """Shares in percent; a dash where the library gave no threads."""
    shares = []
    for look in ("poll", "thread"):
        row = by_look.get(look)
        numbers = [] if row is None else [first(row, "moved_share"), *first(row, "moved_share_ci95")]
        shares.append(interval([100 * n for n in numbers], lambda n: f"{n:.0f}%") if numbers else NOTHING)
    return shares


def _short(library: str) -> str:
    """
    >>> _short("MPICH Version: 5.0.2"), _short("Intel(R) MPI Library 2021.18.1 for Linux* OS")
    ('MPICH 5.0.2', 'Intel MPI 2021.18.1')
    """
    short = library.replace("(R)", "").replace(" Library", "").replace(" Version:", "").replace(" v", " ")
    return short.partition(" for ")[0]


def _column(row: dict[str, Any], name: str) -> list[Sequence[float]]:
    return [launch[name] for launch in row["launches"]]


# --- waiting ----------------------------------------------------------------------------------------

WAYS = {"ours": "ours", "sleep": "sleep of 0.5 ms", "busy polling": "busy polling"}
_WAITING = {
    "round trip": "round trip",
    "late answer": "round trip with an answer after 5 ms, these 5 ms not counted",
    "idle": "share of a core that waiting takes",
    "neighbour": "a computation on the core of a waiting rank",
}


def waiting() -> str:
    """Three ways to wait, with a core each and on a shared one."""
    lines = []
    for operation, words in _WAITING.items():
        for name, cores in (
            ("waiting-polls", "apart"),
            ("waiting-polls", "shared"),
            ("waiting-yields", "shared"),
        ):
            if operation == "neighbour" and cores == "apart":
                continue
            found = {row["parameters"]["waits"]: row for row in _of(name, operation, cores)}
            label = words
            if operation == "neighbour":
                label = f"{words}; undisturbed: {time(first(found['ours'], 'reference_median_us'))}"
            cells = [_waited(found, way, operation) for way in WAYS]
            lines.append((label, "one each" if cores == "apart" else "shared", _YIELDS[name], *cells))
    header = ("15 kB, two ranks", "cores", "MPI yields", *WAYS.values())
    return f"{table(header, lines, right=(3, 4, 5))}\n\n{origin('waiting-polls', 'waiting-yields')}"


_YIELDS = {"waiting-polls": "no", "waiting-yields": "yes"}


def _of(name: str, operation: str, cores: str) -> list[dict[str, Any]]:
    return [
        row
        for row in content(name)
        if (row["parameters"]["operation"], row["parameters"]["cores"]) == (operation, cores)
    ]


def _waited(found: dict[str, dict[str, Any]], way: str, operation: str) -> str:
    """Busy polling is the reference of the others, and has no row of its own but beside a neighbour."""
    column, row = ("median_us", found[way]) if way in found else ("reference_median_us", found["ours"])
    us = float(first(row, column))
    return f"{us / 50_000:.0%}" if operation == "idle" else time(us)


# --- broadcast --------------------------------------------------------------------------------------

ALGORITHMS = ("fanout", "tree", "ibcast")
BROADCAST_SIZES = (15_001, 262_147, 5_936_088)


def broadcast() -> str:
    """Until the last client has applied q^t, by ranks."""
    ranks = sorted({row["parameters"]["ranks"] for row in content("broadcast")})
    lines = []
    for size in BROADCAST_SIZES:
        for count in ranks:
            found = [one("broadcast", algorithm=a, ranks=count, bytes=size) for a in ALGORITHMS]
            mpi = first(found[0], "reference_median_us")
            times = (time(first(row, "median_us")) for row in found)
            lines.append((f"{size:,}", count, *times, time(mpi)))
    header = ("bytes", "ranks", *ALGORITHMS, "blocking MPI_Bcast")
    return f"{table(header, lines, right=range(6))}\n\n{origin('broadcast')}"


def broadcast_hosts() -> str:
    """The same where the link decides."""
    lines = []
    for row in content("broadcast-hosts"):
        triple = [v / 1e6 for v in (first(row, "median_us"), *first(row, "ci95_us"))]
        ratio = interval((first(row, "ratio"), *first(row, "ratio_ci95")))
        lines.append((row["parameters"]["algorithm"], interval(triple), ratio))
    (row, *_) = content("broadcast-hosts")
    p = row["parameters"]
    header = (f"{p['bytes']:,} bytes, {p['ranks']} hosts", "seconds [95%]", "MPI_Bcast / ours [95%]")
    return f"{table(header, lines, right=(1, 2))}\n\n{origin('broadcast-hosts')}"


def broadcast_model() -> str:
    """A LogGP model carried to ranks that nobody measured."""
    found = content("broadcast-model")
    seconds = {
        (row["poll_s"], row["bytes"], row["ranks"], row["algorithm"]): row["seconds"]
        for row in found["paper"]
    }
    polls, sizes = sorted({k[0] for k in seconds}), sorted({k[1] for k in seconds})
    lines = [
        (
            "always" if poll == 0 else f"every {1e3 * poll:g} ms",
            f"{size:,}",
            f"{ranks:,}",
            *(time(1e6 * seconds[poll, size, ranks, a]) for a in ALGORITHMS),
        )
        for poll in polls
        for size in sizes
        for ranks in (100, 1_000, 10_000)
    ]
    header = ("clients look for messages", "bytes", "ranks", *ALGORITHMS)
    fit = found["fit"]
    text = (
        f"The fit: a post costs {digits(1e6 * fit['o'])} µs, checking {digits(1e9 * fit['check_byte'])} ns a byte, "
        f"checking and applying {digits(1e9 * fit['handle_byte'])} ns a byte, "
        f"and each rank without a core of its own {time(1e6 * fit['share'])}. "
        f"The model is typically off by a factor of {found['misfit']:.2f}. "
        f"Analysis: `{record('broadcast-model')['command'].partition(' --record')[0]}`."
    )
    return f"{table(header, lines, right=range(1, 6))}\n\n{text}\n\n{origin('broadcast-model')}"
