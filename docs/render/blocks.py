"""Which function writes which block: add a line here, and the two markers to a page."""

from __future__ import annotations

from collections.abc import Callable

from docs.render import settings, sizes, trace

BLOCKS: dict[str, Callable[[], str]] = {
    "message-sizes": sizes.messages,
    "settings": settings.settings,
    "trace-attributes": trace.attributes,
    "trace-groups": trace.groups,
    "trace-tables": trace.tables,
}
