"""What a command would do and cost, before anything is paid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import dspy

from optimizers.config import Plan, make_plan
from optimizers.fleet.batch import Batch
from optimizers.fleet.order import finished, longest_waiting_first
from optimizers.run import writes
from program.agent import PersonaAgent
from program.memory.episodic import EpisodicMemory
from program.persona import first_persona
from program.store import UserStore
from program.task import get_task
from program.tools import make_tools
from program.usage import Prices, Usage

_SAMPLE = 200
"""Users, from the first, whose earlier alignments say what a call costs."""

_CHARS_PER_TOKEN = 4
_PROMPT_CHARS = 3_000
"""Characters of a prompt beside the user's texts, roughly, if no earlier alignment tells."""
_SHOWN_ITEMS = 6
_OUTPUT_TOKENS = 120


@dataclass(frozen=True, kw_only=True)
class UserPlan:
    """What would be done for one user.

    Attributes:
        user_id: The user.
        interactions: How many are stored.
        stale: Whether there are new ones.
        done: Whether there is nothing to do.
        plan: The rollouts and calls; ``None`` without an alignment.
        profile_calls: Calls for the profile, 0 or 1.
        why: Why there is no alignment; empty if there is one.
    """

    user_id: str
    interactions: int
    stale: bool
    done: bool = False
    plan: Plan | None = None
    profile_calls: int = 0
    why: str = ""

    @property
    def calls(self) -> tuple[int, int]:
        """Fewest and most model calls, not counting repeats of unreadable replies."""
        low, high = self.plan.calls if self.plan else (0, 0)
        return low + self.profile_calls, high + self.profile_calls


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """What a command over many users would do.

    The calls are a range that code computes from the settings. Tokens and dollars are estimates.

    Attributes:
        users: One entry for each user, in the order in which they would start.
        tokens_per_call: Estimated input and output tokens of a call.
        measured_on: Earlier calls that the estimate is the mean of; 0 if it is made of the lengths of texts.
        usd_per_call: Estimated price of a call; ``None`` if no price is known.
    """

    users: Sequence[UserPlan]
    tokens_per_call: tuple[float, float]
    measured_on: int
    usd_per_call: float | None

    @property
    def calls(self) -> tuple[int, int]:
        """Fewest and most model calls over all users."""
        return sum(user.calls[0] for user in self.users), sum(user.calls[1] for user in self.users)

    @property
    def tokens(self) -> tuple[int, int]:
        """Estimated fewest and most tokens."""
        each = sum(self.tokens_per_call)
        return round(self.calls[0] * each), round(self.calls[1] * each)

    @property
    def usd(self) -> tuple[float, float] | None:
        """Estimated fewest and most dollars; ``None`` if no price is known."""
        if self.usd_per_call is None:
            return None
        return self.calls[0] * self.usd_per_call, self.calls[1] * self.usd_per_call

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON data."""
        return {
            "users": [
                {
                    "user_id": user.user_id,
                    "interactions": user.interactions,
                    "stale": user.stale,
                    "done": user.done,
                    "why": user.why,
                    "calls": list(user.calls),
                    **(user.plan.as_dict() if user.plan else {}),
                }
                for user in self.users
            ],
            "calls": list(self.calls),
            "estimate": {
                "tokens_per_call": [round(tokens) for tokens in self.tokens_per_call],
                "measured_on_calls": self.measured_on,
                "tokens": list(self.tokens),
                "usd": None if self.usd is None else [round(usd, 4) for usd in self.usd],
            },
        }


def plan_batch(
    store: UserStore, user_ids: Iterable[str], batch: Batch, *, prompt_lm: Any = None
) -> BatchPlan:
    """Return what a batch would do with DSPy's configured model, without a model call.

    Args:
        store: The users' store.
        user_ids: Stored users.
        batch: The settings.
        prompt_lm: The model of feedback and update; ``None`` for the configured one.

    Example:
        >>> import dspy
        >>> from program import UserStore, scripted_lm
        >>> with UserStore("users.db") as store, dspy.context(lm=scripted_lm(lambda system, user: "")):
        ...     store.add_user("ana", task="free-text")
        ...     _ = store.observe("ana", query="What shall I cook?", response="Lentils.")
        ...     plan = plan_batch(store, ["ana"], Batch(wikipedia=False))
        >>> plan.calls[0] > 0, plan.usd
        (True, None)
    """
    lm = dspy.settings.lm

    @cache
    def planned_agent(task: str, has_parts: bool) -> PersonaAgent:
        return PersonaAgent.for_user(
            "plan",
            EpisodicMemory("plan", []),
            make_tools(None, Path(), wikipedia=batch.wikipedia),
            task=get_task(task),
            persona=first_persona() if has_parts else "You help this user.",
        )

    def plan_user(user_id: str) -> UserPlan:
        user, head = store.user(user_id), store.persona(user_id)
        facts: dict[str, Any] = {
            "user_id": user_id,
            "interactions": user.interactions,
            "stale": user.stale,
        }
        if not user.interactions:
            return UserPlan(**facts, why="no interaction to learn from")
        if not batch.again and finished(store, user_id, batch.config, prompt_lm) is not None:
            return UserPlan(**facts, done=True, why="nothing new to learn")
        has_parts = batch.config.edits if head is None else head.parts is not None
        agent = planned_agent(user.task, has_parts)
        plan = make_plan(
            batch.config,
            trainset=user.interactions,
            calls_per_rollout=agent.calls_per_answer(),
            calls_per_score=agent.calls_per_score(),
            writes=writes(prompt_lm),
        )
        profile = store.profile(user_id)
        outdated = profile is None or profile.is_stale(user.interactions)
        prose = bool(getattr(lm, "summarises", True))
        return UserPlan(**facts, plan=plan, profile_calls=int(outdated and prose))

    users = [plan_user(user_id) for user_id in longest_waiting_first(store, user_ids)]
    measured = _measured(store, [user.user_id for user in users], lm)
    inputs, outputs = float(_guess(store, users)), float(_OUTPUT_TOKENS)
    if measured.calls:
        inputs, outputs = measured.input_tokens / measured.calls, measured.output_tokens / measured.calls
    return BatchPlan(
        users=users,
        tokens_per_call=(inputs, outputs),
        measured_on=measured.calls,
        usd_per_call=_price(lm, measured, inputs, outputs),
    )


def _measured(store: UserStore, user_ids: Sequence[str], lm: Any) -> Usage:
    """Return what earlier alignments with this model cost."""
    total = Usage()
    for user_id in user_ids[:_SAMPLE]:
        row = store.latest_alignment(user_id)
        if row is None or row.record.get("model") != str(lm.model):
            continue
        stages: Mapping[str, Mapping[str, Any]] = row.record.get("usage") or {}
        for usage in stages.values():
            total.add(Usage(**{name: usage.get(name, 0) for name in vars(total)}))
    return total


def _guess(store: UserStore, users: Sequence[UserPlan]) -> int:
    """Return input tokens of a call, from the lengths of the texts that a prompt shows."""
    texts = [
        len(item.query) + len(item.response)
        for user in users[:20]
        for item in store.interactions(user.user_id, latest=_SHOWN_ITEMS)
    ]
    mean = sum(texts) / len(texts) if texts else 0.0
    return round((_PROMPT_CHARS + _SHOWN_ITEMS * mean) / _CHARS_PER_TOKEN)


def _price(lm: Any, measured: Usage, inputs: float, outputs: float) -> float | None:
    """Return dollars for a call: by the model's own prices, what earlier calls cost, or the known price."""
    prices: Prices | None = getattr(lm, "prices", None)
    if prices is not None:
        return prices.usd(input_tokens=round(inputs), output_tokens=round(outputs))
    if measured.calls and not measured.unpriced and measured.usd:
        return measured.usd / max(1, measured.calls - measured.cache_hits)
    return _known_price(str(lm.model), round(inputs), round(outputs))


def _known_price(model: str, inputs: int, outputs: int) -> float | None:
    """Return the price of a call by the table that DSPy's client has."""
    try:
        from litellm import model_cost
    except ImportError:
        return None
    prices: Mapping[str, Any] = model_cost.get(model) or model_cost.get(model.partition("/")[2]) or {}
    per_input, per_output = (prices.get(f"{kind}_cost_per_token") for kind in ("input", "output"))
    if per_input is None or per_output is None:
        return None
    return float(inputs * per_input + outputs * per_output) or None
