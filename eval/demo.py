"""`personaagent demo`: what personas and alignment do, on a small sample with the embedded model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.rule import Rule

from eval.contracts import EvalUser, Query, UserView
from eval.data import users as read_users
from eval.methods.baselines import UserMajority
from optimizers.alignment import PersonaAlignment
from optimizers.config import GROUNDED
from optimizers.stored import align_user
from optimizers.trainset import examples
from program.agent import PersonaAgent
from program.cli.options import Adapter, Model, Trace, Wikipedia, model_in_use
from program.console import err, out, progress
from program.errors import ConfigError, UnparsableAnswerError
from program.evidence import collect
from program.home import home
from program.loop import AgentSettings
from program.persona import GENERIC
from program.persona_page import persona_page, write_page
from program.printer import cell, command, make_table
from program.provenance import explain_lines, parts_by_version
from program.session import open_session
from program.spans import about, span
from program.store import UserStore
from program.task import Task, get_task
from program.text import counted, one_line
from program.tools.toolset import ToolSet
from program.usage import UsageTracker, track_usage

if TYPE_CHECKING:  # it brings numpy
    from eval.arms import Arm

QUICK = AgentSettings(max_steps=2, k=3, item_chars=160)
"""Short prompts, so that the demo takes minutes on two cores."""

SAMPLE = Path(__file__).parent / "data" / "sample" / "movies.json"

_NO_TOOLS = ToolSet([])
_SHOWN = 74
_MAJORITY = "always the most frequent answer, no model"
_CONFIG = replace(GROUNDED, gate="evidence:check_items=8")
_CONFIG_ALONE = replace(_CONFIG, candidates=1)
"""One proposal, with all facts, which is most of what others would show and a third of the calls."""

_NOTHING = "nothing known"
_MEMORY, _ALIGNED_MEMORY = "memory and persona", "memory and persona, aligned"
_ALONE, _ALIGNED_ALONE = "persona alone", "persona alone, aligned"
_GAINS = (
    ("Alignment of the persona alone", _ALIGNED_ALONE, _ALONE),
    ("Alignment beside memory", _ALIGNED_MEMORY, _MEMORY),
    ("Memory", _MEMORY, _ALONE),
)


@dataclass(frozen=True, kw_only=True)
class _Agents:
    """The agents of one user, by the name of their arm."""

    user: EvalUser
    by_arm: Mapping[str, PersonaAgent]


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Histories in the OPPU layout instead of the sample.")
    ] = None,
    task: Annotated[str, typer.Option(help="The task of the data.")] = "LaMP-2M",
    user: Annotated[
        str | None,
        typer.Option(help="Whose alignment to show; default: the first user's whose persona it changes."),
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Most users.")] = 4,
    queries: Annotated[int, typer.Option(min=1, help="Most held-out queries of each user.")] = 5,
    model: Model = None,
    wikipedia: Wikipedia = False,
    trace: Trace = "local",
    adapter: Adapter = None,
) -> None:
    """Import users, align their personas, and measure on held-out queries what that changes."""
    target = get_task(task)
    people = _select_users(list(read_users(data or SAMPLE, target)), user, users)
    held_out = {person.user_id: person.queries[-queries:] for person in people}
    path = home() / "demo.db"
    for leftover in (path, path.with_name("demo.db-wal"), path.with_name("demo.db-shm")):
        leftover.unlink(missing_ok=True)
    with (
        UserStore(path) as store,
        model_in_use(model, trace, adapter=adapter) as lm,
        track_usage(UsageTracker()) as tracker,
    ):
        for person in people:
            store.append(person.user_id, person.history, task=target.name)
        source = "the made-up sample" if data is None else f"`{data}`"
        err.print_line(f"{counted(len(people), 'user')} of {source}, with {lm.model}")
        opened = [_open(store, person, wikipedia) for person in people]
        _show_one_query(opened, people[0].queries[0], target)
        with progress(tracker, len(people), "alignments") as bar:
            aligned = []
            for agents in opened:
                aligned.append(_align(store, agents, wikipedia))
                bar.advance(agents.user.user_id)
        _show_arms(_answer(aligned, target, held_out, tracker), sum(map(len, held_out.values())))
        shown = aligned[0] if user else next(filter(_is_changed, aligned), aligned[0])
        name = shown.user.user_id
        _show_alignment(store, shown, target)
        page = home() / "demo-persona.html"
        write_page(page, persona_page(store, name))
    out.print_text(
        f"\n{counted(tracker.total().calls, 'model call')} in {tracker.seconds:.0f} s. Next:\n"
        f"  {command('persona why', name, store=path)}\n"
        f"  {command('ask', name, one_line(shown.user.queries[0].text, _SHOWN), store=path)}\n"
        "  personaagent demo --model openai/gpt-4o-mini\n"
        "  personaagent users import history.jsonl\n"
        f"The persona of {name}, what it rests on and what was refused: {page}"
    )


def _is_changed(agents: _Agents) -> bool:
    return agents.by_arm[_ALIGNED_MEMORY].persona != agents.by_arm[_MEMORY].persona


def _select_users(people: Sequence[EvalUser], first: str | None, most: int) -> list[EvalUser]:
    """Return at most ``most`` users, ``first`` at the front."""
    if first is None:
        return list(people[:most])
    for person in people:
        if person.user_id == first:
            return [person, *(other for other in people if other is not person)][:most]
    raise ConfigError(
        f"no user {first!r} in the data; there are {len(people)}, the first is {people[0].user_id!r}"
    )


def _open(store: UserStore, user: EvalUser, wikipedia: bool) -> _Agents:
    """Return the user's agents before the alignment."""
    settings: dict[str, Any] = {"home": home(), "wikipedia": wikipedia, "settings": QUICK}
    alone = open_session(store, user.user_id, tools=_NO_TOOLS, **settings).agent.deepcopy()
    generic = alone.deepcopy()
    generic.persona = GENERIC
    memory = open_session(store, user.user_id, **settings).agent.deepcopy()
    return _Agents(
        user=user,
        by_arm={_NOTHING: generic, _ALONE: alone, _MEMORY: memory},
    )


