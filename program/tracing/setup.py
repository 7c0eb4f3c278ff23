"""Where traces go: chosen explicitly, never guessed from a key lying around."""

from __future__ import annotations

import atexit
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from program.errors import ConfigError
from program.processes import is_dead, process_name
from program.spans import tracing
from program.tracing.content import Content, ContentPolicy, Redact, installation_key, redact_secrets
from program.tracing.server.trace_store import TraceStore
from program.tracing.weave import private_api
from program.tracing.weave.tracer import WeaveTracer

logger = logging.getLogger("personaagent.program.tracing")

LOCAL_PROJECT = "local/personaagent"
"""The Weave project of the local store."""

_WANDB = re.compile(r"wandb:([^/\s]+/[^/\s]+)")
_LAST_WORDS = 20.0
"""Seconds that a trace server is given at the end to take what is left."""


def store_path(home: Path) -> Path:
    """Return the file of the local trace store."""
    return home / "traces.db"


@contextmanager
def open_tracer(
    where: str,
    *,
    home: Path,
    content: Content = "full",
    redact: Redact | None = redact_secrets,
) -> Iterator[WeaveTracer | None]:
    """Trace everything inside, and yield the tracer (``None`` for ``off``).

    While it is open, Weave's current client is ours.

    Args:
        where: ``local`` (a SQLite file in ``home``, no socket is opened), ``off``, or
            ``wandb:ENTITY/PROJECT``.
        home: The data directory.
        content: What of texts is stored; see `ContentPolicy`.
        redact: Applied to every text that is stored.

    Raises:
        ConfigError: An unknown ``where``, or W&B without a key.
        StoreError: The local trace file cannot be opened.
    """
    remote = _WANDB.fullmatch(where)
    if where == "off":
        yield None
        return
    if where != "local" and remote is None:
        raise ConfigError(f"`trace` must be local, off or wandb:ENTITY/PROJECT, got {where!r}")
    if remote is not None and not private_api.has_wandb_key():
        raise ConfigError(f"{where!r} needs a key: set WANDB_API_KEY, or trace with `local`")
    policy = ContentPolicy(content=content, key=installation_key(home), redact=redact)
    private_api.prepare_environment()
    with ExitStack() as cleanup:
        tracer = _remote_tracer(cleanup, remote[1], policy) if remote else None
        if tracer is None:
            tracer = _local_tracer(cleanup, home, policy)
        import dspy

        from program.tracing.weave.dspy_callback import TraceCallback

        callbacks = [*dspy.settings.callbacks, TraceCallback(tracer)]
        with tracing(tracer), dspy.context(callbacks=callbacks):
            yield tracer


def _remote_tracer(cleanup: ExitStack, project: str, policy: ContentPolicy) -> WeaveTracer | None:
    restore = private_api.install_client(None)
    try:
        client = private_api.remote_client(project)
    except Exception as error:  # noqa: BLE001 - weave raises what it likes; the run must go on
        restore()
        logger.warning("W&B cannot be reached (%s); tracing to the local store", type(error).__name__)
        return None
    cleanup.callback(restore)
    tracer = WeaveTracer(client, policy)
    _close_once(cleanup, tracer, lambda: _flush_or_abandon(client))
    return tracer


def _local_tracer(cleanup: ExitStack, home: Path, policy: ContentPolicy) -> WeaveTracer:
    store = TraceStore(store_path(home))
    cleanup.callback(store.close)
    store.interrupt_dead(LOCAL_PROJECT, is_dead)
    client = private_api.local_client(store, LOCAL_PROJECT)
    cleanup.callback(private_api.install_client(client))
    tracer = WeaveTracer(client, policy, process=process_name())
    _close_once(cleanup, tracer, client.flush)
    return tracer


def _close_once(cleanup: ExitStack, tracer: WeaveTracer, flush: Callable[[], None]) -> None:
    """End open spans and flush, at the end of the block or, where that is never reached, at exit.

    Weave waits minutes at exit for the end of a call that is still open.
    """
    closed = threading.Event()

    def close() -> None:
        # A block left open at exit is unwound once more, when no thread can be started any longer.
        if closed.is_set():
            return
        closed.set()
        atexit.unregister(close)
        tracer.interrupt()
        tracer.records.attempt(flush)
        if tracer.dropped:
            logger.warning("%d trace records could not be written", tracer.dropped)

    atexit.register(close)
    cleanup.callback(close)


def _flush_or_abandon(client: Any) -> None:
    # A server that died while we were running must not keep the program from ending.
    worker = threading.Thread(target=client.flush, daemon=True)
    worker.start()
    worker.join(_LAST_WORDS)
    if worker.is_alive():
        private_api.abandon(client)
        raise TimeoutError(f"the trace server did not answer within {_LAST_WORDS:.0f} s")
