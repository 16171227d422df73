"""For all tests: the environment of mpirun, hypothesis without deadlines, and --strict-skips."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import hypothesis
import pytest

from tests.support import mpi_environment, search_path, skip_is_expected


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help="a skip is a failure unless its reason begins with 'needs ' (in CI: 'needs a GPU')",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A script's shell has its background jobs ignore Ctrl-C, and all that the tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["PATH"] = search_path()
    for name, value in mpi_environment().items():
        os.environ.setdefault(name, value)
    # Time is no property of the code on a shared machine. Under mpirun every rank must draw the same examples.
    hypothesis.settings.register_profile("qafel", deadline=None)
    hypothesis.settings.register_profile("qafel-fixed", deadline=None, derandomize=True, database=None)
    fixed = os.environ.get("CI") or config.getoption("--with-mpi", default=False)
    hypothesis.settings.load_profile("qafel-fixed" if fixed else "qafel")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _judge_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _judge_skip(report, collector.config)
    return report


def _judge_skip(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if report.outcome != "skipped" or hasattr(report, "wasxfail") or not config.getoption("--strict-skips"):
        return
    assert isinstance(report.longrepr, tuple)
    path, line, reason = report.longrepr
    reason = reason.removeprefix("Skipped: ")
    if not skip_is_expected(reason):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: unexpected skip: {reason}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """pytest-mpi knows @pytest.mark.mpi(min_size=N); max_size is ours."""
    largest = [mark.kwargs["max_size"] for mark in item.iter_markers("mpi") if "max_size" in mark.kwargs]
    if largest and item.config.getoption("--with-mpi"):
        from mpi4py import MPI

        if min(largest) < MPI.COMM_WORLD.size:
            pytest.skip(f"Test is for {min(largest)} MPI processes at most, {MPI.COMM_WORLD.size} specified")
