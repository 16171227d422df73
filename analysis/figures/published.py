"""The pictures of README and results, drawn from records: of `qafel-analysis curves`, `timeline`, and codec_error.py.

    python -m qafel_analysis.figures.published docs/results docs/figures        (make figures)

The same records give the same SVG with one version of matplotlib; the SVG names that version and the record's digest.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from qafel_analysis.figures import convergence
from qafel_analysis.figures.palette import ACTIVITY_COLOURS, MARKERS, colour
from qafel_analysis.figures.paper_grid import paper_grid
from qafel_analysis.figures.style import new_figure, styled
from qafel_analysis.read import timeline as spans
from qafel_analysis.read.extras import extra

_STYLE = {"font.size": 9.5, "svg.hashsalt": "qafel_mpi", "svg.fonttype": "path"}
_NAMES = {"qafel": "QAFeL, 4 bits", "fedbuff": "FedBuff, 32-bit floats"}
_TARGET = 0.9
_LABEL_AT = (0.7, 0.4)  # accuracies at which the first and the second curve are named
_FAMILIES = {  # of codecs -> how the names of its members begin, and what they have behind the bits
    "qsgd": ("qsgd, ", ""),
    "qsgd, zstd": ("qsgd, ", ", zstd"),
    "affine, 128": ("affine, ", ", 128"),
    "eden": ("eden, ", ""),
    "eden, least squares": ("eden, ", ", least squares"),
    "topk": ("topk, ", "' worth"),
    "lattice": ("lattice, ", ""),
    "fp4, nearest": ("fp4, ", ", nearest"),
}
_PANELS = {
    ("digits", "mlp"): "digits, mlp",
    ("fashion-mnist", "cnn"): "Fashion-MNIST, the paper's CNN",
    ("stdlib-text", "transformer"): "stdlib-text, transformer",
    ("fashion-mnist", "resnet18"): "Fashion-MNIST, ResNet-18",
}
_RIVALS = {  # name in the picture -> how the label of its setting begins
    "QAFeL, 1 bit (eden)": "qafel, eden 1 bits up, eden 1 bits down, K",
    "QAFeL, 4 bits (qsgd)": "qafel, qsgd 4 bits up, qsgd 4 bits down, K",
    "naive, 1 bit up, 4 down": "naive, eden 1 bits up",
    "FedPAQ, 1 bit up": "fedpaq, eden 1 bits up",
    "Decoupled DiLoCo, 1 bit up": "decoupled (uplink.codec = eden), eden 1 bits up",
    "CA²FL, 1 bit up": "ca2fl (uplink.codec = eden), eden 1 bits up",
    "FADAS, 1 bit up": "fadas (uplink.codec = eden), eden 1 bits up",
    "FedBuff": "fedbuff, ",
    "QAFeL-EF, 1 bit": "qafel-ef, eden 1 bits up",
    "FedAvg": "fedavg",
    "FedAsync, 4 bits up": "fedasync (uplink.codec = eden)",
    "QuAFL, 8 bits": "quafl, lattice 8 bits",
}
_QUANTIZERS = {
    "qsgd": "qsgd",
    "eden": "eden",
    "top-k": "topk",
}  # name in the picture -> in the label of a setting
_ACTIVITIES = {
    "train": "train",
    "encode": "encode",
    "decode": "decode and add up",
    "wait": "wait",
    "send": "message under way",
}


@styled
def accuracy_against_bytes(content: Any) -> Any:
    """Test accuracy over megabytes, both ways together: median over seeds, shaded from the smallest to the largest.

    content: of `curves --x payload_bytes --y accuracy`, a setting an algorithm.
    """
    figure, axes = new_figure(7.2, 3.3)
    axes.axhline(_TARGET, color="#888888", linewidth=0.8, linestyle="--")
    bands = [convergence.from_json(one) for one in content]
    most_mb = max(float(b.x[-1]) for b in bands) / 1e6
    for k, (one, b) in enumerate(zip(content, bands, strict=True)):
        x_mb, label_at = b.x / 1e6, _LABEL_AT[k]
        axes.plot(x_mb, b.median, color=colour(k), linewidth=2)
        axes.fill_between(x_mb, b.low, b.high, color=colour(k), alpha=0.2, linewidth=0)
        beside_mb = x_mb[np.argmax(b.median >= label_at)] + 0.04 * most_mb
        axes.text(beside_mb, label_at, _NAMES[one["algorithm"]], color=colour(k), weight="bold", va="center")
        end_mb = float(x_mb[np.argmax(b.median >= _TARGET)])
        axes.plot(end_mb, _TARGET, "o", color=colour(k), markersize=6)
        axes.text(
            end_mb, _TARGET + 0.03, f"{_TARGET:.0%} after {end_mb:.2g} MB",
            ha="right" if end_mb > most_mb / 2 else "left",
        )  # fmt: skip
    axes.set(xlabel="megabytes sent, up and down", ylabel="test accuracy", ylim=(0, 1.02), xlim=(0, None))
    axes.yaxis.set_major_formatter(extra("matplotlib.ticker").PercentFormatter(1.0))
    return figure


@styled
def accuracy_by_budget(content: Any) -> Any:
    """Test accuracy once so many megabytes went up on the wire: means over seeds, a line an algorithm.

    content: of `curves --x wire_bytes_up --y accuracy --at BUDGETS`, all algorithms.
    """
    figure, axes = new_figure(7.2, 3.6)
    axes.axhline(_TARGET, color="#888888", linewidth=0.8, linestyle="--")
    for k, (name, label) in enumerate(_RIVALS.items()):
        (one,) = (one for one in content if one["setting"].startswith(label))
        # A run that was not evaluated yet has the accuracy of none.
        means = [
            float(np.mean([value or 0.0 for value in column])) for column in zip(*one["values"], strict=True)
        ]
        axes.plot(
            np.array(one["x"]) / 1e6, means, marker=MARKERS[k % len(MARKERS)], markersize=5,
            color=colour(k), linestyle="solid" if k < len(MARKERS) else "dashed", linewidth=2, label=name,
            zorder=2 + 1 / (k + 1),  # the first on top
        )  # fmt: skip
    axes.set(xscale="log", xlabel="wire megabytes sent up", ylabel="test accuracy", ylim=(0, 1.02))
    ticks = [x / 1e6 for x in content[0]["x"]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(extra("matplotlib.ticker").PercentFormatter(1.0))
    figure.legend(loc="outside right center")
    return figure


@styled
def timeline(content: Any) -> Any:
    """A lane a rank: what it did, and below, thinner, its messages under way. content: of `timeline`."""
    found, window = spans.from_json(content)
    ranks = sorted(found["rank"].unique())
    figure, axes = new_figure(7.2, 0.95 + 0.5 * len(ranks))
    for activity, words in _ACTIVITIES.items():
        height, shift = (0.12, -0.44) if activity == "send" else (0.56, -0.26)
        for lane, rank in enumerate(ranks):
            own = found[(found["rank"] == rank) & (found["activity"] == activity)]
            begin = 1e3 * (own["begin_s"].clip(lower=window.begin_s) - window.begin_s)
            end = 1e3 * (own["end_s"].clip(upper=window.end_s) - window.begin_s)
            axes.broken_barh(
                np.column_stack([begin, end - begin]), (-lane + shift, height),
                color=ACTIVITY_COLOURS[activity], linewidth=0,
            )  # fmt: skip
        axes.plot([], [], color=ACTIVITY_COLOURS[activity], linewidth=6, label=words)
    names = ["server\n(rank 0)", *(f"client\n(rank {rank})" for rank in ranks[1:])]
    axes.set(
        xlim=(0, 1e3 * (window.end_s - window.begin_s)), yticks=[-lane for lane in range(len(ranks))],
        yticklabels=names, xlabel="milliseconds",
    )  # fmt: skip
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=len(_ACTIVITIES), handlelength=1.5, columnspacing=1.5)
    return figure


@styled
def errors_by_bits(content: Any) -> Any:
    """A panel a run: the error of an update over the bits that an element has on the wire, a line a family of codecs.

    content: of docs/results/codec_error.py.
    """
    rows = (len(content) + 1) // 2
    figure = extra("matplotlib.figure").Figure(figsize=(7.2, 0.6 + 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    for run, own in zip(content, axes, strict=False):
        for k, name in enumerate(_FAMILIES):
            found = sorted((one["bits_per_element"], one["error"]) for one in _family(run["codecs"], name))
            own.plot(*zip(*found, strict=True), marker=MARKERS[k], markersize=4, color=colour(k), label=name)
        own.set(xscale="log", yscale="log", ylim=(5e-6, 10), title=_PANELS[run["dataset"], run["model"]])
        own.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        own.minorticks_off()
        own.axhline(1, color="#888888", linewidth=0.8, linestyle="--")
    for own in axes[len(content) :]:
        own.set_visible(False)
    figure.supxlabel("bits an element on the wire")
    figure.supylabel("error of an update, relative")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def _family(codecs: Any, name: str) -> list[Any]:
    """Those whose names have nothing but bits between the family's beginning and end."""
    begin, end = _FAMILIES[name]
    member = re.compile(f"{re.escape(begin)}(?:\\d bits|mxfp4|nvfp4)?{re.escape(end)}")
    return [one for one in codecs if member.fullmatch(one["codec"])]


