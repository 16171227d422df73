"""Writes codecs.json: inputs and the payloads they give, which the tests read and never write.

    python tests/unit/codecs/golden/write_codecs.py

A difference in the file is a change of the wire format: it needs a new version, not a new file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qafel_mpi.codecs import CodecConfig, Layout, build

SHAPES = ((5, 7), (3,), (2, 2, 5), (1,))
KEY = 0x0123456789ABCDEF
SETTINGS: list[dict[str, Any]] = [
    {"codec": "identity"},
    *({"bits": bits, "bucket": 24} for bits in range(1, 17)),
    *({"bits": bits, "bucket": "layer", "scale": "l2"} for bits in (1, 4, 8)),
    {"bits": 4, "bucket": "tensor"},
    {"levels": 4, "bucket": "tensor", "scale": "l2"},
    {"levels": 8},
    *({"codec": "affine", "bits": bits} for bits in range(1, 9)),
    {"codec": "topk", "fraction": 0.2},
    {"codec": "randk", "fraction": 0.2},
    {"codec": "sign", "bucket": 24},
    *({"codec": "affine", "bits": bits, "bucket": 12} for bits in (3, 4, 8)),
]
# Behind all others, so that a new codec adds lines and moves none.
LATER: list[dict[str, Any]] = [
    *({"codec": "eden", "bits": bits, "bucket": 128} for bits in (1, 2, 3, 4)),
    {"codec": "eden", "bits": 2, "bucket": 512, "rotations": 2, "scale": "least-squares"},
]
# Of near codecs; behind those again.
LATEST: list[dict[str, Any]] = [
    *({"codec": "lattice", "bits": bits, "bucket": 24, "spacing": 2.0**-bits} for bits in (1, 3, 8, 13)),
    {"codec": "lattice", "bits": 16, "bucket": "tensor", "spacing": 1e-3},
]
FP4: list[dict[str, Any]] = [
    {"codec": "fp4", "format": form, "rounding": rounding}
    for form in ("mxfp4", "nvfp4")
    for rounding in ("stochastic", "nearest")
]
FIXED: list[dict[str, Any]] = [
    {"codec": "fixed", "bits": bits, "spacing": 4 * 2.0**-bits} for bits in range(2, 9)
]
_EXACT = {"max_rank": 1, "codec": "identity"}
RULES: list[dict[str, Any]] = [
    {"bits": 4, "bucket": 24, "rules": [_EXACT]},
    {
        "codec": "affine",
        "bits": 3,
        "rules": [
            {"match": "[13]", "codec": "qsgd", "bits": 2},
            {"match": "t2", "codec": "eden", "bits": 2, "bucket": 128},
        ],
    },
    {"codec": "topk", "fraction": 0.2, "rules": [{"max_elements": 20, "codec": "sign", "bucket": "tensor"}]},
]


def vector(kind: str) -> np.ndarray:
    """(59,) float32."""
    x = np.random.Generator(np.random.Philox(59)).standard_normal(59)
    if kind == "tiny":
        x *= 1e-40
    elif kind == "huge":
        x = x.clip(-1, 1) * float(np.finfo(np.float32).max)
    x[10:14] = 0
    return x.astype(np.float32)


def case(settings: dict[str, object], kind: str, dtype: torch.dtype) -> dict[str, object]:
    layout = Layout(tuple(f"t{i}" for i in range(len(SHAPES))), SHAPES)
    codec = build(CodecConfig.model_validate(settings), layout, dtype)
    payload = np.zeros(codec.payload_bytes(), dtype=np.uint8)
    size = codec.encode(torch.from_numpy(vector(kind)).to(dtype), payload, KEY)
    return {
        "settings": settings,
        "dtype": str(dtype).removeprefix("torch."),
        "key": KEY,
        "x": vector(kind).tobytes().hex(),
        "payload": payload[:size].tobytes().hex(),
    }


def main() -> None:
    cases = [case(s, kind, torch.float32) for s in SETTINGS for kind in ("normal", "tiny", "huge")]
    cases += [case(s, "normal", torch.float64) for s in SETTINGS]
    cases += [case(s, kind, torch.float32) for s in LATER for kind in ("normal", "tiny", "huge")]
    cases += [case(s, "normal", torch.float64) for s in LATER]
    cases += [case(s, kind, torch.float32) for s in LATEST for kind in ("normal", "tiny", "huge")]
    cases += [case(s, "normal", torch.float64) for s in LATEST]
    cases += [case(s, kind, torch.float32) for s in RULES for kind in ("normal", "tiny", "huge")]
    cases += [case(s, "normal", torch.float64) for s in RULES]
    cases += [case(s, kind, torch.float32) for s in FP4 for kind in ("normal", "tiny", "huge")]
    cases += [case(s, "normal", torch.float64) for s in FP4]
    cases += [case(s, kind, torch.float32) for s in FIXED for kind in ("normal", "tiny", "huge")]
    cases += [case(s, "normal", torch.float64) for s in FIXED]
    lines = ",\n".join(json.dumps(c) for c in cases)
    text = f'{{"shapes": {json.dumps(SHAPES)}, "cases": [\n{lines}\n]}}\n'
    Path(__file__).with_name("codecs.json").write_text(text)


if __name__ == "__main__":
    main()
