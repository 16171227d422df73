"""Links of many rates on made-up records whose answer is known."""

from __future__ import annotations

from itertools import product
from math import inf

import numpy as np
import pytest

from docs.render import findings_links
from docs.render.findings_links import Curve, fitted

MEGABITS = {"fedbuff": 64.0, "qsgd4": 8.0, "eden1": 2.0}
RATES = (None, None, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)
ROUNDS = range(5)


@pytest.fixture
def links(monkeypatch):
    """The claim on runs in which a message hides behind training as far as p says. noise: of a run's seconds."""

    def of(p: float, noise: float = 0.0, missing=()):
        draws = np.random.default_rng(5)
        runs = [
            {
                "variant": name,
                "seed": seed,
                "mbit": mbit,
                "per_step": None
                if (seed, mbit) in missing
                else (1 + seed / 10)
                * Curve(1.0, size, p).seconds(mbit or inf)
                * np.exp(noise * draws.normal()),
            }
            for (name, size), mbit, seed in product(MEGABITS.items(), RATES, ROUNDS)
        ]
        monkeypatch.setattr(findings_links, "content", lambda name: runs)
        return findings_links.links()

    return of


@pytest.mark.parametrize(("p", "half"), [(1.0, 64.0), (4.0, 32.5), (30.0, 32.0)])
def test_half_the_speed_is_where_messages_take_as_long_as_the_rest_or_twice_as_long(links, p, half):
    """Where they add to the rest, half the speed is left when they take as long; where they hide, when twice as long.

    A round's own speed cancels out, and so does what all messages have in common.
    """
    found = links(p)
    assert f"| 50% | {half:.1f} |" in found.table
    for check, ratio in zip(found.checks, (8, 32), strict=True):
        assert check.holds is True
        assert check.measured.count(f"{ratio}.0" if ratio > 10 else f"{ratio}.00") == 4, check.measured


def test_rates_that_runs_with_noise_show_are_right_to_a_few_percent_at_95_percent_too(links):
    found = links(6.0, noise=0.03)
    cells = next(line for line in found.table.splitlines() if line.startswith("| 95%")).split("|")
    exact = Curve(1.0, 64.0, 6.0).rate_at(0.95)
    low, high = map(float, cells[2].split("[")[1].rstrip("] ").split(", "))
    assert low < exact < high
    assert high / low < 1.3


def test_no_rate_is_below_what_the_link_lets_through():
    """Steps of 11 megabits, at rates far apart: what is read off between two of them goes through the link."""
    made = {3.0: 11.0 / 3, 10.0: 11.0 / 10, 30.0: 0.5, 100.0: 0.5, inf: 0.5}
    curve = fitted(made)
    assert curve is not None
    for share in findings_links.SHARES:
        assert curve.rate_at(share) * 0.5 / share >= 11.0 * 0.999


def test_the_seconds_at_every_rate_are_shown_and_how_far_the_curves_are_from_them(links):
    found = links(2.0, missing={(1, 0.5)})
    assert "| 0.5 | – | – | – |" in found.table, "a round has none"
    assert "| 64 | 1.69 [" in found.table
    assert "| free | 1.19 [" in found.table
    line = found.table.splitlines()[-1]
    assert line.startswith("The curves' largest distance from the mean seconds at a rate: 0.")


def test_a_rate_beyond_those_measured_leaves_the_statement_open(monkeypatch):
    runs = [
        {"variant": name, "seed": seed, "mbit": mbit, "per_step": 1.0}
        for name, mbit, seed in product(MEGABITS, (None, 1.0, 10.0, 100.0), ROUNDS)
    ]
    monkeypatch.setattr(findings_links, "content", lambda name: runs)
    assert [check.holds for check in findings_links.links().checks] == [None, None]


@pytest.mark.parametrize("lacks", [None, 1.0], ids=["the free link", "a shaped one"])
def test_a_round_that_lacks_what_its_curve_needs_leaves_the_statement_open(monkeypatch, lacks):
    runs = [
        {
            "variant": name,
            "seed": seed,
            "mbit": mbit,
            "per_step": None if seed == 0 and mbit == lacks else Curve(1.0, 4.0, 1.0).seconds(mbit or inf),
        }
        for name, mbit, seed in product(MEGABITS, (None, 1.0, 10.0, 100.0), ROUNDS)
    ]
    monkeypatch.setattr(findings_links, "content", lambda name: runs)
    assert [check.holds for check in findings_links.links().checks] == [None, None]
