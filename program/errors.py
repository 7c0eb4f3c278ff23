"""Every error a caller may want to tell apart.

PersonaAgentError
├── ConfigError            wrong settings or arguments; raised before any model call is paid
│   ├── UnknownTaskError   no task of that name is installed
│   └── ModelSetupError    the model cannot be reached as configured: missing key, server, file
├── DataError              a file or record cannot be read; names the file, line and field
├── StoreError             the store cannot be opened or used; what was stored stays as it was
│   ├── UnknownUserError   no such user
│   └── UnknownVersionError  no such persona version of that user
├── EmptyHistoryError      the user has no interaction to learn from
├── PersonaError           a text that cannot be a persona: empty or over the length cap
├── UnparsableAnswerError  a model's answer that does not fit its type
├── BudgetExceededError    the next model call would pass a limit; it was not made
└── AlignmentFailedError   no simulation of a batch succeeded, so there is nothing to learn from
"""

from __future__ import annotations


class PersonaAgentError(Exception):
    """Base class; its message is one line that says what is wrong and what to do next."""


class ConfigError(PersonaAgentError):
    """Wrong settings or arguments, found before any model call is paid."""


class UnknownTaskError(ConfigError):
    """No task of that name is installed."""


class ModelSetupError(ConfigError):
    """The model cannot be used as configured; the message holds the command that fixes it."""


class DataError(PersonaAgentError):
    """A file or record cannot be read."""


class StoreError(PersonaAgentError):
    """The store cannot be opened or used."""


class UnknownUserError(StoreError):
    """The store has no such user."""


class UnknownVersionError(StoreError):
    """The user has no persona version of that number."""


class EmptyHistoryError(PersonaAgentError):
    """The user has no interaction to learn from."""


class PersonaError(PersonaAgentError):
    """A text that cannot be a persona."""


class UnparsableAnswerError(PersonaAgentError):
    """A model's answer that does not fit the type the task asks for; ``raw`` is what it said."""

    def __init__(self, message: str, *, raw: str = "") -> None:
        super().__init__(message)
        self.raw = raw


class BudgetExceededError(PersonaAgentError):
    """The next model call would pass a limit; it was not made."""


class AlignmentFailedError(PersonaAgentError):
    """Every simulation of a batch failed; no feedback may be made from that.

    Attributes:
        n_rollouts: How often the agent was run until then.
    """

    def __init__(self, message: str, *, n_rollouts: int = 0) -> None:
        super().__init__(message)
        self.n_rollouts = n_rollouts
