"""Files of results: every sample and column comes back, and what is no result is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qafel_mpi.bench.measuring import result
from qafel_mpi.bench.measuring.result import ResultError


@pytest.mark.parametrize("suffix", ["json", "h5"])
def test_a_file_gives_back_every_sample_and_column(made, suffix, tmp_path: Path):
    path = tmp_path / f"new/a.{suffix}"
    (made.write_json if suffix == "json" else made.write_hdf5)(path)
    again = result.read(path)
    assert again.provenance == made.provenance
    for ours, theirs in zip(made.rows, again.rows, strict=True):
        assert ours.key == theirs.key
        for name, values in ours.series().items():
            np.testing.assert_allclose(theirs.series()[name], values, atol=1e-12)
        assert list(ours.columns()) == list(theirs.columns())


def test_the_json_has_what_the_design_promises(made, tmp_path: Path):
    made.write_json(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert {"bench", "rows", "provenance"} <= content.keys()
    first = content["rows"][0]
    assert first["operation"] == "latency"
    assert first["bytes"] == 8
    assert first["median_us"] == pytest.approx(10, rel=0.01)
    assert first["ci95_us"][0] < first["median_us"] < first["ci95_us"][1]
    assert first["ratio"] == pytest.approx(2, rel=0.02)
    assert first["reference"] == "raw"
    assert first["bytes_moved"] == 8
    assert first["gb_per_s"] == pytest.approx(8e-4, rel=0.01)
    assert len(first["values_us"]) == first["iterations"] == 200
    assert "ratio" not in content["rows"][1]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"bench": "p2p"}', '{"bench": "p2p", "rows": [{}]}'])
def test_a_file_that_is_no_result_is_named(content, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ResultError, match=r"a\.json: not a whole result"):
        result.read(path)
    with pytest.raises(ResultError, match="No such file"):
        result.read(tmp_path / "none.h5")
