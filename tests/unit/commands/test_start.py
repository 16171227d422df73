"""The beginning of the console scripts."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
from qafel_analysis.commands import start as analysis_start

from qafel_mpi.commands import start


@pytest.fixture(params=[start, analysis_start], ids=["qafel-mpi", "qafel-analysis"])
def handlers(request, monkeypatch):
    """What SIGINT does while the command is loaded and while it runs, by what it did before."""

    def seen(before: Any) -> list[object]:
        found: list[object] = []

        def see() -> None:
            found.append(signal.getsignal(signal.SIGINT))

        def load(name: str) -> SimpleNamespace:
            assert name == request.param.__name__.replace("start", "app")
            see()
            return SimpleNamespace(main=see)

        monkeypatch.setattr(request.param, "import_module", load)
        kept = signal.signal(signal.SIGINT, before)
        try:
            request.param.main()
        finally:
            signal.signal(signal.SIGINT, kept)
        return found

    return seen


def test_ctrl_c_ends_the_process_by_the_signal_itself_until_the_command_is_loaded(handlers):
    assert handlers(signal.default_int_handler) == [signal.SIG_DFL, signal.default_int_handler]


def test_where_ctrl_c_is_ignored_it_stays_so(handlers):
    assert handlers(signal.SIG_IGN) == [signal.SIG_IGN, signal.SIG_IGN]
