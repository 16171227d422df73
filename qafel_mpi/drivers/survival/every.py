"""How often a run writes a checkpoint, as the command line says it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qafel_mpi.config_text import ConfigError


@dataclass(frozen=True)
class Every:
    """So many server steps or seconds; by default as often as checkpoints.SHARE of the run's time allows."""

    steps: int | None = None
    seconds: float | None = None
    never: bool = False

    @classmethod
    def parsed(cls, text: str | None) -> Every:
        """Of `--checkpoint-every TEXT`. Raises ConfigError.

        >>> Every.parsed("50").steps, Every.parsed("2.5s").seconds, Every.parsed("never").never, Every.parsed(None)
        (50, 2.5, True, Every(steps=None, seconds=None, never=False))
        """
        if text is None or text == "never":
            return cls(never=text is not None)
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)(s?)", text, re.ASCII)
        if match and match[2] and float(match[1]) > 0:
            return cls(seconds=float(match[1]))
        if match and not match[2] and "." not in text and int(text) > 0:
            return cls(steps=int(text))
        raise ConfigError(
            [
                f"--checkpoint-every {text}: neither a number of server steps (50), nor seconds (30s), nor never"
            ]
        )


DEFAULT = Every()
