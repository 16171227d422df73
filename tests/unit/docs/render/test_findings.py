"""Claims on made-up records whose answer is known: slopes, fits, links, and clients of different speeds."""

from itertools import product

import numpy as np
import pytest

from docs.render import findings_load, findings_messages, findings_speeds, findings_theory, findings_tradeoff
from docs.render.verdicts import within

SEEDS = range(12)


# --- orders -------------------------------------------------------------------------------------------


def cross_term(exponent: float, size: float = 0.5) -> dict:
    """Runs of the suite cross-term: staleness falls as T^-1.5, quantization as T^-0.5, both as asked."""
    noise = np.random.default_rng(3)
    runs = []
    for t, bits, stale, seed in product(findings_theory.HORIZONS, (0, 1), (0, 1), SEEDS):
        value = 1 + 40 * stale * t**-1.5 + 0.2 * bits * t**-0.5 + size * bits * stale * t**exponent
        name = f"{('exact', '2bit')[bits]}-{('fresh', 'stale')[stale]}-T{t}-seed{seed}.h5"
        runs.append({"run": name, "seed": seed, "gradient": value * (1 + 1e-6 * noise.standard_normal())})
    return {"runs": runs}


def staleness_sweep() -> dict:
    """Of the suite staleness-sweep: what staleness costs is 0.01 of its mean, whatever the bits."""
    levels = {"fresh": 0.0}
    for level in findings_theory.LEVELS:
        most = float(level.removeprefix("constant").removeprefix("uniform"))
        levels[level] = most / 2 if level.startswith("uniform") else most
    return {
        "runs": [
            {
                "run": f"{bits}{level}-seed{seed}.h5",
                "seed": seed,
                "gradient": 1 + 0.01 * mean * (1 + 0.001 * ((seed * number) % 5)) + 1e-6 * seed,
            }
            for number, bits in enumerate(findings_theory.BITS, 1)
            for (level, mean), seed in product(levels.items(), SEEDS)
        ]
    }


@pytest.fixture
def of_orders(monkeypatch):
    """Judge the claim on a cross term of this exponent and size; its statements by their beginnings."""

    def judged(exponent: float, size: float = 0.5):
        found = {"findings-staleness": staleness_sweep(), "findings-cross-term": cross_term(exponent, size)}
        monkeypatch.setattr(findings_theory, "content", found.__getitem__)
        return [*findings_theory.staleness().checks, *findings_theory.cross_term().checks]

    return judged


def test_slopes_against_t_are_found_and_judged(of_orders):
    *levels, stale, quantized, cross, than_stale, faster = of_orders(-1.4)
    assert [check.holds for check in levels] == [True, True, True]
    assert "With 12 seeds a change by 0.0" in levels[2].measured
    assert "With 12 seeds a factor of 1.0" in levels[1].measured
    assert stale.measured.startswith("-1.50")
    assert stale.holds is True
    assert quantized.measured.startswith("-0.500")
    assert cross.measured.startswith("-1.4")
    assert "With 12 seeds a truth 0.0" in cross.measured
    assert (cross.holds, than_stale.holds, faster.holds) == (True, False, True), "staleness falls as T^-1.5"
    *_, cross, faster = of_orders(-0.3)
    assert (cross.holds, faster.holds) == (False, False)


def test_a_cross_term_that_is_lost_in_the_noise_has_no_slope(of_orders):
    *_, cross, faster = of_orders(-1.4, 0.0)
    assert cross.measured == "–. Not above zero at every T, so there is no slope"
    assert faster.measured == cross.measured
    assert (cross.holds, faster.holds) == (None, None)


# --- the trade-off ------------------------------------------------------------------------------------

CODECS = {  # variant -> (uplink, downlink, 1 − δ_c, 1 − δ_s, bytes of an upload)
    "fedbuff": ("identity", "identity", 0.0, 0.0, 100.0),
    "qsgd-client2": ("qsgd", "identity", 2.0, 0.0, 8.0),
    "qsgd-client4": ("qsgd", "identity", 0.1, 0.0, 14.0),
    "qsgd-server2": ("identity", "qsgd", 0.0, 1.0, 100.0),
    "qsgd-server3": ("identity", "qsgd", 0.0, 0.5, 100.0),
    "eden-both1": ("eden", "eden", 0.5, 0.3, 4.0),
    "topk-client": ("topk", "identity", 0.5, 0.0, 6.0),
}


def tradeoff(bias: float) -> list[dict]:
    """Uploads are those of the model with a = 0.1 and b = 0.3; topk's are `bias` times as many."""
    return [
        {
            "variant": name,
            "seed": seed,
            "uplink": up,
            "downlink": down,
            "uploads_to_target": round(
                (1000 + 10 * seed) * (1 + 0.1 * c + 0.3 * s) * (bias if "topk" in name else 1)
            ),
            "uploads": 0,
            "delta_c": 1 - c,
            "delta_s": 1 - s,
            "upload_bytes": size,
            "broadcast_bytes": size if down != "identity" else 100.0,
            "buffer_size": 10,
        }
        for name, (up, down, c, s, size) in CODECS.items()
        for seed in range(5)
    ]


