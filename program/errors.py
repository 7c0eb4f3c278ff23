"""The exceptions of this package.

PersonaAgentError
├── ConfigError            invalid settings or arguments; raised before any model call
│   ├── UnknownTaskError   no task of that name is installed
│   └── ModelSetupError    the model is not set up: missing key, server or file
├── DataError              a file or record cannot be read; the message names file, line and field
├── StoreError             the store cannot be opened or used; its contents are unchanged
│   ├── StoreUnavailableError  the disk is full, the file is locked or the server is away
│   ├── UnknownUserError   no such user
│   ├── PinnedPersonaError  the user's persona is pinned, so it does not change
│   └── UnknownVersionError  no such persona version of that user
├── EmptyHistoryError      the user has no interactions to learn from
├── PersonaError           an invalid persona: empty or too long
├── UnparsableAnswerError  a model's answer does not fit the task's answer type
├── BudgetExceededError    the next model call would exceed a limit; it was not made
├── AlignmentCancelledError  somebody cancelled the alignment; its finished calls are kept
└── AlignmentFailedError   every rollout of a batch failed, so there is no feedback to learn from
"""

from __future__ import annotations


class PersonaAgentError(Exception):
    """Base class. The message is one line: what is wrong and what to do next.

    Example:
        >>> from program import get_task
        >>> try:
        ...     get_task("LaMP-99")
        ... except PersonaAgentError as error:
        ...     type(error).__name__
        'UnknownTaskError'
    """


class ConfigError(PersonaAgentError):
    """Invalid settings or arguments, raised before any model call."""


class UnknownTaskError(ConfigError):
    """No task of that name is installed."""


class ModelSetupError(ConfigError):
    """The model is not set up; the message names the command that fixes it."""


class DataError(PersonaAgentError):
    """A file or record cannot be read."""


class StoreError(PersonaAgentError):
    """The store cannot be opened or used."""


class StoreUnavailableError(StoreError):
    """The store cannot be read or written now: a full disk, a lock, a server that is away."""


class UnknownUserError(StoreError):
    """The store has no such user."""


class ForgottenUserError(StoreError):
    """The user was forgotten, and an import or an observation must not bring the user back."""


class UnknownInteractionError(StoreError):
    """The user has no such interaction."""


class UnknownVersionError(StoreError):
    """The user has no persona version with that number."""


class PinnedPersonaError(StoreError):
    """The user's persona is pinned (`UserStore.pin`): no alignment, edit or rollback replaces it."""


class EmptyHistoryError(PersonaAgentError):
    """The user has no interactions to learn from."""


class PersonaError(PersonaAgentError):
    """An invalid persona: empty or too long."""


class UnparsableAnswerError(PersonaAgentError):
    """A model's answer does not fit the task's answer type.

    Attributes:
        raw: The answer; empty if there is none.
        unusable: Why there is no answer at all: a refusal, a cut or filtered reply, an error page.
            Such a failure is not a wrong answer and is never scored. Empty if there is an answer.
    """

    def __init__(self, message: str, *, raw: str = "", unusable: str = "") -> None:
        super().__init__(message)
        self.raw = raw
        self.unusable = unusable


class BudgetExceededError(PersonaAgentError):
    """The next model call would exceed a limit; it was not made."""


class AlignmentCancelledError(PersonaAgentError):
    """Somebody cancelled the alignment; the next one goes on from its finished calls."""


class AlignmentFailedError(PersonaAgentError):
    """Every rollout of a batch failed, so there is no feedback to learn from.

    Attributes:
        n_rollouts: Agent rollouts before the failure, failed ones included.
    """

    def __init__(self, message: str, *, n_rollouts: int = 0) -> None:
        super().__init__(message)
        self.n_rollouts = n_rollouts
