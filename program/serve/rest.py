"""The HTTP API of one user's data: each route names the right that it needs."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import islice
from typing import Annotated, Any
from uuid import uuid4

import anyio
from fastapi import (
    APIRouter,
    Body,
    Depends,
    Header,
    Request,
    Response,
)
from fastapi import (
    Path as PathField,
)
from fastapi import (
    Query as QueryField,
)

from program.errors import ConfigError, DataError, StoreError, UnknownUserError, UnparsableAnswerError
from program.export import export_user
from program.memory.interaction import Interaction
from program.serve.access import Caller, check_right, of_all_users, of_user
from program.serve.context import MOST_TOKENS, UserContext
from program.serve.failures import ApiError
from program.serve.jobs import Job
from program.serve.requests import Approval, Correction, NewInteraction, Query, Rollback
from program.serve.room import ACTOR, Room, explain_persona, forget_interaction, forget_user, persona_of
from program.store.exported import interaction_data, version_data
from program.store.records import PersonaVersion, UserCost, UserSummary
from program.task import get_task

_SHOWN_USERS = 200

Reader = Annotated[str, Depends(of_user("read"))]
Writer = Annotated[str, Depends(of_user("write"))]
Admin = Annotated[str, Depends(of_user("admin"))]
Version = Annotated[int | None, QueryField(ge=1, le=2**31 - 1, description="By default the current one.")]


def _room(request: Request) -> Room:
    room: Room = request.app.state.room
    return room


InRoom = Annotated[Room, Depends(_room)]


def rest_router() -> APIRouter:
    """Return the routes. The app's state has the `Room`."""
    router = APIRouter(prefix="/v1")
    _add_users(router)
    _add_interactions(router)
    _add_persona(router)
    _add_work(router)
    return router


def _add_users(router: APIRouter) -> None:
    @router.get("/key", tags=["users"])
    async def show_key(key: Caller) -> dict[str, Any]:
        """Return what the key that is sent allows."""
        return {"user_id": key.user_id, "rights": key.rights, "expires_at": key.expires_at}

    @router.get("/users", tags=["users"], dependencies=[Depends(of_all_users("read"))])
    def list_users(
        room: InRoom,
        after: Annotated[str, QueryField(description="Only ids after this one.")] = "",
        limit: Annotated[int, QueryField(ge=1, le=1000)] = _SHOWN_USERS,
        costs: Annotated[bool, QueryField(description="With what each user cost in all.")] = False,
    ) -> dict[str, Any]:
        """List users by id, for a key for all users."""
        later = (user for user in room.store.users() if user.user_id > after)
        page = list(islice(later, limit + 1))
        rows = [asdict(user) for user in page[:limit]]
        for row in rows if costs else ():
            row["cost"] = _cost(room.store.cost(row["user_id"]))
        return {"users": rows, "next": rows[-1]["user_id"] if len(page) > limit else None}

    @router.get("/users/{user_id}", tags=["users"])
    def show_user(room: InRoom, user_id: Reader) -> UserSummary:
        """Return a user's numbers: interactions, persona version, whether there is something to learn."""
        return room.store.user(user_id)

    @router.get("/users/{user_id}/costs", tags=["users"])
    def costs_of_user(room: InRoom, user_id: Reader) -> dict[str, Any]:
        """Return what a user cost, and how well the agent did, in all and by month (UTC)."""
        months = [_cost(cost) for cost in room.store.costs(user_id)]
        return {"total": _cost(room.store.cost(user_id)), "months": months}

    @router.get("/users/{user_id}/context", tags=["users"])
    def context(
        room: InRoom,
        user_id: Reader,
        query: Annotated[str, QueryField(max_length=100_000, description="What the user asks now.")] = "",
        max_tokens: Annotated[int | None, QueryField(ge=1, le=MOST_TOKENS)] = None,
    ) -> UserContext:
        """Return one text to put into a prompt, its parts, and the persona version."""
        return room.recall.context(user_id, query, max_tokens=max_tokens or room.max_tokens)

    @router.get("/users/{user_id}/export", tags=["users"])
    def export(
        room: InRoom,
        user_id: Reader,
        traces: Annotated[bool, QueryField(description="Whether local traces are in it.")] = True,
    ) -> dict[str, Any]:
        """Return all that is held about a user; `users import` reads it."""
        return export_user(room.store, user_id, home=room.home, traces=traces)

    @router.delete("/users/{user_id}", tags=["users"])
    def forget(room: InRoom, user_id: Admin) -> dict[str, Any]:
        """Delete all that is kept of a user: in the store, caches, local traces and keys.

        The answer is a receipt without content; it can be asked again. Not while users are being aligned:
        then 409.
        """
        return forget_user(room, user_id)


