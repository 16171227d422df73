"""The command `qafel-mpi bench codec`, as a user runs it."""

import json

import pytest
import torch

from tests.support import check_against_schema
from tests.system.command import qafel


def test_bench_codec_prints_a_table_and_writes_rows_samples_and_provenance(tmp_path):
    few = ("--codec", "qsgd,sign", "--bits", "3", "--d", "1000", "--seconds", "0.05", "--against", "numpy")
    done = qafel("bench", "codec", *few, "--json", "c.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "decode_accumulate" in done.stdout
    found = json.loads((tmp_path / "c.json").read_text())
    check_against_schema("bench", found)
    assert found["bench"] == "codec"
    assert {(row["codec"], row["bits"], row["d"], row["threads"]) for row in found["rows"]} == {
        ("qsgd", 3, 1000, 1),
        ("sign", 1, 1000, 1),
    }
    assert all(row["wrong"] == 0 and len(row["values_us"]) >= 2 for row in found["rows"])
    assert found["provenance"]["ranks"][0]["host"]


def test_bench_codec_names_what_it_does_not_know(tmp_path):
    done = qafel("bench", "codec", "--codec", "qsdg", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "--codec qsdg: did you mean qsgd?\n")
    done = qafel("bench", "codec", "--bits", "4,99", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "--bits 4,99: each must be from 1 to 16\n")
    done = qafel("bench", "codec", "--device", "cpx", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "--device cpx: did you mean cpu?\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a host without a GPU")
def test_bench_codec_refuses_a_gpu_that_is_not_there(tmp_path):
    done = qafel("bench", "codec", "--device", "cuda", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "--device cuda: no GPU was found here; use --device cpu\n")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bench_codec_measures_a_gpu_and_its_bytes_are_the_cpu_s(tmp_path):
    few = ("--device", "cuda", "--codec", "qsgd,sign", "--bits", "4", "--d", "29282", "--seconds", "0.1")
    done = qafel("bench", "codec", *few, "--json", "c.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert {(row["codec"], row["operation"]) for row in rows} >= {("qsgd", "encode"), ("sign", "encode")}
    assert all(row["wrong"] == 0 for row in rows)
