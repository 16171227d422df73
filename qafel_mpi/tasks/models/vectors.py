"""Parameter vectors of real networks, for communication runs: the names and shapes of their tensors alone."""

from __future__ import annotations

from collections.abc import Callable

from qafel_mpi.codecs.base import Layout


def resnet18() -> Layout:
    """The tensors of ResNet-18 for ImageNet, 11,689,512 parameters (He et al. 2016)."""
    tensors: list[tuple[str, tuple[int, ...]]] = [("conv1.weight", (64, 3, 7, 7)), *_norm("bn1", 64)]
    channels = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            tensors += [(f"{name}.conv1.weight", (width, channels, 3, 3)), *_norm(f"{name}.bn1", width)]
            tensors += [(f"{name}.conv2.weight", (width, width, 3, 3)), *_norm(f"{name}.bn2", width)]
            if channels != width:
                tensors += [(f"{name}.downsample.0.weight", (width, channels, 1, 1))]
                tensors += _norm(f"{name}.downsample.1", width)
            channels = width
    tensors += [("fc.weight", (1000, 512)), ("fc.bias", (1000,))]
    return _layout(tensors)


def cnn() -> Layout:
    """The tensors of the paper's network for CelebA, 29,282 parameters (arXiv 2308.00263, appendix)."""
    tensors: list[tuple[str, tuple[int, ...]]] = []
    for number, channels in enumerate((3, 32, 32, 32)):
        name = f"convolutions.{number}"
        tensors += [(f"{name}.weight", (32, channels, 3, 3)), (f"{name}.bias", (32,))]
    return _layout([*tensors, *_norm("norm", 32), ("linear.weight", (2, 288)), ("linear.bias", (2,))])


def gpt2() -> Layout:
    """The tensors of the smallest GPT-2, 124,439,808 parameters (Radford et al. 2019)."""
    d = 768
    tensors: list[tuple[str, tuple[int, ...]]] = [("wte", (50257, d)), ("wpe", (1024, d))]
    for block in range(12):
        name = f"h.{block}"
        tensors += _norm(f"{name}.ln_1", d)
        tensors += [(f"{name}.attn.c_attn.weight", (d, 3 * d)), (f"{name}.attn.c_attn.bias", (3 * d,))]
        tensors += [(f"{name}.attn.c_proj.weight", (d, d)), (f"{name}.attn.c_proj.bias", (d,))]
        tensors += _norm(f"{name}.ln_2", d)
        tensors += [(f"{name}.mlp.c_fc.weight", (d, 4 * d)), (f"{name}.mlp.c_fc.bias", (4 * d,))]
        tensors += [(f"{name}.mlp.c_proj.weight", (4 * d, d)), (f"{name}.mlp.c_proj.bias", (d,))]
    return _layout([*tensors, *_norm("ln_f", d)])


def _norm(name: str, width: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def _layout(tensors: list[tuple[str, tuple[int, ...]]]) -> Layout:
    return Layout(tuple(name for name, _ in tensors), tuple(shape for _, shape in tensors))


VECTORS: dict[str, Callable[[], Layout]] = {
    "vectors:cnn": cnn,
    "vectors:resnet18": resnet18,
    "vectors:gpt2": gpt2,
}
