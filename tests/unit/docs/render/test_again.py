"""Claims from other records: a statement turns where the numbers do, and not where few seeds leave it open."""

import copy
import json
from pathlib import Path

import pytest

from docs.render import again, findings_load, records
from docs.render.findings import CLAIMS
from docs.render.verdicts import Check, Finding

BUDGETS = findings_load.BUDGETS.values()


def written(folder, name, content):
    """A record like the published one, with other content."""
    found = records.record(name) | {"content": content}
    (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")


def small(name, seeds):
    """The published record of `curves`, of the first seeds."""
    return [
        one | {"seeds": one["seeds"][:seeds], "values": one["values"][:seeds]}
        for one in records.content(name)
    ]


def test_records_of_fewer_seeds_turn_no_statement(tmp_path, capsys):
    for name in BUDGETS:
        written(tmp_path, name, small(name, 3))
    assert again.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (budget,) = (line for line in lines if line.startswith("One budget of bytes: "))
    assert f"(published: {findings_load.budget().verdict}); " in budget
    assert budget.endswith(" statements as published, 0 turned")
    assert "Concurrency: not repeated" in lines
    assert len(lines) == sum(all(map(records.measured, claim.records)) for claim in CLAIMS.values())


def test_a_statement_that_turns_is_named_and_fails(tmp_path, capsys):
    failed = sum(check.holds is False for check in findings_load.budget().checks)
    for name in BUDGETS:
        found = small(name, 3)
        for one in found:
            best = one["algorithm"] == "qafel"
            one["values"] = [[float(best) for _ in values] for values in one["values"]]
        written(tmp_path, name, found)
    assert again.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("turned: With ") == failed > 0
    assert records.content(name) != found, "the published record is read again afterwards"


def test_a_statement_that_few_seeds_leave_open_has_not_turned(tmp_path):
    found = small("findings-budget-both", 2)
    for one in found:
        if one["algorithm"] == "qafel":  # one seed far better, one far worse: an interval that allows both
            one["values"] = [one["values"][0], [0.0 for _ in one["values"][1]]]
    written(tmp_path, "findings-budget-both", found)
    (budget,) = (one for one in again.again(tmp_path) if one.found and one.heading == "One budget of bytes")
    assert None in [check.holds for check in budget.found.checks]
    assert budget.turned == []


def test_a_folder_without_records_is_an_error(tmp_path, capsys):
    assert again.main([str(tmp_path)]) == 2
    assert "no records of any claim" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["findings-budget", "findings-grid"])
def test_what_a_folder_lacks_is_the_published(tmp_path, name):
    written(tmp_path, "findings-budget", [])
    with records.reading(tmp_path):
        assert (records.content(name) == []) == (name == "findings-budget")


# --- records of fewer settings, as measure.sh small leaves them ------------------------------------------


def labelled(*words):
    """Settings of `compare` whose label begins with one of these."""
    return lambda found: [one for one in found if one["setting"].startswith(words)]


def of_variants(*names):
    """Runs of these variants, by the name of their file where they have none of their own."""

    def named(run):
        return run["variant"] if "variant" in run else Path(run["run"]).stem.rpartition("-seed")[0]

    def some(found):
        if isinstance(found, dict):  # of `theory`
            return {"runs": some(found["runs"])}
        return [run for run in found if named(run) in names]

    return some


FEWER = {  # record -> the part of it that is kept
    "findings-grid-cnn": labelled(
        "fedbuff", "qafel, affine 4 bits up, affine 4", "qafel, affine 2 bits up, affine 2"
    ),
    "headline-text": labelled("fedbuff", "qafel, qsgd 4 bits up", "qafel, eden 2 bits up, eden 4"),
    "headline-fashion-mnist": labelled("fedbuff", "qafel, qsgd 4 bits up", "qafel, eden 1 bits up, eden 1"),
    "findings-staleness": of_variants(
        *(f"{bits}-{level}" for bits in ("exact", "2bit") for level in ("fresh", "constant10", "constant50"))
    ),
    "findings-buffer": lambda found: [run for run in found if run["buffer_size"] in (1, 10, 50)],
    "findings-speeds": of_variants(
        *("qafel-apart-constant", "fedbuff-labels-constant"),
        *(f"qafel-labels-{weight}" for weight in ("constant", "polynomial", "rate")),
    ),
    "findings-budget": labelled("fedbuff, ", "qafel, ", "decoupled", "ca2fl"),
    "codec-error": lambda found: [run for run in found if run["model"] != "resnet18"],
    "findings-link-rates": lambda found: [
        run for run in found if run["seed"] == 0 and (run["mbit"] is None or run["mbit"] <= 300)
    ],
}


def test_records_of_fewer_settings_are_judged_by_those_alone(tmp_path, capsys):
    for name, part in FEWER.items():
        written(tmp_path, name, part(records.content(name)))
    assert again.main([str(tmp_path)]) == 0, capsys.readouterr().out
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert "0 turned, 1 left out" in lines["One scale for a whole tensor"], "growth up to the largest model"
    assert "2 of 2 statements as published, 0 turned, 1 left out" in lines["Staleness"]
    assert "3 of 3 statements as published, 0 turned, 1 left out" in lines["Bits, with the paper's CNN"]
    assert lines["Two clocks"] == "not repeated"


def test_a_setting_that_turns_is_seen_where_others_are_not_there(tmp_path, capsys):
    kept = copy.deepcopy(FEWER["findings-grid-cnn"](records.content("findings-grid-cnn")))
    for one in kept:
        if "affine 2 bits up" in one["setting"]:
            one |= {"reached": 0, "arrived": [False] * one["runs"]}
        if "affine 4 bits up" in one["setting"]:
            one["fedbuff_over_this"]["payload_bytes_up"] |= {"ratio": 2.0, "low": 1.9, "high": 2.1}
    written(tmp_path, "findings-grid-cnn", kept)
    assert again.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "turned: At 4/4 bits it uploads 5.2 times fewer bytes" in out
    assert "turned: Every setting of the grid reaches the target" in out


def test_a_statement_on_several_settings_is_compared_by_those_of_which_both_can_tell():
    old = Check("", "", None, {"a": True, "b": None, "c": True})
    assert [one.holds for one in again._alike(old, Check("", "", None, {"a": True, "c": None}))] == [
        True,
        True,
    ]
    assert [one.holds for one in again._alike(old, Check("", "", False, {"c": False}))] == [True, False]
    assert [one.holds for one in again._alike(old, Check("", "", None, {"b": None}))] == [None, None]


def test_a_statement_on_settings_of_which_none_is_in_both_is_left_out():
    """A target that is reached early is another setting's."""
    claim = [
        Finding((Check("reached", "", holds, {words: holds}),), "", ("a",))
        for words, holds in (("2.7", False), ("3.2", True))
    ]
    assert again.Again("", *claim).repeated == []
    assert again.Again("", claim[0], claim[0]).repeated != []
