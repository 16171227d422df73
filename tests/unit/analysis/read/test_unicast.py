"""The downlink by unicast: what each client lacks when it starts, with the sizes that payloads had."""

from __future__ import annotations

import numpy as np
import pytest
from qafel_analysis.read import rows
from qafel_analysis.read.unicast import Unicast

from qafel_mpi.trace.file import conform
from qafel_mpi.trace_schema import HEADER_BYTES, STEPS, UPDATES
from tests.unit.analysis.tables.test_compare import make
from tests.unit.trace.made import edited

SIZES = [100, 40, 60, 50, 90, 70]  # of the broadcasts that made versions 1 to 6


def unicast(*, hidden: bool = True, full: float = 1e9) -> Unicast:
    return Unicast(
        hidden=hidden,
        versions=np.arange(7),
        bytes_down=np.cumsum([0, *SIZES]),
        message_bytes=100,
        full_bytes=full,
        paper_message_bytes=80,
        paper_full_bytes=190,
    )


def starts(*rows_: tuple[int, int]) -> np.ndarray:
    found = np.zeros(len(rows_), dtype=UPDATES)
    found["client"], found["start_version"] = zip(*rows_, strict=True) if rows_ else ((), ())
    return found


def totals(one: Unicast) -> tuple[float, float, int]:
    return one.payload_bytes, one.paper_bytes, one.messages


def test_a_client_gets_the_payloads_that_it_lacks_with_the_sizes_that_they_had():
    one = unicast()
    one.add(starts((0, 2), (1, 0), (0, 5), (1, 1)))
    assert totals(one) == (100 + 40 + 60 + 50 + 90 + 100, 6 * 80, 3)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_trainings_of_one_client_that_overlap_count_each_payload_once(cut):
    """It started from version 3 before it started from 5, and came later; the blocks of a file change nothing."""
    one, came = unicast(), starts((0, 5), (0, 3), (0, 6))
    for block in (came[:cut], came[cut:]):
        one.add(block)
    assert totals(one) == (sum(SIZES), 6 * 80, 2)


def test_where_the_full_model_is_smaller_it_counts_in_the_papers_formula_too():
    one = unicast(full=200)
    one.add(starts((0, 2), (0, 6)))
    assert totals(one) == (140 + 200, 2 * 80 + 190, 2)


def test_without_a_hidden_state_each_start_gets_the_message_of_its_version_but_nobody_x0():
    one = unicast(hidden=False, full=1)
    one.add(starts((0, 2), (0, 2), (1, 0), (1, 6)))
    assert totals(one) == (40 + 40 + 70, 3 * 80, 3)


def test_versions_that_the_steps_do_not_reach_count_at_the_codecs_size():
    one = unicast()
    one.add(starts((0, 6), (0, 8)))
    assert totals(one) == (sum(SIZES) + 2 * 100, 8 * 80, 2)


def changed(path, aim: str, **columns) -> None:
    with edited(path) as file:
        file.attrs["experiment"] = aim
        file.attrs["payload_bytes_per_broadcast"] = 50
        steps = file["steps"][:]
        for name, values in columns.items():
            steps[name] = values
        file["steps"][...] = steps


UNICAST = '[downlink]\ndelivery = "unicast"\n[stop]\naccuracy = 0.9\n'


def test_where_clients_do_download_that_is_the_unicast_and_headers_are_those_of_the_downloads(tmp_path):
    path = make(tmp_path, "a", reached=80)
    downloads = np.arange(11) * 12
    changed(path, UNICAST, messages_down=downloads, payload_bytes_down=37 * downloads)
    run = rows.row(path)
    for way in ("down", "unicast"):
        assert run[f"payload_bytes_{way}_to_target"] == 37 * 96
        assert run[f"wire_bytes_{way}_to_target"] == (37 + HEADER_BYTES) * 96
        assert run[f"paper_bytes_{way}_to_target"] == 50 * 96
    assert run["wire_bytes_unicast"] == run["wire_bytes_down"]


def test_a_killed_run_has_the_downloads_of_its_last_step(tmp_path):
    path = make(tmp_path, "a", reached=None, finished=False)
    changed(path, UNICAST, messages_down=12 * np.arange(11), payload_bytes_down=444 * np.arange(11))
    run = rows.row(path)
    assert run["wire_bytes_down"] == 4440 + HEADER_BYTES * 120
    assert run["paper_bytes_down"] == 50 * 120


@pytest.mark.parametrize(
    ("aim", "down", "messages"),
    [("[stop]\naccuracy = 0.9\n", 37, 8), (UNICAST, 600, 96), (UNICAST, 601, None)],
    ids=["a broadcast a version", "downloads of one size", "downloads of several"],
)
def test_a_trace_that_is_older_than_the_count_says_what_follows_from_it(tmp_path, aim, down, messages):
    path = make(tmp_path, "a", reached=80)
    changed(path, aim, payload_bytes_down=down * np.arange(11))
    with edited(path) as file:
        steps = file["steps"][:]
        del file["steps"]
        file["steps"] = steps[[name for name in STEPS.names if name != "messages_down"]]
        assert (conform(file["steps"][:], STEPS)["messages_down"] == -1).all()
    found = rows.row(path)
    wire = None if messages is None else 8 * down + HEADER_BYTES * messages
    assert found["wire_bytes_down_to_target"] == wire
    assert found["paper_bytes_down_to_target"] == (None if messages is None else 50 * messages)
