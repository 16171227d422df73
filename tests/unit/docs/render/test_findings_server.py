"""Biased and unbiased quantizers of the server, on made-up records whose answer is known."""

import pytest

from docs.render import findings_server
from docs.render.variants import codecs
from qafel_mpi.codecs import Layout, build

DIGITS = Layout(("0.weight", "0.bias", "1.weight", "1.bias"), ((64, 64), (64,), (10, 64), (10,)))


def runs(bias: float, naive: float = 3.0, seeds: int = 5) -> list[dict]:
    """Biased codecs need `bias` times FedBuff's uploads, and without feedback each `naive` times its own."""
    found = []
    names = [name for members in findings_server.CLASSES.values() for name in members]
    small = [name for words in findings_server.SMALL for name in findings_server.CLASSES[words]]
    variants = ["fedbuff", "slow-fedbuff", *names]
    variants += [
        before + name + behind
        for name in small
        for before, behind in (("slow-", ""), ("", "-naive"), ("", "-ef"))
    ]
    for variant in variants:
        factor = bias if any(part in variant for part in ("biased", "affine", "sign", "topk")) else 1.0
        factor *= naive if variant.endswith("-naive") else 1.0
        found += [
            {
                "variant": variant,
                "seed": seed,
                "learning_rate": 0.02 if variant.startswith("slow") else 0.3,
                "uploads_to_target": round((1000 + 20 * seed) * factor * (1 + 1e-3 * (seed % 2))),
                "uploads": 5000,
                "wire_bytes": 700.0,
                "delta_s": 0.5,
            }
            for seed in range(seeds)
        ]
    return found  # fmt: skip


@pytest.mark.parametrize("words", findings_server.CLASSES)
def test_the_codecs_of_a_class_have_the_same_bytes_on_the_wire(words):
    """Of digits' model, header and all: within 4%."""
    sizes = [
        build(codecs(findings_server.SUITE, name)[1], DIGITS).payload_bytes() + 64
        for name in findings_server.CLASSES[words]
    ]
    assert max(sizes) <= 1.04 * min(sizes)


def test_biased_codecs_that_cost_uploads_are_told_from_unbiased_ones_of_the_same_size(monkeypatch):
    monkeypatch.setattr(findings_server, "content", lambda name: runs(bias=1.5))
    found = findings_server.server_codecs()
    assert [check.holds for check in found.checks] == [True] * 6
    assert "topk, 1.77% of the elements: 1.50" in found.checks[2].measured
    monkeypatch.setattr(findings_server, "content", lambda name: runs(bias=1.0, naive=1.0))
    unbiased, biased, _, _, naive, feedback = findings_server.server_codecs().checks
    assert (unbiased.holds, biased.holds, naive.holds, feedback.holds) == (True, False, False, True)


def test_a_run_that_missed_its_target_fails_the_bound_of_its_codec_and_is_counted(monkeypatch):
    found = runs(bias=1.5)
    (missed,) = (run for run in found if run["variant"] == "eden1" and run["seed"] == 0)
    missed["uploads_to_target"] = None
    monkeypatch.setattr(findings_server, "content", lambda name: found)
    finding = findings_server.server_codecs()
    assert finding.checks[0].holds is False
    assert "(missed by 1 of 5)" in finding.table


def test_a_small_record_is_judged_by_what_it_has(monkeypatch):
    kept = ("fedbuff", "slow-fedbuff", "eden1", "sign1", "sign1-naive", "slow-eden1", "slow-sign1")
    found = [run for run in runs(bias=1.5) if run["variant"] in kept]
    monkeypatch.setattr(findings_server, "content", lambda name: found)
    finding = findings_server.server_codecs()
    assert [check.holds for check in finding.checks] == [True, True, True, True, True, None]
    assert [len(check.settings) for check in finding.checks] == [1, 1, 1, 1, 1, 0]
    assert finding.table.count("| sign") == 2
