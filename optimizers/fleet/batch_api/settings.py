"""How calls become batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from program.errors import ConfigError
from program.limits import MANY, check_at_most


@dataclass(frozen=True, kw_only=True)
class ProviderBatches:
    """Asks through the batch API of OpenAI or Anthropic: half the price, an answer within a day.

    The alignments in progress advance together. If none of them can go on without an answer, all that wait
    become one batch, or several within the provider's limits. A request that fails at the provider, expires
    or gets an unreadable result is asked again in the next batch.

    Attributes:
        in_flight: Most users in progress at once, 1 or more; each one takes about 1 MB of memory.
        check_items: Older interactions on which a new persona is tested at once, 1 or more. The gate decides
            as if they came one after the other, and may not need the last ones: fewer cost less, and take
            more batches.
        quiet: Seconds without a new call after which the calls that wait become a batch.
        hold: Seconds that they wait for a batch in progress, so that the users stay together; fewer calls
            than are in progress wait.
        poll: Seconds between two looks at a batch.
        patience: Seconds that the provider may be away while batches are submitted and read.
        tries: How often one request is asked in all if the provider fails, 1 or more.
        max_requests: Most requests of a batch; ``None`` for the provider's limit.
        max_bytes: Most bytes of a batch; ``None`` for the provider's limit.
        on_change: Called with one line when a batch is submitted and when it ends.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> ProviderBatches(in_flight=5_000).tries
        3
        >>> ProviderBatches(tries=0)
        Traceback (most recent call last):
        program.errors.ConfigError: `tries` must be 1 or more, got 0
    """

    in_flight: int = 1_000
    check_items: int = 8
    quiet: float = 2.0
    hold: float = 600.0
    poll: float = 30.0
    patience: float = 6 * 3600.0
    tries: int = 3
    max_requests: int | None = None
    max_bytes: int | None = None
    on_change: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        for name, value, least in (
            ("in_flight", self.in_flight, 1),
            ("check_items", self.check_items, 1),
            ("quiet", self.quiet, 0),
            ("hold", self.hold, 0),
            ("poll", self.poll, 0),
            ("patience", self.patience, 0),
            ("tries", self.tries, 1),
            ("max_requests", self.max_requests, 1),
            ("max_bytes", self.max_bytes, 1),
        ):
            if value is None:
                continue
            check_at_most(name, value, MANY)
            if value < least:
                raise ConfigError(f"`{name}` must be {least} or more, got {value!r}")

    def say(self, line: str) -> None:
        """Report what happens to a batch."""
        if self.on_change is not None:
            self.on_change(line)
