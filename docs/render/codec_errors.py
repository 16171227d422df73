"""A block of docs/results.md: every codec's error on real updates, at so many bytes on the wire."""

from __future__ import annotations

from typing import Any

from docs.render.pages import table
from docs.render.records import content as of
from docs.render.records import digits, origin

_RUNS = {
    ("digits", "mlp"): "digits, mlp",
    ("fashion-mnist", "cnn"): "Fashion-MNIST, the paper's CNN",
    ("stdlib-text", "transformer"): "stdlib-text, transformer",
    ("fashion-mnist", "resnet18"): "Fashion-MNIST, ResNet-18",
}
_NOT_ALONE = 1e-9  # an error below it is rounding's


def errors() -> str:
    """Error of an update, and of a server step's sum of updates, by codec."""
    runs = of("codec-error")
    by_codec = [{one["codec"]: one for one in run["codecs"]} for run in runs]
    names = sorted(
        set.intersection(*(set(found) for found in by_codec)),
        key=lambda name: (by_codec[-1][name]["bits_per_element"], name),
    )
    lines = []
    for name in names:
        found = [each[name] for each in by_codec]
        bits = [one["bits_per_element"] for one in found]
        low, high = digits(min(bits)), digits(max(bits))
        lines.append((name, low if low == high else f"{low} to {high}", *map(_errors, found)))
    header = ("", "bits an element, wire", *(title(run) for run in runs))
    said = " ".join(_about(run) for run in runs)
    return f"{said}\n\n{table(header, lines, right=range(1, len(header)))}\n\n{origin('codec-error')}"


def title(run: dict[str, Any]) -> str:
    return _RUNS[run["dataset"], run["model"]]


def _errors(one: dict[str, Any]) -> str:
    return "; ".join(_number(one[key]) for key in ("error", "error_of_sums"))


def _number(value: float) -> str:
    return (
        "0"
        if value < _NOT_ALONE
        else digits(value, 2)
        if value >= 1e-4
        else f"{value:.1e}".replace("e-0", "e-")
    )


def _about(run: dict[str, Any]) -> str:
    moments = run["moments"]
    updates = sum(one["updates"] for one in moments)
    steps = [f"{one['step']:,}" for one in moments]
    return (
        f"{title(run)}: {run['elements']:,} elements, {updates} updates, of the server steps "
        f"{', '.join(steps[:-1])} and {steps[-1]}."
    )
