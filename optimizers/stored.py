"""Alignment of users in a store: from their history to a new persona version, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import dspy

from optimizers.alignment import PersonaAlignment
from optimizers.betting import fit_prior
from optimizers.config import GROUNDED, AlignmentConfig, checking_gate
from optimizers.contracts import Journal
from optimizers.gates import GATES
from optimizers.interrupts import to_its_end
from optimizers.journal import MemoryJournal
from optimizers.record import AlignmentStep
from optimizers.spending import Spending
from optimizers.trainset import examples
from optimizers.trials import Past, Pending
from program.agent import PersonaAgent
from program.errors import StoreError
from program.home import home as default_home
from program.loop import AgentSettings
from program.session import Session, aprepare_profile
from program.spans import about
from program.store import UserStore
from program.store.personas import refuse_pinned
from program.sync import run_now
from program.task import Task
from program.text import one_line
from program.tools import Tools, make_tools
from program.usage import Budget, UsageTracker, current_tracker, track_usage

_MAX_ERROR = 500

T = TypeVar("T")


def align_user(
    store: UserStore,
    user_id: str,
    config: AlignmentConfig = GROUNDED,
    *,
    home: Path | None = None,
    prompt_model: Any = None,
    journal: Journal | None = None,
    budget: Budget | None = None,
    negatives: Sequence[str] = (),
    wikipedia: bool = True,
    tools: Tools = None,
    settings: AgentSettings | None = None,
) -> PersonaAgent:
    """Align a stored user with DSPy's configured model and save the new persona version.

    Each step is saved when it finishes. The new persona and the record become visible together;
    until then, and after any failure, the current persona is unchanged.

    Args:
        store: The user's store.
        user_id: A stored user.
        config: Settings; `PAPER` is Algorithm 1, exactly.
        home: The data directory; ``None`` for `program.home.home`.
        prompt_model: The model of feedback and update; ``None`` for the configured model.
        journal: Keeps finished pieces, so that this alignment can be run again without paying for them;
            ``None`` for one in memory.
        budget: Limits of this alignment.
        negatives: Wrong options for LaMP-1 (see `optimizers.examples`).
        wikipedia: Whether the agent may search Wikipedia; its search words leave the machine.
        tools: Functions or tools beside the default ones; a `ToolSet` replaces those.
        settings: The agent's settings.

    Returns:
        The user's agent under the new persona; its ``alignment`` is the record.

    Raises:
        UnknownUserError: ``user_id`` is not in the store.
        EmptyHistoryError: The user has no interaction.
        PinnedPersonaError: A persona version is pinned (`UserStore.pin`); nothing was paid, unless it was
            pinned while the alignment ran.
        StoreError: Another process changed the persona meanwhile.
        BudgetExceededError: The next call would pass a limit.
        dspy.LMError: The model failed.

    Example:
        >>> import dspy
        >>> from program import UserStore, scripted_lm
        >>> def reply(system, user):
        ...     if "critical evaluator" in system:
        ...         return "Eva calls films action."
        ...     if "You maintain the list" in system:
        ...         return {"edits": [{"op": "add", "text": "Calls films action.", "cites": [1]}]}
        ...     if "`action`" in user:
        ...         return {"thought": "", "action": {"tool": "finish", "answer": "comedy"}}
        ...     return {"answer": "action" if "Calls films action." in system else "comedy"}
        >>> with UserStore("users.db") as store, dspy.context(lm=scripted_lm(reply)):
        ...     store.add_user("eva", task="LaMP-2M")
        ...     for number in range(12):
        ...         _ = store.observe("eva", query=f"Film {number}", response="action")
        ...     agent = align_user(store, "eva", wikipedia=False)
        ...     print(store.persona("eva"))
        v2 of 'eva' (alignment, from v1): a gain is shown: gains 8.0, losses 0.0 on 8 check items
        >>> agent.parts.lines[0].text, len(agent.parts.lines[0].interaction_ids)
        ('Calls films action.', 1)
    """
    return run_now(
        _align(
            store,
            user_id,
            config,
            prompt_model=prompt_model,
            journal=journal,
            budget=budget,
            negatives=negatives,
            wait=False,
            home=home,
            wikipedia=wikipedia,
            tools=tools,
            settings=settings,
        )
    )


async def aalign_user(
    store: UserStore,
    user_id: str,
    config: AlignmentConfig = GROUNDED,
    *,
    home: Path | None = None,
    prompt_model: Any = None,
    journal: Journal | None = None,
    budget: Budget | None = None,
    negatives: Sequence[str] = (),
    wikipedia: bool = True,
    tools: Tools = None,
    settings: AgentSettings | None = None,
) -> PersonaAgent:
    """Align a stored user like `align_user`; the rollouts of a batch run concurrently.

    Example:
        >>> import asyncio, dspy
        >>> from program import UserStore, scripted_lm
        >>> finish = {"thought": "", "action": {"tool": "finish", "answer": "Lentils."}}
        >>> with UserStore("users.db") as store, dspy.context(lm=scripted_lm(lambda system, user: finish)):
        ...     store.add_user("ana", task="free-text")
        ...     _ = store.observe("ana", query="What shall I cook?", response="Lentils.")
        ...     agent = asyncio.run(aalign_user(store, "ana", AlignmentConfig(steps=0), wikipedia=False))
        >>> agent.alignment.n_rollouts
        0
    """
    return await _align(
        store,
        user_id,
        config,
        prompt_model=prompt_model,
        journal=journal,
        budget=budget,
        negatives=negatives,
        wait=True,
        home=home,
        wikipedia=wikipedia,
        tools=tools,
        settings=settings,
    )


async def _align(
    store: UserStore,
    user_id: str,
    config: AlignmentConfig,
    *,
    prompt_model: Any,
    journal: Journal | None,
    budget: Budget | None,
    negatives: Sequence[str],
    wait: bool,
    home: Path | None,
    wikipedia: bool,
    tools: Tools,
    settings: AgentSettings | None,
) -> PersonaAgent:
    # With an event loop, what blocks runs in a thread, except a model's call: an exit would wait for it.
    call = asyncio.to_thread if wait else _call_now

    def open_session() -> Session:
        return Session(
            store,
            user_id,
            tools=make_tools(tools, (home or default_home()) / "cache", wikipedia=wikipedia),
            settings=settings,
            learns=False,  # only an alignment that ends well has learned from new interactions
            parts=config.edits,
        )

    opened = UsageTracker(parent=current_tracker())
    refuse_pinned(await call(store.user, user_id))
    with track_usage(opened):
        if wait:
            most = (settings or AgentSettings()).max_input_chars
            await to_its_end(aprepare_profile(store, user_id, max_input_chars=most))
        session = await call(open_session)
    agent, context = session.opened, session.opened.context
    trainset = examples(context.memory, context.task, seed=config.seed, negatives=negatives)
    cohort = _cohort(context.task, config)

    async def read_past() -> dict[str, Any]:
        return (await call(_past, store, user_id, config, cohort)).as_dict()

    attempt = await call(_Attempt, store, user_id, config, cohort, opened)
    with attempt:
        optimizer = PersonaAlignment(
            config,
            prompt_model=prompt_model,
            # A piece like those that are paid: run again, it decides by what it knew at first, although
            # other users' tests have come in between.
            past=Past.from_dict(await (journal or MemoryJournal()).run(f"{user_id}/past", read_past)),
            journal=journal,
            budget=budget,
            on_step=attempt.save_step,
        )
        with (
            about(persona_version=session.version.version, alignment_id=attempt.id),
            track_usage(attempt.spending.tracker),
        ):
            if wait:
                aligned: PersonaAgent = await optimizer.acompile(agent, trainset=trainset)
            else:
                aligned = optimizer.compile(agent, trainset=trainset)
        await call(attempt.finish, agent, aligned)
    return aligned


class _Attempt:
    """One attempt to align a user, as the store keeps it: its steps, and how it ends.

    As a context it records whatever ends it before `finish` has, an interrupt too.
    """

    def __init__(
        self, store: UserStore, user_id: str, config: AlignmentConfig, cohort: str, opened: UsageTracker
    ) -> None:
        self._store = store
        self._user_id = user_id
        self._config = config
        self._cohort = cohort
        self._last_steps: dict[int, dict[str, Any]] = {}
        self.spending = Spending(opened)
        self.id = store.start_alignment(user_id, config.as_dict())

    def save_step(self, step: AlignmentStep) -> None:
        # The last one is stored with the end of the alignment, in one transaction.
        if step.number == self._config.steps:
            self._last_steps[step.number] = step.as_dict()
        else:
            self._store.save_step(self._user_id, self.id, step.number, step.as_dict())

    def finish(self, before: PersonaAgent, aligned: PersonaAgent) -> None:
        """Store the record and, if the persona has changed, its new version."""
        record = aligned.alignment
        cost = self.spending.of_finished(record.usage, self._store, self._user_id, self._config)
        self._store.finish_alignment(
            self._user_id,
            self.id,
            record.as_dict(),
            persona=(aligned.persona, record.reason) if aligned.persona != before.persona else None,
            parts=aligned.parts.as_dict() if aligned.parts else None,
            trials=[check.gains for step in record.steps for check in step.checks],
            cohort=self._cohort,
            cost=cost,
            last_steps=self._last_steps,
        )

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        # What ended it is what to tell; and one that is cancelled while it is stored may have ended well.
        with suppress(StoreError):
            for number, data in self._last_steps.items():
                self._store.save_step(self._user_id, self.id, number, data)
            self._store.fail_alignment(
                self._user_id,
                self.id,
                one_line(f"{type(error).__name__}: {error}", _MAX_ERROR),
                usage=self.spending.tracker.by_stage(),
                cost=self.spending.total(),
            )


async def _call_now(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    return function(*args, **kwargs)


def _cohort(task: Task, config: AlignmentConfig) -> str:
    """Return what trials can be compared by."""
    gate = checking_gate(config.gate_rule)
    return f"{task.name}|{dspy.settings.lm.model}|{GATES.spec_of(gate)}" if gate else ""


def _past(store: UserStore, user_id: str, config: AlignmentConfig, cohort: str) -> Past:
    """Return what the user's earlier alignments leave for a gate that tests candidates."""
    if not cohort:
        return Past()
    done = [row.record for row in store.alignments(user_id) if row.status == "done"]
    steps = [step for record in done for step in record.get("steps", ())]
    # An alignment with another gate in between neither tests nor drops what this one has to test further.
    gate = config.as_dict()["gate"]
    latest = next((record for record in done[::-1] if record.get("config", {}).get("gate") == gate), {})
    trials = store.trials(cohort, excluding=user_id)
    current = store.persona(user_id)
    # What a person approved is not tested further.
    approved = current is not None and current.source == "approval"
    return Past(
        # What did not help long ago may help now.
        rejected=latest.get("rejected", ()),
        n_tests=sum(bool(step.get("checks")) for step in steps),
        prior=fit_prior(trials) if trials else (),
        pending=None if approved else Pending.from_dict(latest.get("pending")),
    )