@styled
def logistic_regression(content: Any, optimum: Any) -> Any:
    """f − f* over server steps: the median over seeds, shaded from the smallest to the largest; naive dashed.

    content: of `curves --x server_steps --y loss` of the suites mushrooms-qsgd, -eden and -topk. optimum: f*.
    """
    figure, axes = new_figure(7.2, 3.6)
    for k, (name, codec) in enumerate(_QUANTIZERS.items()):
        for algorithm, words, dashes in (("qafel", "QAFeL", "-"), ("naive", "naive", "--")):
            (one,) = (c for c in content if c["algorithm"] == algorithm and codec in c["setting"])
            _band(axes, one, optimum["f_star"], f"{words}, {name}", colour(k), dashes)
    (fedbuff,) = (one for one in content if one["algorithm"] == "fedbuff")
    _band(axes, fedbuff, optimum["f_star"], "FedBuff", "#000000", ":")
    axes.set(xscale="log", yscale="log", xlabel="server steps", ylabel="f − f*")
    figure.legend(loc="outside right center")
    return figure


def _band(axes: Any, one: Any, least: float, label: str, colour_of: str, dashes: str) -> None:
    values = np.array(one["values"]) - least
    axes.plot(
        one["x"], np.median(values, axis=0), color=colour_of, linestyle=dashes, linewidth=2, label=label
    )
    axes.fill_between(
        one["x"], values.min(axis=0), values.max(axis=0), color=colour_of, alpha=0.15, linewidth=0
    )


