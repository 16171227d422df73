"""What `qafel-mpi replay` prints of a verdict."""

from dataclasses import replace
from pathlib import Path

import pytest

from qafel_mpi.commands import instructions, process
from qafel_mpi.commands import replay as command
from qafel_mpi.commands.replay import text
from qafel_mpi.config_text import ConfigError
from qafel_mpi.drivers.replay.verdict import Verdict

DIFFERS = Verdict(
    "differs",
    "a.h5",
    3,
    1,
    3,
    False,
    "0",
    "1",
    None,
    None,
    None,
    {"upload": 3},
    "upload 3 differs",
    1,
    ranks=2,
)


def test_the_variables_of_the_run_are_set_before_anything_that_reads_them_is_imported(monkeypatch):
    done: list[object] = []
    planned = {"variables": {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "data_dir": "/nowhere"}
    same = replace(DIFFERS, outcome="the same", first=None)
    monkeypatch.setattr(process, "load", lambda modules=process.HEAVY: done.append(modules))
    monkeypatch.setattr(process, "world", lambda: done.append("MPI"))
    monkeypatch.setattr(process, "from_rank_0", lambda comm, prepare: planned)
    monkeypatch.setattr(process, "leave", lambda code: done.append(code))
    monkeypatch.setattr(instructions, "use", done.append)
    monkeypatch.setattr(command, "_drive", lambda *given, **options: same)
    command.replay(Path("a.h5"))
    assert done == [command.WITHOUT_TORCH, "MPI", planned["variables"], process.HEAVY, 0]


@pytest.mark.parametrize("recording", ["a.h5", "a.shards"])
def test_the_recording_is_not_replaced_by_its_replay(tmp_path, recording):
    (tmp_path / "a.shards").mkdir()
    (tmp_path / "a.h5").write_bytes(b"rows")
    with pytest.raises(ConfigError, match="the replay reads it"):
        command._plan(tmp_path / recording, tmp_path / "a.h5", True, None, None)
    assert (tmp_path / "a.h5").read_bytes() == b"rows"
    assert (tmp_path / "a.shards").exists()


def test_on_several_ranks_it_says_how_to_learn_which_side_erred():
    assert "which side erred  a replay in one process" in text(DIFFERS)
    assert "which side erred" not in text(replace(DIFFERS, ranks=1))
    assert "which side erred" not in text(replace(DIFFERS, outcome="the same", first=None, first_text=""))


def test_trainings_that_were_right_at_the_second_attempt_are_said():
    found = replace(
        DIFFERS, outcome="the same", first=None, first_text="", slips=2, slip_text="upload 7 differs"
    )
    assert "trained twice     2 uploads: upload 7 differs" in text(found)
    assert "trained twice" not in text(DIFFERS)
