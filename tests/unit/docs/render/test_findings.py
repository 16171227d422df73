"""Claims on made-up records whose answer is known: slopes, fits, clocks, and clients of different speeds."""

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

CODECS = {  # variant of the suite -> (uplink, downlink, 1 − δ_c, 1 − δ_s, bytes of an upload)
    "fedbuff": ("identity", "identity", 0.0, 0.0, 100.0),
    "qsgd-client2": ("qsgd", "identity", 2.0, 0.0, 8.0),
    "qsgd-client4": ("qsgd", "identity", 0.1, 0.0, 14.0),
    "qsgd-server2": ("identity", "qsgd", 0.0, 1.0, 100.0),
    "qsgd-server3": ("identity", "qsgd", 0.0, 0.5, 100.0),
    "eden-both1": ("eden", "eden", 0.5, 0.3, 4.0),
    "eden-client1": ("eden", "identity", 0.5, 0.0, 4.0),
    "randk-client4": ("randk", "identity", 3.0, 0.0, 25.0),
    "topk-client16": ("topk", "identity", 0.5, 0.0, 6.0),
}


def tradeoff(bias: float, a: float = 0.1, b: float = 0.3) -> list[dict]:
    """Uploads are those of the model; topk's are `bias` times as many."""
    return [
        {
            "variant": name,
            "seed": seed,
            "uplink": up,
            "downlink": down,
            "uploads_to_target": round(
                (1000 + 10 * seed) * (1 + a * c + b * s) * (bias if "topk" in name else 1)
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
    own, unbiased, biased, _, costly, costlier, _ = findings_tradeoff.tradeoff().checks
    assert (own.holds, unbiased.holds, biased.holds) == (True, True, False)
    assert "a: 0.100" in costly.measured
    assert "b: 0.300" in costly.measured
    assert (costly.holds, costlier.holds) == (True, True)
    monkeypatch.setattr(findings_tradeoff, "content", lambda name: tradeoff(bias=1.0))
    assert findings_tradeoff.tradeoff().checks[2].holds is True


def test_a_fit_that_misleads_predicts_worse_than_the_null(monkeypatch):
    """qsgd's errors cost uploads, those of all others none."""
    monkeypatch.setattr(findings_tradeoff, "content", lambda name: tradeoff(bias=1.0))
    assert findings_tradeoff.tradeoff().checks[3].holds is not False
    runs = tradeoff(bias=1.0)
    for run in runs:
        if "qsgd" not in (run["uplink"], run["downlink"]):
            run["uploads_to_target"] = 1000 + 10 * run["seed"]
    monkeypatch.setattr(findings_tradeoff, "content", lambda name: runs)
    found = findings_tradeoff.tradeoff().checks[3]
    assert "other unbiased codecs, by: -" in found.measured
    assert found.holds is not True


def test_a_downlink_with_least_squares_makes_a_setting_biased(monkeypatch):
    """eden-both1 has it, eden-client1 not: by the settings of the suite, not by the codec's name."""
    monkeypatch.setattr(findings_tradeoff, "content", lambda name: tradeoff(bias=1.0))
    unbiased = {one.name: one.unbiased for one in findings_tradeoff.settings()}
    assert unbiased["eden-client1"]
    assert unbiased["randk-client4"]
    assert not unbiased["eden-both1"]
    assert not unbiased["topk-client16"]


def test_the_best_codec_is_exact_on_a_fast_link_and_small_on_a_slow_one(monkeypatch):
    monkeypatch.setattr(findings_tradeoff, "content", lambda name: tradeoff(bias=2.0))
    found = findings_tradeoff.settings()
    cnn, resnet = findings_tradeoff.MODELS
    fast, slow = (
        findings_tradeoff.fastest(found, model, mbit) for model, mbit in ((cnn, 10_000), (resnet, 10))
    )
    assert fast[0].setting.name == "fedbuff"
    assert slow[0].setting.name == "eden-both1"
    assert findings_tradeoff.picked(found, found, resnet, 10) == "eden-both1"
    assert findings_tradeoff._lost(found, found, resnet, 10) == pytest.approx((1, 1, 1))


# --- clocks, speeds ----------------------------------------------------------------------------


@pytest.fixture
def clocks(monkeypatch):
    """The claim on three wall runs a data set, their replays, and those of a link's runs where there are some."""

    def of(replays: list[dict], links: list[dict] | None = None, virtual: int = 1000):
        def run(driver, uploads, digest):
            return {"run": "", "driver": driver, "uploads_to_target": uploads, "x_digest": digest}

        counts = (980, 1000, 1020)
        digits, images = (
            [run("wall", n, f"{name}{n}") for n in counts]
            + [run("virtual", round(n * scale / 1000), "") for n in counts]
            for name, scale in (("d", virtual), ("f", 1000))
        )
        found = {"clocks": digits, "clocks-fashion-mnist": images, "findings-replays": replays}
        if links is not None:
            found["findings-link-rates"] = [{"x_digest": "l0"}, {"x_digest": "l1"}]
            found["findings-replays-links"] = links
        monkeypatch.setattr(findings_messages, "content", found.__getitem__)
        monkeypatch.setattr(findings_messages, "measured", found.__contains__)
        return findings_messages.clocks().checks

    return of


def replayed(*digests: str, same: bool = True, dataset: str = "digits") -> list[dict]:
    return [
        {"x_digest": one, "same": same, "server_steps": 10, "dataset": dataset, "ranks": 4} for one in digests
    ]


def test_clocks_agree_within_a_factor(clocks):
    own = replayed("d980", "d1000", "d1020", "f980", "f1000", "f1020")
    assert [check.holds for check in clocks(own)] == [True, True]
    assert clocks(own, virtual=2000)[0].holds is False


def test_replays_are_judged_of_the_runs_of_the_table_all_of_them(clocks):
    own = replayed("d980", "d1000", "d1020")
    *_, replays = clocks(own)
    assert replays.holds is None, "those of Fashion-MNIST were not replayed"
    assert replays.measured.startswith("3 of 6 runs were replayed (3 of digits, 4 ranks), of 30 server steps")
    *_, replays = clocks(replayed("other", "runs"))
    assert (replays.holds, replays.measured) == (None, "0 of 6 runs were replayed")
    *_, replays = clocks([*own, *replayed("f980", "f1000", same=False)])
    assert replays.holds is False
    assert replays.measured.endswith("; 3 ended with the same bits")


def test_replays_of_the_links_runs_are_a_statement_of_their_own(clocks):
    own = replayed("d980", "d1000", "d1020", "f980", "f1000", "f1020")
    assert clocks(own, replayed("l0", "l1", dataset="synthetic"))[2].holds is True
    assert clocks(own, replayed("l0", dataset="synthetic"))[2].holds is None


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


def test_text_of_many_authors_is_judged_by_what_of_it_was_run(monkeypatch):
    def one(algorithm, part, uploads):
        over = {"ratio": 100 / uploads, "low": 98 / uploads, "high": 102 / uploads}
        return {
            "setting": f"{algorithm}, K = 10, {part}",
            "reached": 5,
            "runs": 5,
            "seeds": [0, 1, 2, 3, 4],
            "arrived": [True] * 5,
            "values": {"uploads": [uploads + k for k in (-1, 0, 1, -1, 1)]},
            "mean": {"uploads": uploads},
            "standard_deviation": {"uploads": 1.0},
            "fedbuff_over_this": {} if algorithm == "fedbuff" else {"uploads": over},
        }

    apart, even = findings_load.TEXTS.values()
    found = [one("fedbuff", apart, 150.0), one("qafel", apart, 100.0)]
    monkeypatch.setattr(findings_load, "content", lambda name: found)
    (pace,) = findings_load.natural_skew().checks
    assert (list(pace.settings), pace.holds) == (["a module a client"], True)
    found += [one("fedbuff", even, 100.0), one("qafel", even, 120.0), one("ca2fl", apart, 50.0)]
    pace, costlier, corrected = findings_load.natural_skew().checks
    assert (pace.holds, costlier.holds, corrected.holds) == (False, True, True)
    assert costlier.measured.startswith("1.50 [")
    assert "| a module a client | 150 ± 1.0 | 100 ± 1.0 | 1.00 " in findings_load.natural_skew().table


def test_time_to_the_target_and_weights_are_judged_by_buffer(monkeypatch):
    def runs(uploads):
        return [
            {
                "run": "",
                "seed": seed,
                "buffer_size": k,
                "mean_staleness": 50 / k,
                "payload_bytes_up_to_target": 1,
                "payload_bytes_down_to_target": 1000 // k,
                "steps_to_target": n // k,
                "uploads_to_target": n + seed,
                "seconds_to_target": 2.0 * (n + seed) if k == 50 else 1.0 * (n + seed),
            }
            for k, n in uploads.items()
            for seed in range(3)
        ]

    found = {
        "findings-buffer": runs({1: 1000, 10: 1000, 50: 1000}),
        "findings-buffer-weighted": runs({1: 4000, 10: 2000, 50: 2000}),
    }
    monkeypatch.setattr(findings_load, "content", found.__getitem__)
    _, uploads, seconds, smaller, ten, _ = findings_load.buffers().checks
    assert (uploads.holds, ten.holds) == (True, True)
    assert seconds.settings == {"K = 1": True, "K = 50": False}
    assert smaller.settings["K = 1, over K = 10"] is True


def test_a_scale_for_the_whole_tensor_is_judged_on_every_update(monkeypatch):
    """The published record: its least and its largest error bound the statement, not its mean."""
    assert findings_messages.whole_tensor().checks[0].holds is True
    assert within((0.5, 0.1, 0.9), 0.0, 1.0) is True
    assert findings_messages._over((1.0, 0.5, 2.0), (4.0, 2.0, 8.0)) == (0.25, 0.0625, 1.0)