# Name of the picture -> (names of its records, what draws their contents).
PICTURES: Mapping[str, tuple[Sequence[str], Callable[..., Any]]] = {
    "accuracy-vs-bytes": (("accuracy-vs-bytes",), accuracy_against_bytes),
    "accuracy-by-budget": (("findings-budget",), accuracy_by_budget),
    "timeline": (("timeline",), timeline),
    "paper-grid": (("findings-grid-cnn",), paper_grid),
    "codec-error": (("codec-error",), errors_by_bits),
    "logistic-regression": (("logistic", "optimum"), logistic_regression),
}


def svg(name: str, records: Path, out: Path) -> Path:
    """Draw one of PICTURES from its records as out/NAME.svg. Returns the file."""
    names, draw = PICTURES[name]
    data = [(records / f"{record}.json").read_bytes() for record in names]
    matplotlib = extra("matplotlib")
    file = out / f"{name}.svg"
    out.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_STYLE):
        about = {"Date": None, "Creator": creator(), "Description": digest(b"".join(data))}
        draw(*(json.loads(one)["content"] for one in data)).savefig(file, metadata=about)
    return file


def creator() -> str:
    """What the SVG says of the program that drew it: another version of matplotlib draws other bytes."""
    return f"qafel-analysis, matplotlib {extra('matplotlib').__version__}"


def digest(data: bytes) -> str:
    """What the SVG says of the records that it shows, one after the other."""
    return f"SHA-256 of the data: {hashlib.sha256(data).hexdigest()}"


def main() -> None:
    """Draw all pictures: RECORDS OUT."""
    records, out = map(Path, sys.argv[1:])
    for name in PICTURES:
        print(svg(name, records, out))


if __name__ == "__main__":
    main()
