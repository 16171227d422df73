"""jobs/packed.sh: an environment in one file, unpacked on each host; with a made-up environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT


def packed(*words: str | Path) -> subprocess.CompletedProcess[str]:
    call = ["sh", str(ROOT / "jobs/packed.sh"), *map(str, words)]
    return subprocess.run(call, capture_output=True, text=True, check=False)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Its python answers where the package lies, and says with which words it was called."""
    made = tmp_path / "old/.venv"
    (made / "bin").mkdir(parents=True)
    where = made / "lib/qafel_mpi/__init__.py"
    (made / "bin/python").write_text(f"#!/bin/sh\ncase $1 in -c) echo {where} ;; *) echo $@ ;; esac\n")
    (made / "bin/qafel-mpi").write_text(f"#!{made}/bin/python\n")
    (made / "bin/activate").write_text(f'VIRTUAL_ENV="{made}"\n')
    (made / "pyvenv.cfg").write_text(f"command = python -m venv {made}\n")
    (made / "bin/python").chmod(0o755)
    (made / "bin/qafel-mpi").chmod(0o755)
    return made


def test_an_unpacked_environment_runs_where_it_lies_and_needs_nothing_of_the_old_one(environment, tmp_path):
    archive, new = tmp_path / "qafel.tar", tmp_path / "host/qafel"
    assert packed("pack", environment, archive).returncode == 0
    assert not (environment / "packed-from").exists()
    environment.parent.rename(tmp_path / "away")
    assert packed("unpack", archive, new).returncode == 0
    assert (new / "bin/activate").read_text() == f'VIRTUAL_ENV="{new}"\n'
    done = subprocess.run([new / "bin/qafel-mpi"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{new}/bin/qafel-mpi"
    assert [path.name for path in new.parent.iterdir()] == ["qafel"]


def test_unpacking_again_changes_nothing(environment, tmp_path):
    archive, new = tmp_path / "qafel.tar", tmp_path / "qafel"
    packed("pack", environment, archive)
    packed("unpack", archive, new)
    archive.unlink()
    assert packed("unpack", archive, new).returncode == 0


def test_what_can_not_work_is_refused_with_the_way_out(environment, tmp_path):
    (environment / "bin/python").write_text("#!/bin/sh\necho /home/me/qafel_mpi/__init__.py\n")
    done = packed("pack", environment, tmp_path / "qafel.tar")
    assert done.returncode == 2
    assert f"put it in, with `{environment}/bin/pip install --no-deps .`" in done.stderr
    assert not (tmp_path / "qafel.tar").exists()
    assert "no bin/python" in packed("pack", tmp_path, tmp_path / "qafel.tar").stderr
    assert "could not be unpacked" in packed("unpack", tmp_path / "none.tar", tmp_path / "new").stderr
    assert not (tmp_path / "new").exists()
    assert "not an absolute path" in packed("unpack", tmp_path / "none.tar", "new").stderr
    assert packed("pack").returncode == packed().returncode == 2
