"""`personaagent ask` and `personaagent observe`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from program.cli.options import (
    Adapter,
    Json,
    MaxInputChars,
    Model,
    Store,
    Trace,
    TraceContent,
    User,
    Wikipedia,
    model_in_use,
    open_store,
)
from program.console import err, out, print_json
from program.errors import StoreError
from program.home import home
from program.loop import AgentSettings
from program.printer import command
from program.session import open_session
from program.spans import about, span
from program.store import UserStore
from program.usage import UsageTracker, track_usage


def ask(
    user: User,
    query: Annotated[str, typer.Argument(help="The query, without the task's question.", show_default=False)],
    model: Model = None,
    wikipedia: Wikipedia = True,
    max_input_chars: MaxInputChars = AgentSettings.max_input_chars,
    trace: Trace = "local",
    trace_content: TraceContent = "full",
    adapter: Adapter = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Ask a user's agent. The answer is not stored; see `observe`."""
    settings = AgentSettings(max_input_chars=max_input_chars)
    with open_store(store) as users:
        users.user(user)
        with (
            model_in_use(model, trace, trace_content, adapter),
            track_usage(UsageTracker()) as tracker,
            _recorded(users, user, tracker),
        ):
            session = open_session(users, user, home=home(), wikipedia=wikipedia, settings=settings)
            with (
                about(user_id=user, persona_version=session.version.version),
                span("ask", query=query) as ask_span,
            ):
                prediction = session.agent(query=query)
                ask_span.output(answer=prediction.answer)
    usage = tracker.total()
    if json:
        print_json(
            {
                "answer": prediction.answer,
                "probabilities": prediction.probabilities,
                "persona_version": session.version.version,
                "steps": [vars(step) for step in prediction.steps],
                "usage": vars(usage),
                "seconds": round(tracker.seconds, 3),
            }
        )
        return
    for number, step in enumerate(prediction.steps, 1):
        note = f" ({step.forced})" if step.forced else ""
        err.print_line(f"{number}. {step.call}{note}", style="dim")
    out.print_text(prediction.answer)
    err.print_line(f"persona v{session.version.version}, {usage}, {tracker.seconds:.1f} s", style="dim")


@contextmanager
def _recorded(users: UserStore, user: str, tracker: UsageTracker) -> Iterator[None]:
    """Add what the block paid to the user's costs; an answer is not lost if that fails."""
    try:
        yield
    finally:
        try:
            users.record_answer(user, tracker.total())
        except StoreError as error:
            err.print_line(f"warning: the cost was not recorded: {error}", style="yellow")


def observe(
    user: User,
    query: Annotated[str, typer.Option(help="The query that the user answered.")],
    response: Annotated[str, typer.Option(help="The user's true response.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Record a user's true response. The next `align` learns from it."""
    with open_store(store) as users:
        interaction = users.observe(user, query=query, response=response)
    if json:
        print_json({"user_id": user, "id": interaction.id})
    else:
        err.print_line(f"recorded; `{command('align', user)}` learns from it")
