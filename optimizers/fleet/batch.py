"""What one `align` command asks for, as data that another machine can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from optimizers.config import GROUNDED, AlignmentConfig
from program.errors import ConfigError
from program.loop import AgentSettings
from program.usage import Budget


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The settings of one command over many users.

    Attributes:
        users: Which users: ``all``, ``stale``, or their ids.
        config: The settings of each alignment.
        model: The agent's model, as on the command line; ``None`` for the embedded one.
        prompt_model: The model of feedback and update; ``None`` for the agent's.
        adapter: How replies are asked for; ``None`` for what the model takes.
        negatives: Wrong options for LaMP-1.
        wikipedia: Whether the agent may search Wikipedia.
        max_input_chars: See `program.loop.AgentSettings`.
        again: Align users too who are done.
        max_calls: Most calls of the batch.
        max_usd: Most dollars of the batch.
        max_calls_per_user: Most calls of each alignment.
        max_usd_per_user: Most dollars of each alignment.
        price_in: Dollars for a million input tokens of a model without a known price.
        price_out: Dollars for a million output tokens of it.
        trace: Destination of traces, on the machine that works.
        trace_content: How traces store users' texts.

    Example:
        >>> batch = Batch(model="openai/gpt-4o-mini", max_usd=5.0)
        >>> Batch.from_dict(batch.as_dict()) == batch
        True
    """

    users: Literal["all", "stale"] | tuple[str, ...] = "stale"
    config: AlignmentConfig = GROUNDED
    model: str | None = None
    prompt_model: str | None = None
    adapter: Literal["schema", "json", "text"] | None = None
    negatives: tuple[str, ...] = ()
    wikipedia: bool = True
    max_input_chars: int = AgentSettings.max_input_chars
    again: bool = False
    max_calls: int | None = None
    max_usd: float | None = None
    max_calls_per_user: int | None = None
    max_usd_per_user: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    trace: str = "local"
    trace_content: Literal["full", "hash", "none"] = "full"

    def __post_init__(self) -> None:
        if (self.price_in is None) != (self.price_out is None):
            raise ConfigError("give both prices, `--price-in` and `--price-out`, or none")

    @property
    def budget(self) -> Budget:
        """The limits of the batch."""
        return Budget(max_calls=self.max_calls, max_usd=self.max_usd)

    @property
    def is_limited(self) -> bool:
        """Whether the batch has a limit over all users."""
        return self.max_calls is not None or self.max_usd is not None

    @property
    def user_budget(self) -> Budget:
        """The limits of each alignment."""
        return Budget(max_calls=self.max_calls_per_user, max_usd=self.max_usd_per_user)

    def work(self) -> dict[str, Any]:
        """Return what tells two batches apart: everything but limits, prices and traces."""
        free = ("max_calls", "max_usd", "max_calls_per_user", "max_usd_per_user", "price_in", "price_out")
        apart = (*free, "trace", "trace_content")
        return {name: value for name, value in self.as_dict().items() if name not in apart}

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON data."""
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        users = self.users if isinstance(self.users, str) else list(self.users)
        return {**data, "users": users, "config": self.config.as_dict(), "negatives": list(self.negatives)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Batch:
        """Return the settings that `as_dict` wrote; names that this version does not know are left out."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        users = known.get("users", "stale")
        known["users"] = users if isinstance(users, str) else tuple(users)
        known["config"] = AlignmentConfig(**known["config"])
        known["negatives"] = tuple(known.get("negatives", ()))
        return cls(**known)
