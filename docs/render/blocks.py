"""Which function writes which block: add a line here, and the two markers to a page."""

from __future__ import annotations

from collections.abc import Callable

from docs.render import codecs, learning, links, settings, sizes, summary, trace, transport

BLOCKS: dict[str, Callable[[], str]] = {
    "broadcast": transport.broadcast,
    "broadcast-hosts": transport.broadcast_hosts,
    "broadcast-model": transport.broadcast_model,
    "codec": codecs.qsgd,
    "codec-neighbour": codecs.neighbour,
    "codec-variants": codecs.variants,
    "demo-digits": learning.demo_digits,
    "demo-mushrooms": learning.demo_mushrooms,
    "hidden": transport.hidden,
    "link-cnn": links.link_cnn,
    "link-resnet18": links.link_resnet18,
    "logistic": learning.logistic,
    "message-sizes": sizes.messages,
    "messages": transport.messages,
    "results": summary.summary,
    "settings": settings.settings,
    "sizes": sizes.measured,
    "trace-attributes": trace.attributes,
    "trace-groups": trace.groups,
    "trace-tables": trace.tables,
    "uploads": transport.uploads,
    "virtual": learning.virtual,
    "waiting": transport.waiting,
}
