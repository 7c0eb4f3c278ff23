"""`align_users`: many users at once, each one durably, with a limit on the calls in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import dspy

from optimizers.config import GROUNDED, AlignmentConfig
from optimizers.contracts import Journal
from optimizers.fleet.batch_api.settings import ProviderBatches
from optimizers.fleet.engines import FleetEngine, open_engine
from optimizers.fleet.limit import AdaptiveLimit
from optimizers.fleet.locks import UserLocks
from optimizers.fleet.many_calls import many_calls
from optimizers.fleet.order import finished, longest_waiting_first
from optimizers.fleet.pauses import Pauses
from optimizers.fleet.place import work_key
from optimizers.interrupts import not_begun
from optimizers.stored import aalign_user
from program.calls import Call, around_calls
from program.errors import BudgetExceededError, ConfigError, PinnedPersonaError, StoreError
from program.home import home as default_home
from program.limits import MANY, MOST_STEPS, check_at_most
from program.loop import AgentSettings
from program.models.outages import ends_by_itself, is_outage
from program.store import UserStore
from program.store.personas import refuse_pinned
from program.store.records import AlignmentRow
from program.text import one_line
from program.tools import Tools
from program.usage import Budget, UsageTracker, configured_lm, current_tracker, metered, track_usage

if TYPE_CHECKING:
    from optimizers.fleet.batch_api.collector import Collector

CONCURRENCY = 16
"""Calls in flight by default."""

PATIENCE = 300.0
"""Seconds by default that an outage may last."""


BUSY_SECONDS = 0.5
"""Seconds between two looks at a user whom another process aligns."""


@dataclass(frozen=True, kw_only=True)
class UserResult:
    """What became of one user.

    Attributes:
        user_id: The user.
        status: ``aligned``; ``done`` if an earlier run had done this work, so that nothing was paid;
            ``skipped`` if the persona is pinned; ``failed``; ``stopped`` if what failed would have failed
            for every other user too.
        record: The alignment as plain data (`optimizers.AlignmentRecord.as_dict`); empty without one.
        persona_version: The user's version now; ``None`` without a persona or after a failure.
        error: What failed, or why the user was skipped; ``None`` otherwise.

    Example:
        >>> print(UserResult(user_id="ana", status="aligned", persona_version=2))
        'ana': aligned, persona v2
    """

    user_id: str
    status: Literal["aligned", "done", "skipped", "failed", "stopped"]
    record: Mapping[str, Any] = field(default_factory=dict)
    persona_version: int | None = None
    error: Exception | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.user_id!r}: {self.status}, {one_line(type(self.error).__name__, 80)}"
        version = f", persona v{self.persona_version}" if self.persona_version else ""
        return f"{self.user_id!r}: {self.status}{version}"


async def align_users(
    store: UserStore,
    user_ids: Iterable[str],
    config: AlignmentConfig = GROUNDED,
    *,
    lm: Any = None,
    prompt_model: Any = None,
    concurrency: int = CONCURRENCY,
    budget: Budget | None = None,
    user_budget: Budget | None = None,
    patience: float = PATIENCE,
    again: bool = False,
    home: Path | None = None,
    negatives: Sequence[str] = (),
    wikipedia: bool = True,
    tools: Tools = None,
    settings: AgentSettings | None = None,
    batches: ProviderBatches | None = None,
) -> AsyncGenerator[UserResult, None]:
    """Align stored users, and return an iterator of what became of each, in the order in which they end.

    At most ``concurrency`` calls are in flight over all users, who take turns, and fewer if the provider
    refuses some (`optimizers.fleet.limit`). Those who wait longest start first. A finished rollout,
    feedback, update or check answer is kept in the data directory, or in the database of a store on a
    server, and is not paid again if the run is stopped, fails or is killed: the next run goes on from there.
    A user whom another process aligns at this time fails with `StoreError`. Users whose persona is pinned
    are skipped. One user's failure is a result, and the others go on; after an outage of the provider the
    run pauses and resumes.

    Args:
        store: The users' store.
        user_ids: Stored users; one named twice is aligned once.
        config: Settings; `PAPER` is Algorithm 1, exactly.
        lm: The agent's model; ``None`` for DSPy's configured one.
        prompt_model: The model of feedback and update; ``None`` for the agent's.
        concurrency: Most calls in flight, 1 to 1,000.
        budget: Limits of what this run pays.
        user_budget: Limits of each alignment, with what earlier attempts at it paid.
        patience: Seconds that an outage may last; 0 stops at the first one. A provider that has not
            answered a single call is not waited for.
        again: Align users too who are done: no new interaction, same settings and models.
        home: The data directory; ``None`` for `program.home.home`.
        negatives: As in `align_user`, like the next three.
        wikipedia: Whether agents may search Wikipedia.
        tools: Functions or tools beside the default ones.
        settings: The agents' settings.
        batches: Ask through the provider's batch API; ``concurrency`` then limits nothing. ``None``: each
            call at once.

    Raises:
        ModelSetupError: The model has no batch API, or its key is missing; nothing was paid.
        ConfigError: A setting is out of range.
        UnknownUserError: A user is not in the store; nothing was paid.
        StoreError: The store or the tables of the pieces cannot be opened.

    Example:
        >>> import asyncio, dspy
        >>> from program import UserStore, scripted_lm
        >>> finish = {"thought": "", "action": {"tool": "finish", "answer": "Lentils."}}
        >>> async def main(store):
        ...     lm = scripted_lm(lambda system, user: finish if "`action`" in user else "Likes lentils.")
        ...     async for result in await align_users(store, ["ana", "ben"], lm=lm, wikipedia=False):
        ...         print(result.status)
        >>> with UserStore("users.db") as store:
        ...     for user_id in ("ana", "ben"):
        ...         store.add_user(user_id, task="free-text")
        ...         _ = store.observe(user_id, query="What shall I cook?", response="Lentils.")
        ...     asyncio.run(main(store))
        aligned
        aligned
    """
    if concurrency < 1:
        raise ConfigError(f"`concurrency` must be 1 or more, got {concurrency!r}")
    check_at_most("concurrency", concurrency, MOST_STEPS)
    if patience < 0:
        raise ConfigError(f"`patience` must be 0 or more, got {patience!r}")
    model = configured_lm() if lm is None else lm
    collector = None
    if batches is not None:
        from optimizers.fleet.batch_api.collector import Collector
        from optimizers.fleet.batch_api.models import batch_lm

        collector = Collector(batches)
        model = batch_lm(model, collector)
        prompt_model = None if prompt_model is None else batch_lm(prompt_model, collector)
    chosen = await asyncio.to_thread(longest_waiting_first, store, dict.fromkeys(user_ids))
    options = {
        "negatives": list(negatives),
        "wikipedia": wikipedia,
        "tools": tools,
        "settings": settings,
        "prompt_model": prompt_model,
    }
    fleet = Fleet(
        store=store,
        config=config,
        lm=model,
        options=options,
        user_budget=user_budget,
        again=again,
        home=home or default_home(),
        pauses=Pauses(patience),
        tracker=UsageTracker(budget, parent=current_tracker()),
        # Calls that wait for a batch are no load on anybody.
        slots=AdaptiveLimit(concurrency) if batches is None else AdaptiveLimit(MANY, first=MANY),
        spending=_spending.get(),
        collector=collector,
    )
    in_flight = concurrency if batches is None else batches.in_flight
    return fleet.results(chosen, n_workers=min(in_flight, len(chosen)))


_spending: ContextVar[Limits | None] = ContextVar("personaagent_spending", default=None)


@contextmanager
def spending_of(limits: Limits) -> Iterator[None]:
    """Count and limit the calls of `align_users` inside the block with what other processes pay."""
    token = _spending.set(limits)
    try:
        yield
    finally:
        _spending.reset(token)


class Limits(Protocol):
    """Limits over processes: see `optimizers.fleet.spending`."""

    async def around(self, request: str, call: Call) -> Any:
        """Make a call within the limits."""
        ...

    async def flush(self) -> None:
        """Write what was paid and is not written yet."""
        ...

    @property
    def is_spent(self) -> bool:
        """Whether a call was refused."""
        ...


@dataclass(kw_only=True)
class Fleet:
    """One run over many users, in progress."""

    store: UserStore
    config: AlignmentConfig
    lm: Any
    options: dict[str, Any]
    user_budget: Budget | None
    again: bool
    home: Path
    pauses: Pauses
    tracker: UsageTracker
    slots: AdaptiveLimit
    spending: Limits | None = None
    collector: Collector | None = None
    stopped: bool = False

    async def results(self, user_ids: Sequence[str], n_workers: int) -> AsyncGenerator[UserResult, None]:
        """Align users, and yield what becomes of each."""
        async with AsyncExitStack() as stack:
            locks = UserLocks(self.store, self.home)
            stack.callback(locks.close)
            engine = stack.enter_context(open_engine(self.store, self.home))
            # A batch API has no calls in flight.
            stack.enter_context(many_calls(self.slots.ceiling if self.collector is None else 0))
            if self.collector is not None:
                from optimizers.fleet.batch_api.engine import batched

                engine = await stack.enter_async_context(
                    batched(engine, self.collector, self.store, self.home)
                )
            waiting = iter(user_ids)
            ended: asyncio.Queue[UserResult | None] = asyncio.Queue()
            workers = [
                asyncio.create_task(self._work(waiting, engine, locks, ended)) for _ in range(n_workers)
            ]
            try:
                left = n_workers
                while left:
                    result = await ended.get()
                    if result is None:
                        left -= 1
                    else:
                        yield result
                for worker in workers:
                    worker.result()
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(
        self,
        waiting: Any,
        engine: FleetEngine,
        locks: UserLocks,
        ended: asyncio.Queue[UserResult | None],
    ) -> None:
        """Align one user after the other until none is left."""
        try:
            with self.calls():
                for user_id in waiting:
                    result = await self.one(user_id, engine, locks)
                    # After a stop the others in progress end with the same failure, which is said once.
                    if not (self.stopped and result.status == "stopped"):
                        ended.put_nowait(result)
                    self.stopped |= result.status == "stopped"
                    if self.stopped:
                        break
        finally:
            ended.put_nowait(None)

    def calls(self) -> AbstractContextManager[UsageTracker]:
        """Count the calls inside the block."""
        return track_usage(self.tracker, self.lm)

    async def one(self, user_id: str, engine: FleetEngine, locks: UserLocks) -> UserResult:
        """Align one user, inside of `calls`; with limits over processes, wait for one who has the user."""
        while True:
            with locks.hold(user_id) as free:
                if free:
                    with around_calls(partial(self._call, user_id)):
                        return await self._align(user_id, engine)
                if self.spending is None:
                    return _busy(user_id)
            await asyncio.sleep(BUSY_SECONDS)

    async def _call(self, user_id: str, request: str, call: Call) -> Any:
        async with AsyncExitStack() as stack:
            with not_begun():
                await self.pauses.wait()
                await stack.enter_async_context(self.slots.slot(user_id))
            try:
                with metered() as usage:
                    outputs = await (call() if self.spending is None else self.spending.around(request, call))
            except dspy.LMRateLimitError:
                self.slots.refused()
                raise
        # A cache says nothing about the provider.
        if any(used.calls > used.cache_hits for used in usage.values()):
            self.slots.answered()
            self.pauses.works(user_id)
        return outputs

    async def _align(self, user_id: str, engine: FleetEngine) -> UserResult:
        try:
            row, key = await asyncio.to_thread(self._look_at, user_id)
            if row is not None:
                return await self._result(user_id, "done", row.record)
            while True:
                try:
                    return await self._attempt(user_id, key, engine)
                except dspy.LMError as error:
                    # The tracker also counts what earlier attempts paid.
                    if not (self.pauses.has_worked and ends_by_itself(error)) or self.stopped:
                        raise
                    if not await self.pauses.after(user_id, error):
                        raise
        except PinnedPersonaError as error:
            version = (await asyncio.to_thread(self.store.user, user_id)).persona_version
            return UserResult(user_id=user_id, status="skipped", persona_version=version, error=error)
        except Exception as error:  # noqa: BLE001 - one user's failure is a result; the others go on
            own = isinstance(error, BudgetExceededError) and not self._is_spent()
            alone = own or self.pauses.gave_up(user_id)
            status: Literal["stopped", "failed"] = "stopped" if is_outage(error) and not alone else "failed"
            return UserResult(user_id=user_id, status=status, error=error)
        finally:
            self.pauses.ended(user_id)

    def _look_at(self, user_id: str) -> tuple[AlignmentRow | None, str]:
        """Return the alignment that has done the work already, if there is one, and the hash of the work.

        Raises:
            PinnedPersonaError: The persona must stay as it is.
        """
        prompt_model = self.options["prompt_model"]
        refuse_pinned(self.store.user(user_id))
        row = None if self.again else finished(self.store, user_id, self.config, prompt_model)
        return row, "" if row is not None else work_key(self.store, user_id, self.config, self.options)

    def _is_spent(self) -> bool:
        """Return whether the budget of all users is spent, and not only that of one."""
        if self.spending is not None and self.spending.is_spent:
            return True
        try:
            self.tracker.check()
        except BudgetExceededError:
            return True
        return False

    async def _attempt(self, user_id: str, key: str, engine: FleetEngine) -> UserResult:
        records: list[Mapping[str, Any]] = []

        async def work(journal: Journal) -> None:
            agent = await aalign_user(
                self.store,
                user_id,
                self.config,
                journal=journal,
                budget=self.user_budget,
                home=self.home,
                **self.options,
            )
            records.append(agent.alignment.as_dict())

        await engine.run(user_id, key, work)
        return await self._result(user_id, "aligned", records[0])

    async def _result(
        self, user_id: str, status: Literal["aligned", "done"], record: Mapping[str, Any]
    ) -> UserResult:
        version = (await asyncio.to_thread(self.store.user, user_id)).persona_version
        return UserResult(user_id=user_id, status=status, record=record, persona_version=version)


def _busy(user_id: str) -> UserResult:
    error = StoreError(f"user {user_id!r} is being aligned by another run now; try again when that has ended")
    return UserResult(user_id=user_id, status="failed", error=error)
