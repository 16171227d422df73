"""Claims from other records: a statement turns where the numbers do, and not where few seeds leave it open."""

import json

import pytest

from docs.render import again, findings_load, records
from docs.render.findings import CLAIMS

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
    held = sum(check.holds is True for check in findings_load.budget().checks)
    for name in BUDGETS:
        found = small(name, 3)
        for one in found:
            if not one["algorithm"].startswith("qafel"):
                one["values"] = [[1.0 for _ in values] for values in one["values"]]
        written(tmp_path, name, found)
    assert again.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("turned: With ") == held > 0
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