def _add_interactions(router: APIRouter) -> None:
    @router.post("/users/{user_id}/interactions", tags=["interactions"], status_code=201)
    def observe(
        room: InRoom,
        user_id: Writer,
        response: Response,
        new: Annotated[NewInteraction, Body()],
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=256)] = None,
    ) -> dict[str, Any]:
        """Record what a user asked and truly answered.

        With an `Idempotency-Key`, or an `id`, the request can be sent again: the second answer is 200, with
        the same body. Other content under the same key is 409.
        """
        name = new.id
        if name is None:
            name = _hashed(idempotency_key) if idempotency_key else uuid4().hex
        stored, is_new = _observe(room, user_id, name, new)
        response.status_code = 201 if is_new else 200
        return interaction_data(stored)

    @router.delete("/users/{user_id}/interactions/{interaction_id}", tags=["interactions"])
    def delete_interaction(
        room: InRoom, user_id: Admin, interaction_id: Annotated[str, PathField()]
    ) -> dict[str, Any]:
        """Delete one interaction, and everything that rests on it or may quote it.

        The persona is made again from what remains. The answer is a receipt without content; it can be asked
        again. Not while users are being aligned: then 409.
        """
        return forget_interaction(room, user_id, interaction_id)


def _add_persona(router: APIRouter) -> None:
    @router.get("/users/{user_id}/persona", tags=["persona"])
    def persona(room: InRoom, user_id: Reader, version: Version = None) -> dict[str, Any]:
        """Return a persona version."""
        return version_data(_stored(room, user_id, version))

    @router.get("/users/{user_id}/persona/versions", tags=["persona"])
    def versions(room: InRoom, user_id: Reader) -> dict[str, Any]:
        """List the persona versions, oldest first, without their texts."""
        rows = [version_data(row) for row in room.store.persona_history(user_id)]
        return {"versions": [{key: row[key] for key in row if key not in ("text", "parts")} for row in rows]}

    @router.get("/users/{user_id}/persona/diff", tags=["persona"])
    def diff(room: InRoom, user_id: Reader, old: Version = None, new: Version = None) -> dict[str, Any]:
        """Compare two versions; by default the current one with its parent."""
        after = _stored(room, user_id, new)
        before = _stored(room, user_id, old if old is not None else after.parent or after.version)
        texts = (before.text.split("\n"), after.text.split("\n"))
        names = (f"v{before.version}", f"v{after.version}")
        lines = list(difflib.unified_diff(*texts, *names, lineterm="", n=1))
        return {"old": before.version, "new": after.version, "diff": lines}

    @router.get("/users/{user_id}/persona/why", tags=["persona"])
    def why(room: InRoom, user_id: Reader, version: Version = None) -> dict[str, Any]:
        """Return each line of a persona, the version that brought it, and what it rests on.

        `lines` is null if the persona was written freely: nothing is known of what it rests on.
        """
        return explain_persona(room.store, user_id, version)

    @router.post("/users/{user_id}/persona/rollback", tags=["persona"])
    def rollback(room: InRoom, user_id: Writer, to: Annotated[Rollback, Body()]) -> dict[str, Any]:
        """Go back to an older version. It becomes a new one; nothing is deleted."""
        return version_data(room.store.rollback(user_id, to.version))

    @router.post("/users/{user_id}/persona/correct", tags=["persona"])
    def correct(room: InRoom, user_id: Writer, said: Annotated[Correction, Body()]) -> dict[str, Any]:
        """Replace, take out or add a line in the person's own words, as a new version.

        No alignment, edit or rollback undoes it; another correction can.
        """
        version = room.store.correct(user_id, line=said.line, text=said.text, why=said.why, actor=ACTOR)
        return version_data(version)

    @router.post("/users/{user_id}/persona/approve", tags=["persona"])
    def approve(room: InRoom, user_id: Writer, seen: Annotated[Approval, Body()]) -> dict[str, Any]:
        """Keep the current version, which is then tested no further. It becomes a new one.

        Another version is current meanwhile: 409.
        """
        return version_data(room.store.approve(user_id, seen.version))


