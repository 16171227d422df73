"""The block of docs/results.md on the start of many ranks."""

from __future__ import annotations

from docs.render.pages import table
from docs.render.records import content, digits, first, measured, met, not_measured, origin, time

MOST_OF_THE_START = 0.5  # of the older commit's seconds


def turns() -> str:
    """The start of 16 ranks in turns with an older commit's; then by phase."""
    if not measured("startup-turns"):
        return not_measured("startup")
    found, names = content("startup-turns"), ["startup-turns"]
    words = {
        "first_upload_s": "from mpirun to the first upload",
        "processor_s": "processor time of all ranks",
    }
    judged = f"at most {MOST_OF_THE_START:g}"
    lines = [
        (
            words[row["what"]],
            f"{digits(row['older_median'])} s",
            f"{digits(row['median'])} s",
            digits(row["share"], 2),
            f"{judged}, {met([row['share']], MOST_OF_THE_START, at_least=False)}"
            if row["what"] == "first_upload_s"
            else "",
        )
        for row in found["rows"]
    ]
    header = (f"{found['ranks']} ranks", f"`{found['older']}`", "now", "share", "target")
    blocks = [table(header, lines, right=(1, 2, 3))]
    if measured("startup-phases"):
        names.append("startup-phases")
        phases = [
            (
                row["parameters"]["operation"],
                time(first(row, "median_us")),
                f"{first(row, 'processor_s_a_rank'):.2f} s",
                f"{first(row, 'files_opened_a_rank'):,.0f}",
            )
            for row in content("startup-phases")
        ]
        header_of_phases = ("phase, a rank's", "median", "processor time", "files opened")
        blocks.append(table(header_of_phases, phases, right=(1, 2, 3)))
    return "\n\n".join([*blocks, origin(*names)])