def test_a_fit_to_qsgd_predicts_what_follows_the_model_and_misses_what_does_not(monkeypatch):
    monkeypatch.setattr(findings_tradeoff, "content", lambda name: tradeoff(bias=2.0))
    own, unbiased, biased, costlier, _ = findings_tradeoff.tradeoff().checks
    assert (own.holds, unbiased.holds, biased.holds) == (True, True, False)
    assert "a: 0.100" in costlier.measured
    assert "b: 0.300" in costlier.measured
    assert costlier.holds is True
    monkeypatch.setattr(findings_tradeoff, "content", lambda name: tradeoff(bias=1.0))
    assert findings_tradeoff.tradeoff().checks[2].holds is True


def test_the_best_codec_is_exact_on_a_fast_link_and_small_on_a_slow_one(monkeypatch):
    monkeypatch.setattr(findings_tradeoff, "content", lambda name: tradeoff(bias=2.0))
    found = findings_tradeoff.settings()
    by_name = {one.name: one for one in found}
    assert findings_tradeoff._best(found, None, 0.1) is by_name["qsgd-client4"]
    assert findings_tradeoff._best(found, None, 100.0) is by_name["eden-both1"]
    assert findings_tradeoff._lost(found, found, 100.0) == pytest.approx((1, 1, 1))


# --- links, clocks, speeds ----------------------------------------------------------------------------


def test_links_are_compared_at_the_same_share_of_the_speed_on_a_free_one(monkeypatch):
    """A message of b bits takes b/rate beside a second of work, so that half the speed is reached at rate b."""
    sizes = {"fedbuff": 64.0, "qsgd4": 8.0, "eden1": 2.0}
    runs = [
        {
            "variant": name,
            "seed": seed,
            "mbit": mbit,
            "per_step": (1 + seed / 10) * (1 + (size / mbit if mbit else 0)),
        }
        for name, size in sizes.items()
        for mbit in (None, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)
        for seed in range(3)
    ]
    monkeypatch.setattr(findings_messages, "content", lambda name: runs)
    four, one = findings_messages.links().checks
    assert four.holds is True
    assert "50%: 8.00" in four.measured
    assert one.holds is True
    assert "50%: 32.0" in one.measured
    assert "| 50% | 64.0 | 8.00 | 2.00 |" in findings_messages.links().table


def test_a_rate_beyond_those_measured_leaves_the_statement_open(monkeypatch):
    runs = [
        {"variant": name, "seed": seed, "mbit": mbit, "per_step": 1.0}
        for name in findings_messages.VARIANTS
        for mbit in (None, 1.0, 10.0)
        for seed in range(3)
    ]
    monkeypatch.setattr(findings_messages, "content", lambda name: runs)
    assert [check.holds for check in findings_messages.links().checks] == [None, None]


def test_runs_of_a_link_that_were_too_slow_for_two_steps_leave_the_statement_open(monkeypatch):
    """One seed had no step on the free link, the other none on the shaped ones."""
    runs = [
        {
            "variant": name,
            "seed": seed,
            "mbit": mbit,
            "per_step": 1.0 if (mbit is None) == (seed == 0) else None,
        }
        for name in findings_messages.VARIANTS
        for mbit in (None, 1.0, 10.0)
        for seed in range(2)
    ]
    monkeypatch.setattr(findings_messages, "content", lambda name: runs)
    assert [check.holds for check in findings_messages.links().checks] == [None, None]


def test_clocks_agree_within_a_factor_and_one_replay_that_differs_fails(monkeypatch):
    def run(driver, uploads):
        return {"run": "", "driver": driver, "uploads_to_target": uploads}

    counts = (980, 1000, 1020)
    clocks = [run(driver, n) for driver in ("wall", "virtual") for n in counts]
    replays = [{"same": True, "server_steps": 10}, {"same": True, "server_steps": 20}]
    found = {"clocks": clocks, "clocks-fashion-mnist": clocks, "findings-replays": replays}
    monkeypatch.setattr(findings_messages, "content", found.__getitem__)
    assert findings_messages.clocks().verdict == "holds"
    found["clocks"] = [run("wall", n) for n in counts] + [run("virtual", 2 * n) for n in counts]
    replays[0]["same"] = False
    assert findings_messages.clocks().verdict == "does not hold here"


