"""bench server: its numbers with a made-up clock, its traffic by hand, and that a wrong step is called wrong."""

from itertools import count

import numpy as np
import pytest

from qafel_mpi.bench import server
from qafel_mpi.bench.measuring.result import MEMORY_PASS
from qafel_mpi.bench.measuring.timing import Limits
from qafel_mpi.codecs.bucketed import Bucketed
from qafel_mpi.config import ConfigError

SHORT = Limits(seconds=0.0, least=2, warmups=1)
D = 1000


@pytest.fixture
def clock(monkeypatch):
    """Seconds go up by 1 whenever the benchmark looks: a span between two looks is one second."""
    ticks = count()
    monkeypatch.setattr(server, "perf_counter", lambda: float(next(ticks)))


def test_receive_is_of_one_upload_and_both_of_all_with_their_step(clock):
    found = list(server.rows([server.Point("qafel", D, 4, 1)], SHORT))
    assert [row.parameters["operation"] for row in found] == ["receive", "step", "both"]
    assert [row.ours.median for row in found] == [1 / 4, 1.0, 2.0]
    assert [row.derived["copies"] for row in found] == [1 / 4, 1.0, 2.0]
    for row in found:
        assert row.parameters == {"operation": row.parameters["operation"], "algorithm": "qafel"} | {
            "d": D, "buffer": 4, "threads": 1
        }  # fmt: skip
        passes = 1 / 4 if row.parameters["operation"] == "receive" else 1.0
        assert (row.reference_name, row.reference.median, row.wrong) == (MEMORY_PASS, passes, 0)


def test_a_downlink_that_is_no_contraction_is_refused_as_one():
    with pytest.raises(
        ConfigError, match=r"^bench server: downlink: codec qsgd at 1 bits is no contraction: δ = -"
    ):
        server.Work(server.Point("qafel", D, 4, 1, ("downlink.bits=1",)))


@pytest.mark.parametrize(
    ("algorithm", "settings", "up", "vectors", "down"),
    [
        # The sum; x, m and x̂ read and written; q^t: two buckets, 4 bits an element.
        ("qafel", (), 508, 1 + 2 * 3, 508),
        ("qafel", ("server.momentum=0",), 508, 1 + 2 * 2, 508),
        # The sum; x and m read and written, x̂ and the model's message written.
        ("fedbuff", (), 4 * D, 1 + 2 * 2 + 1, 4 * D),
        ("fadas", (), 4 * D, 1 + 2 * 4 + 1, 4 * D),
    ],
)
def test_the_traffic_is_what_must_be_read_and_written(algorithm, settings, up, vectors, down):
    work = server.Work(server.Point(algorithm, D, 3, 1, settings))
    # Three uploads: the buffer is read for two of them, and written for all.
    receive, step = 4 * D * 5 / 3 + up, 4 * vectors * D + down
    found = [work.traffic(operation) for operation in server.OPERATIONS]
    assert found == pytest.approx([receive, step, 3 * receive + step])


def test_the_pass_touches_all_that_a_step_is_said_to_touch():
    work = server.Work(server.Point("fedbuff", 2048, 1, 1))
    work._step_pass()
    assert all((one != 0).all() for one in (*work.moved, work.written))
    assert (work.passes_down._payload != 0).all()


def test_a_step_that_is_not_its_parts_is_wrong(monkeypatch):
    work = server.Work(server.Point("qafel", D, 2, 1))
    assert work.wrong() == 0
    honest = Bucketed.move_and_encode

    def careless(codec, motion, x_hat, out, key, *, assigns, measure):
        made = honest(codec, motion, x_hat, out, key, assigns=assigns, measure=measure)
        motion.x[:] = -motion.x
        return made

    monkeypatch.setattr(Bucketed, "move_and_encode", careless)
    assert work.wrong() >= np.count_nonzero(work.x)


def test_with_rules_a_server_without_them_takes_turns(clock):
    rules = tuple(f'{side}link.rules=[{{max_rank=1,codec="identity"}}]' for side in ("up", "down"))
    point = server.Point("qafel", 29_282, 2, 1, rules)
    assert server.Work(point).uplink.name == "qsgd with rules"
    assert server.Work(point.without_rules()).uplink.name == "qsgd"
    found = list(server.rows([point], SHORT))
    assert [row.derived["over_plain"] for row in found] == [1.0, 1.0, 1.0]
    assert [row.wrong for row in found] == [0, 0, 0]


def test_without_rules_there_is_nothing_else_to_compare_with(clock):
    point = server.Point("qafel", 29_282, 2, 1)
    assert point.without_rules() is None
    assert all("over_plain" not in row.derived for row in server.rows([point], SHORT))
