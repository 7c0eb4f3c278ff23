"""Agent calls outside `track_usage`: memory stays flat, and nothing of any user lies in DSPy's history.

    .venv/bin/python benchmarks/bench_history.py [--calls 100000] [--threads 16]

Each agent answers with a scripted model in no time; texts carry the user's mark. Prints resident memory
after each tenth of the calls. Ends with status 1 if memory grew by more than 5 % over the second half,
if anything was written to DSPy's history, or if a prompt held another user's mark.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.base_lm import GLOBAL_HISTORY

from program import EpisodicMemory, Interaction, PersonaAgent, default_tools, get_task, scripted_lm

USERS = 64


def resident_mb() -> float:
    """Return the resident memory of this process, in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def make_agent(number: int) -> PersonaAgent:
    """Return the agent of one user, whose every text holds ``mark-NUMBER-``."""
    user = f"user{number}"
    history = [
        Interaction(
            id=str(n), user_id=user, query=f"mark-{number}- drink {n}?", response=f"mark-{number}- tea"
        )
        for n in range(8)
    ]
    tools = default_tools(Path("unused"), wikipedia=False)
    memory = EpisodicMemory(user, history)
    return PersonaAgent.for_user(
        user, memory, tools, task=get_task("free-text"), persona=f"Serve mark-{number}- well."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=16)
    options = parser.parse_args()
    foreign, model_calls = [], 0

    def reply(system: str, user: str) -> Any:
        nonlocal model_calls
        model_calls += 1
        marks = set(re.findall(r"mark-(\d+)-", system + user))
        if len(marks) != 1:
            foreign.append(marks)
        return {"thought": "", "action": {"tool": "finish", "answer": f"mark-{marks.pop()}- tea"}}

    lm = scripted_lm(reply)
    lm.engine.prompts = type("Nowhere", (list,), {"append": lambda self, item: None})()
    dspy.configure(lm=lm)  # DSPy's own defaults: its history and trace are on
    agents = [make_agent(number) for number in range(USERS)]

    def answer(number: int) -> None:
        agent = agents[number % USERS]
        prediction = agent(query=f"mark-{number % USERS}- what now?")
        if not prediction.answer.startswith(f"mark-{number % USERS}-"):
            foreign.append({prediction.answer})

    memory: list[float] = []
    started = time.perf_counter()
    with ThreadPoolExecutor(options.threads) as pool:
        tenth = max(1, options.calls // 10)
        for begin in range(0, options.calls, tenth):
            list(pool.map(answer, range(begin, min(begin + tenth, options.calls))))
            memory.append(resident_mb())
            print(f"{begin + tenth:>8,} agent calls: {memory[-1]:.0f} MB", flush=True)
    seconds = time.perf_counter() - started
    history = len(GLOBAL_HISTORY) + len(lm.history) + sum(len(agent.act.history) for agent in agents)
    half = memory[len(memory) // 2 - 1]
    growth = memory[-1] / half - 1
    print(
        f"{options.calls:,} agent calls ({model_calls:,} model calls) on {options.threads} threads in "
        f"{seconds:.0f} s ({1e3 * seconds / options.calls:.2f} ms each); memory over the second half: "
        f"{growth:+.1%}; entries in DSPy's history: {history}; foreign texts: {len(foreign)}"
    )
    sys.exit(bool(foreign or history or growth > 0.05))


if __name__ == "__main__":
    main()
