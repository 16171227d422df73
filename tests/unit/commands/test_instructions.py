"""Holding the arithmetic down to instructions that other processors have too."""

import subprocess
import sys

import pytest

from qafel_mpi.commands.instructions import VARIABLES, Instructions, had_here, require, variables_for
from qafel_mpi.config_text import ConfigError


def test_a_processor_says_which_instructions_it_has(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx avx2 fma sse4_2\n")
    assert had_here(cpuinfo) == [Instructions.AVX2]
    assert had_here(tmp_path / "none") == []


def test_instructions_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr("qafel_mpi.commands.instructions.had_here", lambda: [])
    with pytest.raises(ConfigError, match="--instructions avx512: this host's processor lacks"):
        require(Instructions.AVX512)


def test_torch_obeys_the_variables():
    code = (
        "from qafel_mpi.commands.instructions import Instructions, hold_down; hold_down(Instructions.AVX2);"
        "import torch; print(torch.backends.cpu.get_cpu_capability())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "AVX2"


def test_a_replay_has_the_variables_of_the_run():
    given = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert variables_for([{"isa": "AVX512", "environment": given}], list(Instructions)) == given
    assert variables_for([{"isa": "AVX2", "environment": {}}], list(Instructions)) == VARIABLES["avx2"]
    assert variables_for([{"isa": "AVX512", "environment": {}}], list(Instructions)) == {}
    assert variables_for([], list(Instructions)) == {}
