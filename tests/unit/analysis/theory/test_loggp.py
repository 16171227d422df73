"""The model of a broadcast: its arithmetic, and that a fit finds what made the timings."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from qafel_analysis.commands.app import app
from qafel_analysis.read.bench import read_bench
from qafel_analysis.theory.loggp import (
    ALGORITHMS,
    LogGP,
    Observation,
    broadcast_s,
    crossover,
    fit,
    misfit,
    observations,
    on_link,
    predicted_s,
)
from typer.testing import CliRunner

from qafel_mpi.trace.reader import TraceError
from qafel_mpi.transport.tree import children

TRUE = LogGP(
    L=2e-6, o=1e-6, g=3e-6, G=1e-10, check=2e-6, check_byte=1e-10, handle=8e-6, handle_byte=1.5e-9, share=3e-5
)


def made(p: LogGP, noise: float = 0.0) -> list[Observation]:
    """Every kind of observation as the benchmarks give it, with lognormal noise."""
    random = np.random.default_rng(1)
    asked = [
        Observation(what, size, 1.0)
        for what in ("latency", "bandwidth", "post", "check", "handle")
        for size in (1e3, 1e4, 1e5, 1e6, 4e6)
    ]
    asked += [
        Observation(name, size, 1.0, ranks, 2)
        for name in ALGORITHMS
        for size in (15e3, 262e3, 6e6)
        for ranks in (2, 4, 8, 16)
    ]
    return [
        Observation(
            one.what, one.size, predicted_s(p, one) * math.exp(noise * random.normal()), one.ranks, one.cores
        )
        for one in asked
    ]


def test_the_fit_finds_the_parameters_that_made_the_timings():
    seen = made(TRUE)
    found = fit(seen)
    assert asdict(found) == pytest.approx(asdict(TRUE), rel=0.02)
    assert misfit(found, seen) == pytest.approx(1, abs=1e-3)


def test_noise_of_a_tenth_moves_the_parameters_by_as_much_and_outliers_hardly():
    seen = made(TRUE, noise=0.1)
    spoilt = [*seen[1:], Observation("fanout", 15e3, 10.0, 8, 2)]
    for observed in (seen, spoilt):
        found = fit(observed)
        for name in ("o", "G", "handle_byte"):
            assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.25)
        assert 1.02 < misfit(found, observed) < 1.2


def test_a_fit_without_p2p_is_refused_with_what_is_missing():
    with pytest.raises(TraceError, match="no measurement of bandwidth, latency: give the JSON of"):
        fit([one for one in made(TRUE) if one.what not in ("latency", "bandwidth")])


@pytest.mark.parametrize("size", [100.0, 1e6])
@pytest.mark.parametrize("ranks", [2, 4, 64, 1024])
def test_the_trees_formula_is_what_its_sends_add_up_to(ranks, size):
    """Send by send: a child has it a hop after its parent's post, its siblings a gap apart."""
    arrived = {0: 0.0}
    for rank in range(ranks):
        ready = arrived[rank] + (TRUE.checking(size) if rank else 0.0)
        for i, child in enumerate(children(rank, ranks)):
            arrived[child] = ready + i * TRUE.gap(size) + TRUE.hop(size)
    assert broadcast_s(TRUE, "tree", ranks, size) == pytest.approx(
        max(arrived.values()) + TRUE.handling(size)
    )


def test_by_hand_and_where_the_tree_overtakes():
    p = LogGP(L=1, o=1, g=2, G=0, check=0, check_byte=0, handle=5, handle_byte=0, share=1)
    assert broadcast_s(p, "fanout", 5, 1) == 3 * 2 + 2 + 5
    assert broadcast_s(p, "tree", 5, 1) == 2 * 2 + 2 + 5
    assert broadcast_s(p, "fanout", 5, 1, cores=2) == 13 + 3 / 2 * (1 + 5)
    assert broadcast_s(p, "fanout", 5, 1, poll_s=7) == 13 + 7
    assert broadcast_s(p, "tree", 5, 1, poll_s=7) == 11 + 3 * 7
    assert broadcast_s(p, "ibcast", 10, 81_920) == 9 * 1 + 9 * 2 + 5  # a chain of ten segments
    found = crossover(p, 1)
    assert found is not None
    assert broadcast_s(p, "tree", found, 1) < broadcast_s(p, "fanout", found, 1)
    assert broadcast_s(p, "tree", found - 1, 1) >= broadcast_s(p, "fanout", found - 1, 1)
    assert crossover(p, 1, poll_s=1e9) is None
    assert on_link(p, latency_us=2, link_gbit=8) == LogGP(2e-6, 1, 2, 1e-9, 0, 0, 5, 0, 1)


def bench_file(folder: Path) -> Path:
    """What `bench all --json` writes, as the model TRUE has it."""
    rows = [
        {"bench": "p2p", "operation": name, "bytes": size, "median_us": 9.0,
         "reference_median_us": 1e6 * predicted_s(TRUE, Observation(name, size, 1))}
        for name in ("latency", "bandwidth") for size in (1000, 1_000_000)
    ] + [
        {"bench": "broadcast", "algorithm": name, "bytes": size, "ranks": ranks, "cores": 2,
         "median_us": 1e6 * broadcast_s(TRUE, name, ranks, size, cores=2), "post_us": 1e6 * TRUE.o,
         "check_us": 1e6 * TRUE.checking(size), "handle_us": 1e6 * TRUE.handling(size)}
        for name in ALGORITHMS for size in (15_000, 6_000_000) for ranks in (2, 8)
    ]  # fmt: skip
    path = folder / "all.json"
    path.write_text(json.dumps({"bench": "all", "rows": rows}))
    return path


def test_the_command_reads_benchmarks_and_prints_both_tables(tmp_path):
    path = bench_file(tmp_path)
    seen = observations(read_bench(path))
    assert len(seen) == 4 + 12 + 2 * (3 + 3 + 3) - 2 * 2  # ibcast's post and the tree's handling are left out
    done = CliRunner().invoke(app, ["broadcast", str(path), "--json", "--link-gbit", "100"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["fit"] == pytest.approx(asdict(TRUE), rel=0.1)
    assert found["network"]["G"] == pytest.approx(8e-11)
    assert {row["ranks"] for row in found["paper"]} >= {1000, 10000}
    tables = CliRunner().invoke(app, ["broadcast", str(path), "--markdown"])
    assert tables.exit_code == 0
    assert "On paper, not measured" in tables.stdout
    assert CliRunner().invoke(app, ["broadcast", str(tmp_path / "none.json")]).exit_code == 2
