"""The codecs of a suite's variants, by their settings, and which of them are biased."""

from __future__ import annotations

from functools import cache

from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.config import load

_LAYOUT = Layout(("weight", "bias"), ((64, 64), (64,)))  # rules may ask for a tensor of either kind


@cache
def codecs(suite: str, variant: str) -> tuple[CodecConfig, CodecConfig]:
    """The client's and the server's."""
    experiment = load(suite, variant=variant)
    return experiment.uplink, experiment.downlink


def biased(config: CodecConfig) -> bool:
    """eden with the scale that would be unbiased under a uniformly random rotation counts as unbiased.

    >>> options = ("unbiased", "least-squares")
    >>> [biased(CodecConfig(codec="eden", bits=2, scale=scale)) for scale in options]
    [False, True]
    >>> [biased(CodecConfig(codec="topk", fraction=0.1)), biased(CodecConfig(codec="randk", fraction=0.1))]
    [True, False]
    """
    return config.scale != "unbiased" and not build(config, _LAYOUT).unbiased


def named(config: CodecConfig) -> str:
    """A codec in words, without what is the same for most.

    >>> named(CodecConfig(codec="topk", fraction=0.1)), named(CodecConfig(codec="sign", bucket=256))
    ('topk, 10% of the elements', 'sign')
    >>> named(CodecConfig(codec="eden", bits=2, scale="least-squares"))
    'eden, 2 bits, least squares'
    """
    parts = [config.codec]
    if config.fraction is not None:
        parts.append(f"{100 * config.fraction:g}% of the elements")
    elif config.codec != "sign":
        parts.append(f"{config.bits} bits" if config.bits > 1 else "1 bit")
    if config.scale == "least-squares":
        parts.append("least squares")
    return ", ".join(parts)