def _show_one_query(opened: Sequence[_Agents], query: Query, task: Task) -> None:
    _print_heading("1. one query, each user's own answer")
    out.print_line(one_line(query.text, 2 * _SHOWN))
    rows = []
    for agents in opened:
        agent = agents.by_arm[_MEMORY]
        with about(user_id=agents.user.user_id), span("ask", query=query.text):
            try:
                prediction = agent(query=query.text)
            except UnparsableAnswerError:
                rows.append((agents.user.user_id, "unreadable", ""))
                continue
        rests_on = next((step.interaction_ids[0] for step in prediction.steps if step.interaction_ids), None)
        item = next((item for item in agents.user.history if item.id == rests_on), None)
        shown = f"{one_line(item.query, _SHOWN)} → {item.response}" if item else ""
        rows.append((agents.user.user_id, prediction.answer, shown))
    nearest = "the nearest of what this user said before"
    out.print(make_table(("user", task.response_noun, nearest), rows, fold=(nearest,)))


def _align(store: UserStore, agents: _Agents, wikipedia: bool) -> _Agents:
    """Align one user twice: the persona alone, which has to carry all, and beside memory, as it is used.

    A test holds for the agent that it was made with. The store keeps the second.
    """
    alone, name = agents.by_arm[_ALONE], agents.user.user_id
    carries = PersonaAlignment(_CONFIG_ALONE).compile(
        alone, trainset=examples(alone.context.memory, alone.context.task)
    )
    used = align_user(store, name, _CONFIG, home=home(), wikipedia=wikipedia, settings=QUICK)
    return _Agents(
        user=agents.user,
        by_arm={
            _NOTHING: agents.by_arm[_NOTHING],
            _ALONE: alone,
            _ALIGNED_ALONE: carries,
            _MEMORY: agents.by_arm[_MEMORY],
            _ALIGNED_MEMORY: used,
        },
    )


