"""The command `qafel-mpi bench codec`, as a user runs it."""

import json

from tests.system.test_commands import qafel


def test_bench_codec_prints_a_table_and_writes_rows_samples_and_provenance(tmp_path):
    few = ("--codec", "qsgd,sign", "--bits", "3", "--d", "1000", "--seconds", "0.05", "--against", "numpy")
    done = qafel("bench", "codec", *few, "--json", "c.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "decode_accumulate" in done.stdout
    found = json.loads((tmp_path / "c.json").read_text())
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
    assert (done.returncode, done.stderr) == (2, "--bits 4,99: each from 1 to 16\n")
