"""A claim's verdict follows from its statements, and a statement from where its interval lies."""

import copy
from itertools import chain
from pathlib import Path

import pytest

from docs.render import findings, findings_load
from docs.render.blocks import BLOCKS
from docs.render.findings import CLAIMS
from docs.render.pages import block_names
from docs.render.records import content
from docs.render.verdicts import (
    Check,
    Finding,
    against,
    at_least,
    at_most,
    every,
    needed,
    pick,
    shown,
    within,
)
from tests.support import ROOT


def finding(*holds: bool | None) -> Finding:
    return Finding([Check("", "", one) for one in holds], "", [])


@pytest.mark.parametrize(
    ("holds", "verdict"),
    [
        ((True, True), "holds"),
        ((True, None), "holds partly"),
        ((True, False), "holds partly"),
        ((False, False), "does not hold here"),
        ((False, None), "fails partly"),
        ((None, None), "open: not enough was measured"),
    ],
)
def test_a_verdict_is_of_all_statements(holds, verdict):
    assert finding(*holds).verdict == verdict


def test_a_bound_inside_the_interval_leaves_a_statement_open():
    for judge in (at_least, at_most):
        assert judge((1.0, 0.8, 1.3), 1.1) is None
        assert judge(None, 1.1) is None
        assert judge((1.0, float("nan"), float("nan")), 1.1) is None, "one run has no interval"
    assert at_least((1.0, 0.8, 1.05), 1.1) is False
    assert at_most((1.0, 0.8, 1.05), 1.1) is True
    assert within((1.0, 0.8, 1.05), 0.9, 1.1) is None


def test_a_statement_about_several_settings_fails_where_one_of_them_does():
    one = (1.0, 0.9, 1.1)
    assert every("", {"a": (one, True), "b": (one, None), "c": (one, False)}).holds is False
    assert every("", {"a": (one, True), "b": (one, None)}).holds is None
    assert every("", {"a": (one, True)}).holds is True


def test_a_run_that_missed_its_target_leaves_a_statement_open_or_fails_it():
    """It took at least what it had spent: no bound from above holds, and one below all that was spent fails."""

    def one(*uploads: float, missed: int = 0) -> dict:
        arrived = [seed >= missed for seed in range(len(uploads))]
        return {"seeds": [*range(len(uploads))], "arrived": arrived, "values": {"uploads": uploads}}

    fedbuff = one(100, 110, 120)
    found = against(one(310, 330, 370, missed=1), fedbuff, "uploads")
    assert shown(found) == "≥ 3.06 [2.93, ∞]"
    assert at_most(found, 1.2) is False
    assert at_most(found, 3.0) is None, "nobody knows what the run that was cut short would have taken"
    assert at_least(found, 1.2) is True
    assert at_least(found, 3.0) is None
    assert within(found, 2.0, 4.0) is None
    assert within(found, 0.9, 1.1) is False
    alone = against(one(310, missed=1), fedbuff, "uploads")
    assert shown(alone) == "≥ 3.10 [one run]"
    assert (at_most(alone, 1.2), at_least(alone, 1.2)) == (None, None)
    assert against(one(310, missed=1), one(100, missed=1), "uploads") is None


def test_fedbuffs_over_this_is_read_with_the_end_that_it_lacks():
    def one(ratio, low, high):
        return {"fedbuff_over_this": {"uploads": {"ratio": ratio, "low": low, "high": high}}}

    assert shown(needed(one(0.5, 0.4, 0.8))) == "2.00 [1.25, 2.50]"
    assert shown(needed(one(0.5, 0.0, 0.8))) == "≥ 2.00 [1.25, ∞]", "this one missed its target"
    assert shown(needed(one(0.5, 0.4, None))) == "≤ 2.00 [0, 2.50]", "FedBuff missed it"
    assert shown(needed(one(0.5, None, None))) == "2.00 [one run]"
    assert shown(needed(one(0.5, 0.0, None))) == "≥ 2.00 [one run]"
    assert needed({"fedbuff_over_this": {}}) is None


def test_a_setting_is_found_by_whole_parts_of_its_label():
    found = [{"setting": "qafel, K = 1"}, {"setting": "qafel, K = 10"}]
    assert pick(found, "K = 1") is found[0]
    with pytest.raises(LookupError, match="2 settings"):
        pick(found, "qafel")


def test_every_claim_is_a_section_of_the_page_with_the_heading_that_the_list_links_to():
    text = (ROOT / "docs/findings.md").read_text(encoding="utf-8")
    names = block_names(text)
    for block, claim in CLAIMS.items():
        assert block in names
        assert f"\n## {claim.heading}\n" in text
        assert f"Verdict: {_verdict(block)}" in text or _verdict(block) == "not measured yet"
        assert f"| {_verdict(block)} |" in BLOCKS["findings"]()


def test_a_claim_whose_records_are_missing_says_what_measures_it(monkeypatch):
    claim = CLAIMS["finding-links"]._replace(records=("findings-nowhere",))
    monkeypatch.setitem(CLAIMS, "finding-links", claim)
    findings._finding.cache_clear()
    assert "its group `link-rates`" in BLOCKS["finding-links"]()
    assert "| not measured yet |" in BLOCKS["findings"]()
    findings._finding.cache_clear()


@pytest.mark.parametrize(("rivals", "verdict"), [(0.0, "holds"), (1.0, "does not hold here")])
def test_a_verdict_turns_where_the_numbers_do(monkeypatch, rivals, verdict):
    found = {name: copy.deepcopy(content(name)) for name in findings_load.BUDGETS.values()}
    for one in chain(*found.values()):
        if not one["algorithm"].startswith("qafel"):
            one["values"] = [[rivals for _ in values] for values in one["values"]]
    monkeypatch.setattr(findings_load, "content", found.__getitem__)
    assert findings_load.budget().verdict == verdict


def _verdict(block: str) -> str:
    found = findings._finding(block)
    return "not measured yet" if found is None else found.verdict


@pytest.mark.parametrize("block", CLAIMS)
def test_a_claim_stands_on_the_same_three_seeds_or_more_of_every_setting(block):
    """Five or more where runs are of the virtual clock, which takes no time of a quiet machine."""
    found = findings._finding(block)
    for name in () if found is None else found.records:
        if name.startswith("findings-"):
            seeds = _seeds(content(name))
            assert len(seeds) == 1, name
            assert len(next(iter(seeds))) >= (3 if name == "findings-link-rates" else 5), name


def _seeds(found):
    """The seeds of every setting of a record, each once."""
    if isinstance(found, dict):  # of `theory`
        found = found["runs"]
    if "seeds" in found[0]:
        return {tuple(sorted(one["seeds"])) for one in found}

    def setting(run):
        if "uplink_codec" in run:  # of `table`
            return run["algorithm"], run["buffer_size"]
        name = run.get("variant") or Path(run["run"]).stem.rpartition("-seed")[0]
        return name, run.get("mbit")

    settings = {setting(run) for run in found}
    return {tuple(sorted({run["seed"] for run in found if setting(run) == one})) for one in settings}
