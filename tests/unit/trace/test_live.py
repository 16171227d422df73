"""A run that is not merged reads like its trace."""

from __future__ import annotations

from qafel_mpi.trace.merge import shards_of
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import TABLES


def test_a_folder_of_shards_reads_like_the_merged_file(whole):
    with open_trace(whole) as file, open_trace(shards_of(whole)) as shards:
        assert "qafel-mpi merge" in shards.notes[0]
        for table in TABLES:
            assert shards.rows(table) == file.rows(table)
            assert shards.table(table).tobytes() == file.table(table).tobytes()
        assert shards.experiment == file.experiment
        assert shards.table("messages", ["src"]).dtype.names == ("src",)
        assert shards.final("x") is None
        assert shards.digest("x") == ""
