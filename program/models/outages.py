"""Tells an outage, which the next request would meet too, from a request that cannot be served."""

from __future__ import annotations

import dspy
from dspy.utils.exceptions import LMCollectionLimitError, LMUnexpectedError, LMUnsupportedModelError

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


def ends_by_itself(error: BaseException) -> bool:
    """Return whether the same request may succeed later: limits, time-outs, servers and gateways that fail.

    Example:
        >>> ends_by_itself(dspy.LMRateLimitError("slow down")), ends_by_itself(dspy.LMAuthError("no key"))
        (True, False)
    """
    return isinstance(error, dspy.LMError) and (dspy.is_retryable_lm_error(error) or _is_garbled(error))


def _is_garbled(error: dspy.LMError) -> bool:
    """Return whether a reply said success, and was no reply of the API: of a gateway, or cut off."""
    if isinstance(error, LMUnexpectedError):
        return "response body" in str(error)  # its cause, a `TypeError`, is lost on the way through a journal
    return isinstance(error, dspy.LMProviderError) and 200 <= (error.status or 0) < 300
