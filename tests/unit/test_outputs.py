"""What a command writes is whole or not there, and takes no trace's place."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import pytest

from qafel_mpi.outputs import in_the_way, is_one_of, whole


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.csv"
    with whole(path) as part:
        part.write_text("old")

    def interrupted() -> None:
        with whole(path) as part:
            part.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [one.name for one in path.parent.iterdir()] == ["a.csv"]


def test_a_device_is_written_to_as_it_is() -> None:
    with whole(Path(os.devnull)) as part:
        assert part == Path(os.devnull)
    assert Path(os.devnull).is_char_device()


def test_a_trace_is_in_the_way_by_its_name_its_content_and_as_an_input(tmp_path: Path) -> None:
    plain, trace, link = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"
    assert in_the_way(plain) == ""
    plain.write_text("{}")
    assert in_the_way(plain) == ""
    assert "one of the files to read" in in_the_way(plain, [tmp_path / "x.json", plain])
    with h5py.File(trace, "w"):
        pass
    assert "holds a trace" in in_the_way(trace)
    link.symlink_to(plain)
    assert is_one_of(link, [plain])
    for name in ("new.h5", "new.shards"):
        assert "a trace has such a name" in in_the_way(tmp_path / name)
