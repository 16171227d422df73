"""The commands `qafel-mpi bench …`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest

from tests.support import check_against_schema
from tests.system.command import own_words, qafel
from tests.system.namespaces import launcher

QUICK = ("--seconds", "0.05", "--from", "4096", "--to", "4096")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """a.json and a.h5 of one run."""
    folder = tmp_path_factory.mktemp("bench")
    done = qafel("bench", "p2p", *QUICK, "--json", "a.json", "--out", "a.h5", ranks=2, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Median(us)" in done.stdout
    assert "#wrong" in done.stdout
    assert "Loops" in done.stdout
    assert done.stdout.count(" latency ") == 2  # a checksum of all, and of the header alone
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "",
        "p2p",
        "server",
        "chaos",
        "checkpoint",
        "ingest",
        "broadcast",
        "backoff",
        "overlap",
        "progress",
        "tracing",
        "peers",
        "all",
        "check",
        "compare",
    ],
)
def test_every_benchmark_has_help_with_examples(command, tmp_path):
    done = qafel("bench", *command.split(), "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(launcher() == "hydra", reason="needs Open MPI 5, which goes on without a rank")
def test_a_run_under_faults_gives_the_model_that_its_trace_says(tmp_path):
    """One fault of each kind within 15 seconds, and the same run without; both are replayed."""
    faults = ("--faults", "kill,stop,slow,cut", "--minutes", "0.25", "--every", "3", "--ranks", "4")
    done = qafel("bench", "chaos", *faults, "--json", "a.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# 1 turn of 15 s under faults and 5 s without" in done.stderr
    assert "# turn 1 of 1: kill 1, stop 1, slow 1, cut 1; " in done.stderr, (
        "a line a turn, on no terminal too"
    )
    content = json.loads((tmp_path / "a.json").read_text())
    check_against_schema("bench", content)
    *kinds, everything = content["rows"]
    assert [(row["fault"], row["injected"]) for row in kinds] == [
        ("kill", 1),
        ("stop", 1),
        ("slow", 1),
        ("cut", 1),
    ]
    assert all(row["recovered"] == 1 for row in kinds)
    assert kinds[0]["notice_us"] > 0
    assert 0 < everything["goodput"] < 10
    assert everything["wrong"] == everything["hangs"] == 0
    assert everything["used"] > 10


def test_both_files_hold_every_sample_and_where_they_come_from(results):
    content = json.loads((results / "a.json").read_text())
    check_against_schema("bench", content)
    about = content["provenance"]
    wanted = (
        "command_line",
        "git_commit",
        "hosts",
        "cpu",
        "memory_bytes",
        "mpi_library",
        "binding",
        "scheduler",
    )
    assert set(wanted) | {"clock", "seeds", "ranks", "thread_level"} <= about.keys()
    assert {name: len(load) for name, load in about["load"].items()} == {"begin": 3, "end": 3}
    assert about["seeds"] == {"p2p": {"vector": 5, "content": "the sender's rank"}}
    assert len(about["ranks"]) == len(about["binding"]) == 2
    (host,) = about["hosts"]
    assert host["cpu"] == about["cpu"]
    assert host["memory_bytes"] == about["memory_bytes"] > 1 << 28
    assert host["ranks"] == 2
    with h5py.File(results / "a.h5") as file:
        for number, row in enumerate(content["rows"]):
            group = file[f"p2p/{number:03d}"]
            assert len(group["values"]) == len(group["reference_values"]) == row["iterations"]
            assert len(group["warmups"]) == row["warmup_iterations"] > 0


def test_check_says_why_and_exits_with_4_and_compare_pairs_the_rows(results):
    done = qafel("bench", "check", "a.h5", cwd=results)
    assert done.returncode == (4 if ":" in done.stdout else 0)
    assert "times are reliable" in done.stdout
    done = qafel("bench", "compare", "a.json", "a.h5", cwd=results)
    assert done.returncode == 0
    assert done.stdout.count("no difference seen") == 8


def test_unlike_hosts_are_refused_unless_told(results):
    other = json.loads((results / "a.json").read_text())
    other["provenance"]["hosts"][0]["cpu"] = "another"
    (results / "b.json").write_text(json.dumps(other))
    done = qafel("bench", "compare", "a.json", "b.json", cwd=results)
    assert done.returncode == 2
    assert "come from different machines or settings" in done.stderr
    assert "hosts[0].cpu: " in done.stderr
    assert qafel("bench", "compare", "a.json", "b.json", "--unlike-hosts", cwd=results).returncode == 0


def test_a_history_of_nights_shows_the_one_that_changed_it_and_writes_a_page(results, tmp_path):
    """Sixteen files made of a real one: from the tenth on its first row takes half as long again."""
    content = json.loads((results / "a.json").read_text())
    row = content["rows"][0]
    for night in range(1, 17):
        content["provenance"]["started"] = f"2026-11-{night:02d}T03:00:00+00:00"
        slower = (1.5 if night >= 10 else 1.0) * (1 + 0.004 * (night % 3))
        changed = row | {"values_us": [slower * value for value in row["values_us"]]}
        nightly = content | {"rows": [changed, *content["rows"][1:]]}
        (tmp_path / f"{night}.json").write_text(json.dumps(nightly))
    done = qafel("bench", "compare", ".", "--history", "pages/history.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table, _, said = done.stdout.rstrip().rpartition("\n")
    count = 2 * len(content["rows"])
    assert said == f"pages/history.html: 16 files, {count} series"
    assert {line.split()[0] for line in table.splitlines()[1:]} == {"2026-11-10T03:00"}
    assert "+50." in table or "+49." in table
    assert (tmp_path / "pages/history.html").read_text().count("<svg") == count
    found = qafel("bench", "compare", ".", "--history", "history.html", "--json", cwd=tmp_path)
    as_json = json.loads(found.stdout)
    check_against_schema("history", as_json)
    changes = {one["column"]: one["changes"] for one in as_json["series"] if one["changes"]}
    assert changes.keys() == {"median_us", "ratio"}
    assert changes["median_us"][0]["change"] == pytest.approx(0.5, abs=0.01)
    assert qafel("bench", "compare", "1.json", cwd=tmp_path).returncode == 2
    (tmp_path / "17.json").write_text("{")
    broken = qafel("bench", "compare", ".", "--history", "history.html", cwd=tmp_path)
    assert (broken.returncode, broken.stderr.count("17.json")) == (2, 1)


@pytest.mark.parametrize(("target", "code"), [(1000.0, 4), (1e-6, 0)])
def test_a_run_below_its_reference_exits_with_4(target, code, tmp_path):
    (tmp_path / "site.toml").write_text(
        f"[[reference]]\nsystem = '*'\nbench = 'p2p'\nwhere = {{ operation = 'bandwidth' }}\n"
        f"column = 'gb_per_s'\ntarget = {target}\nlower = -0.1\nunit = 'GB/s'\n"
    )
    done = qafel("bench", "p2p", *QUICK, "--reference", "site.toml", ranks=2, cwd=tmp_path)
    assert done.returncode == code
    assert ("reference missed: p2p operation=bandwidth: gb_per_s is" in done.stderr) == (code == 4)


def test_the_server_is_timed_in_one_process_by_what_it_does(tmp_path):
    quick = ("--algorithm", "qafel,fedbuff", "--d", "1000", "--buffer", "2", "--seconds", "0.01")
    done = qafel(
        "bench", "server", *quick, "--set", "server.optimizer=adam", "--json", "s.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "s.json").read_text())
    check_against_schema("bench", content)
    found = [(row["algorithm"], row["operation"], row["wrong"]) for row in content["rows"]]
    assert found == [(a, o, 0) for a in ("qafel", "fedbuff") for o in ("receive", "step", "both")]
    assert content["provenance"]["seeds"] == {"server": {"vector": 0}}


@pytest.mark.parametrize(
    ("arguments", "ranks", "message"),
    [
        (("p2p",), 0, "bench p2p needs 2 ranks and has 1: start it as `mpirun -n 2 qafel-mpi bench p2p ...`"),
        (("broadcast", "--algorithm", "tre"), 2, "--algorithm tre: not one of fanout, tree, ibcast"),
        (("ingest", "--bytes", "4k"), 2, "--bytes 4k: not a list of sizes in bytes like 15000,4194304"),
        (("check", "none.h5"), 0, "none.h5: No such file"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(arguments, ranks, message, tmp_path):
    done = qafel("bench", *arguments, ranks=ranks, cwd=tmp_path)
    assert done.returncode == 2
    assert own_words(done.stderr).count(message) == 1
    assert "Traceback" not in done.stderr
