"""`bench references` and `reframe`, as they are typed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from qafel_mpi.bench.measuring.references import load
from qafel_mpi.commands.bench.app import bench
from qafel_mpi.config_text import ConfigError
from tests.unit.bench.measuring.made import result, row, steady


def call(*words: object, code: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(bench, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr


@pytest.fixture
def json_file(tmp_path):
    result().write_json(tmp_path / "p2p.json")
    return tmp_path / "p2p.json"


@pytest.fixture
def site(tmp_path, json_file):
    path = tmp_path / "site.toml"
    path.write_text(call("references", json_file, "--within", 0.25)[0])
    return path


def test_references_of_a_result_judge_it_in_reframe(json_file, site):
    assert [(found.system, found.upper) for found in load(site)] == [("n1", 0.25)] * 2
    out, said = call("reframe", json_file, "--reference", site)
    document = json.loads(out)
    assert (document["version"], document["system"], said) == (1, "n1", "")
    for found in document["variables"].values():
        target, lower, upper, unit = found["reference"]
        assert (lower, upper, unit) == (None, 0.25, "us")
        assert found["value"] == pytest.approx(target, rel=1e-5)


def test_references_of_another_system_are_remarked_upon(json_file, site):
    site.write_text(site.read_text().replace('"n1"', '"m*"'))
    assert call("reframe", json_file, "--reference", site)[1] == (
        "# no reference is for this system, n1; there are some for m*\n"
    )


def test_wrong_content_has_code_3_and_what_is_missing_is_refused(tmp_path):
    from qafel_mpi.bench.measuring.result import Result

    Result("p2p", [row(steady(), wrong=2)], {"host": "n1"}).write_json(tmp_path / "wrong.json")
    assert "p2p bytes=8: wrong content: 2" in call("reframe", tmp_path / "wrong.json", code=3)[1]
    Result("p2p", [row(steady())], {"host": "n1"}, "rank 1 died").write_json(tmp_path / "part.json")
    with pytest.raises(ConfigError, match=r"part.json: rows are missing: rank 1 died"):
        call("reframe", tmp_path / "part.json")


def test_results_of_two_systems_need_a_name_for_both(tmp_path, json_file):
    from qafel_mpi.bench.measuring.result import Result

    other = tmp_path / "other.json"
    Result("p2p", [row(steady())], {"host": "n2"}).write_json(other)
    with pytest.raises(ConfigError, match="several systems: n1, n2"):
        call("references", json_file, other)
    assert 'system = "n*"' in call("references", json_file, other, "--system", "n*")[0]
    with pytest.raises(ConfigError, match="--column: no row has a number in the column rato"):
        call("references", json_file, "--column", "rato")