def _show_alignment(store: UserStore, agents: _Agents, task: Task) -> None:
    name = agents.user.user_id
    _print_heading(f"3. the alignment of {name} beside memory, step by step")
    for step in agents.by_arm[_ALIGNED_MEMORY].alignment.steps:
        for rollout in step.rollouts:
            verdict = "right" if rollout.score == 1.0 else rollout.error or "wrong"
            likelihood = "" if rollout.likelihood is None else f", probability {rollout.likelihood:.2f}"
            out.print_line(
                f"{name} said {rollout.truth!r}, the agent {rollout.answer!r} ({verdict}{likelihood})"
            )
        for check in step.checks:
            out.print_line(f"Proposed: {check.label}")
            out.print_line(f"    {check.decision.outcome}: {check.decision.reason}")
        for refusal in step.refusals:
            out.print_line(f"Refused without a test: {refusal}")
        if step.note:
            out.print_line(step.note)
    versions = parts_by_version(store.persona_history(name))
    lines = explain_lines(versions, collect(agents.user.history, task))
    out.print_line(f"The persona has {counted(len(lines), 'line')} about {name}.")
    for line in lines:
        rests_on = counted(len(line.interaction_ids), "interaction")
        out.print_line(f"  - {line.text} ({line.origin}, from {rests_on})")


def _answer(
    aligned: Sequence[_Agents], task: Task, held_out: Mapping[str, Sequence[Query]], tracker: UsageTracker
) -> dict[str, Arm]:
    """Answer the held-out queries of all users in every way."""
    from eval.arms import Arm

    arms: dict[str, Arm] = {}
    total = sum(len(agents.by_arm) * len(held_out[agents.user.user_id]) for agents in aligned)
    with progress(tracker, total, "answers") as bar:
        for agents in aligned:
            queries = held_out[agents.user.user_id]
            _answer_majority(arms.setdefault(_MAJORITY, Arm()), agents.user, queries, task)
            for name, agent in agents.by_arm.items():
                for query in queries:
                    _ask(arms.setdefault(name, Arm()), agent, query, task, name)
                    bar.advance(name)
    return arms


def _ask(arm: Arm, agent: PersonaAgent, query: Query, task: Task, name: str) -> None:
    with about(user_id=query.user_id), span("ask", query=query.text, arm=name) as trace:
        try:
            prediction = agent(query=query.text, truth=str(query.gold))
        except UnparsableAnswerError:
            arm.add(None, None, query, task)
        else:
            arm.add(prediction.answer, prediction.likelihood, query, task)
            trace.output(answer=prediction.answer, truth=query.gold)


def _answer_majority(arm: Arm, user: EvalUser, queries: Sequence[Query], task: Task) -> None:
    """Answer with the user's most frequent response, a baseline without a model."""
    view = UserView(user_id=user.user_id, task=task, history=user.history, seed=0)
    for query in queries:
        arm.add(UserMajority().open(view, {}), None, query, task)


def _show_arms(arms: Mapping[str, Arm], n: int) -> None:
    from eval.arms import compare

    _print_heading(f"2. {counted(n, 'held-out query', 'held-out queries')}, answered in every way")
    rows = [(name, *arm.means(), str(arm.unreadable)) for name, arm in arms.items()]
    titles = ("", "agreement", "probability of the true answer", "unreadable")
    out.print(make_table(titles, rows, fold=("",)))
    out.print_line("Brackets: 95 % intervals over the queries; undecided: the interval includes zero.")
    for label, after, before in _GAINS:
        out.print_line(f"{label}: {compare(arms[after], arms[before])}.")


def _print_heading(text: str) -> None:
    out.print(Rule(cell(text), align="left"), width=out.width)
