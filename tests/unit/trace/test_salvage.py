"""What is left of a file that was cut short."""

from __future__ import annotations

import pytest

from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace.shards import TraceError


def test_a_file_that_was_cut_short_gives_the_rows_before_the_cut(whole):
    content = whole.read_bytes()
    with open_trace(whole) as trace:
        messages = trace.table("messages")
    for share in (0.3, 0.6, 0.95):
        whole.write_bytes(content[: int(share * len(content))])
        with pytest.raises(TraceError, match="cut short"):
            open_trace(whole)
        with open_trace(whole, salvage=True) as trace:
            readable = trace.rows("messages")
            assert f"{readable:,} of 3,000 messages" in trace.notes[0]
            assert readable > 2900 * (share - 0.3)
            assert trace.table("messages").tobytes() == messages[:readable].tobytes()
            assert trace.rows("steps") == 100
            assert trace.attributes["outcome"] == "finished"
            assert trace.final("x") is None
    whole.write_bytes(content[:3000])
    with pytest.raises(TraceError, match="cut short"):
        open_trace(whole, salvage=True)
