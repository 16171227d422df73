"""`make fuzz`: all targets with fresh seeds, round after round, for MINUTES. An input that fails ends it.

python -m tests.fuzz MINUTES [what pytest takes]
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

FACTOR = "5"  # a round has so many times the inputs of CI


def main(minutes: float, *options: str) -> int:
    """The exit code of the round that failed, or 0."""
    end_s = time.monotonic() + 60 * minutes
    rounds = 0
    while time.monotonic() < end_s:
        rounds += 1
        seed = random.SystemRandom().randrange(2**32)
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "tests/fuzz",
            f"--hypothesis-seed={seed}",
            *options,
        ]
        print(f"fuzz: round {rounds}, seed {seed}", flush=True)
        environment = {k: v for k, v in os.environ.items() if k != "CI"} | {"QAFEL_FUZZ": FACTOR}
        if code := subprocess.run(words, env=environment).returncode:
            print(f"fuzz: {' '.join(words[1:])} fails; make the input above a test", flush=True)
            return code
    print(f"fuzz: {rounds} rounds, nothing found", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), *sys.argv[2:]))
