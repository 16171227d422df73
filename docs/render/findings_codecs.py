"""Blocks of docs/findings.md on quantization: none at all, bits, the hidden state, the server's quantizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise, product
from math import exp, log, sqrt
from statistics import fmean
from typing import Any

import numpy as np
from qafel_analysis.tables.grid import size
from qafel_analysis.tables.paper import published

from docs.render.pages import table
from docs.render.records import content, digits
from docs.render.verdicts import (
    Check,
    Finding,
    Interval,
    at_least,
    at_most,
    every,
    judged,
    mean,
    needed,
    pick,
    saved,
    shown,
    spread,
    there,
    times,
    within,
)

BITS = (2, 3, 4, 6, 8, 12, 16)
GRID = (8, 4, 2)
SERVERS = {  # name in the table -> its part of the label
    "qsgd 4 bits": "qsgd 4 bits down",
    "qsgd 8 bits": "qsgd 8 bits down",
    "eden 2 bits": "eden 2 bits down",
    "top-k, 25%": "topk 32 bits down",
}


# --- 1: no quantization, and its limit ----------------------------------------------------------------


def exact() -> Finding:
    """Identity codecs are FedBuff bit for bit, and distances to FedBuff fall with the bits."""
    runs = content("findings-exact")
    of_fedbuff = {run["seed"]: run["x_digest"] for run in runs if run["algorithm"] == "fedbuff"}
    same = [run["x_digest"] == of_fedbuff[run["seed"]] for run in runs if run["algorithm"] == "qafel"]
    gaps = pick(content("findings-exact-gap"), "qafel")
    steps = [value for of_seed in gaps["values"] for value in of_seed]
    distances = {bits: _distances(bits) for bits in BITS}
    rate, inner = (_rate(distances, bits) for bits in (BITS, BITS[1:-1]))
    checks = (
        Check(
            "Without quantization QAFeL ends with FedBuff's model, bit for bit",
            f"Equal digests of x in {sum(same)} of {len(same)} runs of {runs[0]['server_steps']:,} steps",
            all(same),
        ),
        Check(
            "Without quantization the hidden state is the model",
            f"Largest ‖x − x̂‖ of all {len(steps):,} steps of {len(gaps['seeds'])} runs: {digits(max(steps))}",
            max(steps) == 0,
        ),
        every(
            "Finer quantizers come closer to FedBuff",
            {
                f"{fine} bits over {coarse}": (ratio, at_most(ratio, 1.0))
                for coarse, fine in pairwise(BITS)
                for ratio in [times(distances[fine], distances[coarse])]
            },
        ),
        Check(
            "As the bits grow, the distance to FedBuff falls as 1/s, s the quantizer's levels for each sign",
            f"Exponent of s: {shown(rate)}. Without the fewest and the most bits: {shown(inner)}",
            within(rate, -1.1, -0.9),
        ),
    )
    lines = [
        (bits, 2 ** (bits - 1) - 1, f"{_geometric(found):.2e}", f"{min(found):.2e} to {max(found):.2e}")
        for bits, found in distances.items()
    ]
    header = ("bits, both ways", "s", "distance to FedBuff's loss", "over seeds")
    return Finding(
        checks,
        table(header, lines, right=range(4)),
        ("findings-exact", "findings-exact-gap", "findings-precision"),
    )


def _distances(bits: int) -> list[float]:
    """Of each seed: the root mean square, over the steps of the record, of the difference of the two losses."""
    found = content("findings-precision")
    ours = pick(found, "qafel", f"qsgd {bits} bits up", f"qsgd {bits} bits down")
    (fedbuff,) = (one for one in found if one["algorithm"] == "fedbuff")
    assert ours["seeds"] == fedbuff["seeds"]
    pairs = zip(ours["values"], fedbuff["values"], strict=True)
    return [sqrt(fmean((a - b) ** 2 for a, b in zip(one, other, strict=True))) for one, other in pairs]


def _rate(distances: Mapping[int, Sequence[float]], bits: Sequence[int]) -> Interval:
    """The exponent e of distance ∝ s^e, by least squares on logarithms, of each seed."""
    levels = [log(2 ** (b - 1) - 1) for b in bits]
    by_seed = zip(*(distances[b] for b in bits), strict=True)
    return mean([float(np.polyfit(levels, np.log(of_seed), 1)[0]) for of_seed in by_seed])


def _geometric(values: Sequence[float]) -> float:
    return exp(fmean(map(log, values)))


# --- 2: bits ------------------------------------------------------------------------------------------


def _bits(
    record: str, exact: str = "float32", codec: str = "qsgd", edens: Sequence[int] = (4, 2, 1)
) -> Finding:
    """The 3 × 3 grid of client and server bits, eden beside it, the paper's own numbers. exact: FedBuff's type.

    A small record has no more cells than the statements need.
    """
    found = content(record)
    labels = {
        (c, s): ("qafel", f"{codec} {c} bits up", f"{codec} {s} bits down") for c, s in product(GRID, GRID)
    }
    cells = {cell: pick(found, *parts) for cell, parts in labels.items() if there(found, *parts)}
    beside = {b: pick(found, "qafel", f"eden {b} bits up", f"eden {b} bits down") for b in edens}
    arrived = {
        f"{one['setting']}, seed {seed}, until {one['target']}": came
        for one in cells.values()
        for seed, came in zip(one["seeds"], one["arrived"], strict=True)
    }
    four, two = cells[4, 4], cells[2, 2]
    checks = [
        Check(
            "Every setting of the grid reaches the target with every seed",
            f"{sum(arrived.values())} of {len(arrived)} runs",
            all(arrived.values()),
            arrived,
        ),
        judged(
            "At 4/4 bits QAFeL needs at most 1.2 times FedBuff's uploads",
            needed(four),
            at_most,
            1.2,
        ),
        judged(
            "At 4/4 bits it uploads 5.2 times fewer bytes or better, as the paper says of CelebA",
            saved(four, "payload_bytes_up"),
            at_least,
            5.2,
        ),
        judged(
            "At 4/4 bits the same holds for the bytes down",
            saved(four, "payload_bytes_down"),
            at_least,
            5.2,
        ),
        judged(
            f"At 2/2 bits it costs uploads, 1.2 times FedBuff's or more (the paper: {_papers(2, 2)[0]} times)",
            needed(two),
            at_least,
            1.2,
        ),
    ]
    if 1 in beside:
        fewer = saved(beside[1], "payload_bytes_up")
        checks.append(judged("eden at 1 bit uploads 8 times fewer bytes or better", fewer, at_least, 8.0))
    (fedbuff,) = (one for one in found if one["algorithm"] == "fedbuff")
    lines = [(exact, exact, *_costs(fedbuff), "", "")]
    lines += [(f"{codec} {c}", f"{codec} {s}", *_costs(one), *_papers(c, s)) for (c, s), one in cells.items()]
    lines += [(f"eden {b}", f"eden {b}", *_costs(one), "", "") for b, one in beside.items()]
    header = (
        "client bits",
        "server bits",
        "uploads",
        "uploads / FedBuff's [95%]",
        "up",
        "FedBuff's / this [95%]",
        "down",
        "FedBuff's / this [95%]",
        "the paper's CelebA: uploads / FedBuff's",
        "FedBuff's bytes up / this",
    )
    return Finding(checks, table(header, lines, right=range(2, 10)), (record,))


bits = partial(_bits, "findings-grid")
bits_mushrooms = partial(_bits, "findings-grid-mushrooms", exact="float64")
grid_cnn = partial(_bits, "findings-grid-cnn", codec="affine", edens=())
grid_text = partial(_bits, "findings-grid-text", edens=())


def _costs(one: Mapping[str, Any]) -> tuple[str, ...]:
    up, down = (size(one["mean"][f"payload_bytes_{way}"]) for way in ("up", "down"))
    return (
        spread(one, "uploads"),
        shown(needed(one)),
        up,
        shown(saved(one, "payload_bytes_up")),
        down,
        shown(saved(one, "payload_bytes_down")),
    )


def _papers(client: int, server: int) -> tuple[str, str]:
    """The published means of CelebA: uploads over FedBuff's, and FedBuff's bytes up over these."""
    celeba = [row for row in published()[1] if row.dataset == "celeba"]
    (ours,) = (row for row in celeba if (row.client_bits, row.server_bits) == (client, server))
    (fedbuff,) = (row for row in celeba if row.algorithm == "fedbuff")
    uploads = fmean(ours.uploads) / fmean(fedbuff.uploads)
    return digits(uploads), digits(fedbuff.bytes_per_upload / ours.bytes_per_upload / uploads)


# --- 3: hidden state ----------------------------------------------------------------------------------

LOGISTIC = {"qsgd": "qsgd", "eden": "eden", "top-k": "topk"}  # name in the table -> in the label


def hidden() -> Finding:
    """The hidden state against direct quantization, the same server quantizer and bits."""
    gaps, losses = (_both(f"findings-hidden-{what}") for what in ("gap", "loss"))
    gap_ratios = {name: _last_ratio(direct, own) for name, (own, direct) in gaps.items()}
    loss_ratios = {name: _last_ratio(direct, own) for name, (own, direct) in losses.items()}
    growth = {name: tuple(_growth(side) for side in both) for name, both in gaps.items()}
    x = content("findings-hidden-gap")[0]["x"]
    logistic = {
        name: {side: _suboptimality(side, code) for side in ("qafel", "naive")}
        for name, code in LOGISTIC.items()
    }
    naive = {name: _last_ratio(both["naive"], both["qafel"]) for name, both in logistic.items()}
    fedbuff = _suboptimality("fedbuff")
    close = {name: _last_ratio(both["qafel"], fedbuff) for name, both in logistic.items()}
    checks = (
        every(
            "Naive's model is farther from what its clients hold, ‖x − x̂‖, after the same steps",
            {name: (one, at_least(one, 1.0)) for name, one in gap_ratios.items()},
        ),
        every(
            f"With the hidden state that distance is smaller at step {x[-1]:,.0f} than at step {x[0]:,.0f}",
            {name: (own, at_most(own, 1.0)) for name, (own, _) in growth.items()},
        ),
        every(
            "Without it, it is not",
            {name: (direct, at_least(direct, 1.0)) for name, (_, direct) in growth.items()},
        ),
        every(
            "Naive's loss is at least 5% higher after the same steps",
            {name: (one, at_least(one, 1.05)) for name, one in loss_ratios.items()},
        ),
        every(
            f"Logistic regression, the paper's figure: naive's f − f* after {_last_step()} steps is twice QAFeL's "
            "or more",
            {name: (one, at_least(one, 2.0)) for name, one in naive.items()},
        ),
        every(
            "There QAFeL stays within 1.1 times FedBuff's f − f*",
            {name: (one, at_most(one, 1.1)) for name, one in close.items()},
        ),
    )  # fmt: skip
    tables = (_drift_table(gaps, losses, x), _logistic_table(logistic, fedbuff))
    records = ("findings-hidden-gap", "findings-hidden-loss", "logistic", "optimum")
    return Finding(checks, "\n\n".join(tables), records)


Curves = Sequence[Sequence[float]]  # a seed's values, at the x of the record


def _both(record: str) -> dict[str, tuple[Curves, Curves]]:
    """By quantizer of the server: with the hidden state and without it."""
    by_broadcast = [one for one in content(record) if "downlink.delivery = unicast" not in one["setting"]]
    return {
        name: (pick(by_broadcast, "qafel", part)["values"], pick(by_broadcast, "naive", part)["values"])
        for name, part in SERVERS.items()
    }


def _last_ratio(ours: Curves, theirs: Curves) -> Interval:
    return times([values[-1] for values in ours], [values[-1] for values in theirs])


def _last_step() -> str:
    (last,) = {one["x"][-1] for one in content("logistic")}
    return f"{last:,.0f}"


def _growth(side: Curves) -> Interval:
    """The last value over the first."""
    return times([values[-1] for values in side], [values[0] for values in side])


def _means(side: Curves) -> tuple[str, ...]:
    return tuple(digits(fmean(column)) for column in zip(*side, strict=True))


def _drift_table(
    gaps: Mapping[str, tuple[Curves, Curves]], losses: Mapping[str, tuple[Curves, Curves]], x: Sequence[float]
) -> str:
    lines = [
        (
            name,
            *_means(gaps[name][0]),
            *_means(gaps[name][1]),
            shown(_last_ratio(*reversed(gaps[name]))),
            *(_means(side)[-1] for side in losses[name]),
            shown(_last_ratio(*reversed(losses[name]))),
        )
        for name in SERVERS
    ]
    steps = [f"{at:,.0f}" for at in x]
    header = (
        "server's quantizer",
        f"‖x − x̂‖, hidden, step {steps[0]}",
        *steps[1:],
        f"naive, step {steps[0]}",
        *steps[1:],
        f"naive / hidden, step {steps[-1]} [95%]",
        f"loss, hidden, step {steps[-1]}",
        "naive",
        "naive / hidden [95%]",
    )
    return table(header, lines, right=range(1, len(header)))


def _suboptimality(algorithm: str, codec: str = "") -> Curves:
    """f − f* of the logistic regression, a seed's values in the order of seeds."""
    least = content("optimum")["f_star"]
    (one,) = (c for c in content("logistic") if c["algorithm"] == algorithm and codec in c["setting"])
    by_seed = dict(zip(one["seeds"], one["values"], strict=True))  # FedBuff's are there twice
    return [[value - least for value in values] for _, values in sorted(by_seed.items())]


def _logistic_table(found: Mapping[str, Mapping[str, Curves]], fedbuff: Curves) -> str:
    words = {"qafel": "QAFeL", "naive": "naive"}
    curves = {f"{words[side]}, {name}": own for name, both in found.items() for side, own in both.items()}
    lines = [
        (name, *(f"{fmean(column):.2e}".replace("e-0", "e-") for column in zip(*own, strict=True)))
        for name, own in (curves | {"FedBuff": fedbuff}).items()
    ]
    header = ("logistic regression: f − f*", *(f"step {at:,.0f}" for at in content("logistic")[0]["x"]))
    return table(header, lines, right=range(1, len(header)))
