"""`personaagent demo`: alignment and evaluation on a small sample with the embedded model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.rule import Rule

from eval.contracts import EvalUser, Query, UserView
from eval.data import users as read_users
from eval.methods.baselines import UserMajority
from optimizers.config import PAPER
from optimizers.stored import align_user
from program.agent import PersonaAgent
from program.cli.options import Adapter, Model, Trace, Wikipedia, model_in_use
from program.cli.persona import print_diff
from program.console import ProgressBar, err, out, progress
from program.errors import ConfigError, UnparsableAnswerError
from program.home import home
from program.loop import AgentSettings
from program.persona import GENERIC
from program.printer import cell, command, make_table
from program.session import open_session
from program.spans import about, span
from program.store import UserStore
from program.task import Task, get_task
from program.text import counted
from program.usage import UsageTracker, current_tracker, track_usage

QUICK = AgentSettings(max_steps=2, k=3, item_chars=160)
"""Two short tool calls before the answer, so that the demo takes minutes on two cores."""

SAMPLE = Path(__file__).parent / "data" / "sample" / "movies.json"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The scores of one way of answering on the held-out queries.

    Attributes:
        agreement: Mean agreement with the golds, in [0, 1]; an unparsable answer counts 0.
        n: Number of queries.
        unreadable: Number of unparsable answers.
        calls: Number of model calls.
        seconds: Wall time for all queries.
    """

    name: str
    agreement: float
    n: int
    unreadable: int
    calls: int
    seconds: float


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Histories in the OPPU layout instead of the sample.")
    ] = None,
    task: Annotated[str, typer.Option(help="The task of the data.")] = "LaMP-2M",
    user: Annotated[str | None, typer.Option(help="Which user to align; default: the first.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Most held-out queries to answer.")] = 4,
    model: Model = None,
    wikipedia: Wikipedia = False,
    trace: Trace = "local",
    adapter: Adapter = None,
) -> None:
    """Import users, align one persona, answer that user's held-out queries."""
    target = get_task(task)
    people = list(read_users(data or SAMPLE, target))
    subject = _select_user(people, user)
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
        name = subject.user_id
        err.print_line(f"1. {counted(len(people), 'user')} imported; aligning {name!r} with {lm.model}")
        session = open_session(store, name, home=home(), wikipedia=wikipedia, settings=QUICK)
        # A copy: the session's own agent takes over the persona that the alignment writes.
        initial = session.agent.deepcopy()
        aligned = align_user(store, name, PAPER, home=home(), wikipedia=wikipedia, settings=QUICK)
        _print_alignment(aligned)
        held_out = subject.queries[-queries:]
        err.print_line(f"2. answering {len(held_out)} held-out queries of {name!r}, three times")
        generic = initial.deepcopy()
        generic.persona = GENERIC
        arms = [_score_majority(subject, held_out, target)]
        with progress(tracker, 3 * len(held_out), "answers") as bar:
            for label, agent in (
                ("no persona", generic),
                ("initial persona", initial),
                ("aligned persona", aligned),
            ):
                arms.append(_score_agent(label, agent, held_out, target, bar))
    _print_arms(arms, subject, lm.model, sample=data is None)
    err.print_text(
        f"\n{counted(tracker.total().calls, 'model call')} in {tracker.seconds:.0f} s. "
        "Everything is stored; try:\n"
        f"  {command('persona history', name, store=path)}\n"
        f"  {command('ask', name, 'two rivals share a flat', store=path)}"
    )


def _select_user(people: Sequence[EvalUser], user: str | None) -> EvalUser:
    if user is None:
        return people[0]
    for person in people:
        if person.user_id == user:
            return person
    raise ConfigError(
        f"no user {user!r} in the data; there are {len(people)}, the first is {people[0].user_id!r}"
    )


def _score_agent(
    label: str, agent: PersonaAgent, queries: Sequence[Query], task: Task, bar: ProgressBar
) -> Arm:
    score, unreadable = 0.0, 0
    with track_usage(UsageTracker(parent=current_tracker())) as tracker:
        for query in queries:
            with about(user_id=query.user_id), span("ask", query=query.text, arm=label) as trace:
                try:
                    answer = agent(query=query.text).answer
                except UnparsableAnswerError:
                    unreadable += 1
                else:
                    score += task.answer.agreement(answer, str(query.gold))
                    trace.output(answer=answer, truth=query.gold)
            bar.advance(label)
    return Arm(
        name=label,
        agreement=score / len(queries),
        n=len(queries),
        unreadable=unreadable,
        calls=tracker.total().calls,
        seconds=tracker.seconds,
    )


def _score_majority(user: EvalUser, queries: Sequence[Query], task: Task) -> Arm:
    """Score the user's most frequent response, a baseline without a model."""
    view = UserView(user_id=user.user_id, task=task, history=user.history, seed=0)
    answer = UserMajority().open(view, {})
    score = sum(task.answer.agreement(answer, str(query.gold)) for query in queries)
    label = f"always {answer!r}, no model"
    return Arm(name=label, agreement=score / len(queries), n=len(queries), unreadable=0, calls=0, seconds=0.0)


def _print_alignment(aligned: PersonaAgent) -> None:
    for step in aligned.alignment.steps:
        _print_heading(f"step {step.number}: the agent answers past interactions again")
        for rollout in step.rollouts:
            verdict = "right" if rollout.score == 1.0 else rollout.error or "wrong"
            out.print_line(f"  answered {rollout.answer!r}, the user said {rollout.truth!r}: {verdict}")
        _print_heading("the feedback")
        for item in step.feedback:
            out.print_text(f"  - {item.text or item.skipped}")
        _print_heading(f"the persona, before and after ({step.note or step.decision.reason})")
        print_diff(step.persona_before, step.persona_after, "before", "after")


def _print_arms(arms: Sequence[Arm], subject: EvalUser, model: str, *, sample: bool) -> None:
    source = "made-up sample" if sample else "your data"
    _print_heading(f"held-out queries of {subject.user_id} ({source})")
    rows = [
        (
            arm.name,
            f"{arm.agreement:.2f}",
            str(arm.n),
            str(arm.unreadable),
            str(arm.calls),
            f"{arm.seconds / arm.n:.1f}",
        )
        for arm in arms
    ]
    titles = ("", "agreement", "n", "unreadable", "model calls", "s per query")
    out.print(make_table(titles, rows, fold=("",)))
    out.print_line(
        f"One user, n = {arms[0].n}, model {model}: this shows that alignment runs, not that it helps. "
        "Measure that with `personaagent eval`."
    )


def _print_heading(text: str) -> None:
    out.print(Rule(cell(text), align="left"), width=out.width)
