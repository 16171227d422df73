"""Blocks of docs/sizes.md: a message's bytes from the codecs themselves, memory and seconds as measured."""

from __future__ import annotations

from typing import Any

from qafel_analysis.tables.grid import size

from docs.render.pages import table
from docs.render.records import content, first, origin, time
from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.trace_schema import MESSAGES, STEPS, UPDATES
from qafel_mpi.wire import HEADER_BYTES

MODELS = {"29,282": 29_282, "11.7 million": 11_689_512, "124 million": 124_439_808, "1 billion": 10**9}
CODECS = {
    "float32": CodecConfig(codec="identity"),
    "qsgd, 8 bits": CodecConfig(codec="qsgd", bits=8),
    "qsgd, 4 bits": CodecConfig(codec="qsgd", bits=4),
    "qsgd, 2 bits": CodecConfig(codec="qsgd", bits=2),
    "topk, 1%": CodecConfig(codec="topk", fraction=0.01),
}
LINK_BYTES_PER_S = 125e6  # 1 Gbit/s


def messages() -> str:
    """Bytes of a message, and its seconds on a link of 1 Gbit/s."""
    return table(
        ["codec", *MODELS],
        ([name, *(_message(codec, d) for d in MODELS.values())] for name, codec in CODECS.items()),
        right=range(1, len(MODELS) + 1),
    )


def measured() -> str:
    """Memory, bytes and seconds by parameters, of server and client."""
    names = {"qafel": "QAFeL, 4 bits", "fedbuff": "FedBuff"}
    lines = []
    for row in content("sizes"):
        p = row["parameters"]
        lines.append(
            (
                names[p["algorithm"]],
                f"{p['d']:,}",
                _memory(row, "rank_0"),
                _memory(row, "client"),
                size(int(first(row, "upload_bytes"))),
                time(first(row, "median_us")),
                time(first(row, "encode_us")),
                time(first(row, "decode_us")),
                time(first(row, "step_us")),
            )
        )
    lines.sort(key=lambda line: list(names.values()).index(line[0]))
    header = (
        "", "parameters", "memory, server", "memory, client", "upload", "training step", "encode", "decode and add",
        "server step",
    )  # fmt: skip
    return f"{table(header, lines, right=range(1, 9))}\n\n{origin('sizes')}"


def rows_of_the_trace() -> str:
    """Bytes of a row of the trace's tables, and of a million uploads: by the schema."""
    message, update, step = (row.itemsize for row in (MESSAGES, UPDATES, STEPS))
    million = 1e6 * (2 * message + update) / 1e9
    return (
        f"A message takes {message} bytes at each of its two ends, an update {update} bytes and a server step {step} "
        f"bytes. A million uploads on the wall clock are some {million:.1f} GB. `/final` holds x and x̂, 8 bytes a "
        "parameter."
    )


_PLACES = {
    "files_of_the_environment": "of them in the virtual environment",
    "files_of_python": "of them of Python's own library",
}


def startup() -> str:
    """What a rank's start costs its host."""
    found = content("startup")
    lines = [
        ("files opened", f"{found['files_opened']:,}"),
        *[(words, f"{found[name]:,}") for name, words in _PLACES.items() if name in found],
        ("calls to the file system", f"{found['calls']:,}"),
        ("files mapped", size(found["mapped_bytes"])),
        ("processor time", f"{found['processor_seconds']:.1f} s"),
    ]
    header = ("one process, `" + found["run"] + "`", "")
    return f"{table(header, lines, right=(1,))}\n\n{origin('startup')}"


def _memory(row: dict[str, Any], rank: str) -> str:
    """Megabytes; and bytes a parameter above the smallest size."""
    mb = f"{first(row, f'{rank}_mb'):,.0f} MB"
    each = row["launches"][0].get(f"{rank}_bytes_a_parameter")
    return mb if each is None else f"{mb}, {each:.0f} B a parameter"


def _message(config: CodecConfig, parameters: int) -> str:
    message_bytes = HEADER_BYTES + build(config, Layout(("x",), ((parameters,),))).payload_bytes()
    return f"{size(message_bytes)}, {_time(message_bytes / LINK_BYTES_PER_S)}"


def _time(seconds: float) -> str:
    """
    >>> _time(0.00012), _time(0.374), _time(0.9996), _time(4.06)
    ('0.12 ms', '370 ms', '1 s', '4.1 s')
    """
    ms = float(f"{1000 * seconds:.2g}")
    return f"{ms:g} ms" if ms < 1000 else f"{float(f'{seconds:.2g}'):g} s"
