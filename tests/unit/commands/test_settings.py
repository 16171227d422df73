"""`qafel-mpi settings`: the list on a terminal, as JSON, and what is said of a section that is not there."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from qafel_mpi.commands.app import app
from qafel_mpi.config_listing import sections

runner = CliRunner()


def test_every_setting_is_printed() -> None:
    shown = runner.invoke(app, ["settings"]).stdout
    for section in sections():
        assert not section.key or f"\n[{section.key}]\n" in shown
        for setting in section.settings:
            assert f"\n{setting.key} = {setting.default_text}\n" in shown


def test_a_setting_is_printed_with_meaning_values_clock_and_presets() -> None:
    assert runner.invoke(app, ["settings", "server.learning_rate"]).stdout.endswith(
        "server.learning_rate = 1.0\n"
        "    Learning rate of the server's optimizer (η_g).\n"
        "    Takes a number > 0 and <= 1e+30. Both clocks. Default: 0.6 with fedasync;\n"
        "    0.7 with decoupled.\n"
    )


def test_lists_and_formulas_keep_their_lines() -> None:
    assert "\n- randk" not in (shown := runner.invoke(app, ["settings", "staleness"]).stdout)
    assert "\n- constant: 1\n- polynomial: " in shown
    assert "\n    x^{t+1} = ServerOptimizer(" in runner.invoke(app, ["settings", "server"]).stdout


def test_a_wrapped_item_has_single_spaces() -> None:
    shown = runner.invoke(app, ["settings"]).stdout
    lines = [line.strip() for line in shown.splitlines() if not line.startswith("     ")]
    assert [line for line in lines if "  " in line] == []
    assert "with a `scale` per `bucket`" in " ".join(shown.split())


def test_as_json_the_settings_are_objects_with_plain_values() -> None:
    (found,) = json.loads(runner.invoke(app, ["settings", "uplink.codec", "--json"]).stdout)
    assert found["default"] == "qsgd"
    assert found["clock"] == "both"
    exact = dict.fromkeys(("fedbuff", "fedasync", "fedavg", "ca2fl", "decoupled"), "identity")
    assert exact.items() <= found["presets"].items()
    assert len(json.loads(runner.invoke(app, ["settings", "--json"]).stdout)) > 70


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_mistyped_section_is_bad_usage_with_a_guess(option: list[str]) -> None:
    answer = runner.invoke(app, ["settings", "uplnk", *option])
    assert answer.exit_code == 2
    assert answer.stderr == "settings uplnk: there is no such section; did you mean uplink?\n"
    assert answer.stdout == ""
