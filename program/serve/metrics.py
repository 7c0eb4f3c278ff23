"""What Prometheus reads: counts and durations by route, never a user."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")


class Metrics:
    """The measurements of one server.

    Example:
        >>> metrics = Metrics()
        >>> metrics.count("/healthz", "GET", 200, 0.001)
        >>> b'personaagent_requests_total{method="GET",route="/healthz",status="200"} 1.0' in metrics.page()
        True
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("personaagent_requests", "Requests.", labels, registry=self.registry)
        self._seconds = Histogram(
            "personaagent_request_seconds",
            "Seconds until the last byte.",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._recorded = Counter(
            "personaagent_recorded_turns",
            "Turns that chat recorded, or could not.",
            ("ok",),
            registry=self.registry,
        )

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        # A client can invent methods.
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_record(self, ok: bool) -> None:
        """Count a turn."""
        self._recorded.labels(str(ok).lower()).inc()

    def page(self) -> bytes:
        """Return all measurements."""
        return generate_latest(self.registry)
