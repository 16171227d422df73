"""What the command shows: progress, tables, results."""

from __future__ import annotations

from qafel_mpi.commands import show
from qafel_mpi.config import StopConfig
from qafel_mpi.drivers.build import Progress, RunSummary


def test_the_nearest_end_counts_as_progress():
    now = Progress(5.0, 50, 5, 0.3, 1.0, 0, 0)
    assert show.share_done(now, StopConfig(uploads=100, steps=100)) == 0.5
    assert show.share_done(now, StopConfig(accuracy=0.9)) == 0.0


def test_a_table_is_aligned_and_says_what_is_not_there():
    rows: list[dict[str, object]] = [
        {"rank": 0, "gpu": None, "aware": True},
        {"rank": 10, "gpu": "H200", "aware": False},
    ]
    assert show.table(rows) == "rank  gpu   aware\n   0  -       yes\n  10  H200     no"
    assert show.table([]) == ""


def test_a_result_as_json_has_null_where_there_is_no_number():
    assert '"accuracy": null' in show.summary_json(RunSummary(outcome="finished"))
    assert "accuracy         -" in show.summary(RunSummary(outcome="finished"))


def test_a_run_on_text_shows_bits_per_byte_beside_what_byte_frequencies_give():
    shown = show.summary(RunSummary(loss=2.7, bits_per_byte=3.895, entropy_bits_per_byte=4.568))
    assert "bits per byte    3.895   byte frequencies alone 4.568\n" in shown
    assert "bits per byte" not in show.summary(RunSummary(loss=2.7))
