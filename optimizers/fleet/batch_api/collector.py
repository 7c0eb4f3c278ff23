"""Calls that wait, the batches that they become, and the answers that come back.

A call waits in memory. What is durable is a batch: the ids of its requests are written before it is
submitted, and its answers as they are read. The id of a request is a hash of the user, the piece of work and
the body, so that a restarted run, which asks the same again, meets its batch or its answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import dspy
from dspy.utils.exceptions import LMConfigurationError

from optimizers.fleet.batch_api.providers import APIS, MAX_REASON, BatchAPI, Door, Http, Look, Uncertain
from optimizers.fleet.batch_api.settings import ProviderBatches
from optimizers.fleet.batch_api.tables import Batch, BatchTables, Reply, open_tables
from optimizers.fleet.locks import UserLocks
from program.models.outages import RequestFailedError
from program.store import UserStore
from program.text import counted, one_line

_ID_CHARS = 40
_CHUNK = 200
_LINE = 160
"""Bytes of a line of a batch beside the body of the request, at most."""

_TIDY = 10.0
"""Longest wait at the end for the provider to delete texts, in seconds."""

_UPLOADS = 2
"""Batches submitted at the same time."""

_TOO_MUCH = "token_limit_exceeded"
"""OpenAI: more tokens wait in batches than the account may have."""

logger = logging.getLogger("personaagent.optimizers")


@dataclass
class Work:
    """What a user's alignment asks for.

    Attributes:
        prefix: The user's name in tables (`optimizers.fleet.place.user_prefix`).
        piece: The call of a piece of work that asks.
        used: Ids of the requests that were answered.
    """

    prefix: str = ""
    piece: str = ""
    used: set[str] = field(default_factory=set)
    numbers: Counter[tuple[str, bytes]] = field(default_factory=Counter)

    def of(self, piece: str) -> Work:
        """Return what names the calls of another piece of the same alignment."""
        return replace(self, piece=piece)

    def next_id(self, body: bytes) -> str:
        """Return the id of the next request with this body; the second one of a piece is another one."""
        digest = hashlib.sha256(body).digest()
        self.numbers[self.piece, digest] += 1
        name = f"{self.prefix}\n{self.piece}\n{self.numbers[self.piece, digest]}\n{digest.hex()}"
        return hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:_ID_CHARS]


_work: ContextVar[Work | None] = ContextVar("personaagent_batch_work", default=None)


@contextmanager
def working(work: Work) -> Iterator[None]:
    """Let ``work`` name the calls inside the block."""
    token = _work.set(work)
    try:
        yield
    finally:
        _work.reset(token)


def current_work() -> Work:
    """Return what names the calls here."""
    return _work.get() or Work()


@dataclass(eq=False)
class _Asking:
    """A call that waits.

    Attributes:
        batch_id: The batch that it is in; ``None`` if it waits for one, empty if that is not known yet.
        since: When it began to wait for a batch, by the monotonic clock.
        tries: How often the provider failed at it.
        last: What the provider said then.
    """

    id: str
    prefix: str
    door: Door
    body: bytes
    reply: asyncio.Future[Reply]
    batch_id: str | None = ""
    since: float = 0.0
    tries: int = 0
    last: Reply | None = None

    @property
    def size(self) -> int:
        return len(self.body) + _LINE


class Collector:
    """Collects calls into batches. Open it with `opened` before anything is asked.

    Args:
        settings: How calls become batches.
    """

    def __init__(self, settings: ProviderBatches | None = None) -> None:
        self.settings = settings or ProviderBatches()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._parked: dict[Door, list[_Asking]] = {}
        self._asking: dict[str, _Asking] = {}
        self._doors: dict[tuple[str, str], Door] = {}
        self._http: dict[tuple[str, str], Http] = {}
        # Batches that this process follows, and how many calls of each door are in them.
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._out: Counter[Door] = Counter()
        # Fewer requests than the provider's limit, if it has said that they were too much.
        self._smaller: dict[Door, int] = {}
        self._tidying: set[asyncio.Future[None]] = set()
        self._moved = 0.0
        self._uploads = asyncio.Semaphore(_UPLOADS)
        self._tables: BatchTables
        self._locks: UserLocks

    @asynccontextmanager
    async def opened(self, store: UserStore, home: Path) -> AsyncIterator[BatchTables]:
        """Work inside the block.

        Raises:
            StoreError: The tables cannot be opened.
        """
        self.loop = asyncio.get_running_loop()
        self._tables = await asyncio.to_thread(open_tables, store, home)
        self._locks = UserLocks(store, home)
        keeper = asyncio.ensure_future(self._keep())
        try:
            yield self._tables
        finally:
            if self._followed:
                n = counted(len(self._followed), "batch", "batches")
                self.settings.say(f"{n} in progress; the next run goes on from there")
            if self._tidying:
                await asyncio.wait(self._tidying, timeout=_TIDY)
            tasks = [keeper, *self._followed.values(), *self._tidying]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.loop = None
            for http in self._http.values():
                await http.close()
            self._http.clear()
            self._locks.close()
            self._tables.close()

    async def ask(self, door: Door, body: bytes) -> Reply:
        """Return the answer to a request, once its batch has ended.

        Raises:
            RequestFailedError: The provider failed at this request again and again.
            dspy.LMError: The provider takes no batches now.
        """
        work = current_work()
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        asking = _Asking(work.next_id(body), work.prefix, door, body, future)
        self._asking[asking.id] = asking
        self._moved = time.monotonic()
        try:
            asked = (await self._tables.asked([asking.id])).get(asking.id)
            if asked is None:
                self._park(asking)
            elif asked.reply is not None:
                work.used.add(asking.id)
                return asked.reply
            else:
                asking.batch_id = asked.batch_id
            self._doors.setdefault((door.api, door.base), door)
            reply = await future
        finally:
            del self._asking[asking.id]
        work.used.add(asking.id)
        return reply

    def release(self, prefix: str) -> None:
        """Let the calls of a user end, as cancelled; a batch that they are in goes on without them."""
        for asking in [asking for asking in self._asking.values() if asking.prefix == prefix]:
            asking.reply.cancel()

    def _park(self, asking: _Asking) -> None:
        asking.batch_id, asking.since = None, time.monotonic()
        self._parked.setdefault(asking.door, []).append(asking)

    async def _keep(self) -> None:
        """Make batches of what waits, and take over batches that nobody follows."""
        looked = float("-inf")
        pause = max(self.settings.quiet / 2, 0.005)
        while True:
            await asyncio.sleep(pause)
            try:
                for door in list(self._parked):
                    self._submit_ripe(door)
                now = time.monotonic()
                if self._doors and now >= looked + self.settings.poll:
                    looked = now
                    await self._take_over()
                    await self._read_from_others()
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
                self._fail(list(self._asking.values()), error)

    def _submit_ripe(self, door: Door) -> None:
        """Submit what waits at a door, if it is time."""
        api = APIS[door.api]
        parked = self._parked[door] = [asking for asking in self._parked[door] if not asking.reply.done()]
        if not parked:
            del self._parked[door]
            return
        most = min(self._smaller.get(door, api.max_requests), self.settings.max_requests or api.max_requests)
        most_bytes = min(self.settings.max_bytes or api.max_bytes, api.max_bytes)
        full = len(parked) >= most or sum(asking.size for asking in parked) >= most_bytes
        now = time.monotonic()
        quiet = now - self._moved >= self.settings.quiet
        out = self._out[door]
        alone = out == 0 or len(parked) >= out or now - parked[0].since >= self.settings.hold
        if not full and not (quiet and alone):
            return
        del self._parked[door]
        parts = list(_split(parked, most, most_bytes))
        if not quiet and len(parts) > 1:  # the last part may grow
            self._parked[door] = parts.pop()
        for part in parts:
            batch_id = uuid4().hex
            for asking in part:
                asking.batch_id = batch_id
            self._follow(batch_id, door, self._submit(door, part), len(part))

    def _follow(self, batch_id: str, door: Door, work: Callable[[str], Awaitable[None]], n: int) -> None:
        self._out[door] += n

        async def follow() -> None:
            try:
                await work(batch_id)
            except Exception as error:  # noqa: BLE001 - it is raised where the calls wait
                self._fail([asking for asking in self._asking.values() if asking.batch_id == batch_id], error)
            finally:
                self._out[door] -= n
                del self._followed[batch_id]

        self._followed[batch_id] = asyncio.ensure_future(follow())

    def _submit(self, door: Door, askings: list[_Asking]) -> Callable[[str], Awaitable[None]]:
        async def work(batch_id: str) -> None:
            with self._locks.hold(_lock(batch_id)):
                async with self._uploads:
                    batch = await self._create(batch_id, door, askings)
                await self._until_answered(batch, door)

        return work

    async def _create(self, batch_id: str, door: Door, askings: list[_Asking]) -> Batch:
        """Write a batch down, and submit it exactly once."""
        api, http, settings = APIS[door.api], self._client(door), self.settings
        batch = Batch(
            id=batch_id,
            api=door.api,
            base=door.base,
            state="written",
            remote_id=None,
            requests=len(askings),
            created_at=time.time(),
            mark=None,
        )
        await self._tables.write(batch, [(asking.id, asking.prefix) for asking in askings])
        try:
            batch = replace(batch, state="sending", mark=await api.mark(http))
            await self._tables.update(batch_id, state="sending", mark=batch.mark)
            pause, since = max(settings.poll, 0.005), time.monotonic()
            while batch.remote_id is None:
                lines = (api.line(asking.id, asking.body, door) for asking in askings)
                try:
                    remote_id: str | None = await api.create(http, batch, lines, door)
                except Uncertain as error:
                    logger.info("a batch may not have been created (%s)", error)
                    if time.monotonic() - since > settings.patience:
                        raise dspy.LMProviderError(
                            f"the batch API at {door.base} is away ({error}); run the same command later",
                            model=door.model,
                        ) from error
                    # It may take a moment until the provider lists it.
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 60.0)
                    remote_id = await self._find(batch, http)
                batch = replace(batch, remote_id=remote_id)
        except (dspy.LMAuthError, dspy.LMBillingError, LMConfigurationError):
            await self._tables.finish(batch_id)  # it was refused, and is not at the provider
            raise
        await self._tables.update(batch_id, state="sent", remote_id=batch.remote_id)
        settings.say(f"{counted(batch.requests, 'request')} submitted as batch {batch.remote_id}")
        return batch

    async def _find(self, batch: Batch, http: Http) -> str | None:
        known = {other.remote_id for other in await self._tables.unfinished() if other.remote_id}

        async def holds(request_id: str) -> bool:
            return await self._tables.holds(batch.id, request_id)

        return await APIS[batch.api].find(http, batch, known, holds, max(self.settings.poll, 0.005))

    async def _take_over(self) -> None:
        """Follow the batches of runs that have ended."""
        for batch in await self._tables.unfinished():
            door = self._doors.get((batch.api, batch.base))
            if door is None or batch.id in self._followed or self._locks.is_held(_lock(batch.id)):
                continue
            self._follow(batch.id, door, self._resume(batch, door), 0)

    def _resume(self, batch: Batch, door: Door) -> Callable[[str], Awaitable[None]]:
        async def work(batch_id: str) -> None:
            with self._locks.hold(_lock(batch_id)) as free:
                if not free:
                    return
                if batch.remote_id is None:
                    found = await self._find(batch, self._client(door)) if batch.state == "sending" else None
                    if found is None:  # it was never submitted
                        self._ask_again(batch_id, await self._tables.finish(batch_id), None)
                        return
                    await self._tables.update(batch_id, state="sent", remote_id=found)
                else:
                    found = batch.remote_id
                self.settings.say(f"going on with batch {found} of an earlier run")
                await self._until_answered(replace(batch, remote_id=found), door)

        return work

    async def _until_answered(self, batch: Batch, door: Door) -> None:
        """Wait for a batch, hand out its answers, and see to the requests that have none."""
        api, http, remote_id = APIS[batch.api], self._client(door), str(batch.remote_id)
        while (look := await api.look(http, remote_id)).state == "running":
            await asyncio.sleep(max(self.settings.poll, 0.005))
        failed: dict[str, Reply] = {}
        if look.state == "ended":
            failed = await self._read(api, http, remote_id, look)
        left = await self._tables.finish(batch.id)
        answered = batch.requests - len(left)
        self.settings.say(f"batch {remote_id}: {answered:,} of {batch.requests:,} answered")
        if look.state == "failed" and look.code == _TOO_MUCH and batch.requests > 1:
            self._smaller[door] = max(1, batch.requests // 2)
            await asyncio.sleep(self.settings.poll)
            self._ask_again(batch.id, left, None)
        elif look.reason:
            text = f"batch {remote_id} failed: {one_line(look.reason, MAX_REASON)}"
            waiting = [self._asking[request_id] for request_id in left if request_id in self._asking]
            self._fail(waiting, LMConfigurationError(text, model=door.model))
        else:
            self._ask_again(batch.id, left, failed)
        tidying = asyncio.ensure_future(api.delete(http, remote_id, look))
        self._tidying.add(tidying)
        tidying.add_done_callback(self._tidying.discard)

    async def _read(self, api: BatchAPI, http: Http, remote_id: str, look: Look) -> dict[str, Reply]:
        """Keep the answers and hand them out as they are read; return those that say that it failed."""
        failed: dict[str, Reply] = {}
        part: list[tuple[str, Reply]] = []
        async for request_id, reply in api.results(http, remote_id, look):
            if reply is None:
                continue
            if reply.status == 429 or reply.status >= 500:
                failed[request_id] = reply
                continue
            part.append((request_id, reply))
            if len(part) == _CHUNK:
                await self._hand_out(part)
                part = []
        await self._hand_out(part)
        return failed

    async def _hand_out(self, replies: list[tuple[str, Reply]]) -> None:
        if not replies:
            return
        await self._tables.answer(replies)
        self._moved = time.monotonic()
        for request_id, reply in replies:
            asking = self._asking.get(request_id)
            if asking is not None and not asking.reply.done():
                asking.reply.set_result(reply)
        # They are read by those who wait before the next ones come.
        await asyncio.sleep(0)

    def _ask_again(self, batch_id: str, request_ids: Sequence[str], failed: dict[str, Reply] | None) -> None:
        """Let requests without an answer wait for the next batch, or fail.

        Args:
            batch_id: The batch that they were in.
            request_ids: The requests.
            failed: What the provider said of some; ``None`` if they were not tried at all.
        """
        for request_id in request_ids:
            asking = self._asking.get(request_id)
            if asking is None or asking.batch_id != batch_id:
                continue
            if failed is not None:
                asking.tries += 1
                asking.last = failed.get(request_id, asking.last)
            if asking.tries < self.settings.tries:
                self._park(asking)
            else:
                self._fail([asking], _gave_up(asking))

    async def _read_from_others(self) -> None:
        """See what became of requests in batches that another process follows."""
        waiting = {
            asking.id: asking.batch_id
            for asking in self._asking.values()
            if asking.batch_id and asking.batch_id not in self._followed
        }
        asked = await self._tables.asked(list(waiting)) if waiting else {}
        for request_id, batch_id in waiting.items():
            asking, row = self._asking.get(request_id), asked.get(request_id)
            if asking is None or asking.batch_id != batch_id or asking.reply.done():
                continue
            if row is None:  # its batch gave no answer
                self._park(asking)
            elif row.reply is not None:
                asking.reply.set_result(row.reply)

    def _fail(self, askings: Sequence[_Asking], error: Exception) -> None:
        for asking in askings:
            if not asking.reply.done():
                asking.reply.set_exception(error)

    def _client(self, door: Door) -> Http:
        key = door.api, door.base
        if key not in self._http:
            self._http[key] = Http(door, self.settings.patience)
        return self._http[key]


def _split(askings: Sequence[_Asking], most: int, most_bytes: int) -> Iterator[list[_Asking]]:
    """Split requests into parts within the limits; one that is too long alone is a part."""
    part: list[_Asking] = []
    size = 0
    for asking in askings:
        if part and (len(part) == most or size + asking.size > most_bytes):
            yield part
            part, size = [], 0
        part.append(asking)
        size += asking.size
    if part:
        yield part


def _gave_up(asking: _Asking) -> RequestFailedError:
    said = "it gave no answer"
    if asking.last is not None:
        said = f"status {asking.last.status}"
        with suppress(ValueError, TypeError, KeyError):
            said = f"{said}, {json.loads(asking.last.body)['error']['message']}"
    return RequestFailedError(
        f"asked in {counted(asking.tries, 'batch', 'batches')} without success: {one_line(said, MAX_REASON)}",
        model=asking.door.model,
    )


def _lock(batch_id: str) -> str:
    """Return what a batch's lock is called beside those of users."""
    return f"batch {batch_id}"
