"""A claim's verdict follows from its statements, and a statement from where its interval lies."""

import copy

import pytest

from docs.render import findings_load
from docs.render.blocks import BLOCKS
from docs.render.findings import CLAIMS
from docs.render.pages import block_names
from docs.render.records import content
from docs.render.verdicts import Check, Finding, at_least, at_most, every, mean, of_means, pick, within
from tests.support import ROOT


def finding(*holds: bool | None) -> Finding:
    return Finding([Check("", "", one) for one in holds], "", [])


@pytest.mark.parametrize(
    ("holds", "verdict"),
    [
        ((True, True), "holds"),
        ((True, None), "holds partly"),
        ((True, False), "holds partly"),
        ((False, None), "does not hold here"),
        ((None, None), "open: the intervals are too wide"),
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


def test_an_interval_is_wider_for_fewer_seeds_and_for_more_spread():
    def width(values):
        _, low, high = mean(values)
        return high - low

    assert width([1.0, 2.0]) > width([1.0, 2.0, 1.0, 2.0])
    assert width([1.0, 3.0]) > width([1.0, 2.0])


def test_a_ratio_of_means_has_the_spread_of_both():
    def one(value, deviation, reached=5):
        return {"reached": reached, "mean": {"uploads": value}, "standard_deviation": {"uploads": deviation}}

    exact = of_means(one(20.0, 0.0), one(10.0, 0.0), "uploads")
    assert exact == (2.0, 2.0, 2.0)
    _, low, high = of_means(one(20.0, 2.0), one(10.0, 0.0), "uploads")
    _, lower, higher = of_means(one(20.0, 2.0), one(10.0, 1.0), "uploads")
    assert lower < low < 2 < high < higher
    assert of_means(one(20.0, 2.0, reached=0), one(10.0, 1.0), "uploads") is None


def test_a_setting_is_found_by_whole_parts_of_its_label():
    found = [{"setting": "qafel, K = 1"}, {"setting": "qafel, K = 10"}]
    assert pick(found, "K = 1") is found[0]
    with pytest.raises(LookupError, match="2 settings"):
        pick(found, "qafel")


def test_every_claim_is_a_section_of_the_page_with_the_heading_that_the_list_links_to():
    text = (ROOT / "docs/findings.md").read_text(encoding="utf-8")
    names = block_names(text)
    for block, (heading, _) in CLAIMS.items():
        assert block in names
        assert f"\n## {heading}\n" in text
        assert f"Verdict: {_verdict(block)}" in text
        assert f"| {_verdict(block)} |" in BLOCKS["findings"]()


def test_a_verdict_turns_where_the_numbers_do(monkeypatch):
    assert findings_load.budget().verdict == "holds"
    found = copy.deepcopy(findings_load.content("findings-budget"))
    for one in found:
        if not one["algorithm"].startswith("qafel"):
            one["values"] = [[1.0 for _ in values] for values in one["values"]]
    monkeypatch.setattr(findings_load, "content", lambda name: found)
    assert findings_load.budget().verdict == "does not hold here"


def _verdict(block: str) -> str:
    return CLAIMS[block][1]().verdict


@pytest.mark.parametrize("block", CLAIMS)
def test_a_claim_stands_on_the_same_five_seeds_or_more_of_every_setting(block):
    for name in CLAIMS[block][1]().records:
        if not name.startswith("findings-"):
            continue
        found = content(name)
        if "seeds" in found[0]:
            seeds = {tuple(sorted(one["seeds"])) for one in found}
        else:  # of `table`, a row a run
            settings = {(run["algorithm"], run["buffer_size"]) for run in found}
            seeds = {
                tuple(sorted(run["seed"] for run in found if (run["algorithm"], run["buffer_size"]) == one))
                for one in settings
            }
        assert len(seeds) == 1, name
        assert len(next(iter(seeds))) >= 5, name
