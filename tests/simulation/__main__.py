"""Many seeds of the simulation: python -m tests.simulation FIRST COUNT (make simulate)."""

from __future__ import annotations

import sys
import traceback

from tests.simulation.wall import KINDS, Scenario, judge, simulate


def main(first: int, count: int) -> int:
    broken = 0
    for seed in range(first, first + count):
        for kind in KINDS:
            scenario = Scenario.drawn(seed, kind)
            try:
                judge(simulate(scenario))
            except Exception:
                broken += 1
                traceback.print_exc()
                print(f"seed {seed}, {kind}: {scenario}", flush=True)
        if (seed - first) % 100 == 99:
            print(f"{seed - first + 1} of {count} seeds, {broken} broken", file=sys.stderr, flush=True)
    print(f"{count} seeds of {', '.join(KINDS)}: {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in sys.argv[1:])))
