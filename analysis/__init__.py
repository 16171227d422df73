"""qafel_analysis: from trace files to tables, figures and reports. Needs no MPI, no GPU and nothing of the
program but its reader.

    import qafel_analysis
    run = qafel_analysis.load("runs/a.h5")      # see frames.py
    sent = run.messages[["end", "src", "dst", "wire_bytes"]].query("end == 0")  # a message has a row at each end
    sent.groupby(["src", "dst"])["wire_bytes"].sum()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qafel_analysis.read.frames import Run, load

__all__ = ["Run", "load"]


def __getattr__(name: str) -> Any:
    # pandas takes half a second to import, and the command's tables do without it.
    if name in __all__:
        from qafel_analysis.read import frames

        return getattr(frames, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
