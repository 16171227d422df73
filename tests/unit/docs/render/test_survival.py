"""The block about runs under faults, from accounts that were made up."""

import json

import pytest
from qafel_analysis.tables import launches

from docs.render import survival
from qafel_mpi.bench.chaos import accounts
from qafel_mpi.bench.chaos.accounts import Injected, Turn
from qafel_mpi.bench.chaos.schedule import Fault
from qafel_mpi.bench.measuring.result import Result


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """What record.sh would make of two pairs of turns; a kill lost 1 message, a cut took back 14 updates."""
    kill = Injected(Fault(1.0, "kill", 2, 0.0), noticed_s=0.25, recovered_s=0.5, lost=1)
    cut = Injected(Fault(3.0, "cut", 0, 0.0), recovered_s=4.0, lost=14)
    under = [Turn(990, 100.0, [kill, cut]), Turn(970, 100.0)]
    free = [Turn(330, 33.0), Turn(330, 33.0)]
    path = tmp_path / "digits.json"
    Result("chaos", list(accounts.rows(under, free, 8)), {}).write_json(path)
    content = json.loads(json.dumps(launches.read(path)))
    monkeypatch.setattr(survival, "measured", lambda name: name == "chaos-digits")
    monkeypatch.setattr(survival, "content", lambda name: content)
    monkeypatch.setattr(survival, "origin", lambda *names: f"from {' '.join(names)}")


def test_the_block_has_each_kind_all_together_and_what_is_missing(recorded):
    kinds, totals, missing, origin = survival.faults().split("\n\n")
    assert kinds.splitlines()[2:] == [
        "| digits | kill | 1 | 1 | 0 | 250 ms, 250 ms | 500 ms |",
        "| digits | cut | 1 | 14 | 0 | – | 4.00 s |",
    ]
    assert totals.splitlines()[2:] == [
        "| digits | 8 | 2 | 98.0% (97.0% to 99.0%) | at least 98%, met | 1,960 | 15 | 0 | 0 |"
    ]
    # 14 of the 1,974 updates that were recorded; 1,960 used where 660 were in a third of the time; one cut
    assert missing == (
        "digits: 2.00% of goodput is missing, and cuts took back 0.71% of the updates. With every "
        "client rank counted at all times, dead ones too, the job used 99.0% as many updates per second of training; "
        "to start again after its cuts took 4 s more."
    )
    assert origin == "from chaos-digits"
