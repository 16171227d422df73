"""jobs/site/ by the programs it is written for: ReFrame, JUBE, hpccm, EasyBuild; and Lmod's modules in a job."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.documents import Page
from tests.support import ROOT, search_path
from tests.system.slurm import Slurm, said

SITE = ROOT / "jobs/site"
PINNED = "pip install -c .ci/constraints.txt -e .[site]"


def needs(program: str, package: str = PINNED) -> str:
    """The program's path; skips where it is not here."""
    found = shutil.which(program, path=search_path())
    if found is None:
        pytest.skip(f"needs {program} ({package})")
    return found


def call(*words: str, cwd: Path, env: Mapping[str, str] | None = None, code: int = 0) -> str:
    """stdout and stderr of a program that is to end with that code."""
    environment = os.environ | {"PATH": search_path()} | dict(env or {})
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment, timeout=900)
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


# --- ReFrame ------------------------------------------------------------------------------------------------

# What shrinks a call of ReFrame: small sizes, and of the tests one with each subject.
QUICK = (
    "-S seconds=0.05 -S QafelDigits.uploads=100 -S QafelP2P.smallest=4096 -S QafelP2P.largest=4096 "
    "-S QafelIngest.payloads=1024 -S QafelP2P.nodes=2 -S QafelServer.sizes=29282"
)
NAMES = "QafelCodec.*bits=4|QafelServer.*qafel|QafelP2P.*none|QafelIngest.*none.*ranks=2|QafelDigits.*none.*ranks=4"
JUDGED = "QafelCodec.*bits=4|QafelDigits.*none.*ranks=4"
# In the place of what a reader of docs/clusters.md does once.
STAND_INS = f"""
EDITOR=true
module() {{ :; }}
make() {{ :; }}
pip() {{ [ "$*" = "install -c .ci/constraints.txt reframe-hpc" ]; }}
reframe() {{
    case "$*" in *references*) names='{JUDGED}' report=judged ;; *) names='{NAMES}' report=measured ;; esac
    command reframe --nocolor --report-file $report.json {QUICK} -n "$names" "$@"
}}
"""


def cases(report: Path) -> dict[str, dict[str, Any]]:
    """The tests of a call of ReFrame by class."""
    (run,) = json.loads(report.read_text())["runs"]
    return {case["display_name"].split()[0]: case for case in run["testcases"]}


@dataclass(frozen=True)
class Page10:
    """What the ten lines of the page left."""

    folder: Path
    measured: dict[str, dict[str, Any]]
    judged: dict[str, dict[str, Any]]

    @property
    def references(self) -> Path:
        return self.folder / "references.toml"


