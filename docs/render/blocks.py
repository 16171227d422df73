"""Which function writes which block: add a line here, and the two markers to a page."""

from __future__ import annotations

from collections.abc import Callable

from docs.render import trace

BLOCKS: dict[str, Callable[[], str]] = {
    "trace-tables": trace.tables,
}
