"""tests/gpu/run.sh without a GPU: what it runs, what it says that it skipped; and how its goals are judged."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from tests.gpu import goals
from tests.support import ROOT

STAGES = ["bytes", "codec", "overlap", "server", "wall", "resnet18", "transformer"]
STAGES += [f"together-{batch}" for batch in (1, 8, 32)]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the whole script runs here: sh tests/gpu/run.sh")
def test_without_a_gpu_the_script_interprets_kernels_and_says_what_it_skips(tmp_path):
    """Of each kind of stage one: kernels in Triton's interpreter, a benchmark, a run, and what needs a card."""
    pytest.importorskip("triton", reason="needs Triton")
    small = {
        "STAGES": "bytes codec server together-1",
        "KERNELS": "gives_the_bytes_of_fp4 and 1-",
        "UPLOADS": "4",
    }
    done = subprocess.run(
        ["sh", "tests/gpu/run.sh", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | small | {"SIZES": "1000", "LIMIT": "600"},
        capture_output=True,
        text=True,
        check=False,
    )
    stages = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert done.returncode == 0, [stage for stage in stages if stage["result"] == "failed"]
    assert {stage["stage"] for stage in stages} == set(STAGES)
    found = {stage["stage"]: (stage["result"], stage["why"]) for stage in stages}
    assert [found[name][0] for name in ("bytes", "server", "together-1")] == ["passed"] * 3
    assert found["codec"] == ("skipped", "needs a GPU")
    assert found["resnet18"] == ("skipped", "not asked for")
    assert "passed" in (tmp_path / "bytes.log").read_text()
    assert json.loads((tmp_path / "together-1.json").read_text())["uploads"] == 4
    judged = {goal["goal"]: goal["met"] for goal in json.loads((tmp_path / "goals.json").read_text())}
    assert judged[goals.ON_CARD] is None
    assert judged[goals.EXPOSED] is None
    assert judged[goals.ON_HOST] in (True, False)


def test_a_goal_is_judged_at_the_largest_vectors_and_by_the_worst_overlap(tmp_path: Path):
    small, large = {"d": 1000, "ratio": 0.1}, {"d": 100_000, "codec": "fp4", "bits": 4}
    rows = [
        small | {"operation": "encode"},
        large | {"operation": "encode", "ratio": 0.71},
        large | {"operation": "decode_accumulate", "ratio": 0.69},
    ]
    (tmp_path / "codec.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "overlap.json").write_text(json.dumps({"rows": [{"exposed_share": s} for s in (0.02, 0.3)]}))
    found = goals.goals(tmp_path)
    assert [(goal["goal"], goal["value"], goal["met"]) for goal in found] == [
        (goals.ON_CARD, 0.71, True),
        (goals.ON_CARD, 0.69, False),
        (goals.ON_HOST, None, None),
        (goals.EXPOSED, 0.3, False),
    ]
    assert (
        found[1] | {"codec": "fp4", "bits": 4, "operation": "decode_accumulate", "at_least": 0.7} == found[1]
    )
