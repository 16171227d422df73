"""What a comparison shows, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qafel_analysis.tables.compare import BASELINE, Group, baseline_of, saving

_NAMES = {
    "qafel": "QAFeL",
    "qafel-ef": "QAFeL with error feedback",
    "fedbuff": "FedBuff",
    "fedbuff-nvflare": "FedBuff as NVFlare runs it",
    "fedbuff-appfl": "FedBuff as APPFL runs it",
    "naive": "naive quantization",
    "fedasync": "FedAsync",
    "fadas": "FADAS",
    "ca2fl": "CA²FL",
    "decoupled": "Decoupled DiLoCo",
    "quafl": "QuAFL",
    "fedavg": "FedAvg",
    "fedpaq": "FedPAQ",
}


def sentence(groups: Sequence[Group]) -> str:
    """What each setting needed of FedBuff's upload bytes and uploads, task by task.

    Bytes are the payload's. Settings of an algorithm that has several on a task are named by their labels.
    """
    clauses = [clause for group in groups for clause in _clause(group, groups)]
    if not clauses:
        return f"No setting has a {_NAMES[BASELINE]} run on the same task to the same target, so nothing is compared."
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def _clause(group: Group, groups: Sequence[Group]) -> Iterator[str]:
    baseline = baseline_of(group, groups)
    if baseline is None:
        return
    goal = "over whole runs" if group.target is None else f"to reach {group.target}"
    where = f"{goal} on {group.runs[0]['dataset']}"
    name, other = _name(group, groups), _NAMES[BASELINE]
    missed = [who for who, one in ((name, group), (other, baseline)) if not one.reached]
    if missed:
        short = "came to its end" if group.target is None else "was long enough"
        yield f"{where}, no run of {' or '.join(missed)} {short}"
        return
    keys = {"payload_bytes_up": "upload bytes", "uploads": "uploads"}
    if not min(cost.value for one in (group, baseline) for key in keys for cost in one.costs(key)):
        yield f"{where}, a run of {name} or {other} was there before its first upload, so nothing is compared"
        return
    shares = []
    for key, what in keys.items():
        if ratio := saving(group, baseline, key):
            own = ratio.inverse
            shares.append(f"{own.sign_in_words}{_percent(own.value)} of the {what}")
    if not shares:
        yield f"{where}, some runs of both {name} and {other} were not long enough, so nothing is compared"
        return
    yield f"{where}, {name} needed {' and '.join(shares)} that {other} needed ({_basis(group, baseline)})"


def _name(group: Group, groups: Sequence[Group]) -> str:
    alike = [
        g
        for g in groups
        if g.algorithm == group.algorithm and g.runs[0]["dataset"] == group.runs[0]["dataset"]
    ]
    return group.label if len(alike) > 1 else _NAMES.get(group.algorithm, group.algorithm)


def _percent(share: float) -> str:
    """
    >>> _percent(0.0804), _percent(0.1197), _percent(1.2)
    ('8.0%', '12%', '120%')
    """
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def _basis(group: Group, baseline: Group) -> str:
    counts = {len(one.runs) for one in (group, baseline)} | {len(one.reached) for one in (group, baseline)}
    if len(counts) == 1:
        (runs,) = counts
        return f"geometric means over {runs} runs each" if runs > 1 else "one run each"
    return " and ".join(f"{len(one.reached)} of {len(one.runs)}" for one in (group, baseline)) + (
        " runs came to their end" if group.target is None else " runs reached it"
    )
