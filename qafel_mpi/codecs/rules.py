"""Which codec each tensor has: the first rule that takes it, or the section's own."""

from __future__ import annotations

from collections.abc import Iterable

from qafel_mpi.codecs.base import Layout
from qafel_mpi.codecs.config import CodecConfig, QuantizerConfig, RuleConfig
from qafel_mpi.parsing import DataError


def parts_of(config: CodecConfig, layout: Layout) -> list[tuple[QuantizerConfig, Layout]]:
    """The quantizers, each with its tensors: in the order of the rules, the section's own last.

    Rules of the same quantizer are one part. Raises DataError where a rule takes no tensor, or the model has but one.
    """
    if not config.rules:
        return [(config, layout)]
    if not layout.elements:
        return []
    if len(layout.names) == 1:
        raise DataError(
            f"rules choose among the tensors of a model by name, size and rank, and this one is a single vector of "
            f"{layout.elements:,} elements: leave rules out"
        )
    chosen = [_first(config.rules, layout, i) for i in range(len(layout.names))]
    for number, rule in enumerate(config.rules):
        if number not in chosen:
            raise DataError(_takes_nothing(rule, number, config.rules, layout))
    quantizers = [_quantizer(one) for one in (*config.rules, config)]
    found: list[tuple[QuantizerConfig, list[int]]] = []
    for number, quantizer in enumerate(quantizers):
        tensors = [i for i, one in enumerate(chosen) if one == number]
        same = next((part for part in found if part[0] == quantizer), None)
        if same is None:
            found.append((quantizer, tensors))
        else:
            same[1].extend(tensors)
    parts = ((quantizer, _part(layout, sorted(tensors))) for quantizer, tensors in found)
    return [(quantizer, part) for quantizer, part in parts if part.elements]


def _first(rules: tuple[RuleConfig, ...], layout: Layout, tensor: int) -> int:
    """The number of the rule that takes the tensor; len(rules) for the section's own."""
    about = layout.names[tensor], layout.shapes[tensor], layout.sizes[tensor]
    return next((n for n, rule in enumerate(rules) if rule.takes(*about)), len(rules))


def _quantizer(config: QuantizerConfig) -> QuantizerConfig:
    """Its settings without a rule's conditions, and without what belongs to the section."""
    return QuantizerConfig.model_construct(
        **{name: getattr(config, name) for name in QuantizerConfig.model_fields}
    )


def _part(layout: Layout, tensors: Iterable[int]) -> Layout:
    kept = [i for i in tensors if layout.sizes[i]]
    return Layout(
        tuple(layout.names[i] for i in kept),
        tuple(layout.shapes[i] for i in kept),
        tuple(layout.offsets[i] for i in kept),
    )


def _takes_nothing(rule: RuleConfig, number: int, rules: tuple[RuleConfig, ...], layout: Layout) -> str:
    given = ", ".join(f"{name} = {value!r}" for name, value in rule.conditions.items())
    before = [
        n
        for n, one in enumerate(rules[:number])
        for about in zip(layout.names, layout.shapes, layout.sizes, strict=True)
        if one.takes(*about) and rule.takes(*about)
    ]
    if before:
        return (
            f"rule {number + 1} ({given}): rule {before[0] + 1} takes all its tensors before it; put it first"
        )
    shown = ", ".join(f"{n} {list(s)}" for n, s in zip(layout.names[:8], layout.shapes, strict=False))
    more = f" and {len(layout.names) - 8} more" if len(layout.names) > 8 else ""
    return f"rule {number + 1} ({given}) takes no tensor; there are {shown}{more}"
