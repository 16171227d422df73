"""The JSON Schemas describe what the commands write: every key, nothing but these keys, and a version."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from qafel_analysis.commands import app as analysis
from qafel_analysis.example import Example, write
from qafel_analysis.read import rows
from qafel_analysis.tables import messages
from qafel_analysis.watch import Progress, RankProgress
from typer.testing import CliRunner

from qafel_mpi import schemas
from qafel_mpi.bench.measuring import result as bench
from qafel_mpi.bench.measuring.timing import Samples
from qafel_mpi.commands import app, replay, show
from qafel_mpi.drivers.build import RunSummary
from qafel_mpi.drivers.replay.verdict import Verdict
from tests.support import check_against_schema

runner = CliRunner()


def table(path: Path, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        runner.invoke(analysis.app, ["table", str(path), "--json", *options]).stdout
    )
    return found


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("runs") / "a.h5", Example(messages=2_000))


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A file of two rows: one with a reference, and one that has samples alone."""
    samples = Samples(np.array([1e-6, 2e-6, 3e-6]), np.array([9e-6]), 4)
    both = bench.Row("p2p", {"operation": "latency"}, samples, samples, "another", bytes_moved=8.0, wrong=0)
    about: dict[str, Any] = dict.fromkeys(schemas.schema("bench")["properties"]["provenance"]["required"], "")
    about |= {
        "memory_bytes": 1,
        "versions": {},
        "interconnect": {},
        "scheduler": {},
        "ranks": [],
        "hosts": [],
    }
    about |= {"binding": [], "seeds": {}, "load": {"begin": [], "end": []}}
    about |= {"clock": {"method": "", "resolution_s": 1e-9}}
    path = tmp_path / "a.json"
    bench.Result("p2p", [both, bench.Row("codec", {}, samples)], about).write_json(path)
    return path


@pytest.mark.parametrize("name", schemas.names())
def test_a_schema_is_one_and_says_its_version(name: str) -> None:
    schema = schemas.schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    version = int(schema["$id"].rpartition(":")[2])
    assert schema["$id"] == f"urn:qafel-mpi:schema:{name}:{version}"
    keys = schema["items"]["properties"] if schema["type"] == "array" else schema["properties"]
    assert keys["version" if name == "bench" else "schema_version"]["const"] == version
    assert all("description" in key for key in keys.values())


def test_run_has_the_keys_of_its_schema_whether_it_succeeds_or_diverges() -> None:
    properties = schemas.schema("run")["properties"]
    assert list(properties) == ["schema_version", *(field.name for field in dataclasses.fields(RunSummary))]
    for summary in (RunSummary(), RunSummary(loss=float("inf"), accuracy=0.5, uploads_to_target=3)):
        check_against_schema("run", json.loads(show.summary_json(summary), parse_constant=pytest.fail))


def test_replay_has_the_keys_of_its_schema() -> None:
    properties = schemas.schema("replay")["properties"]
    assert list(properties) == ["schema_version", *(field.name for field in dataclasses.fields(Verdict))]
    found = Verdict(
        "differs", "a.h5", 3, 1, 3, False, "0", "1", None, None, 0.5, {"upload": 3}, "upload 3", 1, {"2": 1}
    )
    check_against_schema("replay", json.loads(replay.verdict_json(found)))


def test_watch_has_the_keys_of_its_schema() -> None:
    properties = schemas.schema("watch")["properties"]
    assert list(properties) == ["schema_version", *(field.name for field in dataclasses.fields(Progress))]
    for now in (
        Progress("a.shards", None, float("nan")),
        Progress("a.h5", "finished", 2.0, faults={"disk": 1}, ranks=(RankProgress(1, 2, 3.0, float("nan")),)),
    ):
        check_against_schema("watch", json.loads(json.dumps(now.as_json())))


def test_table_has_the_keys_of_its_schema(trace: Path) -> None:
    assert list(schemas.schema("table")["items"]["properties"]) == ["schema_version", *rows.KEYS]
    found = table(trace)
    assert list(found[0]) == ["schema_version", *rows.KEYS]
    check_against_schema("table", found)


def test_table_messages_has_the_keys_of_its_schema(trace: Path) -> None:
    assert list(schemas.schema("messages")["items"]["properties"]) == ["schema_version", *messages.KEYS]
    found = table(trace, "--messages")
    assert {row["kind"] for row in found} == {"update", "broadcast"}
    check_against_schema("messages", found)


def test_a_benchmarks_file_has_the_keys_of_its_schema(measured: Path) -> None:
    content = json.loads(measured.read_text())
    check_against_schema("bench", content)
    known = schemas.schema("bench")["properties"]["rows"]["items"]["properties"]
    with_reference, alone = content["rows"]
    assert with_reference.keys() - {"operation"} == known.keys()
    assert "ratio" not in alone


@pytest.mark.parametrize(
    ("name", "key"),
    [("run", "uploads"), ("table", "target"), ("messages", "sent"), ("bench", "provenance")],
)
def test_an_output_without_a_key_or_of_another_version_is_refused(
    name: str, key: str, trace: Path, measured: Path
) -> None:
    whole = {
        "run": lambda: json.loads(show.summary_json(RunSummary())),
        "table": lambda: table(trace),
        "messages": lambda: table(trace, "--messages"),
        "bench": lambda: json.loads(measured.read_text()),
    }[name]()
    check_against_schema(name, whole)
    document = whole[0] if isinstance(whole, list) else whole
    version = "version" if name == "bench" else "schema_version"
    document[version] = 2
    with pytest.raises(jsonschema.ValidationError, match="1 was expected"):
        check_against_schema(name, whole)
    document[version] = 1
    del document[key]
    with pytest.raises(jsonschema.ValidationError, match=f"'{key}' is a required property"):
        check_against_schema(name, whole)


def test_the_command_prints_a_schema_and_lists_them() -> None:
    listed = runner.invoke(app.app, ["schema"]).stdout.splitlines()
    assert (
        [line.split()[0] for line in listed]
        == schemas.names()
        == ["bench", "history", "messages", "replay", "run", "table", "watch"]
    )
    assert json.loads(runner.invoke(app.app, ["schema", "run"]).stdout) == schemas.schema("run")
    mistaken = runner.invoke(app.app, ["schema", "tabel"])
    assert mistaken.exit_code == 2
    assert mistaken.stderr == "schema tabel: there is no such schema; did you mean table?\n"
