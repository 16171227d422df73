"""Blocks of docs/results.md: what learning takes, and how fast the virtual clock is."""

from __future__ import annotations

from typing import Any

from qafel_analysis.tables.grid import size

from docs.render.pages import table
from docs.render.records import content, digits, first, interval, one, origin, rows, span
from docs.render.verdicts import saved, shown

_DEMO = {
    "uploads": "uploads to the target",
    "payload_bytes_up": "bytes up, payload",
    "wire_bytes_up": "bytes up, wire",
    "paper_bytes_up": "bytes up, paper's formula",
    "payload_bytes_down": "bytes down, payload",
    "seconds": "seconds",
}


def demo_digits() -> str:
    """The first half of `make demo`."""
    return f"{_demo('demo-digits', 'float32')}\n\n{origin('demo-digits')}"


def demo_mushrooms() -> str:
    """The second half."""
    return f"{_demo('demo-mushrooms', 'float64')}\n\n{origin('demo-mushrooms')}"


def _demo(name: str, floats: str) -> str:
    qafel, fedbuff = (group(name, algorithm) for algorithm in ("qafel", "fedbuff"))
    lines = [
        (words, *(_amount(key, one["mean"][key]) for one in (qafel, fedbuff)), shown(saved(qafel, key)))
        for key, words in _DEMO.items()
    ]
    reached = [f"{one['reached']} of {one['runs']}" for one in (qafel, fedbuff)]
    lines.append(("runs that reached it", *reached, ""))
    header = ("mean over seeds", "QAFeL, 4 bits up and down", f"FedBuff, {floats}", "FedBuff / QAFeL [95%]")
    return table(header, lines, right=(1, 2, 3))


def group(name: str, algorithm: str) -> dict[str, Any]:
    """The setting of a record of `compare` with that algorithm."""
    (found,) = (one for one in content(name) if one["algorithm"] == algorithm)
    return dict(found)


def _amount(key: str, value: float) -> str:
    return size(value) if "bytes" in key else digits(value)


def logistic() -> str:
    """f − f* of the paper's logistic regression."""
    least = content("optimum")["f_star"]
    names = {
        ("qafel", "qsgd"): "QAFeL, qsgd",
        ("naive", "qsgd"): "naive, qsgd",
        ("qafel", "eden"): "QAFeL, eden",
        ("naive", "eden"): "naive, eden",
        ("fedbuff", ""): "FedBuff",
        ("qafel", "topk"): "QAFeL, top-k",
        ("naive", "topk"): "naive, top-k",
    }
    lines = []
    for (algorithm, codec), words in names.items():
        found = [c for c in content("logistic") if c["algorithm"] == algorithm and codec in c["setting"]]
        runs = [values for one in found for values in one["values"]]
        columns = zip(*runs, strict=True)
        lines.append((words, *(_gap([value - least for value in column]) for column in columns)))
    header = ("", *(f"{at:,.0f} steps" for at in content("logistic")[0]["x"]))
    return f"{table(header, lines, right=range(1, len(header)))}\n\n{origin('logistic', 'optimum')}"


def _gap(over_seeds: list[float]) -> str:
    low, high = min(over_seeds), max(over_seeds)
    return f"{low:.2e} to {high:.2e}".replace("e-0", "e-")


def resnet18() -> str:
    """Loss and accuracy of ResNet-18 as uploads come in."""
    lines = []
    for what in ("loss", "accuracy"):
        for algorithm, words in (("qafel", "QAFeL, 4 bits up and down"), ("fedbuff", "FedBuff, float32")):
            (found,) = (c for c in content(f"resnet18-{what}") if c["algorithm"] == algorithm)
            (values,) = found["values"]
            shown = [f"{v:.1%}" if what == "accuracy" else digits(v) for v in values]
            lines.append((f"{what}, {words}", *shown))
    header = ("", *(f"{at:,.0f} uploads" for at in content("resnet18-loss")[0]["x"]))
    right = tuple(range(1, len(header)))
    return f"{table(header, lines, right=right)}\n\n{origin('resnet18-loss', 'resnet18-accuracy')}"


def virtual() -> str:
    """Speed and memory of the virtual clock."""
    cnn = one("virtual-overhead", operation="overhead", task="cnn, batch 32")
    loop = one("virtual-overhead", operation="overhead", task="logistic regression")
    kernel = one("virtual-overhead", operation="overhead of our training")
    workers = one("virtual-speed-up", operation="speed-up of 2 workers")
    runs, (million,) = content("virtual-logistic"), content("virtual-million")
    rates = [run["uploads"] / run["seconds"] for run in runs]
    memory = rows("virtual-memory", operation="memory")
    peaks = [f"{first(row, 'rank_0_mb'):.0f} MB with {row['parameters']['clients']:,}" for row in memory]
    lines = [
        ("logistic regression on mushrooms, updates per second", span(rates, lambda v: f"{v:,.0f}")),
        ("the same, over a torch loop that only trains", f"{_times(loop)} as fast"),
        ("the same, over our own training kernel that only trains", f"{_times(kernel)} as fast"),
        ("CNN, batch 32, over a torch loop that only trains", f"{_times(cnn)} as fast"),
        *(
            ("the same, over that loop with images in channels-last order", f"{_times(row)} as fast")
            for row in rows("virtual-overhead", operation="overhead over channels-last")
        ),
        ("CNN, two workers over one, on two cores", f"{_times(workers)} as fast"),
        ("peak memory, by simulated clients", ", ".join(peaks)),
        ("memory of each further simulated client", f"{first(memory[-1], 'rank_0_bytes_a_client'):.0f} B"),
        (
            "one run of 1,000,000 updates of mushrooms",
            f"{million['seconds']:.0f} s, {size(million['rank_0_memory_bytes'])} of memory",
        ),
    ]
    names = ("virtual-logistic", "virtual-overhead", "virtual-speed-up", "virtual-memory", "virtual-million")
    return f"{table(('', 'measured'), lines)}\n\n{origin(*names)}"


def _times(row: dict[str, Any]) -> str:
    return f"{interval((first(row, 'ratio'), *first(row, 'ratio_ci95')))} times"
