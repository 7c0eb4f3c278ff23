"""Wall time of `import personaagent` beside `import dspy`, fresh processes in turn.

Run: .venv/bin/python benchmarks/bench_import.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

PAIRS = 15
USE = "import personaagent; personaagent.PersonaAgent; personaagent.PersonaAlignment"


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    for code in ("import dspy", "import personaagent", USE):
        seconds(code)
    rows = [(seconds("import dspy"), seconds("import personaagent"), seconds(USE)) for _ in range(PAIRS)]
    dspy_s, ours_s, used_s = (statistics.median(column) for column in zip(*rows, strict=True))
    plain = statistics.median(ours / base for base, ours, _ in rows)
    used = statistics.median(ours / base for base, _, ours in rows)
    print(f"median of {PAIRS} pairs of fresh processes")
    print(f"  import dspy                      {dspy_s:.2f} s")
    print(f"  import personaagent              {ours_s:.2f} s   {plain:.2f} x")
    print(f"  ... and its agent and optimizer  {used_s:.2f} s   {used:.2f} x")


if __name__ == "__main__":
    main()
