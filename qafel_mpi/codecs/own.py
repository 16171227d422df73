"""A codec of the user's own: `codec = "module:Class"`, a subclass of Codec, tried before it is used."""

from __future__ import annotations

import numpy as np
import torch

from qafel_mpi import own
from qafel_mpi.codecs.base import Codec, Layout
from qafel_mpi.codecs.config import QuantizerConfig
from qafel_mpi.parsing import DataError

OWN_IDS = range(128, 256)  # on the wire; the others are the package's


def own_codec(config: QuantizerConfig, layout: Layout, dtype: torch.dtype) -> Codec:
    """The class that the setting names, with the options given.

    Raises DataError where it is no codec, does not take the options, or where a method of it fails.
    """
    name = f"codec = {config.codec!r}"
    kind = own.load("codec", config.codec)
    if not (isinstance(kind, type) and issubclass(kind, Codec)):
        raise DataError(f"{name}: this is no subclass of qafel_mpi.codecs.Codec")
    if missing := sorted(kind.__abstractmethods__):
        raise DataError(f"{name}: the class lacks {', '.join(missing)}")
    if kind.id not in OWN_IDS:
        raise DataError(
            f"{name}: id = {kind.id}; the ids of codecs of your own are {OWN_IDS.start} to {OWN_IDS.stop - 1}"
        )
    with own.blamed(f"{name} with options {config.options or {}}", kind):
        codec = kind(layout, dtype, **(config.options or {}))
    with own.blamed(name, kind, "in a trial, "):
        _try(codec)
    return codec


def _try(codec: Codec) -> None:
    """Encode two vectors and decode them. Raises DataError where that is not what Codec says."""
    size = codec.payload_bytes()
    if not isinstance(size, int) or size < 0:
        raise DataError(f"payload_bytes gave {size!r}; it must give a whole number of bytes")
    for attribute, kind in (("name", str), ("bits", int), ("unbiased", bool)):
        if not isinstance(value := getattr(codec, attribute, None), kind):
            raise DataError(f"the class has {attribute} = {value!r}; it must be of type {kind.__name__}")
    codec.fingerprint()
    codec.delta()
    d = codec.layout.elements
    for x in (torch.zeros(d, dtype=codec.dtype), torch.linspace(-1, 1, d, dtype=codec.dtype)):
        payload, before = np.zeros(size, np.uint8), x.clone()
        written = codec.encode(x, payload, 0)
        if not isinstance(written, int | np.integer) or not 0 <= written <= size:
            raise DataError(f"encode gave {written!r}; it must give the bytes written, at most {size}")
        if not torch.equal(x, before):
            raise DataError("encode changed the vector that it encodes")
        decoded = torch.empty_like(x)
        codec.decode(payload[:written], decoded, 0)
        codec.accumulate(payload[:written], decoded, 1.0, 0)
