"""A block of docs/sizes.md: what a message of a model of so many parameters has, from the codecs themselves."""

from __future__ import annotations

from docs.render.pages import table
from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.wire import HEADER_BYTES

MODELS = {"29,282": 29_282, "11.7 million": 11_689_512, "124 million": 124_439_808, "1 billion": 10**9}
CODECS = {
    "float32": CodecConfig(codec="identity"),
    "qsgd, 8 bits": CodecConfig(codec="qsgd", bits=8),
    "qsgd, 4 bits": CodecConfig(codec="qsgd", bits=4),
    "qsgd, 2 bits": CodecConfig(codec="qsgd", bits=2),
    "topk, 1%": CodecConfig(codec="topk", fraction=0.01),
}
MOST_BYTES = 2**31 - 1  # of one MPI call
LINK_BYTES_PER_S = 125e6  # 1 Gbit/s


def messages() -> str:
    """Bytes of a message, and its seconds on a link of 1 Gbit/s."""
    return table(
        ["codec", *MODELS],
        ([name, *(_message(codec, d) for d in MODELS.values())] for name, codec in CODECS.items()),
        right=range(1, len(MODELS) + 1),
    )


def _message(config: CodecConfig, parameters: int) -> str:
    size = HEADER_BYTES + build(config, Layout(("x",), ((parameters,),))).payload_bytes()
    return (
        f"{_bytes(size)}, {_time(size / LINK_BYTES_PER_S)}"
        if size <= MOST_BYTES
        else f"{_bytes(size)}: too large"
    )


def _time(seconds: float) -> str:
    """
    >>> _time(0.00012), _time(0.374), _time(4.06)
    ('0.12 ms', '370 ms', '4.1 s')
    """
    value, unit = (seconds, "s") if seconds >= 1 else (1000 * seconds, "ms")
    return f"{float(f'{value:.2g}'):g} {unit}"


def _bytes(size: int) -> str:
    """
    >>> _bytes(14_937), _bytes(46_758_112)
    ('14.9 kB', '46.8 MB')
    """
    exponent = min(3, (len(str(size)) - 1) // 3)
    return f"{size / 1000**exponent:.3g} {('B', 'kB', 'MB', 'GB')[exponent]}"
