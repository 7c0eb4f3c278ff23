"""Tells an outage, which the next request would meet too, from a request that cannot be served."""

from __future__ import annotations

import dspy
from dspy.utils.exceptions import LMCollectionLimitError, LMUnsupportedModelError

from program.errors import BudgetExceededError, ModelSetupError, StoreUnavailableError


class RequestFailedError(dspy.LMProviderError):  # type: ignore[misc]
    """The provider failed at one request again and again, and answered others: not an outage."""


def is_outage(error: BaseException) -> bool:
    """Return whether an error would stop every other request too.

    Outages are a missing key or model, billing, rate limits, time limits, servers and networks that
    fail, a full disk, and a spent budget. A prompt that is too long or that a filter refuses is not one.

    Example:
        >>> is_outage(dspy.LMRateLimitError("slow down")), is_outage(dspy.LMInvalidRequestError("too long"))
        (True, False)
    """
    if isinstance(
        error, BudgetExceededError | ModelSetupError | StoreUnavailableError | LMUnsupportedModelError
    ):
        return True
    if isinstance(error, RequestFailedError):
        return False
    if isinstance(error, dspy.LMInvalidRequestError | LMCollectionLimitError):
        return bool(error.status == 404 or (error.status or 0) >= 500)
    return isinstance(error, dspy.LMError)
