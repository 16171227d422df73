"""The tables of the headline: their order, FedBuff as the unit, and sets of which only a part was run."""

import pytest

from docs.render import findings_tasks, headline, headline_goals
from docs.render.verdicts import Check
from qafel_mpi import experiments


def one(setting: str, uploads: float | None, over: dict) -> dict:
    size = None if uploads is None else 1e6 * uploads
    sizes = {f"{count}_bytes_{way}": size for count in ("payload", "wire") for way in ("up", "down")}
    return {
        "setting": setting,
        "algorithm": setting.partition(",")[0],
        "target": "accuracy ≥ 0.9",
        "runs": 3,
        "reached": 3 if uploads else 0,
        "seeds": [0, 1, 2],
        "mean": {"uploads": uploads, **sizes},
        "standard_deviation": {"uploads": None if uploads is None else 0.5},
        "fedbuff_over_this": over,
    }


def test_fedbuff_stands_first_and_uploads_are_over_its_own(monkeypatch):
    times = {"ratio": 0.5, "low": 0.4, "high": 0.8}
    found = [
        one(
            "ca2fl, float32 up, float32 down, K = 10",
            None,
            {"uploads": {"ratio": 0.25, "low": 0.0, "high": 0.3}},
        ),
        one(
            "qafel, eden 1 bits up, eden 1 bits down, K = 10",
            4,
            {"uploads": times, "payload_bytes_up": times},
        ),
        one("fedbuff, float32 up, float32 down, K = 10, staleness.weight = polynomial", 2, {}),
    ]
    monkeypatch.setattr(headline, "content", lambda name: found)
    monkeypatch.setattr(headline, "origin", lambda *names: "")
    monkeypatch.setattr(headline, "unrun", lambda task: [])
    table = [line for line in headline.digits_suite().splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[0] for line in table] == [
        "| fedbuff, float32",
        "| qafel, eden 1 bits",
        "| ca2fl, float32",
    ]
    assert "| 4.00 ± 0.50 | 2.00 [1.25, 2.50] | 4 MB | 0.500 [0.400, 0.800] |" in table[1]
    assert "| 0 of 3 | – | ≥ 4.00 [3.33, ∞] |" in table[2], "what its runs had spent"


def test_a_rival_s_best_bits_are_those_of_the_fewest_bytes_that_reach_the_target_as_often():
    found = [
        one("fedbuff, float32 up, float32 down, K = 10", 2, {}),
        one("qafel, eden 1 bits up, eden 1 bits down, K = 10", 1, {}),
        one("qafel, eden 2 bits up, eden 2 bits down, K = 10", 2, {}),
        one("ca2fl, float32 up, float32 down, K = 10", 9, {}),
        one("ca2fl (uplink.codec = eden), eden 2 bits up, float32 down, K = 10", 3, {}),
        one("ca2fl (uplink.codec = eden), eden 1 bits up, float32 down, K = 10", 2, {}) | {"reached": 1},
        one("fadas, float32 up, float32 down, K = 10", 5, {}),
        one("quafl, lattice 8 bits up, lattice 8 bits down, K = 10", 5, {}) | {"reached": 0},
        one("quafl, lattice 4 bits up, lattice 4 bits down, K = 10", 4, {}) | {"reached": 0},
    ]
    best = headline.best_bits(found)
    assert best == {"ca2fl": "ca2fl (uplink.codec = eden), eden 2 bits up, float32 down, K = 10"}
    assert headline._of_bits(found, best).endswith(
        "Run with one codec: `fadas`. Never at the target: `quafl`."
    )


def test_goals_are_judged_with_both_models_and_say_what_was_not_run(monkeypatch):
    def of(ratio: float) -> dict:
        return {"ratio": ratio, "low": ratio * 0.9, "high": ratio * 1.1}

    cheap = one("qafel, eden 2 bits up, eden 2 bits down, K = 10", 2, {})
    cheap["fedbuff_over_this"] = {"uploads": of(1.0), "payload_bytes_up": of(20.0)}
    cheap["mean"]["payload_bytes_up"] = 1e5
    fedbuff = one("fedbuff, float32 up, float32 down, K = 10", 2, {})
    monkeypatch.setattr(headline, "joined", lambda task: [fedbuff, cheap])
    monkeypatch.setattr(headline, "records_of", lambda task: (task,))
    monkeypatch.setattr(headline_goals, "origin", lambda *names: " ".join(names))
    shown = headline_goals.goals()
    for model in ("the paper's CNN", "a transformer"):
        (line,) = [one for one in shown.splitlines() if one.startswith(f"| {model} | 2 bits |")]
        assert "| 1.00 [0.909, 1.11] | open; by the mean reached | 20.0 [18.0, 22.0] | 15 | reached |" in line
        assert line.endswith("| 20.0 | 1.33 |"), "2 MB over 0.1 MB, and 20 over 15"
        assert f"| {model} | 1 bit | – | not run |" in shown
    assert shown.endswith("fashion-mnist text")


