"""What the checkpoints of a wall run add up over its starts."""

from types import SimpleNamespace

from qafel_mpi.drivers.survival.wall import WallCheckpoints
from qafel_mpi.schedule.hosting import Hosting


def checkpoints(link_bytes: int, skipped: int, busy_s: float) -> WallCheckpoints:
    server = SimpleNamespace(
        session=SimpleNamespace(
            recovery=SimpleNamespace(
                checkpoints=SimpleNamespace(
                    every=SimpleNamespace(never=False), begin_at=lambda version: None
                ),
                resumed=None,
            ),
            comm=SimpleNamespace(size=1),
            experiment=SimpleNamespace(server=SimpleNamespace(synchronous=False)),
        ),
        setup=SimpleNamespace(kept=False, clients=3),
        server=SimpleNamespace(
            version=8, full=False, state=dict, restore=dict, x_hat=SimpleNamespace(numpy=list)
        ),
        ledger=SimpleNamespace(state=dict, restore=dict),
        senders=SimpleNamespace(taken={}),
        broadcast=SimpleNamespace(link_bytes=link_bytes, skipped=skipped, begin_at=lambda version: None),
        busy_s=busy_s,
        turns={},
        questions=None,
    )
    return WallCheckpoints(server, Hosting.one_each(1))


def test_what_links_and_rank_0_have_done_adds_up_over_the_starts_of_a_run(monkeypatch):
    for name in ("share", "spread_turns"):
        monkeypatch.setattr(f"qafel_mpi.drivers.survival.wall.{name}", lambda *of: None)
    before, again = checkpoints(1000, 3, 2.5), checkpoints(200, 1, 0.5)
    again._s.session.recovery.resumed = {"run": before._state()}
    again.begin(lambda: None)
    assert again.totals() == {"down_links": 1200, "skipped_versions": 4, "busy_seconds": 3.0}