@pytest.fixture(scope="module")
def followed(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Page10:
    """The lines of docs/clusters.md, on nodes of SLURM."""
    needs("reframe")
    (block,) = (b for b in Page(ROOT / "docs/clusters.md").blocks if "reframe --run" in b.text)
    assert len(block.text.splitlines()) <= 10
    assert "test_site" in block.excuse
    folder = tmp_path_factory.mktemp("reframe")
    (folder / "jobs").symlink_to(ROOT / "jobs")
    (folder / ".venv").symlink_to(sys.prefix)
    # Bounds that hold on a machine that does other things too.
    text = block.text.replace("--within 0.2", "--within 50")
    call("bash", "-ec", STAND_INS + text, cwd=folder, env=slurm.environment)
    return Page10(folder, cases(folder / "measured.json"), cases(folder / "judged.json"))


def test_the_page_leads_to_a_judged_run_of_reframe_on_slurm(followed):
    assert followed.measured.keys() == {"QafelCodec", "QafelServer", "QafelP2P", "QafelIngest", "QafelDigits"}
    for case in followed.measured.values():
        assert (case["result"], case["scheduler"], case["partition"]) == ("pass", "squeue", "slurm"), case
        assert all(low is high is None for _, _, low, high, *_ in case["perfvalues"].values())
    nodes = followed.measured["QafelP2P"]["job_nodelist"]
    assert nodes in ("n[1-2]", ["n1", "n2"]), (
        "ReFrame writes down squeue's form or its own, as it came to know"
    )
    assert followed.judged.keys() == {"QafelCodec", "QafelDigits"}
    for name, case in followed.judged.items():
        assert case["result"] == "pass", case
        assert case["perfvalues"].keys() == followed.measured[name]["perfvalues"].keys()
        bounds = [(low, high) for _, _, low, high, *_ in case["perfvalues"].values()]
        assert all(low is not None or high is not None for low, high in bounds), "every value is judged"


def test_the_values_that_reframe_has_are_those_of_the_result_file(followed):
    case = followed.judged["QafelCodec"]  # the last to be kept
    rows = json.loads((Path(case["outputdir"]) / "result.json").read_text())["rows"]
    assert sorted(value for value, *_ in case["perfvalues"].values()) == pytest.approx(
        sorted(row["median_us"] for row in rows)
    )


def test_reframe_and_bench_fail_alike_at_what_is_missed_and_what_is_misspelt(followed, tmp_path):
    """On the local scheduler: the codec is too slow for its reference, and a column of p2p's has a wrong name."""
    text = followed.references.read_text()
    hard = tmp_path / "hard.toml"
    hard.write_text(re.sub(r'(bench = "codec"[^\[]*target = ).*', r"\g<1>1e-9", text))
    misspelt = tmp_path / "misspelt.toml"
    misspelt.write_text(text.replace('"median_us"', '"mediam_us"'))
    call(
        *(
            needs("reframe"),
            "--nocolor",
            "-C",
            f"{SITE}/reframe_settings.py",
            "-c",
            f"{SITE}/reframe_qafel.py",
        ),
        *(*QUICK.split(), "-n", "QafelCodec.*bits=4|QafelP2P.*none", "--system", "here:local", "--run"),
        *("-S", f"QafelCodec.references={hard}", "-S", f"QafelP2P.references={misspelt}"),
        *("--prefix", str(tmp_path), "--report-file", f"{tmp_path}/report.json"),
        cwd=followed.folder,
        code=1,
    )
    found = cases(tmp_path / "report.json")
    assert found["QafelCodec"]["fail_phase"] == "performance"
    assert "failed to meet reference" in found["QafelCodec"]["fail_reason"]
    assert found["QafelP2P"]["fail_phase"] == "sanity"
    assert "no column mediam_us; did you mean median_us?" in found["QafelP2P"]["fail_reason"]
    options = [
        "--codec",
        "qsgd",
        "--bits",
        "4",
        "--d",
        "29282,1000000",
        "--device",
        "cpu",
        "--seconds",
        "0.05",
    ]
    missed = call("qafel-mpi", "bench", "codec", *options, "--reference", str(hard), cwd=tmp_path, code=4)
    judged = found["QafelCodec"]["perfvalues"].values()
    assert missed.count("reference missed") == len(judged) == sum(value[-1] == "fail" for value in judged)


# --- JUBE ---------------------------------------------------------------------------------------------------


def test_jube_runs_the_study_and_makes_a_table(tmp_path):
    jube = needs("jube", "Debian: jube")
    call(
        *(
            jube,
            "run",
            f"{SITE}/qafel.yaml",
            "--tag",
            "quick",
            "--outpath",
            f"{tmp_path}/jube",
            "--hide-animation",
        ),
        *("--analyse", "--error"),
        cwd=tmp_path,
    )
    table = call(jube, "result", f"{tmp_path}/jube", "--tag", "quick", cwd=tmp_path)
    header, *rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines() if "|" in line
    ]
    found = [dict(zip(header, row, strict=True)) for row in rows if not set("".join(row)) <= {"-"}]
    assert [(row["ranks"], row["codec"], row["bits"], row["outcome"]) for row in found] == [
        ("2", "affine", "4", "finished"),
        ("2", "qsgd", "4", "finished"),
    ]
    for row in found:
        assert int(row["bytes_up[B]"]) > 40 * 2405, (
            "4 bits for each of 4,810 elements, 40 times, and the scales"
        )
        assert float(row["uploads_per_s[1/s]"]) == pytest.approx(
            int(row["done"]) / float(row["seconds[s]"]), rel=1e-6
        )


