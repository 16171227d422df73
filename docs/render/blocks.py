"""Which function writes which block: add a line here, and the two markers to a page."""

from __future__ import annotations

from collections.abc import Callable

from docs.render import (
    analysis,
    clocks,
    codecs,
    learning,
    links,
    replays,
    scaling,
    settings,
    sizes,
    summary,
    trace,
    transport,
)

BLOCKS: dict[str, Callable[[], str]] = {
    "analysis": analysis.costs,
    "broadcast": transport.broadcast,
    "broadcast-hosts": transport.broadcast_hosts,
    "broadcast-model": transport.broadcast_model,
    "clocks": clocks.clocks,
    "codec": codecs.qsgd,
    "codec-large": codecs.large,
    "codec-neighbour": codecs.neighbour,
    "codec-peers": codecs.peers,
    "codec-variants": codecs.variants,
    "codec-zstd": codecs.zstd_saves,
    "demo-digits": learning.demo_digits,
    "demo-mushrooms": learning.demo_mushrooms,
    "digests": replays.digests,
    "hidden": transport.hidden,
    "link-cnn": links.link_cnn,
    "link-resnet18": links.link_resnet18,
    "logistic": learning.logistic,
    "many-ranks": scaling.many_ranks,
    "message-sizes": sizes.messages,
    "messages": transport.messages,
    "progress": scaling.progress,
    "results": summary.summary,
    "scaling": scaling.measured,
    "scaling-model": scaling.model,
    "settings": settings.settings,
    "shared-data": scaling.shared_data,
    "sizes": sizes.measured,
    "startup": sizes.startup,
    "trace-attributes": trace.attributes,
    "trace-bytes": sizes.rows_of_the_trace,
    "trace-groups": trace.groups,
    "trace-tables": trace.tables,
    "uploads": transport.uploads,
    "virtual": learning.virtual,
    "waiting": transport.waiting,
}
