"""Prometheus' text format, as Prometheus' own client and promtool read it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from qafel_analysis.prometheus import text, write
from qafel_analysis.watch import Progress, RankProgress, TimeLeft

NAME = 'runs/odd "name"\\\n'
NOW = Progress(
    run=NAME + ".shards", outcome=None, elapsed_s=12.5, uploads=300, server_steps=30, accuracy=0.75,
    payload_bytes_up=2**60, payload_bytes_down=7, wire_bytes=99, mean_staleness=1.5, dropped_messages=1,
    faults={"rank died": 2, "disk": 1}, resident_bytes=123_456_789, uploads_per_second=24.0,
    ranks=(RankProgress(2, 100, 8.0, 0.5), RankProgress(1, 200, 16.0, 0.0)),
    left=(TimeLeft("uploads 400", 4.5, True),),
)  # fmt: skip


def samples(content: str) -> dict[tuple[str, str], float]:
    """(name, its labels but the run's) -> value."""
    found = {}
    for family in text_string_to_metric_families(content):
        for sample in family.samples:
            assert sample.labels.pop("run") == NAME
            found[sample.name, ",".join(sample.labels.values())] = sample.value
    return found


def test_every_number_of_a_look_is_there_with_its_labels() -> None:
    found = samples(text(NOW))
    assert found["qafel_run_active", ""] == 1
    assert found["qafel_run_uploads_total", ""] == 300
    assert found["qafel_run_payload_bytes_total", "up"] == 2**60
    assert found["qafel_run_payload_bytes_total", "down"] == 7
    assert found["qafel_run_faults_total", "rank died"] == 2
    assert found["qafel_run_left_seconds", "uploads 400"] == 4.5
    assert found["qafel_rank_uploads_total", "2"] == 100
    assert found["qafel_run_resident_memory_bytes", ""] == 123_456_789
    assert found["qafel_run_staleness_versions", ""] == 1.5


def test_what_is_not_known_is_left_out() -> None:
    names = {name for name, _ in samples(text(NOW))}
    assert not names & {"qafel_run_loss", "qafel_run_virtual_seconds", "qafel_run_payload_bytes_per_second"}


def test_counters_are_counters_and_their_names_say_so() -> None:
    for family in text_string_to_metric_families(text(NOW)):
        totals = {sample.name.endswith("_total") for sample in family.samples}
        assert totals == {family.type == "counter"}, family.name
        assert family.documentation.endswith(".")


def test_promtool_has_nothing_against_the_names() -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool (Debian: prometheus)")
    done = subprocess.run(
        [program, "check", "metrics"],
        input=text(NOW),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_run_that_has_ended_is_no_longer_active_and_the_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "qafel.prom"
    write(NOW, file)
    write(Progress(NAME + ".h5", "finished", 20.0, uploads=400), file)
    found = samples(file.read_text())
    assert (found["qafel_run_active", ""], found["qafel_run_uploads_total", ""]) == (0, 400)
    assert [path.name for path in tmp_path.iterdir()] == ["qafel.prom"]
    assert file.stat().st_mode & 0o044, "node-exporter runs as another user"
