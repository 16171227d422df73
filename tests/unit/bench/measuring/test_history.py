"""Benchmarks over time, on made-up results; Apache Otava finds the changes."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qafel_mpi.bench.measuring import history
from qafel_mpi.bench.measuring.result import Result, ResultError, Row
from qafel_mpi.bench.measuring.timing import Samples

SEED = 20261127


def result(day: int, us: float, reference_us: float | None = None, **parameters: Any) -> tuple[Path, Result]:
    def samples(each_us: float) -> Samples:
        return Samples(np.full(5, each_us * 1e-6), np.zeros(0), 1)

    row = Row(
        "p2p",
        {"bytes": 8} | parameters,
        samples(us),
        samples(reference_us) if reference_us else None,
        "another",
    )
    about = {"started": f"2026-11-{day:02d}T03:00:00+00:00", "git_commit": f"{day:040x}"}
    return Path(f"{day:02d}.json"), Result("p2p", [row], about)


def nightly(levels: Sequence[float]) -> list[tuple[Path, Result]]:
    rng = np.random.default_rng(SEED)
    return [result(day, level * rng.normal(1, 0.01)) for day, level in enumerate(levels, 1)]


def test_a_step_is_found_at_its_night_with_the_levels_before_and_after() -> None:
    (found,) = history.series(nightly([10] * 12 + [13] * 10))
    (change,) = found.changes
    assert found.points[change.index].started == "2026-11-13T03:00:00+00:00"
    assert found.points[change.index].commit == f"{13:040x}"
    assert (change.before, change.after) == pytest.approx((10, 13), rel=0.02)
    assert change.change == pytest.approx(0.3, abs=0.02)
    assert change.p_value < history.MAX_P


def test_there_and_back_again_are_two_changes() -> None:
    (found,) = history.series(nightly([10] * 9 + [7] * 9 + [10] * 9))
    assert [change.index for change in found.changes] == [9, 18]
    assert found.changes[0].change < 0 < found.changes[1].change


def test_noise_is_no_change_nor_is_a_step_of_a_hundredth() -> None:
    assert history.series(nightly([10] * 25))[0].changes == ()
    steps = [result(day, 10 if day < 14 else 10.1) for day in range(1, 28)]
    assert history.series(steps)[0].changes == ()


def test_files_are_in_order_of_their_dates_whatever_their_names() -> None:
    made = [result(day, day) for day in (3, 1, 2)]
    (found,) = history.series([(Path("x"), one) for _, one in made])
    assert [point.value for point in found.points] == pytest.approx([1, 2, 3])


def test_a_row_is_followed_by_time_and_by_ratio_in_the_files_that_have_it() -> None:
    files = [result(1, 2, 4), result(2, 4), result(3, 8, 4), result(4, 5, bytes=16)]
    found = history.series(files)
    assert [(one.label, one.column, len(one.points)) for one in found] == [
        ("p2p bytes=8", "median_us", 3),
        ("p2p bytes=8", "ratio", 2),
    ]


def test_a_file_without_a_date_is_named() -> None:
    path, undated = result(1, 2)
    with pytest.raises(ResultError, match=r"01.json: does not say when it was measured"):
        history.series([(path, Result("p2p", undated.rows, {}))])


@pytest.mark.parametrize(
    ("package", "advice"),
    [
        ("otava.analysis", "pip install --no-deps apache-otava"),
        ("scipy.stats", r"pip install 'qafel-mpi\[analysis\]'"),
    ],
)
def test_a_missing_package_is_one_message(package: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *rest: Any) -> Any:
        if name == "otava.analysis":
            raise ImportError(f"No module named {package!r}", name=package)
        return whole(name, *rest)

    whole = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(history.MissingPackage, match=advice):
        history.changes([1.0, 2.0])