def _add_work(router: APIRouter) -> None:
    @router.post("/users/{user_id}/answer", tags=["agent"])
    async def answer(room: InRoom, user_id: Reader, asked: Annotated[Query, Body()]) -> dict[str, Any]:
        """Let the user's own agent answer, with its tools. The answer is not stored."""
        # It brings DSPy.
        from program.serve.answering import ask

        return await ask(room.store, user_id, asked.query, room.actions, room.home)

    @router.post("/users/{user_id}/align", tags=["agent"], status_code=202)
    async def align(room: InRoom, user_id: Writer, response: Response) -> dict[str, Any]:
        """Queue an alignment of the user's persona, and return its job."""
        await anyio.to_thread.run_sync(room.store.user, user_id)
        job = room.jobs.start(user_id)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return _job(job)

    @router.get("/jobs", tags=["agent"])
    async def list_jobs(
        room: InRoom, key: Caller, limit: Annotated[int, QueryField(ge=1, le=1000)] = 100
    ) -> dict[str, Any]:
        """List the newest jobs of the users whom the key is for."""
        check_right(key, "read")
        return {"jobs": [_job(job) for job in room.jobs.latest(limit, user_id=key.user_id)]}

    @router.get("/jobs/{job_id}", tags=["agent"])
    async def show_job(room: InRoom, key: Caller, job_id: str) -> dict[str, Any]:
        """Return a job. A server that was started again does not know it any more."""
        check_right(key, "read")
        job = room.jobs.get(job_id)
        # A key for another user must not learn that it exists.
        if job is None or not key.opens(job.user_id):
            raise ApiError(
                404, "unknown_job", "there is no such job; a server that was restarted forgets them"
            )
        return _job(job)


def _observe(room: Room, user_id: str, name: str, new: NewInteraction) -> tuple[Interaction, bool]:
    """Return the stored interaction, and whether it is new."""
    try:
        task = get_task(room.store.user(user_id).task)
    except UnknownUserError:
        if new.task is None:
            raise
        task = get_task(new.task)
        room.store.add_user(user_id, task=task)
    try:
        response = task.response_type.parse(new.response)
    except UnparsableAnswerError as error:
        raise DataError(f"`response`: {error}; {task.name} needs {task.response_type.hint}") from error
    item = Interaction(
        id=name,
        user_id=user_id,
        query=new.query,
        response=response,
        timestamp=(new.timestamp or datetime.now(timezone.utc)).astimezone(timezone.utc),
        metadata=new.metadata,
    )
    if (stored := _same(room, item, new)) is not None:
        return stored, False
    try:
        room.store.append(user_id, [item])
    except StoreError:
        # The same request may have been faster.
        if (stored := _same(room, item, new)) is None:
            raise
        return stored, False
    return item, True


def _same(room: Room, item: Interaction, new: NewInteraction) -> Interaction | None:
    """Return the stored interaction of the same request.

    Raises:
        ApiError: 409 if one of that id has other content.
    """
    try:
        stored = room.recall.memory(item.user_id).get(item.id)
    except ConfigError:
        return None
    same = (stored.query, stored.response, dict(stored.metadata)) == (
        item.query,
        item.response,
        item.metadata,
    )
    if not same or (new.timestamp is not None and stored.timestamp != item.timestamp):
        raise ApiError(409, "other_content", "this id or Idempotency-Key was used for another interaction")
    return stored


def _hashed(idempotency_key: str) -> str:
    return "idem-" + hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _stored(room: Room, user_id: str, version: int | None) -> PersonaVersion:
    return persona_of(room.store, user_id, version)


def _cost(cost: UserCost) -> dict[str, Any]:
    data = {name: value for name, value in cost.as_dict().items() if name != "user_id"}
    return {**data, "price": cost.price}


def _job(job: Job) -> dict[str, Any]:
    return asdict(job)
