"""What decides the last bits of results."""

import torch

from qafel_mpi.drivers.arithmetic import arithmetic, grouped


def test_a_rank_says_what_its_sums_depend_on(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = arithmetic()
    assert found["cpu"] == found["device"]
    assert found["isa"] == torch.backends.cpu.get_cpu_capability()
    assert found["threads"] == torch.get_num_threads()
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["environment"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_ranks_that_have_the_same_are_told_together():
    records = [{"threads": 1}, {"threads": 2}, {"threads": 1}, {"threads": 1}]
    assert grouped(records) == [{"ranks": "0,2-3", "threads": 1}, {"ranks": "1", "threads": 2}]
