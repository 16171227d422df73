"""The README's one table of results: a line a result, with a link to the section that has the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qafel_analysis.tables.grid import size

from docs.render.learning import group
from docs.render.pages import table
from docs.render.records import content, digits, first, one, ranged, span, time, values
from docs.render.verdicts import saved, shown

_PAGE = "docs/results.md"
Line = tuple[str, str, str]  # what, measured, link


def summary() -> str:
    """At most 12 lines."""
    lines = [*_learning(), *_codecs(), *_transport(), *_clusters(), _data(), _memory()]
    return table(("", "measured", "more"), lines, right=(1,))


def _link(words: str, anchor: str) -> str:
    return f"[{words}]({_PAGE}#{anchor})"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _learning() -> Sequence[Line]:
    qafel = group("demo-digits", "qafel")
    least = content("optimum")["f_star"]

    def worst(algorithm: str) -> str:
        curves = [
            c
            for c in content("logistic")
            if c["algorithm"] == algorithm and not any(name in c["setting"] for name in ("topk", "eden"))
        ]
        gap = max(values[-1] for curve in curves for values in curve["values"]) - least
        return f"{gap:.1e}".replace("e-0", "e-")

    fedbuff = group("demo-digits", "fedbuff")

    def both(key: str, show: Callable[[float], str]) -> str:
        amounts = (show(one["mean"][key]) for one in (qafel, fedbuff))
        return "{} and {}, ratio {}".format(*amounts, shown(saved(qafel, key)))

    demo, logistic = (
        _link("demo", "qafel-against-fedbuff"),
        _link("logistic regression", "logistic-regression"),
    )
    gaps = ", ".join(worst(algorithm) for algorithm in ("qafel", "fedbuff", "naive"))
    rates = [run["uploads"] / run["seconds"] for run in content("virtual-logistic")]
    return [
        (
            "digits, bytes uploaded to reach 90%: QAFeL at 4 bits and FedBuff",
            both("payload_bytes_up", size),
            demo,
        ),
        ("digits, uploads to reach 90%: QAFeL at 4 bits and FedBuff", both("uploads", _count), demo),
        ("f − f\\* after 10,000 steps, worst of 5 seeds: QAFeL, FedBuff, naive", gaps, logistic),
        (
            "updates per second on the virtual clock, logistic regression",
            span(rates, _count),
            _link("virtual clock", "the-virtual-clock"),
        ),
    ]


def _codecs() -> Sequence[Line]:
    encode = one("codec", operation="encode", d=29_282)
    decode = one("codec", operation="decode_accumulate", d=29_282)
    link = _link("codecs", "codecs")
    return [
        ("encoding 29,282 elements to 4 bits", span(values(encode, "median_us"), time), link),
        (
            "decoding these elements and adding them to a vector",
            span(values(decode, "median_us"), time),
            link,
        ),
    ]


def _transport() -> Sequence[Line]:
    latency = one("p2p-16k", operation="latency", bytes=16_384, checksum="header")
    stream = one("p2p-4M", operation="bandwidth", bytes=4_194_304, checksum="header")
    uploads = one("ingest", bytes=15_001, checksum="header")
    link = _link("transport", "transport")
    return [
        (
            "one-way latency of 16 KiB, beyond that of raw mpi4py",
            f"{span(values(latency, 'extra_us'))} µs",
            link,
        ),
        (
            "bandwidth at 4 MiB, as a share of raw mpi4py's",
            span([100 * v for v in values(stream, "ratio")], _percent),
            link,
        ),
        (
            "uploads of 15 kB that rank 0 takes per second",
            span(values(uploads, "uploads_per_s"), _count),
            link,
        ),
    ]


def _percent(value: float) -> str:
    return f"{value:.0f}%"


def _clusters() -> Sequence[Line]:
    slow = content("link-resnet18-100mbit")
    times = (digits(slow["algorithms"][a]["per_step"][0]) for a in ("qafel", "fedbuff"))
    ratio = ranged(slow["fedbuff_over"]["per_step"]["qafel"])
    return [
        (
            "11.7 million parameters at 100 Mbit/s, seconds per server step: QAFeL and FedBuff",
            "{} and {}, ratio {}".format(*times, ratio),
            _link("slow links", "slow-links"),
        ),
    ]


def _data() -> Line:
    ways = [one("shared-data", operation=way) for way in ("a copy a rank", "one copy a host")]
    amounts = " and ".join(f"{first(row, 'pss_mb'):,.0f} MB" for row in ways)
    data, ranks = first(ways[0], "data_mb"), ways[0]["parameters"]["ranks"]
    return (
        f"memory of {ranks} ranks of a host with {data:,.0f} MB of data: a copy for each rank, and one copy for all",
        amounts,
        _link("shared data", "one-data-set-for-all-ranks-of-a-host"),
    )


def _memory() -> Line:
    own = [row for row in content("sizes") if row["parameters"]["algorithm"] == "qafel"]
    largest = max(own, key=lambda row: row["parameters"]["d"])
    each = (f"{first(largest, f'{rank}_bytes_a_parameter'):.0f}" for rank in ("rank_0", "client"))
    return (
        f"bytes of memory per parameter, at {largest['parameters']['d'] / 1e6:.0f} million of them: server, client",
        ", ".join(each),
        "[sizes](docs/sizes.md)",
    )
