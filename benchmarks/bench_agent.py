"""Own CPU of the agent loop with an instant model, beside stock dspy.ReAct in the same run.

Run: .venv/bin/python benchmarks/bench_agent.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import dspy

from program.agent import PersonaAgent
from program.answers import Labels
from program.memory.episodic import EpisodicMemory
from program.memory.interaction import Interaction
from program.models.scripted import scripted_lm
from program.task import Item, Task
from program.tools import default_tools
from program.usage import UsageTracker, track_usage

QUERIES, REPEATS, HISTORY = 60, 7, 60
TASK = Task(
    name="tags",
    question="Which tag does this movie relate to?",
    answer=Labels(tuple(f"tag {n}" for n in range(15))),
    read_item=lambda item: Item(item["query"], item["response"]),
    read_query=str.strip,
)
TEXT = "a long enough description of a film in which two rivals share a flat and learn to live with it " * 3
MEMORY = EpisodicMemory(
    "u",
    [
        Interaction(id=str(n), user_id="u", query=f"{TEXT} {n}", response=f"tag {n % 15}")
        for n in range(HISTORY)
    ],
)


def ours(system: str, user: str) -> Any:
    done = user.count(" gave:\n")
    actions = [
        {"tool": "search_memory", "query": "rivals"},
        {"tool": "read_profile"},
        {"tool": "finish", "answer": "tag 1"},
    ]
    return {"thought": "I need to know more.", "action": actions[min(done, 2)]}


def stock(system: str, user: str) -> str:
    if "next_tool_name" not in user:
        return "[[ ## reasoning ## ]]\nso\n\n[[ ## tag ## ]]\ntag 1\n\n[[ ## completed ## ]]"
    done = user.count("observation_")
    name, arguments = [("search_memory", '{"query": "rivals"}'), ("read_profile", "{}"), ("finish", "{}")][
        min(done, 2)
    ]
    return (
        f"[[ ## next_thought ## ]]\nI need to know more.\n\n[[ ## next_tool_name ## ]]\n{name}\n\n"
        f"[[ ## next_tool_args ## ]]\n{arguments}\n\n[[ ## completed ## ]]"
    )


def search_memory(query: str) -> str:
    """Find this user's own past interactions most like the query."""
    return "\n".join(f"{item.response} | {item.query}" for item in MEMORY.search(query, 4))


def read_profile() -> str:
    """Read what is known about this user."""
    return "This user has answered 60 times."


def cpu_per_call(program: Callable[..., Any], lm: dspy.LM) -> float:
    """Return the median CPU milliseconds for one model call, engine included."""
    times = []
    for _ in range(REPEATS):
        calls = len(lm.engine.prompts)
        started = time.process_time()
        for number in range(QUERIES):
            program(query=f"{TEXT} {number}")
        times.append(1000 * (time.process_time() - started) / (len(lm.engine.prompts) - calls))
    return statistics.median(times)


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        agent = PersonaAgent.for_user("u", MEMORY, default_tools(cache, wikipedia=False), task=TASK)
        react = dspy.ReAct("query -> tag", tools=[search_memory, read_profile])
        rows = []
        lm = scripted_lm(ours)
        with dspy.context(lm=lm, disable_history=True, trace=None):
            rows.append(("PersonaAgent", cpu_per_call(agent, lm)))
        lm = scripted_lm(ours)
        with track_usage(UsageTracker(), lm):
            rows.append(("PersonaAgent, with track_usage", cpu_per_call(agent, lm)))
        lm = scripted_lm(stock)
        with dspy.context(lm=lm, disable_history=True, trace=None):
            rows.append(("dspy.ReAct", cpu_per_call(react, lm)))
    base = rows[-1][1]
    print(f"CPU per model call, instant engine, median of {REPEATS} x {QUERIES} queries")
    for name, ms in rows:
        print(f"  {name:32} {ms:6.2f} ms   {ms / base:5.2f} x dspy.ReAct")


if __name__ == "__main__":
    main()