# --- packages and containers --------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "name"), [("docker", "Dockerfile"), ("singularity", "apptainer.def")])
def test_the_recipes_are_what_hpccm_makes(form, name):
    words = [needs("hpccm"), "--recipe", f"{SITE}/container.py", "--format", form]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == (SITE / name).read_text(encoding="utf-8"), (
        f"hpccm ... --format {form} > jobs/site/{name}"
    )
    assert "/opt/host-mpi/lib" in done.stdout
    with_wheel = subprocess.run(
        [*words, "--userarg", "mpi=wheel"], capture_output=True, text=True, check=True
    )
    assert "[mpi,analysis]" in with_wheel.stdout
    assert "host-mpi/lib" not in with_wheel.stdout


def test_easybuild_passes_the_style_of_the_easyconfig_and_finds_what_it_depends_on(tmp_path):
    easyconfig = next(SITE.glob("*.eb"))
    env = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    env |= {name: "" for name in os.environ if name.startswith("EASYBUILD_")}
    eb = (
        needs("eb"),
        "--allow-use-as-root-and-accept-consequences",
        f"--prefix={tmp_path}",
        f"--tmpdir={tmp_path}",
    )
    needs("lmod", "Debian: lmod") if not Path(LMOD).exists() else None
    env |= {"LMOD_CMD": LMOD}
    assert "[PASS]" in call(*eb, "--check-style", str(easyconfig), cwd=tmp_path, env=env)
    told = call(*eb, "--dry-run", "--robot", str(easyconfig), cwd=tmp_path, env=env)
    listed = re.findall(r"module: (\S+?)\)", " ".join(told.split()))
    assert listed[-1] == f"qafel-mpi/{easyconfig.stem.partition('qafel-mpi-')[2]}"
    assert any(name.startswith("PyTorch/") for name in listed)


# --- environment modules ------------------------------------------------------------------------------------

LMOD = "/usr/share/lmod/lmod/libexec/lmod"  # Debian's
MODULE = """\
whatis("a site's own Python")
depends_on("mympi/4.1")
prepend_path("PATH", "{bin}")
"""


def test_a_job_loads_the_sites_modules_and_names_one_that_is_missing(slurm, tmp_path):
    """In the shell of a job, which has not the command module."""
    if not Path(LMOD).exists():
        pytest.skip("needs lmod (Debian: lmod)")
    modules = tmp_path / "modules"
    for name, text in {
        "mypython/3.11": MODULE.format(bin=Path(sys.executable).parent),
        "mympi/4.1": 'setenv("MY_MPI", "4.1")\n',
    }.items():
        (modules / name).parent.mkdir(parents=True)
        (modules / f"{name}.lua").write_text(text)
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    script = tmp_path / "job.sbatch"
    script.write_text(
        "#!/bin/bash\n. jobs/site.env\n. jobs/job.sh\necho mpi $MY_MPI; qafel-mpi --version && module -t list\n"
    )
    plain = {"PATH": "/usr/bin:/bin", "MODULEPATH": str(modules), "BASH_ENV": "", "VENV": ""}
    wanted = {"loads": "mypython/3.11", "misses": "mypython/3.11 nonesuch/1"}
    numbers = {
        name: slurm.submit(
            script, f"--export=PATH,MODULEPATH,BASH_ENV,VENV,MODULES={text}", cwd=tmp_path, env=plain
        )
        for name, text in wanted.items()
    }
    loads, misses = (slurm.wait([numbers[name]], 60)[0] for name in ("loads", "misses"))
    assert (loads.state, loads.code) == ("COMPLETED", 0), said(loads)
    assert "mpi 4.1\n" in said(loads)
    assert "qafel-mpi" in said(loads)
    assert "mympi/4.1\nmypython/3.11" in said(loads)
    assert (misses.state, misses.code) == ("FAILED", 2), said(misses)
    assert "module load mypython/3.11 nonesuch/1 failed" in said(misses)