def speeds(lag: float) -> list[dict]:
    """Where speed follows the labels, the model lags by so much on the last three of ten classes; by time half."""
    behind = {("labels", "constant"): lag, ("labels", "polynomial"): lag, ("labels", "rate"): lag / 4}
    share = {"constant": 0.04, "polynomial": 0.02, "rate": 0.2}
    return [
        {
            "variant": f"{algorithm}-{follows}-{weight}",
            "algorithm": algorithm,
            "seed": seed,
            "uploads_to_target": 100,
            "accuracy": 0.9,
            "slowest": {"clients": 0.2, "uploads": 0.04, "weights": share[weight] * (1 + seed / 1000)},
            "accuracy_by_class": [0.9] * 7 + [0.9 - behind.get((follows, weight), 0.0) - seed / 10_000] * 3,
        }
        for algorithm in ("qafel", "fedbuff")
        for follows in ("apart", "labels")
        for weight in findings_speeds.WEIGHTS
        for seed in range(5)
    ]


def test_slow_clients_count_for_too_little_and_weights_by_time_mend_it(monkeypatch):
    one = {
        "setting": "",
        "reached": 5,
        "runs": 5,
        "mean": {"uploads": 1.0},
        "standard_deviation": {"uploads": 0.0},
    }
    same = {"ratio": 1.0, "low": 0.99, "high": 1.01}
    spreads = {
        sigma: {name: one | {"fedbuff_over_this": {"uploads": same}} for name in ("qafel", "fedbuff")}
        for sigma in findings_speeds.SPREADS
    }
    monkeypatch.setattr(findings_speeds, "_spreads", lambda: spreads)
    monkeypatch.setattr(findings_speeds, "content", lambda name: speeds(lag=0.2))
    assert findings_speeds.speeds().verdict == "holds"
    monkeypatch.setattr(findings_speeds, "content", lambda name: speeds(lag=0.0))
    assert findings_speeds.speeds().checks[4].holds is False


SKEW_SEEDS = range(5)


def skews(ca2fl: float, strong: float | None = None) -> list[dict]:
    """QAFeL needs FedBuff's uploads, and CA²FL this many times as many; where skew is strong, `strong` as many."""
    times_of = {"fedbuff": 1.0, "qafel": 1.0, "ca2fl": ca2fl}
    of_strong = {findings_load.SKEWS[name] for name in findings_load.STRONG_SKEWS}
    return [
        {
            "setting": f"{algorithm}, K = 10, {part}",
            "reached": 5,
            "runs": 5,
            "seeds": [*SKEW_SEEDS],
            "arrived": [True for _ in SKEW_SEEDS],
            "values": {"uploads": [(100 + seed) * times * noise ** (seed * odd % 7) for seed in SKEW_SEEDS]},
            "mean": {"uploads": 100.0},
            "standard_deviation": {"uploads": 1.0},
            "fedbuff_over_this": {"uploads": {"ratio": 1 / times, "low": 0.99 / times, "high": 1.01 / times}},
        }
        for algorithm in times_of
        for noise in [1.001 if algorithm == "ca2fl" else 1.0]
        for odd, part in enumerate(findings_load.SKEWS.values(), 1)
        for times in [
            strong if strong and algorithm == "ca2fl" and part in of_strong else times_of[algorithm]
        ]
    ]


def test_the_correction_for_skew_is_judged_where_skew_is_strong(monkeypatch):
    monkeypatch.setattr(findings_load, "content", lambda name: skews(0.5))
    same, _, fewer, corrected = findings_load.skew().checks
    assert (same.holds, fewer.holds, corrected.holds) == (True, True, None)
    assert fewer.measured.startswith("α = 0.1: 0.500 [0.495, 0.505]; α = 0.05: 0.500")
    assert "| two classes a client | 100 ± 1.0 | 100 ± 1.0 | 1.00 [0.990, 1.01] | 100 ± 1.0 | 0.500 [" in (
        findings_load.skew().table
    )
    monkeypatch.setattr(findings_load, "content", lambda name: skews(1.5))
    assert findings_load.skew().checks[2].holds is False
    monkeypatch.setattr(findings_load, "content", lambda name: skews(1.0))
    assert findings_load.skew().checks[2].holds is None
    for strong, holds in ((0.5, True), (0.9, False)):
        monkeypatch.setattr(findings_load, "content", lambda name, strong=strong: skews(0.7, strong))
        assert findings_load.skew().checks[3].holds is holds


def test_a_scale_for_the_whole_tensor_is_judged_on_every_update(monkeypatch):
    """The published record: its least and its largest error bound the statement, not its mean."""
    assert findings_messages.whole_tensor().checks[0].holds is True
    assert within((0.5, 0.1, 0.9), 0.0, 1.0) is True
    assert findings_messages._over((1.0, 0.5, 2.0), (4.0, 2.0, 8.0)) == (0.25, 0.0625, 1.0)
