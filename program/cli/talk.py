"""`personaagent ask` and `personaagent observe`."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated
from uuid import uuid4

import typer

from program.cli.options import (
    Json,
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
from program.errors import DataError, UnparsableAnswerError
from program.home import home
from program.ledger import Ledger, accounting
from program.memory.interaction import Interaction
from program.session import open_session
from program.task import get_task
from program.tracing import about, span


def ask(
    user: User,
    query: Annotated[
        str, typer.Argument(help="What to ask, without the task's question.", show_default=False)
    ],
    model: Model = None,
    wikipedia: Wikipedia = True,
    trace: Trace = "local",
    trace_content: TraceContent = "full",
    store: Store = None,
    json: Json = False,
) -> None:
    """Ask a user's agent. Nothing is remembered; see `observe`."""
    with open_store(store) as users:
        users.user(user)
        with model_in_use(model, trace, trace_content), accounting(Ledger()) as ledger:
            session = open_session(users, user, home=home(), wikipedia=wikipedia)
            with (
                about(user_id=user, persona_version=session.version.version),
                span("ask", query=query) as asked,
            ):
                said = session.agent(query=query)
                asked.output(answer=said.answer)
    usage = ledger.total()
    if json:
        print_json(
            {
                "answer": said.answer,
                "probabilities": said.probabilities,
                "persona_version": session.version.version,
                "steps": [vars(step) for step in said.steps],
                "usage": vars(usage),
                "seconds": round(ledger.seconds, 3),
            }
        )
        return
    for number, step in enumerate(said.steps, 1):
        words = ", ".join(str(value) for value in step.arguments.values())
        note = f" ({step.forced})" if step.forced else ""
        err.print(f"{number}. {step.tool}({words[:60]}){note}", style="dim", markup=False)
    out.print(said.answer, markup=False)
    err.print(
        f"persona v{session.version.version}, {usage.calls} calls, "
        f"{usage.input_tokens + usage.output_tokens:,} tokens, {ledger.seconds:.1f} s",
        style="dim",
    )


def observe(
    user: User,
    query: Annotated[str, typer.Option(help="What the user was asked.")],
    response: Annotated[str, typer.Option(help="What the user really answered.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Record what a user really answered. The next `align` learns from it."""
    with open_store(store) as users:
        task = get_task(users.user(user).task)
        try:
            response = task.response_type.parse(response)
        except UnparsableAnswerError as error:
            raise DataError(
                f"`--response`: {error} of {task.name}; allowed: {task.response_type.hint}"
            ) from error
        interaction = Interaction(
            id=uuid4().hex,
            user_id=user,
            query=query,
            response=response,
            timestamp=datetime.now(timezone.utc),
        )
        users.append(user, [interaction])
    if json:
        print_json({"user_id": user, "id": interaction.id})
    else:
        err.print(f"recorded; `personaagent align {user}` learns from it")
