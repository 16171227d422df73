"""Energy as a trace has it."""

import json

from qafel_analysis.read.energy import energy, energy_notes

MEASURED = {"joules": 50.0, "by_host": {"a": {"package-0": 50.0}}, "not_measured": {}}
REFUSED = {"joules": None, "by_host": {}, "not_measured": {"a": "energy_uj: Permission denied"}}
NOTHING: dict[str, object] = {"joules": None, "by_host": {}, "not_measured": {}}


def attributes(cpu: object, gpu: object) -> dict[str, str]:
    return {"energy": json.dumps({"cpu": cpu, "gpu": gpu})}


def test_joules_per_upload_are_those_of_the_run_over_its_uploads():
    found = energy(attributes(MEASURED, NOTHING), 20)
    assert (found["cpu_joules"], found["cpu_joules_per_upload"]) == (50.0, 2.5)
    assert (found["gpu_joules"], found["gpu_joules_per_upload"]) == (None, None)
    assert energy_notes(attributes(MEASURED, NOTHING)) == {}
    assert energy(attributes(MEASURED, NOTHING), 0)["cpu_joules_per_upload"] is None


def test_what_was_not_measured_says_why():
    assert energy(attributes(REFUSED, MEASURED), 10)["cpu_joules"] is None
    assert energy_notes(attributes(REFUSED, MEASURED)) == {"cpu": "a: energy_uj: Permission denied"}


def test_older_and_odd_traces_say_nothing():
    for odd in ({}, {"energy": "{"}, {"energy": "3"}, {"energy": '{"cpu": 3}'}):
        assert set(energy(odd, 1).values()) == {None}
        assert energy_notes(odd) == {}