def test_variants_that_no_command_ran_are_named(monkeypatch):
    commands = ["qafel-mpi suite headline-digits --seeds 0 --variant fedbuff", "… --seeds 1 --variant eden1"]
    monkeypatch.setattr(headline, "record", lambda name: {"sources": [{"command": one} for one in commands]})
    assert set(headline.unrun("digits")) == set(experiments.tables("headline-digits")["variants"]) - {
        "fedbuff",
        "eden1",
    }
    commands.append("qafel-mpi suite headline-digits --seeds 0-4")
    assert headline.unrun("digits") == []


def test_rivals_that_were_run_later_stand_in_one_table_with_the_others(monkeypatch):
    """FedBuff is in both records, so that every ratio is one of runs of the same code; it is shown once."""
    same = {"ratio": 1.0, "low": 0.95, "high": 1.05}
    fedbuff = one("fedbuff, float32 up, float32 down, K = 10", 2, {})
    later = one("fadas, float32 up, float32 down, K = 10", 3, {"uploads": same})
    ours = one("qafel, eden 1 bits up, eden 1 bits down, K = 10", 4, {"uploads": same})
    found = {"headline-text": [fedbuff, ours], "headline-text-rivals": [later, fedbuff | {"mean": {}}]}
    commands = {
        "headline-text": "suite headline-text --seeds 0-2 --variant eden1 --variant fedbuff",
        "headline-text-rivals": "suite headline-text --seeds 0-2 --variant fadas --variant fedbuff",
    }
    monkeypatch.setattr(headline, "content", found.__getitem__)
    monkeypatch.setattr(headline, "record", lambda name: {"sources": [{"command": commands[name]}]})
    monkeypatch.setattr(headline, "beside", lambda name, other: other in found)
    assert headline.joined("text") == [fedbuff, ours, later]
    more = fedbuff | {"runs": 5}
    found["headline-text-rivals"][1] = more
    assert headline.joined("text") == [more, ours, later], "the one of most runs"
    assert set(headline.unrun("text")) == set(experiments.tables("headline-text")["variants"]) - {
        *("fedbuff", "eden1", "fadas")
    }
    assert "fadas" in headline.unrun("text", ["headline-text"])
    assert findings_tasks.transformer().records == ("headline-text", "headline-text-rivals")
    del found["headline-text-rivals"]
    assert headline.joined("text") == [fedbuff, ours]
    assert "fadas" in headline.unrun("text")


def test_a_setting_of_two_records_is_refused(monkeypatch):
    ours = one("qafel, eden 2 bits up, eden 2 bits down, K = 10", 4, {})
    monkeypatch.setattr(headline, "beside", lambda name, other: True)
    monkeypatch.setattr(headline, "content", lambda name: [ours])
    with pytest.raises(
        ValueError, match=r"headline-text-rivals.json: headline-text.json has qafel, eden 2 bits"
    ):
        headline.joined("text")


def test_a_part_of_a_suite_leaves_the_statements_of_the_other_settings_open(monkeypatch):
    cheap = {"ratio": 10.0, "low": 9.0, "high": 11.0}
    same = {"ratio": 1.0, "low": 0.95, "high": 1.05}
    settings = ("eden 4", "eden 2", "eden 1")
    found = [one("fedbuff, float32 up, float32 down, K = 10", 2, {})] + [
        one(f"qafel, {s} bits up, {s} bits down, K = 10", 2, {"uploads": same, "payload_bytes_up": cheap})
        for s in settings
    ]
    monkeypatch.setattr(headline, "records_of", lambda task: (f"headline-{task}",))
    monkeypatch.setattr(headline, "content", lambda name: found)
    monkeypatch.setattr(headline, "shown", lambda task: "")
    uploads, four, single = findings_tasks.cnn().checks
    assert uploads.holds is None
    assert "qsgd at 4/4 bits: – (open)" in uploads.measured
    assert "eden at 1/1 bit: 1.00 [0.952, 1.05]" in uploads.measured
    assert four == Check(four.words, "–", None)
    assert single.holds is True
    assert findings_tasks.cnn().verdict == "holds partly"
    found.append(
        one(
            "qafel, eden 1 bits up, eden 4 bits down, K = 10",
            2,
            {"uploads": same, "payload_bytes_up": {"ratio": 30.0, "low": 29.0, "high": 31.0}},
        )
    )
    *_, pace, fewer = findings_tasks.cnn().checks
    assert pace.holds is None, "up to 1 / 0.95"
    assert fewer.holds is True
    assert "eden at 1/4 bits: 30.0 [29.0, 31.0]" in fewer.measured
    found.pop()
    found[-1]["fedbuff_over_this"]["payload_bytes_up"] = {"ratio": 10.0, "low": None, "high": None}
    assert findings_tasks.cnn().checks[2].holds is None, "a single run has no interval"
    found[-1]["fedbuff_over_this"]["uploads"] = {"ratio": 0.5, "low": 0.4, "high": 0.6}
    assert findings_tasks.cnn().checks[0].holds is False
