"""What a broadcast costs by each algorithm, from benchmarks: a LogGP model, fitted, and carried to 10,000 ranks.

After LogGP (Alexandrov et al., 1995): a message of k bytes costs its sender o, and is there L + kG later; L has the
receiver's overhead in it, since a ping-pong does not tell them apart. A sender starts the next one max(o, g) + kG
later. A client takes check(k) = c₀ + c₁k to verify a message and handle(k) = h₀ + h₁k to verify and apply it. With n
ranks, hop(k) = o + L + kG and gap(k) = max(o, g) + kG, the last client has applied it after

    fanout  (n − 2)·gap + hop + handle
    tree    (d − 1)·max(gap, hop + check) + hop + handle,    d = ⌈log₂ n⌉ rounds
    ibcast  as Open MPI's libnbc, o = 0 in it: up to 4 ranks the fan-out's; below 64 KiB the tree's without checks;
            else a chain, in m segments of 8 KiB (from 512 KiB: 32 KiB), (n − 1)·hop(segment) + (m − 1)·gap(segment)
            + handle

Ranks that share cores cost more: (n − cores)/cores · (s + kG + handle), Brent's bound for the work that has to wait.
Where clients look for messages only now and then, every hop waits for a look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qafel_analysis.tables.grid import Grid

from qafel_mpi.trace.reader import TraceError

if TYPE_CHECKING:
    from qafel_analysis.read.bench import Bench

ALGORITHMS = ("fanout", "tree", "ibcast")
PAPER_RANKS = (16, 100, 1_000, 10_000)
PAPER_BYTES = (15_000, 5_936_084)  # q^t at 4 bits of the paper's CNN, about, and of ResNet-18


@dataclass(frozen=True)
class LogGP:
    """Seconds, and seconds a byte (G, check_byte, handle_byte). o is that of our sends, from Python."""

    L: float = 1e-6
    o: float = 1e-6
    g: float = 1e-6
    G: float = 1e-10
    check: float = 1e-6
    check_byte: float = 1e-10
    handle: float = 5e-6
    handle_byte: float = 1e-9
    share: float = 1e-5  # s

    def hop(self, size: float) -> float:
        return self.o + self.L + size * self.G

    def gap(self, size: float) -> float:
        return max(self.o, self.g) + size * self.G

    def checking(self, size: float) -> float:
        return self.check + size * self.check_byte

    def handling(self, size: float) -> float:
        return self.handle + size * self.handle_byte


@dataclass(frozen=True)
class Observation:
    """One measured median. what: latency, bandwidth (a message's share), post, check, handle, or an algorithm."""

    what: str
    size: float
    seconds: float
    ranks: int = 2
    cores: int = 2


def broadcast_s(
    p: LogGP, algorithm: str, ranks: int, size: float, *, cores: int | None = None, poll_s: float = 0.0
) -> float:
    """Seconds until the last client has applied it.

    cores: None, one a rank. poll_s: between two looks of a client.
    """
    p = replace(p, L=p.L + poll_s)
    shared = (
        0.0 if cores is None else max(0, ranks - cores) / cores * (p.share + size * p.G + p.handling(size))
    )
    return _spread_s(p, algorithm, ranks, size) + p.handling(size) + shared


def _spread_s(p: LogGP, algorithm: str, ranks: int, size: float) -> float:
    p = replace(p, o=0.0) if algorithm == "ibcast" else p
    if algorithm == "ibcast" and ranks > 4 and size >= 65_536:
        segment = 8_192 if size < 524_288 else 32_768
        count = math.ceil(size / segment)
        return (ranks - 1) * p.hop(segment) + (count - 1) * p.gap(segment)
    if algorithm == "fanout" or (algorithm == "ibcast" and ranks <= 4):
        return (ranks - 2) * p.gap(size) + p.hop(size)
    passing = p.hop(size) + (p.checking(size) if algorithm == "tree" else 0.0)
    return (math.ceil(math.log2(ranks)) - 1) * max(p.gap(size), passing) + p.hop(size)


def predicted_s(p: LogGP, seen: Observation) -> float:
    """What the model says of an observation."""
    match seen.what:
        case "latency":
            return p.L + seen.size * p.G
        case "bandwidth":
            return p.g + seen.size * p.G
        case "post":
            return p.o
        case "check":
            return p.checking(seen.size)
        case "handle":
            return p.handling(seen.size)
    return broadcast_s(p, seen.what, seen.ranks, seen.size, cores=seen.cores)


def fit(seen: Sequence[Observation]) -> LogGP:
    """Least squares of the logarithms of predicted over measured, soft in the far ones (soft_l1): a factor of two
    counts alike at a microsecond and at a second, and parameters stay positive. Raises TraceError without enough."""
    names = [field.name for field in fields(LogGP)]
    missing = {"latency", "bandwidth", "post", "check", "handle"} - {one.what for one in seen}
    if missing or not {one.what for one in seen} & set(ALGORITHMS):
        wanted = ", ".join(sorted(missing)) or "broadcast"
        raise TraceError(
            f"no measurement of {wanted}: give the JSON of `qafel-mpi bench p2p` and of `bench broadcast`"
        )

    def residuals(logs: np.ndarray) -> np.ndarray:
        p = LogGP(**dict(zip(names, np.exp(logs).tolist(), strict=True)))
        return np.array([math.log(predicted_s(p, one) / one.seconds) for one in seen])

    start = np.log([getattr(LogGP(), name) for name in names])
    from scipy.optimize import least_squares  # a third of a second, which a model that is read does without

    found = least_squares(residuals, start, bounds=(start - 12, start + 12), loss="soft_l1", f_scale=0.3)
    return LogGP(**dict(zip(names, np.exp(found.x).tolist(), strict=True)))


def misfit(p: LogGP, seen: Sequence[Observation]) -> float:
    """The typical factor between predicted and measured, 1 or more: the median over the observations."""
    return math.exp(float(np.median([abs(math.log(predicted_s(p, one) / one.seconds)) for one in seen])))


def observations(benches: Sequence[Bench]) -> list[Observation]:
    """Of rows of p2p (raw MPI, sampled as the reference) and broadcast (ours)."""
    seen: list[Observation] = []
    for bench in benches:
        for row in bench.rows.to_dict("records"):
            if bench.name == "p2p" and row.get("operation") in ("latency", "bandwidth"):
                if row.get("checksum", "full") != "full":
                    continue  # the same samples of raw MPI again
                seen.append(Observation(row["operation"], row["bytes"], 1e-6 * row["reference_median_us"]))
            elif bench.name == "broadcast":
                seen += _of_broadcast(row)
    return [one for one in seen if one.seconds > 0]


def _of_broadcast(row: dict[Any, Any]) -> list[Observation]:
    size, ranks, algorithm = row["bytes"], int(row["ranks"]), str(row["algorithm"])
    found = [Observation(algorithm, size, 1e-6 * row["median_us"], ranks, int(row.get("cores", ranks)))]
    # A client's times alone where ranks have cores of their own: others interrupt them; tree's have its posts in it.
    parts = {"post": algorithm != "ibcast", "check": True, "handle": algorithm != "tree"}
    if ranks <= row.get("cores", ranks):
        found += [
            Observation(what, size, 1e-6 * row[f"{what}_us"])
            for what, usable in parts.items()
            if usable and not math.isnan(row.get(f"{what}_us") or math.nan)
        ]
    return found


def crossover(p: LogGP, size: float, *, poll_s: float = 0.0, most: int = 1_000_000) -> int | None:
    """The fewest ranks at which the tree is done before the fan-out, and stays so while they double; None: never."""
    for ranks in range(3, 4097):
        if _tree_wins(p, ranks, size, poll_s) and _tree_wins(p, 2 * ranks, size, poll_s):
            return ranks
    ranks = 4096
    while ranks <= most:
        if _tree_wins(p, ranks, size, poll_s):
            return ranks
        ranks += ranks // 50
    return None


def _tree_wins(p: LogGP, ranks: int, size: float, poll_s: float) -> bool:
    tree, fanout = (broadcast_s(p, name, ranks, size, poll_s=poll_s) for name in ("tree", "fanout"))
    return tree < fanout


def on_link(p: LogGP, *, latency_us: float | None, link_gbit: float | None) -> LogGP:
    """The same ranks on a network of that latency and bandwidth; software's costs stay."""
    if latency_us is not None:
        p = replace(p, L=1e-6 * latency_us)
    return p if link_gbit is None else replace(p, G=8e-9 / link_gbit)


# --- as tables --------------------------------------------------------------------------------------


def fit_grid(p: LogGP, seen: Sequence[Observation]) -> Grid:
    rows = tuple(
        (
            one.what, f"{one.ranks}", f"{one.size:,.0f}", _ms(one.seconds), _ms(predicted_s(p, one)),
            f"{predicted_s(p, one) / one.seconds:.2f}",
        )
        for one in sorted(seen, key=lambda one: (one.what, one.size, one.ranks))
        if one.what in ALGORITHMS
    )  # fmt: skip
    return Grid(
        f"Measured, and what the fit makes of it; over all {len(seen)} observations it is typically off by a "
        f"factor of {misfit(p, seen):.2f}. L = {1e6 * p.L:.2f}, o = {1e6 * p.o:.2f}, g = {1e6 * p.g:.2f} µs, "
        f"G = {1e9 * p.G:.3f} ns; check {1e6 * p.check:.1f} µs + {1e9 * p.check_byte:.3f} ns a byte, "
        f"check and apply {1e6 * p.handle:.1f} µs + {1e9 * p.handle_byte:.3f} ns a byte; "
        f"a rank without a core of its own {1e6 * p.share:.0f} µs.",
        ("algorithm", "ranks", "bytes", "measured, ms", "model, ms", "model / measured"),
        rows,
    )


def paper_grid(p: LogGP, *, poll_s: float) -> Grid:
    rows = []
    for size in PAPER_BYTES:
        for ranks in PAPER_RANKS:
            for poll in dict.fromkeys((0.0, poll_s)):
                times = [broadcast_s(p, name, ranks, size, poll_s=poll) for name in ALGORITHMS]
                best = ALGORITHMS[times.index(min(times))]
                looks = "always" if poll == 0 else f"every {1e3 * poll:g} ms"
                rows.append((looks, best, f"{size:,}", f"{ranks:,}", *map(_ms, times)))
    crossings = "; ".join(
        f"{size:,} bytes: {_ranks(crossover(p, size))}, or {_ranks(crossover(p, size, poll_s=poll_s))} "
        f"with a look every {1e3 * poll_s:g} ms"
        for size in PAPER_BYTES
    )
    return Grid(
        "On paper, not measured: ms until the last client has applied a broadcast, a core and a link a rank, of "
        f"latency {1e6 * p.L:.2f} µs and {8e-9 / p.G:.0f} Gbit/s. The tree is done before the "
        f"fan-out from: {crossings}.",
        ("clients look", "first", "bytes", "ranks", *ALGORITHMS),
        tuple(rows),
        texts=2,
    )


def as_json(p: LogGP, network: LogGP, seen: Sequence[Observation], *, poll_s: float) -> dict[str, Any]:
    return {
        "fit": asdict(p),
        "misfit": misfit(p, seen),
        "observations": [asdict(one) | {"model_s": predicted_s(p, one)} for one in seen],
        "network": asdict(network),
        "paper": [
            {"algorithm": name, "ranks": ranks, "bytes": size, "poll_s": poll, "seconds": seconds}
            for name in ALGORITHMS
            for ranks in PAPER_RANKS
            for size in PAPER_BYTES
            for poll in dict.fromkeys((0.0, poll_s))
            for seconds in [broadcast_s(network, name, ranks, size, poll_s=poll)]
        ],
    }


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def _ranks(found: int | None) -> str:
    return "never" if found is None else f"{found:,} ranks"
