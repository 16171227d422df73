"""What a page prints below a claim works as it is pasted: suites say where to, and the analysis reads that folder."""

import re
from fnmatch import fnmatch

import pytest
from qafel_analysis.commands.app import app as analysis_app
from typer.main import get_command

from docs.render import commands, findings
from docs.render.findings import CLAIMS
from docs.render.records import record, together

RECORDS = sorted({name for block in CLAIMS if (found := findings._finding(block)) for name in found.records})


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_of_a_claim_has_the_command_that_makes_it(name):
    command = commands.analysis(name)
    if name.endswith("-rivals"):
        name = name.removesuffix("-rivals")
    assert command is not None
    program, *words = command.split()
    assert program in ("qafel-analysis", "python")
    assert re.findall(r"docs/results/([\w-]+)\.json", command)[0].removesuffix("-rivals") == name
    if program == "qafel-analysis":
        assert words[0] in get_command(analysis_app).commands


@pytest.mark.parametrize("name", RECORDS)
def test_the_analysis_reads_what_the_suites_of_a_record_left(name):
    patterns = [word for word in commands.analysis(name).split() if word.endswith(".h5")]
    for source in record(name)["sources"]:
        command = source["command"]
        if " suite " in command:
            (folder,) = re.findall(r"--out (\S+)", command)
            assert any(fnmatch(folder, pattern.rpartition("/")[0]) for pattern in patterns), (
                command,
                patterns,
            )


def test_a_claim_prints_its_suites_with_their_folder_and_then_the_analysis():
    small_print = findings._finding("finding-buffer").markdown().splitlines()[-1]
    assert "--out runs/results/findings/buffer-sweep`" in small_print
    assert "Then: `qafel-analysis table runs/results/findings/buffer-sweep/*-unweighted-*.h5" in small_print


def test_a_command_that_makes_its_file_itself_is_not_printed_twice():
    assert findings._finding("finding-hidden").markdown().count("python docs/results/optimum.py") == 1


def test_suites_of_one_parent_are_one_command_and_others_are_not():
    both = ["suite a --seeds 0 --out runs/x/1", "suite a --seeds 1 --out runs/x/1", "suite b --out runs/x/2"]
    assert together(both) == ["suite a --out runs/x/1 --seeds 0-1", "suite b --out runs/x/2"]
