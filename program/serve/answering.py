"""Lets a user's own agent answer a request."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import dspy

from program.errors import StoreError, UnparsableAnswerError
from program.models.resolve import explain
from program.serve.contracts import Actions
from program.serve.failures import ApiError
from program.session import open_session
from program.spans import about, span
from program.store import UserStore
from program.usage import UsageTracker, track_usage


async def ask(store: UserStore, user_id: str, query: str, actions: Actions, home: Path) -> dict[str, Any]:
    """Return the answer of a user's agent, its steps and what it cost.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        ApiError: 501 without a model, 502 if the model failed.
    """
    await anyio.to_thread.run_sync(store.user, user_id)
    if actions.lm is None:
        raise ApiError(501, "no_model", "the server has no model that answers: start it with `--model`")
    tracker = UsageTracker()
    try:
        with (
            dspy.context(lm=actions.lm, disable_history=True, trace=None),
            track_usage(tracker),
        ):
            session = await anyio.to_thread.run_sync(
                lambda: open_session(store, user_id, home=home, wikipedia=actions.wikipedia)
            )
            with (
                about(user_id=user_id, persona_version=session.version.version),
                span("ask", query=query) as ask_span,
            ):
                prediction = await session.agent.acall(query=query)
                ask_span.output(answer=prediction.answer)
    except dspy.LMError as error:
        reason = explain(error) or type(error).__name__
        raise ApiError(502, "model_failed", reason) from error
    except UnparsableAnswerError as error:
        raise ApiError(502, "unreadable_answer", "the model's answer does not fit the task") from error
    finally:
        with suppress(StoreError):  # an answer is not lost because its cost cannot be counted
            await anyio.to_thread.run_sync(store.record_answer, user_id, tracker.total())
    return {
        "answer": prediction.answer,
        "persona_version": session.version.version,
        "steps": [vars(step) for step in prediction.steps],
        "usage": vars(tracker.total()),
    }
