"""How many connections a store holds, and how long it waits for one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from program.errors import ConfigError

MAX_CONNECTIONS = 10_000


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """The connections of one open store.

    Attributes:
        size: How many stay open between uses, 1 to `MAX_CONNECTIONS`. ``None``: 16 on SQLite, 5 on
            PostgreSQL.
        overflow: How many more may be open at once, 0 to `MAX_CONNECTIONS`; -1 for any number. ``None``: any
            number on SQLite, 10 on PostgreSQL.
        timeout: Seconds to wait for one if all are in use, or if the server has none to give, above 0 and
            at most 3600.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> PoolSettings(size=2).options(is_sqlite=False)
        {'pool_size': 2, 'max_overflow': 10, 'pool_timeout': 30.0}
        >>> PoolSettings(size=0)
        Traceback (most recent call last):
        program.errors.ConfigError: `pool_size` must be an integer from 1 to 10000, got 0
    """

    size: int | None = None
    overflow: int | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        _check_integer("pool_size", self.size, 1)
        _check_integer("max_overflow", self.overflow, -1)
        timeout: object = self.timeout
        is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if not is_number or not (math.isfinite(self.timeout) and 0 < self.timeout <= 3600):
            raise ConfigError(
                f"`pool_timeout` must be seconds above 0 and at most 3600, got {self.timeout!r}"
            )

    def options(self, *, is_sqlite: bool) -> dict[str, int | float]:
        """Return the settings as keyword arguments of `sqlalchemy.create_engine`."""
        size, overflow = (16, -1) if is_sqlite else (5, 10)
        return {
            "pool_size": size if self.size is None else self.size,
            "max_overflow": overflow if self.overflow is None else self.overflow,
            "pool_timeout": float(self.timeout),
        }


def _check_integer(name: str, value: object, least: int) -> None:
    if value is None:
        return
    if type(value) is not int or not least <= value <= MAX_CONNECTIONS:
        raise ConfigError(f"`{name}` must be an integer from {least} to {MAX_CONNECTIONS}, got {value!r}")
