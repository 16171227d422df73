"""docs/results/link_rates.py: the rate that a folder is named by."""

import pytest

from docs.results.link_rates import mbit, measured


def test_a_folder_is_named_by_its_rate():
    assert [mbit(name) for name in ("3mbit", "1gbit", "free", "free-again")] == [3, 1000, None, None]
    with pytest.raises(SystemExit, match="slow: a folder of runs is named as their rate"):
        mbit("slow")


def test_a_run_without_steps_in_real_time_has_no_seconds(trace):
    folder = trace.parent / "10mbit"
    folder.mkdir(exist_ok=True)
    link = folder / trace.name
    if not link.exists():
        link.symlink_to(trace)
    found = measured(link)
    assert len(found.pop("x_digest")) == 64
    assert found == {"variant": "qafel-apart-constant", "seed": 3, "mbit": 10.0, "per_step": None}
